"""Bayesian Flow Networks: generative models whose components are plugins, proven by property tests.

The public names are listed in ``__init__.pyi``.  Each is loaded on first use, so that the command line can print its
help without importing torch.
"""

from typing import Any

import lazy_loader

_load, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bfn-toolkit")
    from bfn_toolkit.border import opened

    value = globals()[name] = opened(_load(name))
    return value


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
