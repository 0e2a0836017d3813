"""The daily reinforcement-learning loop of Babylon: recorded trading in, a better trading model out."""

__version__ = "0.1.0"
