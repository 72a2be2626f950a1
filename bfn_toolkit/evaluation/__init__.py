"""Evaluation of a model and its samples: likelihood, density, distances."""
