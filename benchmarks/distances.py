r"""Distances between two samples of the same size, by sorting, which is fast enough for hundreds of comparisons.

.. math:: W_p^p = \frac{1}{N} \sum_i \lvert a_{(i)} - b_{(i)} \rvert^p, \qquad
          SW_p^p = \frac{1}{D} \sum_d W_p^p(a \cdot u_d, b \cdot u_d)

with D random unit vectors.  :mod:`bfn_toolkit.evaluation.likelihood` has the distances for samples of any sizes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bfn_toolkit import seeded
from bfn_toolkit.evaluation.distances import total_variation


class Chain(Protocol):
    """Sequences of known probability and entropy."""

    def log_prob(self, x: Tensor) -> Tensor:
        """In nats, with shape (B,)."""

    def entropy(self) -> tuple[float, float]:
        """In nats, and its standard error."""


def sliced(a: Tensor, b: Tensor, p: int, directions: int = 128, seed: int = 0) -> float:
    """Sliced Wasserstein distance of order p, in the unit of the data; of one number per example W_p itself."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    assert a.shape == b.shape
    if a.shape[1] > 1:
        with seeded(seed, "directions"):
            unit = torch.nn.functional.normalize(torch.randn(a.shape[1], directions, dtype=torch.float64), dim=0)
        a, b = a @ unit, b @ unit
    return float((a.sort(0).values - b.sort(0).values).abs().pow(p).mean() ** (1.0 / p))


def excess(x: Tensor, dataset: Chain) -> float:
    """Mean of -ln p(x) above the entropy, in nats: 0 for the data, below it for samples that are too likely."""
    return float(-dataset.log_prob(x).mean()) - dataset.entropy()[0]


def pairs(a: Tensor, b: Tensor) -> float:
    """Total variation distance of the pairs of neighbours, the mean over the sites (N, L)."""
    sites = [[i, i + 1] for i in range(a.shape[1] - 1)]
    return sum(total_variation(a[:, pair], b[:, pair]) for pair in sites) / len(sites)
