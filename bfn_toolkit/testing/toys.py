r"""Enumerable toys: data that take a few known values, whose posterior every family can compute.

Let value x_k have the probability w_k.  By Bayes' rule, the messages that led from theta_0 to theta have changed the
odds of the values by :math:`p_I(x \mid \theta) / p_I(x \mid \theta_0)`, so the exact posterior is

.. math:: p(x_k \mid \theta) \propto w_k \; p_I(x_k \mid \theta) \, / \, p_I(x_k \mid \theta_0)

for every family.  A perfectly trained network would return it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from bfn_toolkit.bfn import Oracle
from bfn_toolkit.distributions import Mixture, as_batch, normal
from bfn_toolkit.families import ChannelFamily, Family
from bfn_toolkit.masks import marginal, mask_of
from bfn_toolkit.network_io import NetworkIO
from bfn_toolkit.outputs import Delta, Kernel, Output
from bfn_toolkit.schedules import AccuracySchedule, GeometricSchedule
from bfn_toolkit.shapes import Data, Mask, expand, map_data
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.probes import columns, rows_of


@attrs.frozen(eq=False)
class Atoms:
    """Output distribution on a few values of whole examples.

    Arguments:
        values: The K values, with shape (K, *site), or a mapping of such tensors.
        logits: Unnormalised log-weights, with shape (B, K).
    """

    values: Data
    logits: Tensor

    def __getitem__(self, name: str) -> Atoms:
        """The marginal of a part, for values that are a mapping."""
        return Atoms(self.values[name], self.logits)

    @property
    def mean(self) -> Data:
        """E[x], for data that can be averaged."""
        if isinstance(self.values, Mapping):
            return {name: self[name].mean for name in self.values}
        return self.expect(lambda x: x)

    @property
    def mode(self) -> Data:
        """The most probable value."""
        return rows_of(self.values, self.logits.argmax(-1))

    def sample(self) -> Data:
        """Draws a value for each example."""
        choice: Tensor = Categorical(logits=self.logits).sample()  # type: ignore[no-untyped-call]
        return rows_of(self.values, choice)

    def log_prob(self, x: Data, mask: Mask | None = None) -> Tensor:
        """Log-probability of x, whose rows are among the K values, or of its sites that are present."""
        same = columns(x).unsqueeze(1) == columns(self.values)
        if mask is not None:
            same = same | ~columns(mask_of(x, mask)).bool().unsqueeze(1)
        same = same.all(-1)
        return self.logits.log_softmax(-1).masked_fill(~same, -torch.inf).logsumexp(-1)

    def _points(self) -> list[Data]:
        n, k = self.logits.shape
        return [rows_of(self.values, torch.full((n,), i)) for i in range(k)]

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)]."""
        weights = self.logits.softmax(-1)
        terms = [function(point) for point in self._points()]
        return torch.stack([expand(w, term) * term for w, term in zip(weights.unbind(-1), terms, strict=True)]).sum(0)

    def mix(self, kernel: Kernel) -> Distribution:
        """Mixture of the kernel over the values, one choice per example."""
        n = len(self.logits)
        values = map_data(lambda value: value.unsqueeze(0).expand(n, *value.shape), self.values)
        return Mixture(self.logits, as_batch(kernel(values), 1))


@attrs.frozen(eq=False)
class Evidence:
    """Beliefs of :class:`Line`: natural parameter v (B, *site), and accuracy (B,) or (B, *site)."""

    v: Tensor
    accuracy: Tensor


@attrs.frozen
class Line(ChannelFamily[Evidence]):
    """One real number through a Gaussian channel: the simplest family, on which samplers are tested."""

    schedule: AccuracySchedule = GeometricSchedule(0.05)  # noqa: RUF009 - a frozen value
    network_io: NetworkIO = NetworkIO((1,))  # noqa: RUF009
    channels: int = 1
    site_times = True

    def embed(self, x: Tensor) -> Tensor:
        """The number itself."""
        return x.unsqueeze(-1)

    def natural_params(self, params: Evidence) -> tuple[Tensor, Tensor]:
        """The beliefs are the coordinates."""
        return params.v.unsqueeze(-1), params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> Evidence:
        """The coordinates are the beliefs."""
        return Evidence(v.squeeze(-1), accuracy)

    def input(self, params: Evidence) -> Distribution:
        """N(v / (1 + B), 1 / (1 + B))."""
        precision = 1.0 + params.accuracy
        return normal(params.v / expand(precision, params.v), precision.rsqrt())

    def features(self, params: Evidence) -> Tensor:
        """The mean."""
        return self.input(params).mean.unsqueeze(-1)

    def output(self, raw: Tensor, params: Evidence) -> Output:
        """A point."""
        return Delta(raw.squeeze(-1))


@attrs.frozen(eq=False)
class Toy:
    """Three values of a family's data with unequal weights, and their exact posterior.

    Arguments:
        family: The family.
        values: The values, with shape (K, *site).
        weights: Their probabilities, with shape (K,).
    """

    family: Family[Any]
    values: Data
    weights: Tensor

    @classmethod
    def of(cls, family: Family[Any], seed: int = 0, k: int = 3) -> Toy:
        """Values drawn from the family's prior, all different, in float64."""
        with seeded(seed, "toy"):
            draws = family.input(family.prior(64, dtype=torch.float64)).sample()
        if (bound := getattr(family, "embedding_bound", math.inf)) < math.inf:  # data of bins are within it
            draws = map_data(lambda values: values * (bound / values.abs().max()), draws)
        different = list({tuple(row): i for i, row in reversed(list(enumerate(columns(draws).tolist())))}.values())
        chosen = torch.tensor(sorted(different)[:k])
        weights = torch.arange(1.0, len(chosen) + 1.0, dtype=torch.float64)
        return cls(family, rows_of(draws, chosen), weights / weights.sum())

    @property
    def entropy(self) -> float:
        """Entropy of the data, in nats."""
        return float(-(self.weights * self.weights.log()).sum())

    def sample(self, n: int) -> Data:
        """Draws data, with shape (n, *site)."""
        return rows_of(self.values, torch.multinomial(self.weights, n, replacement=True))

    def posterior(self, params: Any, mask: Mask | None = None) -> Atoms:
        """The exact posterior under beliefs of the family, given those about the sites that are present."""
        belief = self.family.input(params)
        n = belief.batch_shape[0]
        prior = self.family.input(self.family.prior(n, dtype=torch.float64))
        if mask is not None:
            belief, prior = marginal(belief, mask), marginal(prior, mask)
        points = [rows_of(self.values, torch.full((n,), i)) for i in range(len(self.weights))]
        odds = torch.stack([belief.log_prob(x) - prior.log_prob(x) for x in points], -1)
        return Atoms(self.values, self.weights.log() + odds)

    @property
    def oracle(self) -> Oracle:
        """The model of a perfect network."""
        return Oracle(self.family, self.posterior)
