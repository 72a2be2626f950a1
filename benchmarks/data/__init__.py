"""Real data: what the presets reach on a user's kinds of files, beside baselines and peers on the same work."""
