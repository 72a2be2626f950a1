"""Plugins: the hooks, the registry of names, and new plugins from templates."""
