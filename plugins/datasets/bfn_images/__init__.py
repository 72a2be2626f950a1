"""Images (plugin): folders of picture files, IDX files, arrays and CIFAR-10, as bins or classes."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_images.dataset import Images
from bfn_toolkit import Entry, hookimpl


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need files."""
    return [Entry("images", Images)]
