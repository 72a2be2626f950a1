r"""Time grids: the times at which a solver evaluates the network.

A solver evaluates at n times :math:`0 < t_1 < \dots < t_n = 1`.  Along them grows the signal-to-noise ratio of the
beliefs, which is the accuracy B of the channel.  With

.. math:: \lambda(t) = \tfrac12 \ln B(t), \qquad \sigma(t) = B(t)^{-1/2} = e^{-\lambda(t)}

a grid spaces the times evenly in

===================== ==========================================================
:class:`UniformGrid`  t
:class:`LogSnrGrid`   :math:`\lambda`
:class:`KarrasGrid`   :math:`\sigma^{1/\rho}` (Karras et al. 2022, eq. 5)
:class:`GivenGrid`    nothing: the user lists the times
===================== ==========================================================

The first time is the *start*, because lambda has no value at t = 0.  By default B is 0.1 there (or a hundredth of B(1),
if that is less), so that noise still dominates the signal for every family.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.errors import StepCountError
from bfn_toolkit.families import ChannelFamily, Family, check_n_steps


class TimeGrid(abc.ABC):
    """Choice of times: a field of the samplers that offer a choice."""

    kind: ClassVar[str] = "grid"

    @abc.abstractmethod
    def spaced(self, family: ChannelFamily[Any], n: int) -> Tensor:
        """Times 0 < t_1 < ... < t_n = 1, or only the start for n = 1: float64, on the CPU, with shape (n,)."""

    def times(self, family: Family[Any], n: int) -> Tensor:
        """Times for a family; for a product all parts share the mean of the times for each part.

        Raises:
            StepCountError: If n is not an integer of at least 1, or the grid does not allow it.
            ConfigError: If a part is not a channel.
        """
        check_n_steps(n)
        return torch.stack([self.spaced(part.as_channel(), n) for part in family.walk()]).mean(0)


def _time(family: ChannelFamily[Any], accuracy: Tensor) -> Tensor:
    """Time at which the accuracy B has accumulated."""
    return family.schedule.time(accuracy / family.snr(torch.ones((), dtype=torch.float64)))


def _ends(family: ChannelFamily[Any], start: float | None) -> tuple[float, float, float]:
    """The first time, B at the first time, and B at the end."""
    last = family.snr(family.schedule.beta(torch.ones((), dtype=torch.float64)))
    if start is None:
        first = (0.01 * last).clamp_max(0.1)
        return _time(family, first).item(), first.item(), last.item()
    t = torch.tensor(start, dtype=torch.float64)
    return start, family.snr(family.schedule.beta(t)).item(), last.item()


def _between(first: float, last: float, n: int) -> Tensor:
    return torch.linspace(first, last, n, dtype=torch.float64)


_WITHIN = validators.optional(validators.number(gt=0, lt=1))


@attrs.frozen
class UniformGrid(TimeGrid):
    """Times spaced evenly.

    Arguments:
        start: First time; None for the time at which B = 0.1.
    """

    start: float | None = field(default=None, validator=_WITHIN)

    def spaced(self, family: ChannelFamily[Any], n: int) -> Tensor:  # noqa: D102
        return _between(_ends(family, self.start)[0], 1.0, n)


class _NoiseGrid(TimeGrid):
    """Times spaced evenly in a function of the accuracy."""

    start: float | None

    @abc.abstractmethod
    def accuracies(self, first: float, last: float, n: int) -> Tensor:
        """Accuracies from the first to the last, with shape (n,)."""

    def spaced(self, family: ChannelFamily[Any], n: int) -> Tensor:
        """Times of the accuracies; both ends are set exactly."""
        start, first, last = _ends(family, self.start)
        times = _time(family, self.accuracies(first, last, n))
        times[-1], times[0] = 1.0, start
        return times


@attrs.frozen
class LogSnrGrid(_NoiseGrid):
    """Times spaced evenly in the logarithm of the signal-to-noise ratio.

    Arguments:
        start: First time; None for the time at which B = 0.1.

    >>> from bfn_gaussian import Gaussian
    >>> LogSnrGrid(start=0.01).times(Gaussian(sigma_1=0.1), 4)
    tensor([0.0100, 0.1025, 0.4705, 1.0000], dtype=torch.float64)
    """

    start: float | None = field(default=None, validator=_WITHIN)

    def accuracies(self, first: float, last: float, n: int) -> Tensor:  # noqa: D102
        return _between(math.log(first), math.log(last), n).exp()


@attrs.frozen
class KarrasGrid(_NoiseGrid):
    """Times spaced evenly in a root of the noise: denser where the noise is small.

    Arguments:
        start: First time; None for the time at which B = 0.1.
        rho: Order of the root; 1 spaces evenly in the noise, and infinity would be :class:`LogSnrGrid`.
    """

    start: float | None = field(default=None, validator=_WITHIN)
    rho: float = field(default=7.0, validator=validators.number(ge=1, le=1e3))

    def accuracies(self, first: float, last: float, n: int) -> Tensor:  # noqa: D102
        power = -0.5 / self.rho
        return _between(first**power, last**power, n).pow(1.0 / power)


def _numbers(value: Iterable[float]) -> tuple[float, ...]:
    return tuple(value)


def _increasing(_: object, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    if not value or not all(s < t for s, t in pairwise((0.0, *value))) or value[-1] > 1.0:
        raise ValueError(f"{attribute.name} must increase from above 0 to at most 1, got {value}")


@attrs.frozen
class GivenGrid(TimeGrid):
    """Times listed by the user; their number is the number of evaluations.

    Arguments:
        at: The times, increasing, in (0, 1].
    """

    at: tuple[float, ...] = field(default=(0.01, 0.1, 1.0), converter=_numbers, validator=_increasing)

    def spaced(self, family: ChannelFamily[Any], n: int) -> Tensor:  # noqa: D102
        if n != len(self.at):
            raise StepCountError(f"GivenGrid has {len(self.at)} times; got n_steps={n}. Use n_steps={len(self.at)}")
        return torch.tensor(self.at, dtype=torch.float64)
