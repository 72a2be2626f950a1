"""One small family of each kind, a network for each, and what tests of wrapped models compare."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Circle, Rotations
from bfn_gaussian import Gaussian, NoiseHead
from bfn_gaussian_heads import DiscretisedHead, MixtureHead
from bfn_masked import Masked
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    Condition,
    Family,
    FlowModel,
    ProductFamily,
    seeded,
)
from bfn_von_mises import VonMises

FAMILIES: tuple[Family[Any], ...] = (
    *(Gaussian((2,)), Gaussian((2,), head=NoiseHead()), Gaussian((2,), head=MixtureHead(3))),
    *(Gaussian((2,), head=DiscretisedHead(16)), Categorical((2,), classes=2), Categorical((2,), classes=5)),
    *(
        Masked((2,), classes=3),
        Circle((2,)),
        Rotations(sigma_1=0.2, components=2),
        VonMises((2,), n_steps=6, beta_1=20.0),
    ),
    ProductFamily({"x": Gaussian((2,)), "k": Categorical((2,), classes=3), "angle": Circle((2,))}),
)
ROWS = 30
LABEL = torch.arange(ROWS) % 3
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)


def network(family: Family[Any]) -> BFN:
    """A network that has not learned, and yet tells labels apart."""
    with seeded(3, "weights"):
        bfn = BFN(family, MLP(width=16, depth=1, labels=3))
        for weight in bfn.parameters():
            torch.nn.init.normal_(weight, std=0.4)
    return bfn.eval()


def numbers(value: Any) -> list[Tensor]:
    """The tensors of a draw or an output, in one order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, dict) else attrs.asdict(value, recurse=False)
    return [
        tensor
        for part in parts.values()
        if isinstance(part, Tensor | dict) or attrs.has(type(part))
        for tensor in numbers(part)
    ]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(u, v) for u, v in zip(numbers(a), numbers(b), strict=True))


def draw(model: FlowModel, condition: Condition | None = None) -> Any:
    with seeded(4, "samples"):
        return model.sample(ROWS, n_steps=6, condition=condition)
