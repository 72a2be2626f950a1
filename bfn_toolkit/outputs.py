r"""Output distributions: what the network's raw numbers say of the data.

The receiver is the sender averaged over p_O,

.. math:: p_R(y \mid \theta; t, \alpha) = E_{x' \sim p_O(\cdot \mid \theta; t)} \; p_S(y \mid x'; \alpha)
          \qquad \text{(Graves et al. 2023, eq. 4)}

so an output knows how to average a kernel :math:`x' \mapsto p_S(\cdot \mid x'; \alpha)`: :meth:`Output.mix`.

=========================== =========================================== ===========================
output                      p_O                                         mix
=========================== =========================================== ===========================
:class:`Delta`              one point                                   the kernel at that point
:class:`Finite`             weights on a finite support, at each site   exact mixture over support
:class:`NormalMixture`      normal components, weighted per example     each component widened
:class:`SiteNormalMixture`  normal components, weighted at each site    each component widened
:class:`Binned`             the bins into which draws of those fall     exact mixture over centres
=========================== =========================================== ===========================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit.distributions import Mixture, as_batch, normal
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.polynomials import normal_expectation, value_and_degree
from bfn_toolkit.shapes import expand, per_example

# From data to the law of a message, independent over the sites.  Candidates for the data stand on the axis after the
# batch, (B, K, *site), where a kernel sees them as more sites.
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
        """E[function(x)] of a function that acts on each site by itself: exact, or refused.

        Raises:
            ConfigError: If it cannot be exact for this function.
        """

    def mix(self, kernel: Kernel) -> Distribution:
        """The distribution E[kernel(x)]: the receiver, when the kernel is the sender."""


@attrs.frozen(eq=False)
class Delta:
    """All of the probability on one point.

    Arguments:
        value: The point, with shape (B, *site).
        std: Standard deviation within which two values count as the same, for :meth:`log_prob` alone.  For
            continuous data it is sigma_1, as the paper's reconstruction loss has it; None where there is no density.
    """

    value: Tensor
    std: float | None = None

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
        """Log-density of a normal distribution around the point."""
        if self.std is None:
            raise ValueError("a Delta without a standard deviation has no log-density; write Delta(value, std=0.01)")
        z = (x - self.value) / self.std
        return per_example(-0.5 * z.square() - math.log(self.std) - 0.5 * math.log(2 * math.pi))

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The function at the point."""
        return function(self.value)

    def mix(self, kernel: Kernel) -> Distribution:
        """The kernel at the point."""
        return kernel(self.value)


def _choose(logits: Tensor) -> Tensor:
    """Draws an index with log-weights (..., K), by inverting the distribution function with one uniform number."""
    cdf = logits.softmax(-1).cumsum(-1)
    # The total may round to something below 1; scaled by it, u stays within the table.
    u = torch.rand_like(cdf[..., :1]) * cdf[..., -1:]
    return torch.searchsorted(cdf, u, right=True).squeeze(-1).clamp_max_(logits.shape[-1] - 1)


@attrs.frozen(eq=False)
class Finite:
    """Weights on a finite support, independent over the sites.

    Arguments:
        support: The K values in increasing order, with shape (K,), or None for the classes 0..K-1.
        logits: Unnormalised log-weights, with shape (B, *site, K).
    """

    support: Tensor | None
    logits: Tensor

    @property
    def values(self) -> Tensor:
        """The support, as a tensor."""
        if self.support is None:
            return torch.arange(self.logits.shape[-1], device=self.logits.device)
        return self.support

    @property
    def mean(self) -> Tensor:
        """E[x] at each site."""
        return self.logits.softmax(-1) @ self.values.to(self.logits.dtype)

    @property
    def mode(self) -> Tensor:
        """The most probable value at each site."""
        return self._at(self.logits.argmax(-1))

    def _at(self, index: Tensor) -> Tensor:
        return index if self.support is None else self.support[index]

    def sample(self) -> Tensor:
        """Draws one value at each site, by inverting the distribution function with one uniform number."""
        return self._at(_choose(self.logits))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability in nats per example of the values of the support that are nearest to x."""
        return per_example(self.logits.log_softmax(-1).gather(-1, self.index(x).unsqueeze(-1)).squeeze(-1))

    def index(self, x: Tensor) -> Tensor:
        """Numbers of the values of the support that are nearest to x."""
        if self.support is None:
            return x
        between = (self.support[1:] + self.support[:-1]) / 2
        return torch.searchsorted(between, x.to(between.dtype).contiguous())

    def _points(self) -> list[Tensor]:
        return [value.expand(self.logits.shape[:-1]) for value in self.values]

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] at each site, exact."""
        weights = self.logits.softmax(-1)
        terms = [function(point) for point in self._points()]
        return torch.stack([expand(w, term) * term for w, term in zip(weights.unbind(-1), terms, strict=True)]).sum(0)

    def mix(self, kernel: Kernel) -> Distribution:
        """Mixture of the kernel over the support, with its weights at each site."""
        *sites, k = self.logits.shape[1:]
        points = self.values.reshape(k, *(1,) * len(sites)).expand(len(self.logits), k, *sites)
        return Mixture(self.logits, as_batch(kernel(points), 1 + len(sites)))


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

    def _distribution(self) -> Mixture:
        return Mixture(self.logits, as_batch(normal(self.means, self.scales), 1))

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
        x: Tensor = self._distribution().sample()
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per example."""
        return self._distribution().log_prob(x)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] of a polynomial, exact; of an affine function, the function at the mean.

        Raises:
            ConfigError: If the function is not known to be a polynomial that acts on each site by itself.
        """
        weights = self.logits.softmax(-1).unbind(-1)
        components = zip(weights, self.means.unbind(1), self.scales.unbind(1), strict=True)
        return normal_expectation(function, self.mean, components)

    def mix(self, kernel: Kernel) -> Distribution:
        """Each component widened by the kernel; exact for normal kernels whose mean is affine in x, site by site."""
        return Mixture(self.logits, as_batch(_widened(kernel, self.means, self.scales), 1))


