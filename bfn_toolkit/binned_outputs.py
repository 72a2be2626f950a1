r"""Binned data: K equal bins of [-1, 1], and the probabilities that a normal mixture gives them.

Bin k of 1 ... K has the centre :math:`(2k - 1) / K - 1`; the edges are :math:`e_j = 2j / K - 1`.  The first and the
last bin reach to infinity, so that with the distribution function F of the mixture

.. math::
    p_O(k) = F(e_k) - F(e_{k-1}), \quad F(e_0) = 0, \; F(e_K) = 1, \qquad
    E[x] = 1 - \frac{1}{K} - \frac{2}{K} \sum_{j=1}^{K-1} F(e_j) .

In floating point, a difference of distribution functions is 0 a few deviations away from the mean, and the sum has K
terms.  Here log-probabilities are precise everywhere (:func:`log_interval`), and the time and memory of the sum do not
grow with K (:func:`binned_mean`).

Source: Graves et al. 2023 (arXiv 2308.07037), eq. 107 to 109.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution

from bfn_toolkit.masks import present
from bfn_toolkit.outputs import Finite, Kernel, SiteNormalMixture
from bfn_toolkit.shapes import per_example

EDGES = 12  # number of edges in a window
FEW = 15  # number of edges up to which the sum is over all of them


class _LogNdtr(torch.autograd.Function):
    """log_ndtr with a precise gradient; torch's is wrong in the lower tail: in float32 5 % off at -1000."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        result: Tensor = torch.special.log_ndtr(z)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        hazard: Tensor = math.sqrt(2.0 / math.pi) / torch.special.erfcx(z * -math.sqrt(0.5))
        return grad * hazard


def log_ndtr(z: Tensor) -> Tensor:
    """ln Phi(z), with a gradient that is precise at every z."""
    result: Tensor = _LogNdtr.apply(z)  # type: ignore[no-untyped-call]
    return result


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)) for low < high: the log-probability of an interval under N(0, 1), precise everywhere.

    The interval is mirrored into the lower tail, where the result is a difference of log-probabilities.  For narrow
    intervals it is the density at the middle times the width, with a correction for the curvature of the density.
    The error is below 1e-5 in float32.
    """
    flip = low + high > 0.0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    width = high - low
    limit = torch.finfo(width.dtype).eps ** 0.2  # both forms are equally precise here: 0.04 in float32
    narrow = width < limit
    # Each form gets arguments at which it is finite, because a gradient of where(narrow, ..., inf) would be NaN.
    wide = log_ndtr(high)
    gap = wide - log_ndtr(torch.where(narrow, high - limit, low))
    wide = wide + torch.log(-torch.expm1(-gap))
    width = width.clamp_max(limit)
    middle = (low + high) / 2
    # ln(sinh(x) / x) for x = slope / 2, by its series for small slopes.
    slope = (middle * width).abs()
    steep = slope.clamp_min(1e-3)
    bend = torch.where(slope < 1e-3, slope.square() / 24, steep / 2 + torch.log(-torch.expm1(-steep) / steep))
    density = width.clamp_min(torch.finfo(width.dtype).tiny).log() - 0.5 * middle.square() + bend - width.square() / 24
    return torch.where(narrow, density - 0.5 * math.log(2.0 * math.pi), wide)


def binned_mean(mean: Tensor, scale: Tensor, bins: int) -> Tensor:
    r"""Mean of the centre of the bin into which a draw of N(mean, scale^2) falls, in constant time.

    With the bin width h it is :math:`-(h / 2) \sum_j \mathrm{erf}((e_j - \mu) / (\sqrt 2 \sigma))`.  Up to 16 bins,
    this is the sum.  With more bins it is an integral with the Euler-Maclaurin corrections at both ends, if the scale
    is at least 1.2 h, and otherwise the sum over the 12 edges around the mean, since erf is 1 or -1 at all others.
    Both are within 3e-7 h of the sum, and their first derivatives within 1.1e-5.  The derivatives are computed in the
    same pass, if there is a gradient to compute; there are no second derivatives.  Without one, on the CPU, the
    corrections, or the sum of more than 12 edges, are left out if all scales are at least 9 h.

    Rounding adds 4 machine epsilons, and the effect of a relative error of that size in the mean, which is large if the
    scale is small and the mean near an edge.

    Arguments:
        mean: Means of any shape.
        scale: Standard deviations, of the same shape.
        bins: Number of bins K.
    """
    if torch.is_grad_enabled() and (mean.requires_grad or scale.requires_grad):
        result: Tensor = _BinnedMean.apply(mean, scale, bins)  # type: ignore[no-untyped-call]
        return result
    return _value(mean, scale, bins, derivatives=False)[0]


class _BinnedMean(torch.autograd.Function):
    """Value and both derivatives in one pass, so that no tensor of the window's size is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, scale: Tensor, bins: int) -> Tensor:
        value, by_mean, by_scale = _value(mean, scale, bins, derivatives=True)
        ctx.save_for_backward(by_mean, by_scale)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_mean, by_scale = ctx.saved_tensors
        return grad * by_mean, grad * by_scale, None


