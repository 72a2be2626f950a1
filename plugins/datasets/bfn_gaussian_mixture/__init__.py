r"""Mixture of Gaussians (plugin): a generator whose posterior, entropy and log-density are known.

Under beliefs with mean mu and precision 1 + beta, the posterior of x is again a mixture.  For components in D
dimensions with weights pi_k, means m_k and standard deviations s_k, and with c_k = 1 + s_k^2 beta and the distance
d_k = m_k - mu, so that no term is a difference of large numbers,

.. math::
    p(x \mid \theta) = \sum_k w_k \, N\Big(x; \mu + \frac{d_k + s_k^2 \mu}{c_k}, \frac{s_k^2}{c_k} I\Big), \qquad
    \ln w_k = \ln \pi_k - \frac{D}{2} \ln c_k
             + \frac{d_k \cdot \mu + s_k^2 \lVert \mu \rVert^2 / 2 - \beta \lVert d_k \rVert^2 / 2}{c_k}
             + \text{const} .

With it as the output distribution, samples and likelihoods must be exact without any
training: see :class:`~bfn_toolkit.Oracle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import (
    Batch,
    Dataset,
    Entry,
    NormalMixture,
    Split,
    hookimpl,
    in_float64,
    seeded,
    split_rows,
    validators,
)

PANELS = 2**10  # number of panels of the quadrature that are computed together
NUMBERS = 2**24  # largest number of numbers in the draws for an entropy
SHARED = 2**20  # the same for probabilities of modes


class Beliefs(Protocol):
    """Params with a mean (B, *site) and a precision (B,), such as ``GaussianParams``."""

    mean: Tensor
    precision: Tensor


@attrs.frozen
class GaussianMixture(Dataset):
    """Points drawn from a mixture of Gaussians, a fixed number from each component.

    The defaults are the four Gaussians of https://proger.github.io/posts/bfn/normal.html, with the same draws.

    Arguments:
        means: Mean of each component: a number, or a point of D numbers.
        std: Standard deviation: one number for all components, or one for each.
        count: Number of points: one number for all components, or one for each; it determines the mixture's weights.
        seed: Seed of the draws.
        valid_fraction: Fraction of the points held out for validation.

    >>> GaussianMixture().split("all").x.shape
    torch.Size([4000, 1])
    """

    means: tuple[float, ...] | tuple[tuple[float, ...], ...] = field(
        default=(-0.75, -0.25, 0.25, 0.75), converter=validators.as_tuples
    )
    std: float | tuple[float, ...] = field(default=0.05, converter=validators.as_tuples)
    count: int | tuple[int, ...] = field(default=1000, converter=validators.as_tuples)
    seed: int = field(default=3407, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    def __attrs_post_init__(self) -> None:
        k = len(self.means)
        points = [mean if isinstance(mean, tuple) else (mean,) for mean in self.means]
        if k == 0 or len({len(point) for point in points}) != 1 or not points[0]:
            raise ValueError(f"means must be numbers, or points of equal length, at least one; got {self.means}")
        if not all(math.isfinite(number) for point in points for number in point):
            raise ValueError(f"means must be finite, got {self.means}")
        for name, least in (("std", 0.0), ("count", 1)):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) and len(value) != k:
                raise ValueError(f"{name} must be one number, or one for each of the {k} means; got {len(value)}")
            if not all(math.isfinite(v) and v >= least and v > 0 for v in values):
                raise ValueError(f"{name} must be finite and above 0, got {value}")

    @property
    def _means(self) -> Tensor:
        """(K, D) in float64."""
        return torch.tensor(self.means, dtype=torch.float64).reshape(len(self.means), -1)

    @property
    def _stds(self) -> Tensor:
        """(K,) in float64."""
        return torch.tensor(self.std, dtype=torch.float64).expand(len(self.means))

    @property
    def _counts(self) -> tuple[int, ...]:
        return self.count if isinstance(self.count, tuple) else (self.count,) * len(self.means)

    @property
    def _log_weights(self) -> Tensor:
        """(K,) in float64."""
        return torch.tensor(self._counts, dtype=torch.float64).log().log_softmax(0)

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self._means.shape[1],)

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape, and the mean square of the data."""
        squares = self._means.square().mean(1) + self._stds.square()
        variance = float((self._log_weights.exp() * squares).sum())
        return {"site_shape": self.site_shape, "data_variance": round(variance, 6)}

    def _draw(self, generator: torch.Generator | None) -> Tensor:
        parts = [
            mean + std * torch.randn(count, self.site_shape[0], generator=generator)
            for mean, std, count in zip(self._means.float(), self._stds.tolist(), self._counts, strict=True)
        ]
        return torch.cat(parts)

    def split(self, name: Split) -> Batch:
        """The points; "test" is a fresh draw of the same size."""
        if name == "test":
            with seeded(self.seed, "test"):
                return Batch(self._draw(None))
        x = self._draw(torch.Generator().manual_seed(self.seed))
        if name == "all":
            return Batch(x)
        train, valid = split_rows(len(x), self.valid_fraction, self.seed)
        return Batch(x).rows(train if name == "train" else valid)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-density of points (B, D), in nats, with shape (B,)."""
        return self._prior(x).log_prob(x)

    def _prior(self, like: Tensor) -> NormalMixture:
        b, (k, d) = like.shape[0], self._means.shape
        means, stds, logits = (v.to(like) for v in (self._means, self._stds, self._log_weights))
        return NormalMixture(logits.expand(b, k), means.expand(b, k, d), stds.expand(b, k))

    def entropy(self, samples: int = 200_000, seed: int = 0) -> tuple[float, float]:
        """Entropy in nats, and its error.

        For D = 1 by quadrature; the error is that of the integral of p, which should be 1.  Otherwise the entropy of
        separate components, less their overlap, which is the mean over ``samples`` draws; the error is its standard
        error.
        """
        return self._entropy_on_a_line() if self.site_shape == (1,) else self._entropy_by_draws(samples, seed)

    def _entropy_on_a_line(self) -> tuple[float, float]:
        """16 nodes of Gauss and Legendre in panels of half a standard deviation of every component that is near."""
        steps = torch.arange(-18, 19, dtype=torch.float64) / 2.0
        edges = (self._means + self._stds.unsqueeze(1) * steps).flatten().sort().values
        node, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(16))
        total = mass = 0.0
        for low, half in zip(*(torch.split(u, PANELS) for u in (edges[:-1], edges.diff() / 2.0)), strict=True):
            log_p = self.log_prob(((low + half).unsqueeze(1) + half.outer(node)).reshape(-1, 1))
            p = log_p.exp() * half.outer(weight).flatten()
            total, mass = total - float((p * log_p).sum()), mass + float(p.sum())
        return total, abs(1.0 - mass) * (10.0 + abs(total))

    def _entropy_by_draws(self, samples: int, seed: int) -> tuple[float, float]:
        r"""Sum of :math:`\pi_k (H_k - \ln \pi_k - E_k \ln(p / \pi_k p_k))`, with z drawn from each component."""
        means, stds, log_weights, d = self._means, self._stds, self._log_weights, self.site_shape[0]
        n, total, variance = max(2, min(samples, NUMBERS // d) // len(means)), 0.0, 0.0
        for k, weight in enumerate(log_weights.exp().tolist()):
            with seeded(seed, "entropy", k):
                z = torch.randn(n, d, dtype=torch.float64)
            far = (stds[k] * z.unsqueeze(1) + (means[k] - means)) / stds.unsqueeze(1)
            odds = log_weights - log_weights[k] + d * (stds[k] / stds).log()
            overlap = (odds - 0.5 * (far.square().sum(-1) - z.square().sum(-1, keepdim=True))).logsumexp(1)
            alone = 0.5 * d * math.log(2.0 * math.pi * math.e * float(stds[k]) ** 2) - float(log_weights[k])
            total += weight * (alone - float(overlap.mean()))
            variance += weight**2 * float(overlap.var()) / n
        return total, math.sqrt(variance)

    def exact_output(self, params: Beliefs) -> NormalMixture:
        """The exact posterior p(x | theta) under Gaussian beliefs, which a perfect network would return."""
        mu = params.mean.unsqueeze(1)  # (B, 1, D)
        beta = params.precision.reshape(-1, 1) - 1.0  # (B, 1)
        means, variances, logits = (u.to(mu) for u in (self._means, self._stds.square(), self._log_weights))
        c, gap = 1.0 + beta * variances, means - mu  # (B, K), (B, K, D)
        exponent = (gap * mu).sum(-1) + 0.5 * variances * mu.square().sum(-1) - 0.5 * beta * gap.square().sum(-1)
        logits = logits - 0.5 * means.shape[1] * c.log() + exponent / c
        centres = mu + (gap + variances.unsqueeze(-1) * mu) / c.unsqueeze(-1)
        return NormalMixture(logits, centres, (variances / c).sqrt())

    def mode_shares(self, x: Tensor) -> Mapping[str, float]:
        """Fraction of the points that are nearest to each mean."""
        nearest = torch.cdist(in_float64(x.flatten(1)).cpu(), self._means).argmin(1)
        shares = torch.bincount(nearest, minlength=len(self.means)) / len(x)
        return {str(mean): share for mean, share in zip(self.means, shares.tolist(), strict=True)}

    def mode_probabilities(self) -> Mapping[str, float]:
        """Probability that a point is nearest to each mean: exact for D = 1, otherwise from draws, to about 0.001."""
        if self.site_shape != (1,):
            n = max(2, min(200_000, SHARED // self.site_shape[0]) // len(self.means))
            with seeded(0, "modes"):
                draws = [
                    self.mode_shares(mean + std * torch.randn(n, len(mean), dtype=torch.float64))
                    for mean, std in zip(self._means, self._stds, strict=True)
                ]
            weights = self._log_weights.exp().tolist()
            return {m: sum(w * shares[m] for w, shares in zip(weights, draws, strict=True)) for m in draws[0]}
        means, order = self._means[:, 0], self._means[:, 0].argsort(stable=True)
        ends = torch.cat([means[order[:1]] - torch.inf, means[order].unfold(0, 2, 1).mean(1), means[:1] + torch.inf])
        below = torch.special.ndtr((ends.unsqueeze(1) - means) / self._stds) @ self._log_weights.exp()
        found = torch.zeros_like(means).index_put((order,), below.diff())
        return {str(mean): share for mean, share in zip(self.means, found.tolist(), strict=True)}


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    plane = GaussianMixture(means=((-0.5, 0.0), (0.5, 0.5), (0.0, -0.5)), std=(0.1, 0.05, 0.2), count=(50, 60, 70))
    return [Entry("gaussian-mixture", GaussianMixture, (GaussianMixture(), plane))]
