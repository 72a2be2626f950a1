r"""Time distributions: the times at which a loss looks at the examples of a batch.

A loss over time is an integral, of which each example contributes one point.  Drawn from a density p, it is unbiased
with the *importance weight* w:

.. math:: \int_0^1 L(t) \, dt = E_{t \sim p} \, w(t) L(t), \qquad w(t) = 1 / p(t)

The density changes the noise of the loss and of its gradient, not their mean.  Without weights it also changes how much
each time counts, and the loss is no likelihood any more (:attr:`TimeDistribution.is_unbiased`).

========================= ================================================ ============================
distribution              density                                          source
========================= ================================================ ============================
:class:`UniformTimes`     1, in an even lattice                            Graves et al. 2023, eq. 41
:class:`ImportanceTimes`  root mean square of the losses seen, by time     Nichol and Dhariwal 2021
:class:`LogNormalTimes`   normal in the log of the signal-to-noise ratio   Karras et al. 2022
========================= ================================================ ============================
"""

from __future__ import annotations

import abc
import math
from functools import lru_cache
from typing import Any, ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import ChannelFamily, Family
from bfn_toolkit.randomness import common, first_row
from bfn_toolkit.shapes import Data, batch_size, device_of, dtype_of


@lru_cache(maxsize=16)
def _lattice(first: int, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """frac(i / golden ratio) for n integers i, by exact integer arithmetic: any run of rows covers [0, 1) evenly."""
    turns = torch.arange(first, first + n, device=device).mul_(2654435769).bitwise_and_(0xFFFFFFFF)
    return turns.to(dtype).mul_(2.0**-32)


def draw_times(x: Data) -> Tensor:
    """Times in (0, 1], one for each example, in the dtype of the data.

    They form a golden-ratio lattice with one uniform random offset.  Each time is uniform by itself; a batch, and any
    run of consecutive rows in it, covers the interval evenly.
    """
    device, dtype = device_of(x), dtype_of(x)
    with common():
        offset = torch.rand(1, device=device, dtype=dtype)
    return 1.0 - (_lattice(first_row(), batch_size(x), device, dtype) + offset).frac_()


@attrs.frozen(eq=False)
class Times:
    """Times of the examples of a batch.

    Arguments:
        t: The times, in (0, 1], with shape (B,).
        weight: Importance weight of each example, with shape (B,); None if all are 1.
    """

    t: Tensor
    weight: Tensor | None = None

    def weighted(self, losses: Tensor) -> Tensor:
        """Losses of the examples, with shape (B,), times their weights."""
        return losses if self.weight is None else losses * self.weight


class TimeDistribution(abc.ABC):
    """Distribution of the times of a loss: a field of losses that draw one time for each example.

    Each time depends on its own row and on a draw that all rows share, so that a batch may be computed in pieces:
    a transformation of :func:`draw_times` does.
    """

    kind: ClassVar[str] = "time-distribution"

    @property
    def is_unbiased(self) -> bool:
        """Whether the weighted loss has the mean that it has at uniform times."""
        return True

    @abc.abstractmethod
    def draw(self, family: Family[Any], x: Data) -> Times:
        """Times for a batch of data, in its dtype and on its device."""


@attrs.frozen
class UniformTimes(TimeDistribution):
    """Uniform times, in an even lattice (:func:`draw_times`)."""

    def draw(self, family: Family[Any], x: Data) -> Times:  # noqa: D102
        return Times(draw_times(x))


class LearnedTimes(TimeDistribution):
    """Distribution that training learns from the losses that it sees.

    The configuration holds no state.  Training keeps it as a tensor beside the weights: it draws the times of a step
    from :meth:`fitted`, sums :meth:`statistics` over the pieces of the batch and over all processes, and calls
    :meth:`updated` after the step.  Outside of training, and in validation, the times are uniform.
    """

    def draw(self, family: Family[Any], x: Data) -> Times:
        """Uniform times: nothing is learned yet."""
        return Times(draw_times(x))

    @abc.abstractmethod
    def initial_state(self) -> Tensor:
        """State before the first step, in float32 on the CPU."""

    @abc.abstractmethod
    def fitted(self, state: Tensor) -> TimeDistribution:
        """The distribution that a state describes; it must not read numbers of the state, which may be on a GPU."""

    @abc.abstractmethod
    def statistics(self, t: Tensor, losses: Tensor) -> Tensor:
        """Statistics of losses (B,) at times (B,), without their weights: a tensor that adds up over the examples."""

    @abc.abstractmethod
    def updated(self, state: Tensor, statistics: Tensor) -> Tensor:
        """State after a step, from that before it and the sum of the statistics over the batch."""


@attrs.frozen(eq=False)
class PiecewiseTimes(TimeDistribution):
    """Times with a density that is constant on N equal pieces of (0, 1], with importance weights.

    Arguments:
        density: Density on each piece, above 0, up to a common factor: a tensor of shape (N,).
    """

    density: Tensor

    def draw(self, family: Family[Any], x: Data) -> Times:
        """Inverts the distribution function at uniform times."""
        u, n = draw_times(x), len(self.density)
        ends = self.density.to(u.dtype).cumsum(0)
        ends = ends / ends[-1]
        piece = torch.searchsorted(ends, u).clamp_max_(n - 1)
        width = ends.diff(prepend=ends.new_zeros(1))[piece]
        t = (piece + 1 - (ends[piece] - u) / width) / n
        return Times(t.clamp_(torch.finfo(t.dtype).tiny, 1.0), 1.0 / (n * width))


@attrs.frozen
class ImportanceTimes(LearnedTimes):
    r"""Times in proportion to the size of the losses there, learned in training, with importance weights.

    The density :math:`p(t) \propto \sqrt{E[L^2 \mid t]}` gives the weighted loss its smallest variance.  It is constant
    on equal pieces of the time, each with the root mean square of the losses that were seen in it; older losses count
    less.  A share of uniform times bounds the weights.

    Arguments:
        pieces: Number of pieces.
        decay: Factor by which the losses of a step count less with each further step.
        uniform_share: Share of uniform times, above 0: no weight exceeds its inverse.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), section 3.3.
    """

    pieces: int = field(default=64, validator=validators.integer(ge=1, le=10**6))
    decay: float = field(default=0.99, validator=validators.number(ge=0, lt=1))
    uniform_share: float = field(default=0.1, validator=validators.number(gt=0, le=1))

    def initial_state(self) -> Tensor:
        """Sums of squares and numbers of losses in each piece, with shape (2, pieces): none."""
        return torch.zeros(2, self.pieces, dtype=torch.float32)

    def fitted(self, state: Tensor) -> TimeDistribution:
        """Pieces; each has seen one loss of the overall size more than it has, so that few losses say little."""
        squares, counts = state
        overall = squares.sum() / counts.sum().clamp_min(1.0)
        size = ((squares + overall) / (counts + 1.0)).sqrt()
        density = torch.where(overall > 0.0, size / size.mean(), 1.0)
        return PiecewiseTimes(torch.lerp(density, torch.ones_like(density), self.uniform_share))

    def statistics(self, t: Tensor, losses: Tensor) -> Tensor:
        """Sums of squares and numbers of the finite losses in each piece."""
        piece = (t * self.pieces).ceil().long().clamp_(1, self.pieces) - 1
        finite = losses.isfinite()
        values = torch.stack([torch.where(finite, losses, 0.0).square(), finite.to(losses.dtype)])
        # A product with the pieces' masks adds up in a fixed order; scattering does not, on a GPU.
        masks = piece.unsqueeze(-1) == torch.arange(self.pieces, device=t.device)
        return values @ masks.to(values.dtype)

    def updated(self, state: Tensor, statistics: Tensor) -> Tensor:
        """The sums, of which the older part decays."""
        return self.decay * state + statistics


@attrs.frozen
class LogNormalTimes(TimeDistribution):
    r"""Times at which the signal-to-noise ratio is log-normal: for the look of images rather than their likelihood.

    With the signal-to-noise ratio :math:`v B(t)` of data of mean square v,

    .. math:: \ln (v B) \sim N(m, s^2), \text{ below its value at } t = 1 .

    Most losses are then at the noise levels where the large features of the data form.  Without weights this changes
    the weighting: a time counts in proportion to the density, and the loss is not in nats.  With the weighting "unit"
    and the head "skip" it is the training of Karras et al.; their constants are the defaults here.

    In a product all parts share the time, at which the first part of real numbers has this ratio, or else the first.

    Arguments:
        mean: Mean m of the logarithm of the ratio.
        std: Its standard deviation s.
        unbiased: Whether importance weights restore the weighting, with a tenth of uniform times that bounds them.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1: :math:`\ln \sigma \sim N(-1.2, 1.2^2)` for v = 1/4.
    """

    mean: float = field(default=1.0, validator=validators.number(ge=-100, le=100))
    std: float = field(default=2.4, validator=validators.number(gt=0, le=100))
    unbiased: bool = field(default=False, validator=validators.instance_of(bool))

    @property
    def is_unbiased(self) -> bool:  # noqa: D102
        return self.unbiased

    def draw(self, family: Family[Any], x: Data) -> Times:
        """Times from uniform ones, by inverting the normal distribution function.

        Raises:
            ConfigError: If no part of the family is a Gaussian channel.
        """
        u, channel, share = draw_times(x), _channel(family), 0.1 if self.unbiased else 0.0
        scale = channel.embedding_variance * channel.snr(torch.ones_like(u[:1]))  # of the ratio for each unit of beta
        schedule = channel.schedule
        last = (schedule.beta(torch.ones_like(u[:1])) * scale).log()
        mass = torch.special.ndtr((last - self.mean) / self.std)  # of the ratios up to that at t = 1
        z = torch.special.ndtri(mass * ((u - share) / (1.0 - share)).clamp_(torch.finfo(u.dtype).tiny))
        t = schedule.time(torch.minimum(self.mean + self.std * z, last).exp() / scale)
        t = torch.where(u <= share, u / share, t) if self.unbiased else t
        t = t.clamp(torch.finfo(t.dtype).tiny, 1.0)
        if not self.unbiased:
            return Times(t)
        beta = schedule.beta(t).clamp_min(torch.finfo(t.dtype).tiny)
        z = ((beta * scale).log() - self.mean) / self.std
        factor = schedule.alpha(t).log() - beta.log() - math.log(self.std * math.sqrt(2.0 * math.pi)) - mass.log()
        return Times(t, 1.0 / (share + (1.0 - share) * (factor - 0.5 * z.square()).exp()))


def _channel(family: Family[Any]) -> ChannelFamily[Any]:
    """The Gaussian channel whose signal-to-noise ratio the times follow."""
    parts = sorted(family.parts.values(), key=lambda part: part.is_discrete)
    for part in parts:
        if isinstance(part, ChannelFamily):
            return part
    names = " and ".join(sorted({type(part).__name__ for part in parts}))
    raise ConfigError(
        f"LogNormalTimes needs the signal-to-noise ratio of a ChannelFamily, which {names} is not; "
        'write times = "uniform", on the command line --loss.times uniform'
    )
