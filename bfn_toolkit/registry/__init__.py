"""Plugins: the hooks, who provides which name, and new plugins from templates."""
