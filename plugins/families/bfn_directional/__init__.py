"""Directions: angles, unit vectors and rotations (plugin)."""

from bfn_directional.families import Circle, Directional, DirectionalParams, Rotations, Sphere, bfn_families

__all__ = ["Circle", "Directional", "DirectionalParams", "Rotations", "Sphere", "bfn_families"]
