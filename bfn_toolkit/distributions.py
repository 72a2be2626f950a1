"""Distributions over data and messages.

Every distribution that the toolkit passes around has batch shape (B,), so that a log-density or a divergence is in nats
per example; its event shape is that of the data or of the message.  Those of torch are used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    kl_divergence,
    register_kl,
)

from bfn_toolkit.randomness import streams
from bfn_toolkit.shapes import expand, per_example


def normal(mean: Tensor, scale: Tensor) -> Distribution:
    """Normal distribution with independent sites: mean (B, *site), scale (B,) or like the mean."""
    base = Normal(mean, expand(scale, mean).expand_as(mean), validate_args=False)
    return Independent(base, mean.ndim - 1, validate_args=False)


def kl(p: Distribution, q: Distribution, samples: int = 1) -> Tensor:
    """KL(p || q) in nats per example, with shape (B,).

    In closed form where torch has one registered (``torch.distributions.kl.register_kl``), else the unbiased
    Monte Carlo estimate from ``samples`` draws of p.
    """
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        messages = [p.sample() for _ in range(samples)]
        return torch.stack([p.log_prob(y) - q.log_prob(y) for y in messages]).mean(0)


class VonMises(Distribution):
    """von Mises distribution on the circle, with density proportional to exp(v . (cos x, sin x)).

    Arguments:
        v: Natural parameters with shape (..., 2), the concentration times the mean direction; zero is uniform.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape[:-1], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean direction in (-pi, pi]."""
        return torch.atan2(self.v[..., 1], self.v[..., 0])

    @property
    def concentration(self) -> Tensor:
        """Length of v."""
        kappa: Tensor = torch.linalg.vector_norm(self.v, dim=-1)
        return kappa

    @property
    def variance(self) -> Tensor:
        """Circular variance 1 - I_1(kappa) / I_0(kappa)."""
        return 1.0 - mean_resultant(self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, with a normaliser that is precise for every concentration."""
        kappa = self.concentration
        density: Tensor = -2.0 * kappa * ((value - self.mean) / 2).sin().square() - torch.special.i0e(kappa).log()
        return density - math.log(2.0 * math.pi)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + batch shape; NaN where v is not finite.

        By rejection under a wrapped Cauchy distribution (Best and Fisher 1979), from a stream of its own: how often one
        row is drawn again changes neither the other rows nor what is drawn later.
        """
        with torch.no_grad(), streams()("von Mises"):
            finite = torch.isfinite(self.v).all(-1)
            v = torch.where(finite.unsqueeze(-1), self.v, 1.0).double()
            kappa = torch.linalg.vector_norm(v, dim=-1).clamp_min(1e-9)
            tau = 1.0 + (1.0 + 4.0 * kappa.square()).sqrt()
            rho = (tau - (2.0 * tau).sqrt()) / (2.0 * kappa)
            r = torch.where(kappa < 1e-5, 1.0 / kappa + kappa, (1.0 + rho.square()) / (2.0 * rho))
            angle = torch.zeros((*sample_shape, *kappa.shape), device=v.device, dtype=v.dtype)
            waits = torch.ones_like(angle, dtype=torch.bool)
            while bool(waits.any()):  # two thirds are accepted at any concentration
                u, level, side = torch.rand((*angle.shape, 3), device=v.device, dtype=v.dtype).unbind(-1)
                z = (math.pi * u).cos()
                cosine = (1.0 + r * z) / (r + z)
                c = kappa * (r - cosine)
                accepted = (c * (2.0 - c) > level) | ((c / level).log() + 1.0 - c >= 0.0)
                angle = torch.where(waits & accepted, (side - 0.5).sign() * cosine.acos(), angle)
                waits = waits & ~accepted
            turned = torch.remainder(angle + torch.atan2(v[..., 1], v[..., 0]) + math.pi, 2.0 * math.pi) - math.pi
            return torch.where(finite, turned, torch.nan).to(self.v.dtype)


def mean_resultant(kappa: Tensor) -> Tensor:
    """I_1(kappa) / I_0(kappa): the mean of cos(x - mean) under a von Mises distribution."""
    resultant: Tensor = torch.special.i1e(kappa) / torch.special.i0e(kappa)
    return resultant


def von_mises(v: Tensor) -> Distribution:
    """von Mises distributions (B,) with independent sites, of natural parameters v (B, *site, 2)."""
    return Independent(VonMises(v), v.ndim - 2, validate_args=False)


@register_kl(VonMises, VonMises)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_von_mises(p: VonMises, q: VonMises) -> Tensor:
    resultant = mean_resultant(p.concentration)
    pull = (p.v * (p.v - q.v)).sum(-1) / p.concentration.clamp_min(torch.finfo(p.v.dtype).tiny)
    normalisers = (torch.special.i0e(q.concentration) / torch.special.i0e(p.concentration)).log()
    divergence: Tensor = resultant * pull + normalisers + q.concentration - p.concentration
    return divergence


class Mixture(Distribution):
    """Mixture of distributions, with weights per example or per site.

    Arguments:
        logits: Unnormalised log-weights, (B, K) for one choice per example, (B, *site, K) for one at each site.
        components: The K distributions, each with batch shape (B,); with weights per site they are
            ``Independent`` over the sites.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, logits: Tensor, components: Sequence[Distribution]) -> None:
        self.logits = logits.log_softmax(-1)
        self.components = tuple(components)
        super().__init__(logits.shape[:1], self.components[0].event_shape, validate_args=False)

    def _log_prob(self, component: Distribution, y: Tensor) -> Tensor:
        if self.logits.ndim == 2:
            return component.log_prob(y)
        if not isinstance(component, Independent):
            raise TypeError(f"weights per site need components that are Independent over sites, got {component}")
        density: Tensor = component.base_dist.log_prob(y)
        inner = tuple(range(self.logits.ndim - 1, density.ndim))  # of the message, at one site
        return density.sum(inner) if inner else density  # torch sums over all axes for an empty tuple

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density in nats per example, with shape (B,)."""
        terms = torch.stack([self._log_prob(component, y) for component in self.components], -1)
        return per_example(torch.logsumexp(self.logits + terms, -1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + (B,) + event shape."""
        size = torch.Size(sample_shape)
        draws = torch.stack([component.sample(size) for component in self.components])
        choice: Tensor = Categorical(logits=self.logits, validate_args=False).sample(size)  # type: ignore[no-untyped-call]
        choice = choice.reshape(choice.shape + (1,) * (draws.ndim - 1 - choice.ndim)).expand(draws.shape[1:])
        return draws.gather(0, choice.unsqueeze(0)).squeeze(0)
