r"""Torus (plugin): angles with a known density, a mixture of von Mises distributions.

With mean angles :math:`m_k`, concentrations :math:`\kappa_k` and weights :math:`\pi_k`,

.. math:: p(x) = \sum_k \pi_k \prod_d \frac{e^{\kappa_k \cos(x_d - m_{kd})}}{2 \pi I_0(\kappa_k)}

Within a component the angles are independent; in the mixture they are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import (
    Batch,
    ConfigError,
    Dataset,
    Entry,
    Split,
    VonMises,
    hookimpl,
    in_float64,
    seeded,
    split_rows,
    validators,
)

NUMBERS = 2**22  # largest number of differences that are computed together


@attrs.frozen
class Torus(Dataset):
    """Angles in [-pi, pi) drawn from a mixture of von Mises distributions, a fixed number from each component.

    The defaults are three regions like those of the backbone angles of proteins.

    Arguments:
        means: Mean of each component in radians: an angle, or a point of D angles.
        concentration: Concentration in [0, 10000], one number for all components or one for each; 0 is uniform.
        count: Number of points: one number for all components, or one for each; it determines the mixture's weights.
        seed: Seed of the draws.
        valid_fraction: Fraction of the points held out for validation.

    >>> Torus().split("all").x.shape
    torch.Size([40000, 2])
    """

    means: tuple[float, ...] | tuple[tuple[float, ...], ...] = field(
        default=((-1.1, -0.8), (-2.0, 2.4), (1.0, 0.7)), converter=validators.as_tuples
    )
    concentration: float | tuple[float, ...] = field(default=(12.0, 6.0, 20.0), converter=validators.as_tuples)
    count: int | tuple[int, ...] = field(default=(20_000, 15_000, 5_000), converter=validators.as_tuples)
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    def __attrs_post_init__(self) -> None:
        k = len(self.means)
        points = [mean if isinstance(mean, tuple) else (mean,) for mean in self.means]
        if k == 0 or len({len(point) for point in points}) != 1 or not points[0]:
            raise ConfigError(f"means must be angles, or points of equal length, at least one; got {self.means}")
        if not all(math.isfinite(angle) for point in points for angle in point):
            raise ConfigError(f"means must be finite, got {self.means}")
        for name, low, high in (("concentration", 0.0, 1e4), ("count", 1, math.inf)):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != k:
                raise ConfigError(f"{name} must be one number, or one for each of the {k} means; got {len(value)}")
            if not all(low <= v <= high for v in (value if isinstance(value, tuple) else (value,))):
                raise ConfigError(f"expected {low:g} <= {name} <= {high:g}, got {value}")

    @property
    def default_config(self) -> Mapping[str, object]:
        """Angles, with a perceptron."""
        return {
            "family": "circle",
            "network": {"name": "mlp", "depth": 2},
            "training": {"steps": 2500, "batch_size": 512, "lr": 2e-3, "ema_decay": 0.99},
        }

    @property
    def _means(self) -> Tensor:
        """(K, D) in float64."""
        return torch.tensor(self.means, dtype=torch.float64).reshape(len(self.means), -1)

    @property
    def _concentrations(self) -> Tensor:
        """(K,) in float64."""
        return torch.tensor(self.concentration, dtype=torch.float64).expand(len(self.means))

    @property
    def _counts(self) -> tuple[int, ...]:
        return self.count if isinstance(self.count, tuple) else (self.count,) * len(self.means)

    @property
    def _components(self) -> VonMises:
        """The distributions (K, D), in float64."""
        means = self._means
        return VonMises(self._concentrations[:, None, None] * torch.stack([means.cos(), means.sin()], -1))

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self._means.shape[1],)

    def _draw(self, counts: Sequence[int]) -> Tensor:
        draws = [VonMises(v.float()).sample((n,)) for v, n in zip(self._components.v, counts, strict=True)]
        return torch.cat(draws)

    def split(self, name: Split) -> Batch:
        """The points; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            points = Batch(self._draw(self._counts))
        if name in ("test", "all"):
            return points
        train, valid = split_rows(len(points), self.valid_fraction, self.seed)
        return points.rows(train if name == "train" else valid)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-density of points (B, D), in nats, with shape (B,)."""
        weights = torch.tensor(self._counts).to(x).log().log_softmax(0)
        density = VonMises(self._components.v.to(x)).log_prob(x.unsqueeze(1)).sum(-1)  # (B, K)
        return (weights + density).logsumexp(1)

    def entropy(self, samples: int = 200_000, seed: int = 0) -> tuple[float, float]:
        """Entropy in nats, and its standard error.

        For D <= 2 by quadrature, with error 0; otherwise the mean of -ln p over about ``samples`` stratified draws.
        """
        (d,) = self.site_shape
        if d <= 2:
            n = 64 + math.ceil(24.0 * math.sqrt(float(self._concentrations.max())))
            circle = torch.arange(n, dtype=torch.float64) * (2.0 * math.pi / n)
            grid = torch.cartesian_prod(*[circle] * d).reshape(-1, d)
            log_p = torch.cat([self.log_prob(rows) for rows in torch.split(grid, 100_000)])
            return float(-(log_p.exp() * log_p).sum() * (2.0 * math.pi / n) ** d), 0.0
        draws = torch.split(self._representative(samples, seed), max(1, NUMBERS // (d * len(self.means))))
        nats = torch.cat([-self.log_prob(rows.double()) for rows in draws])
        return float(nats.mean()), float(nats.std() / math.sqrt(len(nats)))

    def _representative(self, samples: int, seed: int) -> Tensor:
        """About so many draws, of which each component has its share."""
        counts = [max(1, round(samples * n / sum(self._counts))) for n in self._counts]
        with seeded(seed, "entropy"):
            return self._draw(counts)

    def mode_shares(self, x: Tensor) -> Mapping[str, float]:
        """Fraction of the points nearest to each mean, by the sum of the cosines of the differences."""
        nearest = (in_float64(x.detach().flatten(1)).cpu().unsqueeze(1) - self._means).cos().sum(-1).argmax(1)
        shares = torch.bincount(nearest, minlength=len(self.means)) / len(x)
        return {str(mean): share for mean, share in zip(self.means, shares.tolist(), strict=True)}

    def mode_probabilities(self) -> Mapping[str, float]:
        """Probability that a point is nearest to each mean, from draws, to about 0.001."""
        most = NUMBERS // (self.site_shape[0] * len(self.means))
        return self.mode_shares(self._representative(max(1, min(200_000, most)), 0))


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    circle = Torus(means=(0.0, 2.0), concentration=3.0, count=40)
    three = Torus(means=((0.0, 1.0, -3.0), (2.0, -1.0, 0.5)), concentration=(0.0, 8.0), count=(30, 20))
    return [Entry("torus", Torus, (Torus(count=20), circle, three))]
