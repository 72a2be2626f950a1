"""The ``bfn`` command.  Torch and the plugins are imported inside the commands that need them."""

from bfn_toolkit.cli.entry import BUG, bfn, main

__all__ = ["BUG", "bfn", "main"]
