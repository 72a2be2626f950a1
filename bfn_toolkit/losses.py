r"""Losses: the cost of the messages, in nats per example.

The code length of x is :math:`L(x) = L^n(x) + L^r(x)`, an upper bound of :math:`-\ln p(x)`: the n messages, then x
itself under the last output distribution.

.. math::
    L^n(x) &= n \; E_{i \sim U\{1..n\}} \, E_{\theta \sim p_F(\cdot \mid x; t_{i-1})} \,
              \mathrm{KL}\big(p_S(\cdot \mid x; \alpha_i) \,\|\, p_R(\cdot \mid \theta; t_{i-1}, \alpha_i)\big) \\
    L^\infty(x) &= E_{t \sim U(0, 1)} \, E_{\theta \sim p_F(\cdot \mid x; t)} \, \text{loss rate}(x, \theta, t) \\
    L^r(x) &= - E_{\theta \sim p_F(\cdot \mid x; 1)} \, \ln p_O(x \mid \theta; 1)

A loss draws one time for each example, from a :class:`~bfn_toolkit.TimeDistribution`.

Source: Graves et al. 2023, eq. 24 (n steps), 41 (continuous time), section 3 (reconstruction).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.families import Family
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Output
from bfn_toolkit.randomness import streams
from bfn_toolkit.shapes import Data, batch_size, device_of, dtype_of
from bfn_toolkit.time_distributions import TimeDistribution, UniformTimes

_ARE_TIMES = validators.instance_of(TimeDistribution)


class Loss(abc.ABC):
    """Function of a model and a batch, with shape (B,), that training minimises."""

    kind: ClassVar[str] = "loss"

    @property
    def in_nats(self) -> bool:
        """Whether the loss is in nats: with a perfect network its mean is an entropy."""
        return False

    @abc.abstractmethod
    def __call__(self, model: Model, x: Data, condition: Condition | None = None) -> Tensor:
        """Loss of each example, with shape (B,)."""


class NatsLoss(Loss):
    """Loss in nats: the sum of the losses of the parts of the data."""

    @property
    def in_nats(self) -> bool:  # noqa: D102
        return True

    @abc.abstractmethod
    def part_losses(self, model: Model, x: Data, condition: Condition | None = None) -> Mapping[str, Tensor]:
        """Loss of each part by name, with shape (B,).

        A family that is not a product has one part, named "", and so have parts that depend on each other under the
        output (:meth:`~bfn_toolkit.Family.factors`).
        """

    def __call__(self, model: Model, x: Data, condition: Condition | None = None) -> Tensor:  # noqa: D102
        return reduce(torch.add, self.part_losses(model, x, condition).values())


@attrs.frozen
class ContinuousTimeLoss(NatsLoss):
    """Unbiased estimate of the continuous-time loss from one time per example.

    Arguments:
        weighting: "paper" for nats (eq. 41); "unit" scales the rate by the family's
            :meth:`~bfn_toolkit.Family.loss_weight`, so that no time dominates the gradient: for training; it is not a
            likelihood.
        times: Distribution of the times.
    """

    weighting: Literal["paper", "unit"] = field(default="paper", validator=validators.one_of("paper", "unit"))
    times: TimeDistribution = field(factory=UniformTimes, validator=_ARE_TIMES)

    @property
    def in_nats(self) -> bool:
        """Whether the weighting is "paper" and the times leave it so."""
        return self.weighting == "paper" and self.times.is_unbiased

    def part_losses(self, model: Model, x: Data, condition: Condition | None = None) -> Mapping[str, Tensor]:  # noqa: D102
        times = self.times.draw(model.family, x)
        params = model.family.flow(x, times.t)
        output = model.output(params, times.t, condition)
        losses = {}
        for part in model.family.walk(x, output):
            data, p_o = part.values
            losses[part.name] = times.weighted(self._rate(part.family, data, p_o, times.t))
        return losses

    def _rate(self, family: Family[Any], x: Data, output: Output, t: Tensor) -> Tensor:
        rate = family.loss_rate(x, output, t)
        return rate * family.loss_weight(t) if self.weighting == "unit" else rate


@attrs.frozen
class CrossEntropyLoss(ContinuousTimeLoss):
    r"""Cross-entropy of classes, averaged over the time: for training; it is not a likelihood.

    .. math:: E_t \, E_{\theta \sim p_F(\cdot \mid x; t)} \, \big( -\ln p_O(x \mid \theta; t) \big)

    The squared error of the loss rate hardly tells small probabilities apart, which most of many classes have.  Parts
    of a product that are real numbers keep their loss rate, with the weighting "unit".

    Arguments:
        times: Distribution of the times.
    """

    weighting: Literal["paper", "unit"] = field(default="unit", init=False, repr=False)

    def _rate(self, family: Family[Any], x: Data, output: Output, t: Tensor) -> Tensor:
        return -output.log_prob(x) if family.is_discrete else super()._rate(family, x, output, t)


@attrs.frozen
class DiscreteTimeLoss(NatsLoss):
    """Unbiased estimate of the n-step loss from one step per example.

    Arguments:
        n_steps: Number of messages n.
        samples: Number of draws of the message if the divergence has no closed form.
        times: Distribution of the times; each lies in the step of its number.
    """

    n_steps: int = field(default=100, validator=validators.integer(ge=1, le=10**9))
    samples: int = field(default=1, validator=validators.integer(ge=1, le=10**9))
    times: TimeDistribution = field(factory=UniformTimes, validator=_ARE_TIMES)

    @property
    def in_nats(self) -> bool:
        """Whether the times leave the loss in nats."""
        return self.times.is_unbiased

    def part_losses(self, model: Model, x: Data, condition: Condition | None = None) -> Mapping[str, Tensor]:  # noqa: D102
        family, drawn = model.family, self.times.draw(model.family, x)
        u = drawn.t
        times = family.times(self.n_steps).to(u.device, u.dtype, non_blocking=True)
        step = (u * self.n_steps).ceil_().long().clamp_(1, self.n_steps)
        s, t = times[step - 1], times[step]
        output = model.output(family.flow(x, s), s, condition)
        stream, losses = streams(), {}
        for part in family.factors(output, x):
            with stream(part.name):
                p_o, data = part.values
                alpha = part.family.accuracy(s, t)
                losses[part.name] = part.family.step_loss(data, p_o, alpha, self.samples)
        return {name: self.n_steps * drawn.weighted(nats) for name, nats in losses.items()}


@attrs.frozen
class ReconstructionLoss(NatsLoss):
    """Reconstruction loss: -ln p_O(x) under the output distribution after all messages."""

    def part_losses(self, model: Model, x: Data, condition: Condition | None = None) -> Mapping[str, Tensor]:  # noqa: D102
        t = torch.ones(batch_size(x), device=device_of(x), dtype=dtype_of(x))
        output = model.output(model.family.flow(x, t), t, condition)
        losses = {}
        for part in model.family.factors(output, x):
            p_o, data = part.values
            losses[part.name] = -p_o.log_prob(data)
        return losses
