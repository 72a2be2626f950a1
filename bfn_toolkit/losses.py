r"""Losses: the cost of the messages, in nats per example.

The code length of x is :math:`L(x) = L^n(x) + L^r(x)`, an upper bound of :math:`-\ln p(x)`: the n messages, then x
itself under the last output distribution.

.. math::
    L^n(x) &= n \; E_{i \sim U\{1..n\}} \, E_{\theta \sim p_F(\cdot \mid x; t_{i-1})} \,
              \mathrm{KL}\big(p_S(\cdot \mid x; \alpha_i) \,\|\, p_R(\cdot \mid \theta; t_{i-1}, \alpha_i)\big) \\
    L^\infty(x) &= E_{t \sim U(0, 1)} \, E_{\theta \sim p_F(\cdot \mid x; t)} \, \text{loss rate}(x, \theta, t) \\
    L^r(x) &= - E_{\theta \sim p_F(\cdot \mid x; 1)} \, \ln p_O(x \mid \theta; 1)

A loss draws one time for each example, from a :class:`~bfn_toolkit.TimeDistribution`.

With a *mask* (:mod:`~bfn_toolkit.masks`) all sums are over the sites that are present.  Sites that are *held* at a time
(:func:`draw_held`) cost nothing either: the loss of the others is that given what the model is told about these.

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
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import Family
from bfn_toolkit.masks import free_sites, mask_by_part, present, told
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Output
from bfn_toolkit.randomness import streams
from bfn_toolkit.shapes import Data, Mask, Times, batch_size, device_of, dtype_of, expand, map_data
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
    def __call__(
        self,
        model: Model,
        x: Data,
        condition: Condition | None = None,
        mask: Mask | None = None,
        held: Times | None = None,
    ) -> Tensor:
        """Loss of each example, with shape (B,).

        A loss that is never used with missing or held sites may leave these arguments out.

        Arguments:
            model: The model.
            x: Data, with shape (B, *site); they may be anything where they are missing.
            condition: Conditions by name, each with B rows.
            mask: True where there is data; None if nothing is missing.
            held: Times by site at which sites are held, negative where they are not: 1 where the model knows the value,
                0 where it is told nothing yet.  Held sites cost nothing.  None if there are none.
        """


def draw_held(family: Family[Any], x: Data, rate: float) -> Times:
    """Times at which sites are held in training, in a share ``rate`` of the examples: 1, 0, or -1 for the others.

    In each of these examples every site is known (1) with the same probability, which is uniform in (0, 1): any number
    of known sites is about as likely as any other.  In half of them, sites that are not known wait (0) with another
    such probability, as under samplers that draw some sites after others.  The times have the form of
    :attr:`Family.sites`.
    """
    rows, device = batch_size(x), device_of(x)
    u, waits = torch.rand(rows, device=device), 2.0 * torch.rand(rows, device=device) - 1.0
    known, waiting = torch.where(u < rate, u / rate, 0.0), torch.where(u < rate, waits.clamp_min(0.0), 0.0)
    held = {}
    for part in family.walk():
        a, b = (torch.rand((rows, *part.family.sites), device=device) for _ in range(2))
        later = torch.where(b < expand(waiting, b), 0.0, -1.0)
        held[part.name] = torch.where(a < expand(known, a), 1.0, later)
    return family.join(held)


def output_at(
    model: Model, x: Data, t: Tensor, condition: Condition | None, mask: Mask | None, held: Times | None
) -> tuple[Output, Mask | None]:
    """Output under beliefs drawn at the times t, or those at which sites are held; and the sites whose loss counts."""
    family, times = model.family, t
    if held is not None:
        if not family.site_times:
            raise ConfigError(
                f"{type(family).__name__} has one time for all sites, and known sites another than the others; write "
                "training.known_rate = 0, or a family with site_times = True"
            )
        held = mask_by_part(x, held)
        times = map_data(lambda at: t if at is None else torch.where(at < 0.0, expand(t, at), at.to(t.dtype)), held)
    output = told(model.output, family.flow(present(x, mask), times), times, condition, mask=mask)
    return output, None if mask is None and held is None else free_sites(mask_by_part(x, mask), held)


class NatsLoss(Loss):
    """Loss in nats: the sum of the losses of the parts of the data."""

    @property
    def in_nats(self) -> bool:  # noqa: D102
        return True

    @abc.abstractmethod
    def part_losses(
        self,
        model: Model,
        x: Data,
        condition: Condition | None = None,
        mask: Mask | None = None,
        held: Times | None = None,
    ) -> Mapping[str, Tensor]:
        """Loss of each part by name, with shape (B,).

        A family that is not a product has one part, named "", and so have parts that depend on each other under the
        output (:meth:`~bfn_toolkit.Family.factors`).
        """

    def __call__(  # noqa: D102
        self,
        model: Model,
        x: Data,
        condition: Condition | None = None,
        mask: Mask | None = None,
        held: Times | None = None,
    ) -> Tensor:
        losses: Mapping[str, Tensor] = told(self.part_losses, model, x, condition, mask=mask, held=held)
        return reduce(torch.add, losses.values())


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

    def part_losses(  # noqa: D102
        self,
        model: Model,
        x: Data,
        condition: Condition | None = None,
        mask: Mask | None = None,
        held: Times | None = None,
    ) -> Mapping[str, Tensor]:
        times = self.times.draw(model.family, x)
        output, unknown = output_at(model, x, times.t, condition, mask, held)
        losses = {}
        for part in model.family.walk(x, output, unknown):
            data, p_o, priced = part.values
            losses[part.name] = times.weighted(self._rate(part.family, data, p_o, times.t, priced))
        return losses

    def _rate(self, family: Family[Any], x: Data, output: Output, t: Tensor, mask: Mask | None = None) -> Tensor:
        rate: Tensor = told(family.loss_rate, x, output, t, mask=mask)
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

    def _rate(self, family: Family[Any], x: Data, output: Output, t: Tensor, mask: Mask | None = None) -> Tensor:
        if family.is_discrete:
            nats: Tensor = told(output.log_prob, x, mask=mask)
            return -nats
        return super()._rate(family, x, output, t, mask)


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

    def part_losses(  # noqa: D102
        self,
        model: Model,
        x: Data,
        condition: Condition | None = None,
        mask: Mask | None = None,
        held: Times | None = None,
    ) -> Mapping[str, Tensor]:
        family, drawn = model.family, self.times.draw(model.family, x)
        u = drawn.t
        times = family.times(self.n_steps).to(u.device, u.dtype, non_blocking=True)
        step = (u * self.n_steps).ceil_().long().clamp_(1, self.n_steps)
        s, t = times[step - 1], times[step]
        output, unknown = output_at(model, x, s, condition, mask, held)
        stream, losses = streams(), {}
        for part in family.factors(output, x, unknown):
            with stream(part.name):
                p_o, data, priced = part.values
                alpha = part.family.accuracy(s, t)
                losses[part.name] = told(part.family.step_loss, data, p_o, alpha, self.samples, mask=priced)
        return {name: self.n_steps * drawn.weighted(nats) for name, nats in losses.items()}


@attrs.frozen
class ReconstructionLoss(NatsLoss):
    """Reconstruction loss: -ln p_O(x) under the output distribution after all messages."""

    def part_losses(  # noqa: D102
        self,
        model: Model,
        x: Data,
        condition: Condition | None = None,
        mask: Mask | None = None,
        held: Times | None = None,
    ) -> Mapping[str, Tensor]:
        t = torch.ones(batch_size(x), device=device_of(x), dtype=dtype_of(x))
        output, unknown = output_at(model, x, t, condition, mask, held)
        losses = {}
        for part in model.family.factors(output, x, unknown):
            p_o, data, priced = part.values
            losses[part.name] = -told(p_o.log_prob, data, mask=priced)
        return losses
