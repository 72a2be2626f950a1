"""Peers, each of which runs in an environment of its own."""
