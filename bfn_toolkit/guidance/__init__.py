"""Guided sampling: by a condition, by a gradient, by observed values."""
