"""How good a model and its samples are: likelihood, density, distances."""
