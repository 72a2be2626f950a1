"""Benchmarks: what the toolkit adds to bare torch, as ratios of CPU time (``python -m benchmarks``)."""
