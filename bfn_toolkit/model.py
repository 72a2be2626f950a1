"""The model: what losses and samplers need of it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from bfn_toolkit.families import Family
from bfn_toolkit.outputs import Output


class Model(Protocol):
    """What losses and samplers need of a model."""

    family: Family[Any]

    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """Output distribution p_O(. | theta; t)."""
