"""Run directories: their files, checkpoints, and the samples that are drawn from them.

``Run`` is loaded on first use, so that lists of runs do not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
