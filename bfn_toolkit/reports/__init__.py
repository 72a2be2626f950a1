"""Scores and figures of a run."""
