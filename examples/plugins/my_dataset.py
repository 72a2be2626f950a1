r"""ising: a chain of coupled spins, a data set for bfn-toolkit, whose probabilities are known.

.. math:: p(x) = \frac{1}{2} \prod_{i=2}^n \sigma(2 J x_{i-1} x_i), \qquad x \in \{-1, +1\}^n

The first spin is a fair coin.  Each of the others agrees with the one before it with probability q = sigma(2 J), so

.. math:: H = \ln 2 + (n - 1) \, h(q), \qquad h(q) = -q \ln q - (1 - q) \ln (1 - q) .
"""

import math
from collections.abc import Mapping

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.nn.functional import logsigmoid

from bfn_toolkit import Batch, Dataset, Entry, Split, hookimpl, seeded, split_rows, validators


@attrs.frozen
class Ising(Dataset):
    """Chains of ``spins`` spins, each -1 or +1, with a coupling J between neighbours.

    Arguments:
        spins: Length n of a chain.
        coupling: J; above 0 neighbours agree more often than not.
        count: Number of chains.
        given_first: Whether the network receives the first spin, as the condition "first".
        seed: Seed of the draws.
        valid_fraction: Fraction of the chains held out for validation.
    """

    spins: int = field(default=4, validator=validators.integer(ge=1))
    coupling: float = field(default=1.0, validator=validators.number())
    count: int = field(default=4000, validator=validators.integer(ge=2))
    given_first: bool = False
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(n,)."""
        return (self.spins,)

    @property
    def metadata(self) -> Mapping[str, object]:
        """Facts about the data, the defaults of family and network options of the same names."""
        return {"site_shape": self.site_shape, "conditions": ("first",) if self.given_first else ()}

    def split(self, name: Split) -> Batch:
        """The chains; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            x = self._draw()
        rows = Batch(x, {"first": x[:, 0]} if self.given_first else {})
        if name in ("test", "all"):
            return rows
        train, valid = split_rows(self.count, self.valid_fraction, self.seed)
        return rows.rows(train if name == "train" else valid)

    def _draw(self) -> Tensor:
        same = torch.full((self.count, self.spins), 2.0 * self.coupling).sigmoid()
        same[:, 0] = 0.5
        return (2.0 * torch.bernoulli(same) - 1.0).cumprod(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-probability of chains (B, n), in nats, with shape (B,)."""
        return logsigmoid(2.0 * self.coupling * x[:, 1:] * x[:, :-1]).sum(1) - math.log(2.0)

    def entropy(self) -> float:
        """Exact entropy in nats: of a chain, or of the other spins given the first if it is a condition."""
        agree = 2.0 * self.coupling * torch.tensor([1.0, -1.0], dtype=torch.float64)
        pair = -float((agree.sigmoid() * logsigmoid(agree)).sum())
        return (self.spins - 1) * pair + (0.0 if self.given_first else math.log(2.0))


@hookimpl
def bfn_datasets() -> list[Entry]:
    """The data set."""
    return [Entry("ising", Ising, examples=(Ising(count=60), Ising(1, count=20), Ising(count=60, given_first=True)))]
