r"""Output distributions: distributions over the data, from the network's raw numbers.

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
:class:`Binned`             bins of draws of a SiteNormalMixture        exact mixture over centres
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
from bfn_toolkit.masks import marginal, present
from bfn_toolkit.shapes import Mask, expand, per_example

# From data to the law of a message, independent over the sites.  K candidates for the data have shape (B, K, *site);
# a kernel sees the axis K as one more site axis.
Kernel: TypeAlias = Callable[[Tensor], Distribution]


class Output(Protocol):
    """Output distribution p_O(x | theta; t), built from a network's raw numbers."""

    @property
    def mean(self) -> Tensor:
        """E[x], with the shape of the data."""

    @property
    def mode(self) -> Tensor:
        """The most probable x (site by site where the sites are independent), with the shape of the data."""

    def sample(self) -> Tensor:
        """Draws x ~ p_O, one per example."""

    def log_prob(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """ln p_O(x) in nats per example, with shape (B,); with a mask, that of the sites that are present.

        An output that is never used with a mask may leave the argument out.
        """

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
        std: Standard deviation of a normal distribution around the point, used by :meth:`log_prob` only.  For
            continuous data it is sigma_1, as in the paper's reconstruction loss; None if there is no density.
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

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of a normal distribution around the point."""
        if self.std is None:
            raise ValueError("a Delta without a standard deviation has no log-density; write Delta(value, std=0.01)")
        z = (present(x, mask) - self.value) / self.std
        return per_example(-0.5 * z.square() - math.log(self.std) - 0.5 * math.log(2 * math.pi), mask)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The function at the point."""
        return function(self.value)

    def mix(self, kernel: Kernel) -> Distribution:
        """The kernel at the point."""
        return kernel(self.value)


def _choose(logits: Tensor) -> Tensor:
    """Draws an index with log-weights (..., K), by inverting the distribution function with one uniform number."""
    cdf = logits.softmax(-1).cumsum(-1)
    # The total may round to less than 1; scaled by it, u stays within the table.
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

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability, in nats per example, of the values of the support nearest to x."""
        index = self.index(present(x, mask)).unsqueeze(-1)
        return per_example(self.logits.log_softmax(-1).gather(-1, index).squeeze(-1), mask)

    def index(self, x: Tensor) -> Tensor:
        """Indices of the values of the support nearest to x."""
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
        """Mixture of the kernel over the support, weighted at each site."""
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
        """Mean of the component with the largest weight (the mode, if components do not overlap)."""
        return self.means[torch.arange(self.means.shape[0], device=self.means.device), self.logits.argmax(-1)]

    def sample(self) -> Tensor:
        """Draws x, one per example."""
        x: Tensor = self._distribution().sample()
        return x

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats per example."""
        if mask is None:
            return self._distribution().log_prob(x)
        return marginal(self._distribution(), mask).log_prob(present(x, mask))

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] of an affine function, exact: the function at the mean.

        Raises:
            ConfigError: If the function is not affine; values are read to find out.
        """
        mean = self.mean
        spread = (self.means - mean.unsqueeze(1)).abs().amax(1) + expand(self.scales.amax(1), mean)
        return affine_expectation(function, mean, spread)

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
        """Weighted mean over the components: (B, *site, K) to (B, *site)."""
        return values.squeeze(-1) if values.shape[-1] == 1 else (self.logits.softmax(-1) * values).sum(-1)

    def log_average(self, logs: Tensor) -> Tensor:
        """Logarithm of the weighted mean of exp(logs) over the components: (B, *site, ..., K) to (B, *site, ...)."""
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
        """Mean of the component with the highest peak (the mode, if components do not overlap)."""
        peak = (self.logits - self.scales.log()).argmax(-1, keepdim=True)
        return self.means.gather(-1, peak).squeeze(-1)

    def sample(self) -> Tensor:
        """Draws a component at each site, then x from it."""
        if self.means.shape[-1] == 1:
            mean, scale = self.means, self.scales.expand_as(self.means)
        else:
            choice = _choose(self.logits).unsqueeze(-1)
            mean, scale = self.means.gather(-1, choice), self.scales.gather(-1, choice)
        return torch.addcmul(mean, scale, torch.randn_like(mean)).squeeze(-1)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats per example."""
        z = (present(x, mask).unsqueeze(-1) - self.means) / self.scales
        return per_example(self.log_average(-0.5 * z.square() - self.scales.log() - 0.5 * math.log(2 * math.pi)), mask)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] of an affine function, exact: the function at the mean.

        Raises:
            ConfigError: If the function is not affine; values are read to find out.
        """
        mean = self.mean
        spread = (self.means - mean.unsqueeze(-1)).abs().amax(-1) + self.scales.amax(-1)
        return affine_expectation(function, mean, spread)

    def mix(self, kernel: Kernel) -> Distribution:
        """Each component widened by the kernel; exact for normal kernels whose mean is affine in x, site by site."""
        means, scales = self.means.movedim(-1, 1), self.scales.expand_as(self.means).movedim(-1, 1)
        return Mixture(self.logits, as_batch(_widened(kernel, means, scales), means.ndim - 1))


def affine_expectation(function: Callable[[Tensor], Tensor], mean: Tensor, spread: Tensor) -> Tensor:
    """E[function(x)] of an affine function: its value at the mean.

    Second differences test whether it is affine, at steps from a tenth of the spread to a hundred times it; the step
    differs from site to site.

    Arguments:
        function: The function.
        mean: E[x], with shape (B, *site).
        spread: Typical distance of x from the mean, with the same shape.
    Raises:
        ConfigError: If the function is not affine.
    """
    value = function(mean)
    tilt = torch.linspace(0.7, 1.3, mean[0].numel(), device=mean.device, dtype=mean.dtype).reshape(mean.shape[1:])
    for size in (0.1, 1.0, 10.0, 100.0):
        step = size * tilt * spread
        up, down = function(mean + step), function(mean - step)
        change = torch.maximum((up - value).abs(), (down - value).abs())
        rounding = 32.0 * torch.finfo(value.dtype).eps * torch.maximum(value.abs(), torch.maximum(up.abs(), down.abs()))
        if not bool(((up + down - 2.0 * value).abs() <= 1e-3 * change + rounding).all()):
            raise ConfigError(
                "normal components have exact expectations only for affine functions, and this one is not affine; "
                "write function(output.sample()) and average over draws"
            )
    return value


def _widened(kernel: Kernel, mean: Tensor, scale: Tensor) -> Distribution:
    """E[kernel(x)] for x ~ N(mean, scale^2) and a normal kernel whose mean is affine in x."""
    sent, shifted = kernel(mean), kernel(mean + 1)
    slope = shifted.mean - sent.mean
    return normal(sent.mean, (sent.variance + (slope * expand(scale, slope)).square()).sqrt())
