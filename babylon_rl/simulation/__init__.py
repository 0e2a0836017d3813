"""A seeded market that obeys Babylon's mechanics, and agents that trade in it through a policy."""
