"""The recorded trajectory: typed steps, lenient readers for both known writers, and immutable snapshots."""
