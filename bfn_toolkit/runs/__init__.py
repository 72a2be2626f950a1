"""Run directories: their files, checkpoints, and the samples that are drawn from them."""
