"""Bayesian Flow Networks from parts that can be replaced and proven.

The public names are listed in ``__init__.pyi``.  Each is loaded on first use, so that the command line can print its
help without importing torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
