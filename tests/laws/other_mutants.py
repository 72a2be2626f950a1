"""Mutants of schedules, networks, data sets and samplers, added to those of ``mutants``."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import ClassVar

import attrs
import torch
from mutants import Wrapped, rejected_by
from subjects import Listening, ListeningModule, Residual, ResidualModule, SaturatingSchedule
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention, silu

from bfn_toolkit import GeometricSchedule, NetworkBuilder, NetworkIO, QuadraticSchedule

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


# Networks


@rejected_by("network-is-finite-at-all-times", "network-sees-the-time")
class LogOfTheTime(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features, t.log().clamp_min(-20.0) + (t / (1.0 - t)).log())


@rejected_by("network-is-finite-at-all-times")
class UnitFeatures(Wrapped):
    """Features of unit length: 0 / 0 for the prior."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            length = features.flatten(1).norm(dim=1).reshape(-1, *[1] * (features.ndim - 1))
            return super().forward(features * (1.0 + 1.0 / length), t)


@rejected_by("network-sees-the-time")
class PeriodicTime(Wrapped):
    """A time embedding of period 1: the beginning looks like the end."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features, (2.0 * math.pi * t.double()).sin().to(t.dtype).round(decimals=5))


@rejected_by("network-sees-the-time")
class TenTimes(Wrapped):
    """An embedding of ten time steps."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features, (10.0 * t).floor() / 10.0)


@rejected_by("network-sees-every-number")
class FirstFeature(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features[..., :1].expand_as(features), t)


@rejected_by("network-sees-every-number")
class WithoutTheLastSite(Wrapped):
    """One site too few, as by a wrong end of a range."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            sites = features.flatten(1, -2) if features.ndim > 2 else features.unsqueeze(1)
            seen = torch.cat([sites[:, :1], sites[:, 1:-1], torch.zeros_like(sites[:, 1:2])], 1)
            return super().forward(seen[:, : sites.shape[1]].reshape(features.shape), t)


@rejected_by("network-sees-every-number")
class OneAnswerForAllSites(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            raw = super().forward(features, t)
            return raw.flatten(1, -2).mean(1)[:, *[None] * (raw.ndim - 2)].expand_as(raw) if raw.ndim > 2 else raw


@rejected_by("network-rows-are-independent-in-training")
class Normalised(Wrapped):
    """Batch normalisation, undeclared."""

    class module(ResidualModule):  # noqa: N801
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            self.norm = nn.BatchNorm1d(width)

        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            h = self.norm(self.first(torch.cat([features.flatten(1), t.unsqueeze(-1)], -1)))
            for block in self.blocks:
                h = h + block(silu(h))
            return self.last(h).reshape(-1, *self.shape)


@rejected_by("network-rows-are-independent")
class LabelOfTheFirstRow(Listening):
    def build(self, io: NetworkIO) -> nn.Module:
        class Module(ListeningModule):
            def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
                first = {name: value[:1] + 0 * value for name, value in condition.items()}
                return super().forward(features, t, **first)

        return Module(self.width, self.depth, io)


@rejected_by("network-is-a-function", "network-sees-the-time")
class RemembersTheTime(Wrapped):
    """The time of the first batch of each size is kept."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            kept = self.__dict__.setdefault("kept", {})
            return super().forward(features, kept.setdefault(len(t), t))


