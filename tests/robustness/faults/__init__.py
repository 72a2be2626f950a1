"""Faults on demand, to see that the toolkit keeps its promises when they happen."""
