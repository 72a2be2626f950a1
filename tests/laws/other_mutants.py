"""Mutants of schedules, networks, data sets and samplers, added to those of ``mutants``."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs import field
from mutants import rejected_by
from subjects import SaturatingSchedule
from torch import Tensor

from bfn_toolkit import GeometricSchedule, QuadraticSchedule

# Schedules


@rejected_by("the-end-is-as-declared")
class EndsEarly(QuadraticSchedule):
    """The field says beta_1, the schedule ends at half of it."""

    def beta(self, t: Tensor) -> Tensor:
        return 0.5 * self.beta_1 * t.square()

    def alpha(self, t: Tensor) -> Tensor:
        return self.beta_1 * t

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        return 0.5 * self.beta_1 * (t - s) * (t + s)

    def time(self, beta: Tensor) -> Tensor:
        return (2.0 * beta / self.beta_1).sqrt()


@rejected_by("accuracy-increases", "rate-adds-up-to-the-accuracy")
class Stalls(SaturatingSchedule):
    """Between t = 0.3 and 0.6 next to nothing is told."""

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_1 * (t - (t - 0.3).clamp(0.0, 0.3) * (1.0 - 1e-10)) / (0.7 + 0.3e-10)

    def alpha(self, t: Tensor) -> Tensor:
        slow = (t >= 0.3) & (t <= 0.6)
        return self.beta_1 * torch.where(slow, 1e-10, torch.ones_like(t)) / (0.7 + 0.3e-10)


@rejected_by("rate-adds-up-to-the-accuracy", "time-inverts-the-accuracy")
class Jumps(SaturatingSchedule):
    """A jump of beta in the middle, which its derivative does not show."""

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_1 * (0.9 * t + 0.1 * (t > 0.456).to(t.dtype))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 0.9 * self.beta_1)


@rejected_by("steps-differ-within-a-batch")
class StepOfTheFirstRow(QuadraticSchedule):
    """The length of the step is read from the first row."""

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        step = (t - s).flatten()[0]
        return self.beta_1 * step * (t + s)


@rejected_by("schedule-is-precise-in-float32")
class DifferenceOfPowers(GeometricSchedule):
    """sigma_1^(-2t) - sigma_1^(-2s), which loses its digits at small times."""

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        return torch.exp(self.rate * t) - torch.exp(self.rate * s)


@rejected_by("schedule-keeps-shape-dtype-and-device")
class TableOnTheHost(QuadraticSchedule):
    """A tensor made without a device."""

    def alpha(self, t: Tensor) -> Tensor:
        return 2.0 * torch.tensor([self.beta_1], dtype=t.dtype) * t


@rejected_by("schedule-keeps-shape-dtype-and-device")
class AlwaysDouble(QuadraticSchedule):
    def beta(self, t: Tensor) -> Tensor:
        return self.beta_1 * t.double().square()
