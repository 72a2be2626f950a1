"""Faults of numbers: NaN, memory that does not suffice, draws from generators that are not the toolkit's to touch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bfn_toolkit import NetworkBuilder
from faults.parts import FaultyLoss, Hungry

Place = Literal["data", "output of the network", "loss", "gradient"]


def nan_at(step: int, where: Place, row: int = 3) -> FaultyLoss:
    """A loss with NaN at a place, from a step of training on."""
    return FaultyLoss(where, step, row=row)


def oom_above(rows: int, network: NetworkBuilder, rank: int = -1) -> Hungry:
    """The builder of a network that has no memory for more rows."""
    return Hungry(network, rows, rank)


class GlobalDrawError(AssertionError):
    """Something drew from a generator that everybody shares."""


@contextmanager
def no_global_rng() -> Iterator[None]:
    """Within it, draws from Python's and NumPy's global generators fail, and torch's must be left as it was."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise GlobalDrawError("a draw from a global generator")

    before = torch.default_generator.get_state()
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (random, ("random", "randint", "randrange", "choice", "shuffle", "sample", "uniform", "gauss", "seed")),
            (np.random, ("rand", "randn", "randint", "random", "normal", "choice", "permutation", "shuffle", "seed")),
        ):
            for name in names:
                patch.setattr(module, name, refuse)
        yield
    if not torch.equal(before, torch.default_generator.get_state()):
        raise GlobalDrawError("torch's generator is not as it was")
