"""Models around a model that lead its samples: by a condition, by a gradient, by observed values."""
