"""Held-out evaluation of policies: statistics, the gate, and the arena that plays the markets."""
