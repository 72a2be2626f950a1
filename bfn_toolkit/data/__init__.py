"""Datasets, the batches that are drawn from them, and the conditions that come with the rows."""
