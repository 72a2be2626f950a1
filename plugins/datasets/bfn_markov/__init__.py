r"""Markov chain (plugin): sequences of classes whose probability and entropy are known.

.. math::
    p(x) = \pi(x_1) \prod_{l=2}^L P(x_l \mid x_{l-1}), \qquad \pi P = \pi, \qquad
    H = H(\pi) + (L - 1) \sum_i \pi_i H(P_i)

The chain starts from its stationary distribution, so every position has the same marginal distribution, and only pairs
of positions distinguish the chain from independent classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Batch, ConfigError, Dataset, Entry, Split, hookimpl, seeded, split_rows, validators


@attrs.frozen
class Markov(Dataset):
    """Sequences of a Markov chain.

    Arguments:
        classes: Number K of classes.
        length: Length L of a sequence.
        count: Number of sequences.
        concentration: Concentration of the Dirichlet distribution from which each row of the transition matrix is
            drawn; smaller values make the chain more predictable.
        transition: Transition matrix with K rows that add up to 1; None to draw it from the seed.
        seed: Seed of the matrix and of the draws.
        valid_fraction: Fraction of the sequences held out for validation.
    Raises:
        ConfigError: If the matrix is not a transition matrix of K classes, or has no unique stationary distribution.

    >>> Markov(classes=2, length=3, count=10, transition=((0.9, 0.1), (0.1, 0.9))).log_prob(torch.tensor([[0, 0, 1]]))
    tensor([-3.1011], dtype=torch.float64)
    """

    classes: int = field(default=5, validator=validators.integer(ge=2))
    length: int = field(default=8, validator=validators.integer(ge=1))
    count: int = field(default=60_000, validator=validators.integer(ge=2))
    concentration: float = field(default=0.5, validator=validators.number(gt=0))
    transition: tuple[tuple[float, ...], ...] | None = field(default=None, converter=validators.as_tuples)
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    def __attrs_post_init__(self) -> None:
        k = self.classes
        if self.transition is not None and [len(row) for row in self.transition] != [k] * k:
            shape = f"rows of {', '.join(str(len(row)) for row in self.transition)} numbers"
            raise ConfigError(f"transition must be {k} rows of {k} numbers, for classes={k}; got {shape}")
        matrix = self.matrix
        if not bool((matrix >= 0.0).all() & ((matrix.sum(1) - 1.0).abs() < 1e-6).all()):
            raise ConfigError(f"the rows of transition must be probabilities that add up to 1, got {self.transition}")
        if int(torch.linalg.matrix_rank(torch.eye(k, dtype=torch.float64) - matrix, atol=1e-9)) < k - 1:
            drawn = f"another seed, or a concentration above {self.concentration}"
            cure = drawn if self.transition is None else "a matrix with a class that can be reached from all others"
            raise ConfigError(f"the chain has no unique stationary distribution; use {cure}")

    @property
    def default_config(self) -> Mapping[str, object]:
        """Classes, with a perceptron."""
        return {
            "family": "categorical",
            "network": {"name": "mlp", "depth": 2},
            "training": {"steps": 2500, "batch_size": 512, "lr": 2e-3, "ema_decay": 0.99},
        }

    @property
    def matrix(self) -> Tensor:
        """Transition matrix (K, K), from row to column, in float64."""
        if self.transition is not None:
            return torch.tensor(self.transition, dtype=torch.float64)
        with seeded(self.seed, "transition"):
            concentration = torch.full((self.classes, self.classes), self.concentration, dtype=torch.float64)
            return torch.distributions.Dirichlet(concentration).sample()

    @property
    def stationary(self) -> Tensor:
        """Stationary distribution (K,) in float64, from the sum of (I - P^T) pi = 0 and sum(pi) = 1."""
        ones = torch.ones(self.classes, self.classes, dtype=torch.float64)
        system = torch.eye(self.classes, dtype=torch.float64) - self.matrix.T + ones
        start: Tensor = torch.linalg.solve(system, ones[0])
        return start.clamp_min(0.0)

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(L,)."""
        return (self.length,)

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape, name of its axis, and number of classes."""
        return {"site_shape": self.site_shape, "axes": ("sequence",), "classes": self.classes}

    def split(self, name: Split) -> Batch:
        """The sequences, as int64; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            sequences = Batch(self._draw())
        if name in ("test", "all"):
            return sequences
        train, valid = split_rows(self.count, self.valid_fraction, self.seed)
        return sequences.rows(train if name == "train" else valid)

    def _draw(self) -> Tensor:
        """Draws each class by inverting its distribution function with one uniform number."""
        u = torch.rand(self.count, self.length, 1, dtype=torch.float64)
        cdf = self.matrix.cumsum(1)
        step = self.stationary.cumsum(0).expand(self.count, -1)
        x = torch.empty(self.count, self.length, dtype=torch.int64)
        for site in range(self.length):
            # The total may round to less than 1; scaled by it, u selects no class of probability 0.
            x[:, site] = torch.searchsorted(step.contiguous(), u[:, site] * step[:, -1:], right=True).squeeze(1)
            step = cdf[x[:, site]]
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-probability of sequences (B, L), in nats, with shape (B,), in float64."""
        start, matrix = (p.log().to(x.device) for p in (self.stationary, self.matrix))
        return start[x[:, 0]] + matrix[x[:, :-1], x[:, 1:]].sum(1)

    def entropy(self) -> tuple[float, float]:
        """Exact entropy of a sequence in nats, and its standard error: 0."""
        start, matrix = self.stationary, self.matrix
        of_start, of_rows = (torch.special.entr(p).sum(-1) for p in (start, matrix))
        return float(of_start + (self.length - 1) * (start @ of_rows)), 0.0


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    cycle = ((0.1, 0.9, 0.0), (0.0, 0.2, 0.8), (0.7, 0.0, 0.3))
    examples = (
        Markov(count=60),
        Markov(classes=3, length=4, count=50, transition=cycle),
        Markov(2, length=1, count=40),
    )
    return [Entry("markov", Markov, examples)]
