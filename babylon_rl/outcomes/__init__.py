"""What the markets did in a window, and what the orders opened in it were worth: the ground truth."""
