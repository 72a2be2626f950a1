"""Sphinx configuration: pages in Markdown (MyST), reference of the Python API from the docstrings."""

import importlib.metadata
import re

project = "bfn-toolkit"
author = "The bfn-toolkit authors"
copyright = "2026, The bfn-toolkit authors"
release = importlib.metadata.version("bfn-toolkit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"bfn-toolkit {release}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what the arguments are
napoleon_numpy_docstring = False

SHAPE = re.compile(r"(?<![`\w])\([^()`]*\*(?:site|batch)[^()`]*\)(?!`)|(?<![`*\w])\*(?:site|batch)\b")


def shapes_as_code(app, what, name, obj, options, lines):
    """Docstrings write shapes as plain text, (B, *site), where reStructuredText would see the start of emphasis."""
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", shapes_as_code)
