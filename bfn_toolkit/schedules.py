r"""Accuracy schedules: the accuracy of the messages up to time t.

Time t runs from 0, where nothing is known, to 1.  The accuracy rate is :math:`\alpha(t)`; the accumulated accuracy is

.. math:: \beta(t) = \int_0^t \alpha(t') \, dt', \qquad \beta(0) = 0 .

The message sent over (s, t] has accuracy :math:`\beta(t) - \beta(s)`.  As a difference, this loses about n machine
epsilons in n steps, so a schedule with a closed form overrides :meth:`AccuracySchedule.accuracy`.

=============== ============================================ ==========================
data            :math:`\beta(t)`                             source (Graves et al. 2023)
=============== ============================================ ==========================
continuous      :math:`\sigma_1^{-2t} - 1`                   eq. 72
discrete        :math:`t^2 \beta_1`                          eq. 182
any, in steps   :math:`\sum_{i \le nt} \alpha_i`             a table
=============== ============================================ ==========================
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.shapes import in_float64


class AccuracySchedule(abc.ABC):
    """Accuracy beta(t) and its rate alpha(t) = d beta / dt, increasing on [0, 1] from beta(0) = 0."""

    kind: ClassVar[str] = "schedule"

    @abc.abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Accuracy accumulated by time t; shape and dtype of t."""

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Accuracy rate at time t; shape and dtype of t."""

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """Accuracy of the message sent over (s, t]: beta(t) - beta(s)."""
        return self.beta(t) - self.beta(s)

    def time(self, beta: Tensor) -> Tensor:
        """Time at which this accuracy has accumulated: the inverse of beta, by bisection to the last bit."""
        low, high = torch.zeros_like(beta), torch.ones_like(beta)
        for _ in range(60):
            middle = 0.5 * (low + high)
            less = self.beta(middle) < beta
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return 0.5 * (low + high)


@attrs.frozen
class GeometricSchedule(AccuracySchedule):
    r"""Schedule of continuous data: the entropy of the input distribution falls linearly in t.

    .. math:: \beta(t) = \sigma_1^{-2t} - 1, \qquad \alpha(t) = -2 \ln \sigma_1 \, \sigma_1^{-2t}

    Arguments:
        sigma_1: Standard deviation of the input distribution at t = 1, if the prior's is 1; in [1e-8, 1).

    Source: Graves et al. 2023, eq. 72, 74 and 95.

    >>> GeometricSchedule(0.1).beta(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 0.0000,  9.0000, 99.0000])
    """

    sigma_1: float = field(default=0.01, validator=validators.number(ge=1e-8, lt=1))

    @property
    def rate(self) -> float:
        """The constant -2 ln sigma_1, the growth rate of ln(1 + beta)."""
        return -2.0 * math.log(self.sigma_1)

    def beta(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.expm1(self.rate * t)

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(self.rate * t) * self.rate

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(self.rate * s) * torch.expm1(self.rate * (t - s))

    def time(self, beta: Tensor) -> Tensor:  # noqa: D102
        return torch.log1p(beta) / self.rate


@attrs.frozen
class QuadraticSchedule(AccuracySchedule):
    r"""Schedule of discrete data.

    .. math:: \beta(t) = t^2 \beta_1, \qquad \alpha(t) = 2 t \beta_1

    Arguments:
        beta_1: Accuracy at t = 1; in [1e-6, 1e6].

    Source: Graves et al. 2023, eq. 182, 183 and 193.

    >>> QuadraticSchedule(3.0).accuracy(torch.tensor(0.0), torch.tensor(0.5))
    tensor(0.7500)
    """

    beta_1: float = field(default=1.0, validator=validators.number(ge=1e-6, le=1e6))

    def beta(self, t: Tensor) -> Tensor:  # noqa: D102
        return self.beta_1 * t.square()

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return 2.0 * self.beta_1 * t

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:  # noqa: D102
        return self.beta_1 * (t - s) * (t + s)

    def time(self, beta: Tensor) -> Tensor:  # noqa: D102
        return (beta / self.beta_1).sqrt()


def _numbers(value: Iterable[float]) -> tuple[float, ...]:
    return tuple(value)


def _positive(_: object, attribute: attrs.Attribute[tuple[float, ...]], value: tuple[float, ...]) -> None:
    if not value or not all(math.isfinite(a) and a > 0 for a in value):
        raise ValueError(f"{attribute.name} must be at least one finite number above 0, got {value}")


@attrs.frozen
class TableSchedule(AccuracySchedule):
    r"""Schedule that is a list of step accuracies: the number of steps is part of the model.

    .. math:: \beta(i / n) = \sum_{j \le i} \alpha_j, \text{ linear in between}

    Arguments:
        accuracies: Accuracy of each of the n messages, all above 0.

    >>> TableSchedule((1.0, 2.0, 4.0)).beta(torch.tensor([0.0, 1 / 3, 1.0]))
    tensor([0., 1., 7.])
    """

    accuracies: tuple[float, ...] = field(converter=_numbers, validator=_positive)

    @property
    def n_steps(self) -> int:
        """Number of messages n."""
        return len(self.accuracies)

    def _table(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        position = in_float64(t) * self.n_steps
        alphas = position.new_tensor(self.accuracies)
        # Snap to the nearest grid point: i / n * n may fall short of i by rounding, by n eps / 2 if t is float32.
        slack = max(1e-6, self.n_steps * torch.finfo(t.dtype).eps)
        shift = (position.round() - position).detach()  # a shift leaves the derivative alone
        position = position + torch.where(shift.abs() < slack, shift, 0.0)
        step = position.floor().clamp(0, self.n_steps - 1).long()
        return alphas, position, step

    def beta(self, t: Tensor) -> Tensor:  # noqa: D102
        alphas, position, step = self._table(t)
        before = alphas.cumsum(0) - alphas
        return (before[step] + (position - step) * alphas[step]).to(t)

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        alphas, _, step = self._table(t)
        return (alphas[step] * self.n_steps).to(t)

    def time(self, beta: Tensor) -> Tensor:  # noqa: D102
        wide = in_float64(beta)
        alphas = wide.new_tensor(self.accuracies)
        sums = alphas.cumsum(0)
        step = torch.searchsorted(sums, wide).clamp_(max=self.n_steps - 1)
        rest = (wide - (sums - alphas)[step]) / alphas[step]
        return ((step + rest) / self.n_steps).to(beta)

    def step(self, t: Tensor) -> Tensor:
        """Number of messages sent by time t, as integers with the shape of t."""
        _, position, _ = self._table(t)
        return position.floor().clamp(0, self.n_steps).long().to(t.device)

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """Accuracy of the one message sent over (s, t], looked up exactly."""
        alphas, _, step = self._table(s)
        return alphas[step].to(t)
