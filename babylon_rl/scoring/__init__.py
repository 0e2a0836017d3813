"""Rewards: episodes of a window, the scorers that judge them, and the groups that are trained."""
