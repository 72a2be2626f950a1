r"""Time grids: the times at which a solver evaluates the network.

A solver evaluates at n times :math:`0 < t_1 < \dots < t_n = 1`.  Along them grows the signal-to-noise ratio of the
beliefs, which is the accuracy B of the channel.  With

.. math:: \lambda(t) = \tfrac12 \ln B(t), \qquad \sigma(t) = B(t)^{-1/2} = e^{-\lambda(t)}

a grid spaces the times from the second on evenly in

===================== ==========================================================
:class:`UniformGrid`  t
:class:`LogSnrGrid`   :math:`\lambda`
:class:`KarrasGrid`   :math:`\sigma^{1/\rho}` (Karras et al. 2022, eq. 5)
:class:`GivenGrid`    nothing: the user lists the times
===================== ==========================================================

The first time is the *start*.  Up to there a solver takes the beliefs for noise alone, which is wrong by terms of the
order of B times the mean square v of the embedded data (:attr:`~bfn_toolkit.ChannelFamily.embedding_variance`).  So by
default it falls with the number of times, :math:`B(t_1) = 2.5 / (n^2 v)`, and the error with it; it is at most 0.1 / v,
and at most a hundredth of B(1).

The second time doubles the signal, :math:`B(t_2) = 4 B(t_1)`, unless the times are so few that the others double it as
well.  Then the first evaluation is in the middle of the first step from 0 to :math:`\sqrt{B(t_2)}`, in the variable in
which the probability flow is smooth, and the step is of second order.

The parts of a product share their times.  The first two are those of the part that starts first; the others space the
mean progress of the parts evenly.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.errors import StepCountError
from bfn_toolkit.families import ChannelFamily, Family, check_n_steps


@lru_cache(maxsize=256)
def _cached(grid: TimeGrid, family: Family[Any], n: int) -> Tensor:
    check_n_steps(n)
    return grid.spaced([part.as_channel() for part in family.walk()], n)


class TimeGrid(abc.ABC):
    """Choice of times: a field of the samplers that offer a choice."""

    kind: ClassVar[str] = "grid"

    @abc.abstractmethod
    def spaced(self, parts: Sequence[ChannelFamily[Any]], n: int) -> Tensor:
        """Times 0 < t_1 < ... < t_n = 1, or only the start for n = 1: float64, on the CPU, with shape (n,)."""

    def times(self, family: Family[Any], n: int) -> Tensor:
        """Times for a family; the parts of a product share them.

        Raises:
            StepCountError: If n is not an integer of at least 1, or the grid does not allow it.
            ConfigError: If a part is not a channel.
        """
        return _cached(self, family, n).clone()


def _accuracy(family: ChannelFamily[Any], t: Tensor) -> Tensor:
    """B at time t."""
    return family.snr(family.schedule.beta(t))


def _time(family: ChannelFamily[Any], accuracy: Tensor) -> Tensor:
    """Time at which the accuracy B has accumulated."""
    return family.schedule.time(accuracy / family.snr(torch.ones((), dtype=torch.float64)))


class SpacedGrid(TimeGrid):
    """Grid whose times are even in a coordinate that grows with the time."""

    start: float | None

    @abc.abstractmethod
    def coordinate(self, family: ChannelFamily[Any], t: Tensor) -> Tensor:
        """Coordinate in which times are even, increasing, with the shape of t."""

    def first(self, family: ChannelFamily[Any], n: int) -> Tensor:
        """The first of n times."""
        if self.start is not None:
            return torch.tensor(self.start, dtype=torch.float64)
        last, v = _accuracy(family, torch.ones((), dtype=torch.float64)), family.embedding_variance
        return _time(family, (0.01 * last).clamp_max(min(2.5 / n**2, 0.1) / v))

    def spaced(self, parts: Sequence[ChannelFamily[Any]], n: int) -> Tensor:
        """The start, the time at which the signal has doubled, and even times from there up to 1."""
        starts = torch.stack([self.first(part, n) for part in parts])
        start, leader = starts.amin(), parts[int(starts.argmin())]
        even = self._even(parts, starts, start, n)
        if n <= 2 or _accuracy(leader, even[2]) >= 4.0 * _accuracy(leader, even[1]):
            return even
        doubled = _time(leader, 4.0 * _accuracy(leader, start))
        return torch.cat([start.reshape(1), self._even(parts, starts, doubled, n - 1)])

    def _even(self, parts: Sequence[ChannelFamily[Any]], starts: Tensor, low: Tensor, n: int) -> Tensor:
        """Times from ``low`` to 1 that space the mean progress of the parts evenly; each begins at its own start."""
        one = torch.ones((), dtype=torch.float64)
        ranges = [
            self.coordinate(part, torch.stack([t.maximum(low), one])) for part, t in zip(parts, starts, strict=True)
        ]

        def progress(t: Tensor) -> Tensor:
            ways = [
                ((self.coordinate(part, t) - first) / (last - first)).clamp_min(0.0)
                for part, (first, last) in zip(parts, ranges, strict=True)
            ]
            return torch.stack(ways).mean(0)

        times = _inverse(progress, torch.linspace(0.0, 1.0, n, dtype=torch.float64), float(low))
        times[-1], times[0] = 1.0, low
        return times


def _inverse(function: Callable[[Tensor], Tensor], values: Tensor, low: float) -> Tensor:
    """Arguments in [low, 1] at which an increasing function has these values, by bisection to the last bit."""
    lower, upper = torch.full_like(values, low), torch.ones_like(values)
    for _ in range(60):
        middle = 0.5 * (lower + upper)
        less = function(middle) < values
        lower, upper = torch.where(less, middle, lower), torch.where(less, upper, middle)
    return 0.5 * (lower + upper)


_WITHIN = validators.optional(validators.number(gt=0, lt=1))


@attrs.frozen
class UniformGrid(SpacedGrid):
    """Times spaced evenly.

    Arguments:
        start: First time; None for one that falls with the number of times.
    """

    start: float | None = field(default=None, validator=_WITHIN)

    def coordinate(self, family: ChannelFamily[Any], t: Tensor) -> Tensor:
        """The time."""
        return t


@attrs.frozen
class LogSnrGrid(SpacedGrid):
    """Times spaced evenly in the logarithm of the signal-to-noise ratio.

    Arguments:
        start: First time; None for one that falls with the number of times.

    >>> from bfn_gaussian import Gaussian
    >>> LogSnrGrid(start=0.01).times(Gaussian(sigma_1=0.1), 4)
    tensor([0.0100, 0.1025, 0.4705, 1.0000], dtype=torch.float64)
    """

    start: float | None = field(default=None, validator=_WITHIN)

    def coordinate(self, family: ChannelFamily[Any], t: Tensor) -> Tensor:
        """Logarithm of B."""
        return _accuracy(family, t).log()


@attrs.frozen
class KarrasGrid(SpacedGrid):
    """Times spaced evenly in a root of the noise: denser where the noise is small.

    Arguments:
        start: First time; None for one that falls with the number of times.
        rho: Order of the root; 1 spaces evenly in the noise, and infinity would be :class:`LogSnrGrid`.
    """

    start: float | None = field(default=None, validator=_WITHIN)
    rho: float = field(default=7.0, validator=validators.number(ge=1, le=1e3))

    def coordinate(self, family: ChannelFamily[Any], t: Tensor) -> Tensor:
        """The negative root of the noise."""
        return -_accuracy(family, t).pow(-0.5 / self.rho)


def _numbers(value: Iterable[float]) -> tuple[float, ...]:
    return tuple(value)


def _increasing(_: object, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    if not value or not all(s < t for s, t in pairwise((0.0, *value))) or value[-1] != 1.0:
        raise ValueError(f"{attribute.name} must increase from above 0 and end at 1, got {value}")


@attrs.frozen
class GivenGrid(TimeGrid):
    """Times listed by the user; their number is the number of evaluations.

    Arguments:
        at: The times, increasing from above 0, the last one 1, at which the sample is drawn.
    """

    at: tuple[float, ...] = field(default=(0.01, 0.1, 1.0), converter=_numbers, validator=_increasing)

    def spaced(self, parts: Sequence[ChannelFamily[Any]], n: int) -> Tensor:  # noqa: D102
        if n != len(self.at):
            raise StepCountError(f"GivenGrid has {len(self.at)} times; got n_steps={n}. Use n_steps={len(self.at)}")
        return torch.tensor(self.at, dtype=torch.float64)
