"""Sphinx configuration: pages in Markdown (MyST), reference of the Python API from the docstrings."""

import importlib.metadata
import os
import re

project = "bfn-toolkit"
author = "The bfn-toolkit authors"
copyright = "2026, The bfn-toolkit authors"
release = importlib.metadata.version("bfn-toolkit")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # ships MathJax: formulas without network
    "sphinx_copybutton",
    *([] if os.environ.get("CI") else ["sphinx.ext.viewcode"]),  # pages of source take a third of the time
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"bfn-toolkit {release}"
html_static_path = ["_static"]
html_css_files = ["bfn.css"]
html_logo = html_favicon = "_static/logo.svg"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute the notebooks, and their outputs are stored

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what the arguments are
napoleon_numpy_docstring = False

SHAPE = re.compile(r"(?<![`\w])\([^()`]*\*(?:site|batch)[^()`]*\)(?!`)|(?<![`*\w])\*(?:site|batch)\b")


def shapes_as_code(app, what, name, obj, options, lines):
    """Docstrings write shapes as plain text, (B, *site), where reStructuredText would see the start of emphasis."""
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", shapes_as_code)