def _value(mean: Tensor, scale: Tensor, bins: int, *, derivatives: bool) -> tuple[Tensor, ...]:
    """The mean, then its derivatives by mean and scale if they are wanted."""
    h = 2.0 / bins
    # In a sampler, scales are often alike; a GPU would have to wait for the least.
    reads = mean.is_cpu and not derivatives and bins - 1 > EDGES and scale.numel() > 0
    reads = reads and not torch.compiler.is_exporting()
    least = float(scale.amin()) if reads else 0.0
    if least >= 9.0 * h:
        return (_by_smoothing(mean, scale, bins),)
    if bins - 1 <= FEW:
        return _by_window(mean, scale, bins, derivatives)
    if least >= 1.2 * h:
        return _by_integral(mean, scale, bins, derivatives)
    wide = scale >= 1.2 * h
    if reads and not wide.any():
        return _by_window(mean, scale, bins, derivatives)
    pairs = zip(_by_integral(mean, scale, bins, derivatives), _by_window(mean, scale, bins, derivatives), strict=True)
    return tuple(torch.where(wide, integral, window) for integral, window in pairs)


def _by_window(mean: Tensor, scale: Tensor, bins: int, derivatives: bool) -> tuple[Tensor, ...]:
    """The mean by a sum over the edges around it."""
    h, size = 2.0 / bins, bins - 1 if bins - 1 <= FEW else EDGES
    position = mean * (bins / 2)  # in bins, from the middle, so that a mean near 0 keeps its precision
    edge = torch.arange(size, device=mean.device, dtype=mean.dtype).view(-1, *(1,) * mean.ndim)
    if size == bins - 1:
        first: Tensor | float = 1.0
        z = (edge + (1.0 - bins / 2)) - position
    else:
        first = ((position + bins / 2).floor() - (size // 2 - 1)).clamp_(1, bins - size)
        z = (edge + (first - bins / 2)).sub_(position)
    steepness = (h * math.sqrt(0.5)) / scale
    z.mul_(steepness)
    slopes: tuple[Tensor, ...] = ()
    if derivatives:
        density = z.square().neg_().clamp_min_(-85.0).exp_()  # not subnormal, which is slow
        by_mean = density.sum(0).mul_(steepness / math.sqrt(math.pi))
        slopes = by_mean, density.mul_(z).sum(0).mul_(steepness * math.sqrt(2.0 / math.pi))
    total = z.erf_().sum(0)
    return (total + (bins + 1 - size) - 2.0 * first).mul_(-h / 2), *slopes


def _by_smoothing(mean: Tensor, scale: Tensor, bins: int) -> Tensor:
    """The mean for scales of at least 9 h, within 3e-7 h, in half of the time of the integral with all corrections.

    The sum times h is the integral, between the outermost centres, of the function that becomes erf when it is averaged
    over the width of a bin: erf for the variance less h^2 / 12, up to terms of the order of (h / scale)^3 / 2880.
    """
    h = 2.0 / bins
    scale = scale.square().sub_(h * h / 12).sqrt_()
    ends = torch.tensor([h / 2 - 1.0, 1.0 - h / 2], device=mean.device, dtype=mean.dtype)
    z = (ends.view(-1, *(1,) * mean.ndim) - mean).div_(scale)
    low_rise, high_rise = z.square().mul_(-0.5).expm1_()  # exp would lose the small difference at large scales
    low, high = z.mul_(math.sqrt(0.5)).erf_()
    value: Tensor = (low + high).mul_(h / 4 - 0.5).addcmul_(high - low, mean, value=0.5)
    return value.addcmul_(scale, low_rise - high_rise, value=1.0 / math.sqrt(2 * math.pi))


def _by_integral(mean: Tensor, scale: Tensor, bins: int, derivatives: bool) -> tuple[Tensor, ...]:
    """The mean by the Euler-Maclaurin formula."""
    h = 2.0 / bins
    scale = scale.clamp_min(1.2 * h)
    steepness = h / scale
    ends = torch.arange(-1, 2, 2, device=mean.device, dtype=mean.dtype).view(-1, *(1,) * mean.ndim)
    z = (ends - mean).div_(scale)
    w = z.square().clamp_max_(400.0)  # beyond, the density is 0
    below_1 = (w * -0.5).expm1_()  # exp would lose the small difference of the ends at large scales
    # Sum of |B_2m| / (2m)! steepness^2m times Hermite polynomials, in powers of u; its coefficients are those of 1/12,
    # 1/720 = 1/(12 * 60), 1/30240 = 1/(720 * 42) and 1/1209600 = 1/(30240 * 40).
    u = steepness.square()
    bends = (w - 15.0).mul_(w).add_(45.0).mul_(w).sub_(15.0).mul_(-u)
    bends = bends.add_((w - 6.0).mul_(w).add_(3.0), alpha=40).mul_(u).add_(1.0 - w, alpha=1680).mul_(u)
    bends = bends.add_(100_800.0).mul_(u / 1_209_600)
    low, high = (z * math.sqrt(0.5)).erf_()
    value = (low + high).mul_(h / 4 - 0.5).addcmul_(high - low, mean, value=0.5)
    low_rise, high_rise = torch.addcmul(bends, below_1, bends).add_(below_1)
    value = value.addcmul_(scale, low_rise - high_rise, value=1.0 / math.sqrt(2 * math.pi))
    if not derivatives:
        return (value,)
    density = (below_1 + 1.0) / math.sqrt(2 * math.pi)
    a1, a2, a3 = u / 12, u.square() / 720, u**3 / 30_240
    c = a1 + 3 * a2 + 15 * a3
    slope = c - w * (a2 + 10 * a3 - w * a3)
    curve = 1.0 - c + w * (a1 + 6 * a2 + 45 * a3 - w * (a2 + 15 * a3 - w * a3))
    outer = density * steepness / 2
    by_mean = (high - low) / 2 - outer.sum(0) - (z * density * slope).diff(dim=0).squeeze(0)
    by_scale = -(density * curve).diff(dim=0).squeeze(0) - (z * outer).sum(0)
    return value, by_mean, by_scale


@attrs.frozen(eq=False)
class Binned:
    """Distribution of the bin into which a draw of a normal mixture falls, independent over the sites.

    The cost of mean, draws and log-probability does not grow with the number of bins.  Mode, expectation and mixture
    use the :attr:`table` of all bins.

    Arguments:
        normals: The mixture.
        bins: Number of bins K.
    """

    normals: SiteNormalMixture
    bins: int

    def index(self, x: Tensor) -> Tensor:
        """Index, from 0, of the bin that x is in; values beyond the bins belong to the outermost one."""
        return ((x + 1.0) * (self.bins / 2)).floor().clamp(0, self.bins - 1)

    def centre(self, index: Tensor) -> Tensor:
        """Centre of the bin with this index."""
        return (2.0 * index + (1 - self.bins)) / self.bins

    def _log_masses(self, index: Tensor, *, outermost_infinite: bool = True) -> Tensor:
        """Log-probabilities (B, *site, N) of the bins with indices (B, *site, N)."""
        normals, h = self.normals, 2.0 / self.bins
        index, mean, scale = index.unsqueeze(-1), normals.means.unsqueeze(-2), normals.scales.unsqueeze(-2)
        low, high = (index * h - 1.0 - mean) / scale, ((index + 1.0) * h - 1.0 - mean) / scale
        log_mass = log_interval(low, high)
        if outermost_infinite:
            first, last = index == 0, index == self.bins - 1
            log_mass = torch.where(first | last, log_ndtr(torch.where(first, high, -low)), log_mass)
        return normals.log_average(log_mass)

    def _table(self, *, outermost_infinite: bool) -> Finite:
        index = torch.arange(self.bins, device=self.normals.means.device).to(self.normals.means.dtype)
        return Finite(self.centre(index), self._log_masses(index, outermost_infinite=outermost_infinite))

    @property
    def table(self) -> Finite:
        """The weights of all bins."""
        return self._table(outermost_infinite=True)

    @property
    def truncated(self) -> Finite:
        """The weights of all bins given that the draw lies in [-1, 1]."""
        return self._table(outermost_infinite=False)

    @property
    def mean(self) -> Tensor:
        """E[x] at each site."""
        return self.normals.average(binned_mean(self.normals.means, self.normals.scales, self.bins))

    @property
    def mode(self) -> Tensor:
        """Centre of the most probable bin at each site."""
        return self.table.mode

    def sample(self) -> Tensor:
        """Centres of the bins into which draws of the mixture fall."""
        return self.centre(self.index(self.normals.sample()))

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability, in nats per example, of the bins that x is in."""
        return per_example(self._log_masses(self.index(present(x, mask)).unsqueeze(-1)).squeeze(-1), mask)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] at each site, exact."""
        return self.table.expect(function)

    def mix(self, kernel: Kernel) -> Distribution:
        """Mixture of the kernel over the bin centres, weighted at each site."""
        return self.table.mix(kernel)
