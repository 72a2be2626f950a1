"""The conformance kit: property tests for anyone's plugin.

:mod:`~bfn_toolkit.testing.laws` holds the laws, :mod:`~bfn_toolkit.testing.kit` runs them, and
:mod:`~bfn_toolkit.testing.cases` generates the examples for them.  Names are loaded on first use: the pytest plugin is
part of this package, and must not make every pytest run import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
