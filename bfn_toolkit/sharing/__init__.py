"""Models that people share, and weights of other programs."""
