r"""Distributions over data and messages.

Every distribution that the toolkit passes around has batch shape (B,), so that a log-density or a divergence is in nats
per example; its event shape is that of the data or of the message.  Those of torch are used as they are.

The *output distribution* p_O has one verb more.  The receiver is the sender averaged over p_O,

.. math:: p_R(y \mid \theta; t, \alpha) = E_{x' \sim p_O(\cdot \mid \theta; t)} \; p_S(y \mid x'; \alpha)
          \qquad \text{(Graves et al. 2023, eq. 4)}

so an output knows how to average a kernel :math:`x' \mapsto p_S(\cdot \mid x'; \alpha)`: :meth:`Output.mix`.

=========================== =========================================== ===========================
output                      p_O                                         mix
=========================== =========================================== ===========================
:class:`Delta`              one point                                   the kernel at that point
:class:`Finite`             weights on a finite support, at each site   exact mixture over support
:class:`NormalMixture`      normal components, weighted per example     each component widened
=========================== =========================================== ===========================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence, register_kl
from torch.distributions import VonMises as TorchVonMises

from bfn_toolkit.shapes import expand, per_example

Kernel: TypeAlias = Callable[[Tensor], Distribution]


class Output(Protocol):
    """Output distribution p_O(x | theta; t) that a network's raw numbers stand for."""

    @property
    def mean(self) -> Tensor:
        """E[x], with the shape of the data."""

    @property
    def mode(self) -> Tensor:
        """The most probable x (site by site where the sites are independent), with the shape of the data."""

    def sample(self) -> Tensor:
        """Draws x ~ p_O, one per example."""

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p_O(x) in nats per example, with shape (B,)."""

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] of a function that acts on each site by itself."""

    def mix(self, kernel: Kernel) -> Distribution:
        """The distribution E[kernel(x)]: the receiver, when the kernel is the sender."""


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
        y = p.sample(torch.Size((samples,)))
        return torch.stack([p.log_prob(row) - q.log_prob(row) for row in y]).mean(0)


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

        By torch's rejection sampler (Best and Fisher 1979), which would search for ever at NaN and at zero.
        """
        with torch.no_grad():
            finite = torch.isfinite(self.v).all(-1)
            v = torch.where(finite.unsqueeze(-1), self.v, 1.0)
            proper = TorchVonMises(torch.atan2(v[..., 1], v[..., 0]), v.norm(dim=-1).clamp_min(1e-9), False)
            draws: Tensor = proper.sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
            return torch.where(finite, draws, torch.nan)


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


@attrs.frozen(eq=False)
class Delta:
    """All of the probability on one point.

    Arguments:
        value: The point, with shape (B, *site).
        tolerance: Standard deviation within which two values count as the same, for :meth:`log_prob` alone.  For
            continuous data it is sigma_1, as the paper's reconstruction loss has it; None where there is no density.
    """

    value: Tensor
    tolerance: float | None = None

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.value

    @property
    def mode(self) -> Tensor:
        """The point."""
        return self.value

    def sample(self) -> Tensor:
        """The point."""
        return self.value

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of a normal distribution around the point, with the tolerance as its standard deviation."""
        if self.tolerance is None:
            raise ValueError("a Delta has no log-density: build it with a tolerance")
        z = (x - self.value) / self.tolerance
        return per_example(-0.5 * z.square() - math.log(self.tolerance) - 0.5 * math.log(2 * math.pi))

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The function at the point."""
        return function(self.value)

    def mix(self, kernel: Kernel) -> Distribution:
        """The kernel at the point."""
        return kernel(self.value)


@attrs.frozen(eq=False)
class Finite:
    """Weights on a finite support, independent over the sites.

    Arguments:
        support: The K values, with shape (K,): classes or bin centres.
        logits: Unnormalised log-weights, with shape (B, *site, K).
    """

    support: Tensor
    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """E[x] at each site."""
        return self.expect(lambda x: x)

    @property
    def mode(self) -> Tensor:
        """The most probable value at each site."""
        return self.support[self.logits.argmax(-1)]

    def sample(self) -> Tensor:
        """Draws one value at each site, by inverting the distribution function with one uniform number."""
        cdf = self.logits.softmax(-1).cumsum(-1)
        # The total may round to something below 1; scaled by it, u stays within the table.
        u = torch.rand_like(cdf[..., :1]) * cdf[..., -1:]
        last = self.support.shape[0] - 1
        return self.support[torch.searchsorted(cdf, u, right=True).squeeze(-1).clamp_max_(last)]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability in nats per example of values that are on the support."""
        index = torch.searchsorted(self.support, x.to(self.support.dtype).contiguous())
        return per_example(self.logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1))

    def _points(self) -> list[Tensor]:
        return [value.expand(self.logits.shape[:-1]) for value in self.support]

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] at each site, exact."""
        weights = self.logits.softmax(-1)
        terms = [function(point) for point in self._points()]
        return torch.stack([expand(w, term) * term for w, term in zip(weights.unbind(-1), terms, strict=True)]).sum(0)

    def mix(self, kernel: Kernel) -> Distribution:
        """Mixture of the kernel over the support, with its weights at each site."""
        return Mixture(self.logits, [kernel(point) for point in self._points()])


@attrs.frozen(eq=False)
class NormalMixture:
    """Normal components, one choice of component per example: sites are dependent.

    Arguments:
        logits: Unnormalised log-weights, with shape (B, K).
        means: Means of the components, with shape (B, K, *site).
        scales: Standard deviations of the components, with shape (B, K).
    """

    logits: Tensor
    means: Tensor
    scales: Tensor

    def _components(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.means.unbind(1), self.scales.unbind(1), strict=True))

    def _distribution(self) -> Mixture:
        return Mixture(self.logits, [normal(mean, scale) for mean, scale in self._components()])

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return (expand(self.logits.softmax(-1), self.means) * self.means).sum(1)

    @property
    def mode(self) -> Tensor:
        """Mean of the component with the largest weight (the mode, where components do not overlap)."""
        return self.means[torch.arange(self.means.shape[0], device=self.means.device), self.logits.argmax(-1)]

    def sample(self) -> Tensor:
        """Draws x, one per example."""
        return self._distribution().sample()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per example."""
        return self._distribution().log_prob(x)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] of an affine function, exact: the function at the mean."""
        return function(self.mean)

    def mix(self, kernel: Kernel) -> Distribution:
        """Each component widened by the kernel; exact for normal kernels whose mean is affine in x, site by site."""
        components = []
        for mean, scale in self._components():
            sent, shifted = kernel(mean), kernel(mean + 1)
            slope = shifted.mean - sent.mean
            widened = (sent.variance + (slope * expand(scale, slope)).square()).sqrt()
            components.append(normal(sent.mean, widened))
        return Mixture(self.logits, components)
