"""Registers the product of families (plugin)."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import Entry, ProductFamily, hookimpl


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """Points with a class; atoms with a type and a position."""
    point = ProductFamily({"position": Gaussian(site_shape=(2,)), "type": Categorical(classes=3)})
    atoms = ProductFamily({"type": Categorical(site_shape=(2,)), "position": Gaussian(site_shape=(2, 3), sigma_1=0.1)})
    return [Entry("product", ProductFamily, (point, atoms))]
