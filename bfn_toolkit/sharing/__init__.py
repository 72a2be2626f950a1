"""Shared models, and weights of other programs."""
