"""Which models exist, where they came from, and which one serves."""
