r"""Losses: the price of the messages, in nats per example.

The code length of x is :math:`L(x) = L^n(x) + L^r(x)`, an upper bound of :math:`-\ln p(x)`: the n messages, then x
itself under the last output distribution.

.. math::
    L^n(x) &= n \; E_{i \sim U\{1..n\}} \, E_{\theta \sim p_F(\cdot \mid x; t_{i-1})} \,
              \mathrm{KL}\big(p_S(\cdot \mid x; \alpha_i) \,\|\, p_R(\cdot \mid \theta; t_{i-1}, \alpha_i)\big) \\
    L^\infty(x) &= E_{t \sim U(0, 1)} \, E_{\theta \sim p_F(\cdot \mid x; t)} \, \text{loss rate}(x, \theta, t) \\
    L^r(x) &= - E_{\theta \sim p_F(\cdot \mid x; 1)} \, \ln p_O(x \mid \theta; 1)

A loss draws one time for each example (:func:`draw_times`).

Source: Graves et al. 2023, eq. 24 (n steps), 41 (continuous time), section 3 (reconstruction).
"""

from __future__ import annotations

import abc
from functools import lru_cache
from typing import Any, ClassVar, Literal, Protocol

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from bfn_toolkit.distributions import Output, kl
from bfn_toolkit.families import Family
from bfn_toolkit.shapes import batch_size


class Model(Protocol):
    """What losses and samplers need of a model."""

    family: Family[Any]

    def output(self, params: Any, t: Tensor, **condition: Tensor) -> Output:
        """Output distribution p_O(. | theta; t)."""


@lru_cache(maxsize=16)
def _lattice(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """frac(i / golden ratio) for i < n, by exact integer arithmetic: any run of rows covers [0, 1) evenly."""
    turns = torch.arange(n, device=device).mul_(2654435769).bitwise_and_(0xFFFFFFFF)
    return turns.to(dtype).mul_(2.0**-32)


def draw_times(x: Tensor) -> Tensor:
    """Times in (0, 1], one for each example, in the dtype of the data.

    They form a golden-ratio lattice with one uniform random offset: each time is uniform by itself, and a batch, or any
    run of rows in it, covers the interval evenly, whatever the order of the data.
    """
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    lattice = _lattice(batch_size(x), x.device, dtype)
    return 1.0 - (lattice + torch.rand(1, device=x.device, dtype=dtype)).frac_()


class Loss(abc.ABC):
    """What training minimises: a function of a model and a batch, with shape (B,)."""

    kind: ClassVar[str] = "loss"

    @abc.abstractmethod
    def __call__(self, model: Model, x: Tensor, **condition: Tensor) -> Tensor:
        """Loss of each example, with shape (B,)."""


@attrs.frozen
class ContinuousTimeLoss(Loss):
    """Unbiased estimate of the continuous-time loss from one time per example.

    Arguments:
        weighting: "paper" for nats (eq. 41); "unit" scales the rate by the family's
            :meth:`~bfn_toolkit.Family.loss_weight`, so that no time dominates the gradient: good for training, not a
            likelihood.
    """

    weighting: Literal["paper", "unit"] = field(default="paper", validator=validators.in_(("paper", "unit")))

    def __call__(self, model: Model, x: Tensor, **condition: Tensor) -> Tensor:  # noqa: D102
        family, t = model.family, draw_times(x)
        params = family.flow(x, t)
        rate = family.loss_rate(x, model.output(params, t, **condition), t)
        return rate * family.loss_weight(t) if self.weighting == "unit" else rate


@attrs.frozen
class DiscreteTimeLoss(Loss):
    """Unbiased estimate of the n-step loss from one step per example.

    Arguments:
        n_steps: Number of messages n.
        samples: Draws of the message for the divergence, where it has no closed form.
    """

    n_steps: int = field(default=100, validator=validators.ge(1))
    samples: int = field(default=1, validator=validators.ge(1))

    def __call__(self, model: Model, x: Tensor, **condition: Tensor) -> Tensor:  # noqa: D102
        family, u = model.family, draw_times(x)
        times = family.times(self.n_steps).to(x.device, u.dtype, non_blocking=True)
        step = (u * self.n_steps).ceil_().long().clamp_(1, self.n_steps)
        s, t = times[step - 1], times[step]
        alpha = family.accuracy(s, t)
        params = family.flow(x, s)
        output = model.output(params, s, **condition)
        return self.n_steps * kl(family.sender(x, alpha), family.receiver(output, alpha), self.samples)


@attrs.frozen
class ReconstructionLoss(Loss):
    """Price of x under the output distribution after all messages."""

    def __call__(self, model: Model, x: Tensor, **condition: Tensor) -> Tensor:  # noqa: D102
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        t = torch.ones(batch_size(x), device=x.device, dtype=dtype)
        return -model.output(model.family.flow(x, t), t, **condition).log_prob(x)