@attrs.frozen(eq=False)
class SiteNormalMixture:
    """Normal components, one choice of component at each site: sites are independent.

    Arguments:
        logits: Unnormalised log-weights, with shape (B, *site, K).
        means: Means of the components, with shape (B, *site, K).
        scales: Standard deviations of the components, with shape (B, *site, K).
    """

    logits: Tensor
    means: Tensor
    scales: Tensor

    def average(self, values: Tensor) -> Tensor:
        """Mean over the components of a value of each: (B, *site, K) to (B, *site)."""
        return values.squeeze(-1) if values.shape[-1] == 1 else (self.logits.softmax(-1) * values).sum(-1)

    def log_average(self, logs: Tensor) -> Tensor:
        """Logarithm of the mean over the components of exponentials: (B, *site, ..., K) to (B, *site, ...)."""
        if logs.shape[-1] == 1:
            return logs.squeeze(-1)
        log_weights = self.logits.log_softmax(-1)
        extra = logs.ndim - log_weights.ndim
        shape = (*log_weights.shape[:-1], *(1,) * extra, log_weights.shape[-1])
        return torch.logsumexp(log_weights.reshape(shape) + logs, -1)

    @property
    def mean(self) -> Tensor:
        """E[x] at each site."""
        return self.average(self.means)

    @property
    def mode(self) -> Tensor:
        """Mean of the component with the highest peak (the mode, where components do not overlap)."""
        peak = (self.logits - self.scales.log()).argmax(-1, keepdim=True)
        return self.means.gather(-1, peak).squeeze(-1)

    def sample(self) -> Tensor:
        """Draws a component, then x, at each site."""
        if self.means.shape[-1] == 1:
            mean, scale = self.means, self.scales.expand_as(self.means)
        else:
            choice = _choose(self.logits).unsqueeze(-1)
            mean, scale = self.means.gather(-1, choice), self.scales.gather(-1, choice)
        return torch.addcmul(mean, scale, torch.randn_like(mean)).squeeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per example."""
        z = (x.unsqueeze(-1) - self.means) / self.scales
        return per_example(self.log_average(-0.5 * z.square() - self.scales.log() - 0.5 * math.log(2 * math.pi)))

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] of a polynomial, exact; of an affine function, the function at the mean.

        Raises:
            ConfigError: If the function is not known to be a polynomial that acts on each site by itself.
        """
        weights, means, scales = self.logits.softmax(-1), self.means, self.scales.expand_as(self.means)
        components = zip(weights.unbind(-1), means.unbind(-1), scales.unbind(-1), strict=True)
        return normal_expectation(function, self.mean, components)

    def mix(self, kernel: Kernel) -> Distribution:
        """Each component widened by the kernel; exact for normal kernels whose mean is affine in x, site by site."""
        means, scales = self.means.movedim(-1, 1), self.scales.expand_as(self.means).movedim(-1, 1)
        return Mixture(self.logits, as_batch(_widened(kernel, means, scales), means.ndim - 1))


def _widened(kernel: Kernel, mean: Tensor, scale: Tensor) -> Distribution:
    """E[kernel(x)] for x ~ N(mean, scale^2) and a normal kernel whose mean is affine in x.

    Raises:
        ConfigError: If the kernel's mean is not known to be affine.
    """
    sent, degree = value_and_degree(lambda x: kernel(x).mean, mean)
    if degree > 1:
        raise ConfigError(
            f"normal components are widened by a message whose mean is affine in x, found one of degree {degree}; "
            "give the family an output that it can mix, such as Finite"
        )
    shifted = kernel(mean + 1)
    slope = shifted.mean - sent
    return normal(sent, (shifted.variance + (slope * expand(scale, slope)).square()).sqrt())
