"""Plugins: the hooks, the registry of names, and new plugins from templates."""

from .registry import default_registry as default_registry
