"""Training: the loop, its step, and what it measures on the way."""
