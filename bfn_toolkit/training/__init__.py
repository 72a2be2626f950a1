"""Training: the loop, its step, validation, metrics and checkpoints."""
