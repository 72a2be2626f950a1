"""Datasets, their batches, and the conditions of their rows."""
