"""Correct families that are unlike those of subjects.py: no law may reject them."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from attrs import field
from subjects import Circle, Classes, Direction, Wheel
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from bfn_gaussian import Gaussian, UnsquaredNormLoss
from bfn_toolkit import (
    AdditiveFamily,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Finite,
    NetworkIO,
    Output,
    ProductFamily,
    QuadraticSchedule,
    ReconstructionLoss,
    TableSchedule,
    as_shape,
    expand,
    validators,
)


@attrs.frozen
class Erasure(AdditiveFamily[Tensor]):
    """Classes through an erasure channel: a message is the class, with probability 1 - e^-alpha, or nothing (K).

    Params are log-probabilities: those of the prior, or 0 and -inf once the class is known.
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape)
    classes: int = field(default=3, validator=validators.integer(ge=2))
    schedule: QuadraticSchedule = field(factory=lambda: QuadraticSchedule(3.0))
    is_discrete = True

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape, self.classes, self.classes)

    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Tensor:
        shape = (batch_size, *self.site_shape, self.classes)
        return torch.full(shape, -math.log(self.classes), device=device, dtype=dtype)

    def input(self, params: Tensor) -> Distribution:
        return Independent(Categorical(logits=params, validate_args=False), params.ndim - 2)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        index = x.unsqueeze(-1)
        shape, told, nothing = (*x.shape, self.classes), (-torch.expm1(-alpha)).log(), expand(-alpha, index)
        logits = torch.full(shape, -math.inf, dtype=alpha.dtype, device=x.device)
        logits = logits.scatter(-1, index, expand(told, index).expand(index.shape))
        logits = torch.cat([logits, nothing.expand(index.shape)], -1)
        return Independent(Categorical(logits=logits, validate_args=False), x.ndim - 1)

    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        known = torch.full_like(params, -math.inf).scatter(-1, y.clamp_max(self.classes - 1).unsqueeze(-1), 0.0)
        return torch.where((y < self.classes).unsqueeze(-1), known, params)

    def features(self, params: Tensor) -> Tensor:
        return params.exp()

    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(None, raw + params)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """The cross-entropy: a message tells the class at the rate 1."""
        assert isinstance(output, Finite)
        return -output.logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)


@attrs.frozen
class Catalogue(Wheel):
    """A wheel that reads from its table which message an accuracy belongs to, and has no other accuracies."""

    def number(self, alpha: Tensor) -> Tensor:
        table = torch.tensor(self.schedule.accuracies, dtype=alpha.dtype, device=alpha.device)
        same = (alpha.unsqueeze(-1) - table).abs() <= 1e-6 * table
        if alpha.device.type != "meta" and not bool(same.any(-1).all()):
            raise LookupError(f"an accuracy of {alpha.tolist()} is not in the table")
        return same.to(torch.uint8).argmax(-1)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        self.number(alpha)
        return Wheel.sender(self, x, alpha)

    def update(self, params: Direction, y: Tensor, alpha: Tensor) -> Direction:
        self.number(alpha)
        return Wheel.update(self, params, y, alpha)


@attrs.frozen
class Ring(Circle):
    """Angles with an accuracy for each: a channel by definition needs no more."""

    site_times = True


@attrs.frozen
class LateSteps(Classes):
    """Classes whose n messages are sent over steps that are short at the end."""

    def times(self, n_steps: int) -> Tensor:
        return torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64).sqrt()


LOSSES: tuple[Any, ...] = (
    ContinuousTimeLoss(),
    ContinuousTimeLoss("unit"),
    DiscreteTimeLoss(1),
    DiscreteTimeLoss(10, samples=2),
    ReconstructionLoss(),
    UnsquaredNormLoss(),
)
FAMILIES: tuple[Any, ...] = (
    Erasure(),
    Erasure(site_shape=(2, 2), classes=4),
    Catalogue(),
    Catalogue(site_shape=(2,), schedule=TableSchedule((0.02, 3.0, 40.0))),
    LateSteps(),
    Ring(site_shape=(3,), bins=5),
    ProductFamily({"angle": Ring((2,)), "x": Gaussian(site_shape=(2,))}),
    ProductFamily({"angle": Catalogue(schedule=TableSchedule((0.5, 2.0, 3.0))), "x": Gaussian(site_shape=(2,))}),
)