@rejected_by(
    "network-is-a-function",
    "network-rows-are-independent",
    "state-dict-is-complete",
    "weights-are-a-function-of-the-seed",
)
class DropsInSampling(Wrapped):
    """The functional dropout, which does not know of eval mode."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return dropout(super().forward(features, t) + 1.0, 0.3)


@rejected_by("network-leaves-its-arguments-alone", "network-is-a-function", "network-rows-are-independent")
class WorksInPlace(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            if features.requires_grad:
                return super().forward(2.0 * features, t)
            return super().forward(features.mul_(2.0), t)


@rejected_by("network-moves-to-a-device")
class ConstantOnTheHost(Wrapped):
    """A tensor that is neither a parameter nor a buffer."""

    class module(ResidualModule):  # noqa: N801
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            self.scale = torch.full((1,), 2.0)

        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features, self.scale * t)


@rejected_by("network-serves-products")
class NeedsAnAxis(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features.flatten(1, -2), t)


@rejected_by("unknown-conditions-are-ignored")
class RefusesOthers(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            if condition:
                raise KeyError(next(iter(condition)))
            return super().forward(features, t)


@rejected_by("declared-conditions-are-read")
@attrs.frozen
class NoRoomForTheCondition(Residual):
    conditions: tuple[str, ...] = ("label",)


class LabelledModule(ResidualModule):
    def __init__(self, width: int, depth: int, io: NetworkIO, labels: int) -> None:
        super().__init__(width, depth, io)
        self.label = nn.Embedding(labels, width)

    def forward(self, features: Tensor, t: Tensor, label: Tensor | None = None, **_: Tensor) -> Tensor:
        h = self.first(torch.cat([features.flatten(1), t.unsqueeze(-1)], -1))
        # Without labels: the mean of all, so that the parameter is used.
        h = h + (self.label.weight.mean(0) if label is None else self.label(label))
        for block in self.blocks:
            h = h + block(silu(h))
        return self.last(h).reshape(-1, *self.shape)


@attrs.frozen
class Labelled(Residual):
    labels: int = 3

    @property
    def conditions(self) -> Collection[str]:
        return ("label",)

    def build(self, io: NetworkIO) -> nn.Module:
        return LabelledModule(self.width, self.depth, io, self.labels)


@rejected_by("declared-conditions-are-read")
class OneLabelTooFew(Labelled):
    def build(self, io: NetworkIO) -> nn.Module:
        return LabelledModule(self.width, self.depth, io, self.labels - 1)


@attrs.frozen
class Images(NetworkBuilder):
    """A small convolutional network with batch normalisation, for images of three channels."""

    example_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((3, 6, 4),)
    uses_batch_statistics: ClassVar[bool] = True
    width: int = 8

    def build(self, io: NetworkIO) -> nn.Module:
        if len(io.site_shape) != 3:
            raise ValueError(f"expected images (C, H, W), got {io.site_shape}")
        return ImagesModule(self.width, io)


class ImagesModule(nn.Module):
    def __init__(self, width: int, io: NetworkIO) -> None:
        super().__init__()
        channels = io.site_shape[0]
        self.raw = io.out_features
        self.first = nn.Conv2d(channels * io.in_features + 1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, channels * io.out_features, 3, padding=1)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        b, c, h, w, f = features.shape
        images = features.permute(0, 1, 4, 2, 3).reshape(b, c * f, h, w)
        times = t[:, None, None, None].expand(b, 1, h, w)
        raw = self.last(silu(self.norm(self.first(torch.cat([images, times], 1)))))
        return raw.reshape(b, c, self.raw, h, w).permute(0, 1, 3, 4, 2)


@attrs.frozen
class Attentive(NetworkBuilder):
    """One layer of attention over all sites, with positions drawn once and dropout."""

    width: int = 8

    def build(self, io: NetworkIO) -> nn.Module:
        return AttentiveModule(self.width, io)


class AttentiveModule(nn.Module):
    def __init__(self, width: int, io: NetworkIO) -> None:
        super().__init__()
        self.shape = (*io.site_shape, io.out_features)
        self.first = nn.Linear(io.in_features + 2, width)
        self.place = nn.Parameter(torch.randn(math.prod(io.site_shape), width))
        self.three = nn.Linear(width, 3 * width)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(width, io.out_features)

    def forward(self, features: Tensor, t: Tensor, /, **_: Tensor) -> Tensor:
        sites = features.reshape(len(features), len(self.place), -1)
        times = torch.stack([t, (t + 1e-3).log()], -1).unsqueeze(1).expand(*sites.shape[:2], 2)
        h = self.first(torch.cat([sites, times], -1)) + self.place
        h = h + self.drop(scaled_dot_product_attention(*self.three(h).chunk(3, -1)))
        return self.last(silu(h)).reshape(-1, *self.shape)


# Correct subjects

MORE_SUBJECTS = (Labelled(), Images(), Attentive())
