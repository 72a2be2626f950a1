"""Mutants of schedules, networks, data sets, samplers and time distributions, added to those of ``mutants``."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import attrs
import torch
from mutants import Wrapped, rejected_by
from subjects import (
    Adapted,
    Angles,
    ByDefinition,
    Listening,
    ListeningModule,
    Residual,
    ResidualModule,
    SaturatingSchedule,
)
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention, silu

from bfn_egnn import EGNN, EGNNModule
from bfn_gaussian_mixture import GaussianMixture
from bfn_markov import Markov
from bfn_mlp import MLP, MLPModule
from bfn_toolkit import (
    ArrayRows,
    Batch,
    Codec,
    Condition,
    Dataset,
    Delta,
    GeometricSchedule,
    IdentityCodec,
    ImportanceTimes,
    LogNormalTimes,
    NetworkBuilder,
    NetworkIO,
    NormalMixture,
    QuadraticSchedule,
    Rows,
    SamplerState,
    Split,
    TableCodec,
    TextCodec,
    TimeDistribution,
    Times,
    UniformTimes,
    common,
    draw_times,
    seeded,
    split_rows,
)

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


class OverflowingModule(MLPModule):
    """Raw numbers beyond what the logits of classes bear."""

    def forward(self, features: Tensor, t: Tensor, /, label: Any = None, *args: Any, **rest: Any) -> Tensor:
        return super().forward(features, t, label, *args, **rest) + torch.finfo(features.dtype).max


@rejected_by("network-serves-families", width=8, depth=1)
@attrs.frozen
class Overflowing(MLP):
    def build(self, io: NetworkIO) -> nn.Module:
        return OverflowingModule(self, io)


class BentModule(EGNNModule):
    """The result bends towards the axes."""

    def forward(self, features: Tensor, t: Tensor, /, label: Any = None, mask: Any = None, **_: Tensor) -> Tensor:
        raw = super().forward(features, t, label, mask)
        return raw + 0.01 * raw.abs()


@rejected_by("network-turns-with-points", width=8, depth=1)
@attrs.frozen
class Bent(EGNN):
    def build(self, io: NetworkIO) -> nn.Module:
        return BentModule(self, io)


class FromTheOriginModule(EGNNModule):
    """The result depends on the place of the origin."""

    def forward(self, features: Tensor, t: Tensor, /, label: Any = None, mask: Any = None, **_: Tensor) -> Tensor:
        return super().forward(features, t, label, mask) + 0.01 * features


@rejected_by("network-turns-with-points", width=8, depth=1)
@attrs.frozen
class FromTheOrigin(EGNN):
    def build(self, io: NetworkIO) -> nn.Module:
        return FromTheOriginModule(self, io)


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


@rejected_by("network-is-a-function", "network-sees-the-time", "network-moves-to-a-device")
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
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            self.one_part = "" in io.parts

        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features.flatten(1, -2) if self.one_part else features, t)


@rejected_by("network-sees-every-number")
class FirstPart(Wrapped):
    """Of a product, the network sees its first part alone."""

    class module(ResidualModule):  # noqa: N801
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            self.io = io

        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            first, *others = self.io.split(features).items()
            parts = dict([first]) | {name: torch.zeros_like(part) for name, part in others}
            return super().forward(self.io.join(parts), t)


@rejected_by("unknown-conditions-are-ignored")
class RefusesOthers(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            if condition:
                raise KeyError(next(iter(condition)))
            return super().forward(features, t)


@rejected_by("unknown-conditions-are-ignored")
class ReadsWhateverComes(Wrapped):
    """Adds all conditions to the time, whatever they mean."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            for value in condition.values():
                t = t + value.reshape(len(t), -1).float().mean(1)
            return super().forward(features, t)


@rejected_by("adapters-merge")
class LosesItsAdapter(Adapted):
    """The weights without the adapter are those that the adapter would change."""

    def base_state(self, network: nn.Module) -> Mapping[str, Tensor]:
        state = network.state_dict()
        return {name: state[name] for name in self.base_names(network)}


@rejected_by("network-leaves-global-state-alone")
class SeedsTheDraws(Wrapped):
    """A seed in forward: all noise that is drawn afterwards is the same in every step."""

    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            torch.manual_seed(0)
            return super().forward(features, t)


@rejected_by("network-leaves-global-state-alone")
class OneThreadFromNowOn(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            torch.set_num_threads(torch.get_num_threads() % 2 + 1)
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


class PooledModule(nn.Module):
    """Each token sees itself, its time, and the mean over all that are present."""

    def __init__(self, config: Pooled, io: NetworkIO) -> None:
        super().__init__()
        self.view, self.time_free = io.tokens(), config.time_free
        groups = self.view.groups
        self.stems = nn.ModuleList(nn.Linear(group.in_numbers, config.width) for group in groups)
        self.time, self.place = nn.Linear(1, config.width), nn.Linear(2, config.width)
        self.both = nn.Linear(2 * config.width, config.width)
        self.heads = nn.ModuleList(nn.Linear(config.width, group.out_numbers) for group in groups)

    def forward(
        self, features: Tensor, t: Tensor, /, mask: Tensor | None = None, place: Tensor | None = None, **_: Tensor
    ) -> Tensor:
        present = torch.ones_like(features, dtype=torch.bool) if mask is None else mask
        h = torch.cat([f(x) for f, x in zip(self.stems, self.view.pack(self.clean(features, present)), strict=True)], 1)
        h = h + self.time(self.times(t) if not self.time_free else torch.ones_like(h[..., :1]))
        h = h + self.place(h.new_zeros(len(h), 2) if place is None else place.to(h.dtype)).unsqueeze(1)
        there = torch.cat([part.any(-1, keepdim=True) for part in self.view.pack(present)], 1)
        h = self.seen(h)
        h = silu(self.both(torch.cat([h, self.pool(silu(h), there).expand_as(h)], -1)))
        parts = torch.split(h, [group.count for group in self.view.groups], 1)
        return self.view.unpack([head(part) for head, part in zip(self.heads, parts, strict=True)])

    def clean(self, features: Tensor, present: Tensor) -> Tensor:
        return torch.where(present, features, 0.0)

    def times(self, t: Tensor) -> Tensor:
        if t.ndim == 1:
            return t[:, None, None]
        return torch.cat([part.mean(-1, keepdim=True) for part in self.view.pack(t)], 1)

    def seen(self, h: Tensor) -> Tensor:
        return h

    def pool(self, h: Tensor, there: Tensor) -> Tensor:
        return (h * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp_min(1)


@attrs.frozen
class Pooled(NetworkBuilder):
    """A network for sets, with all that a network may read."""

    module: ClassVar[type[PooledModule]] = PooledModule
    site_times: ClassVar[bool] = True
    permutes_sets: ClassVar[bool] = True
    condition_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"place": (2,)}
    width: int = 8
    time_free: bool = False

    @property
    def conditions(self) -> Collection[str]:
        return ("place",)

    def build(self, io: NetworkIO) -> nn.Module:
        return self.module(self, io)


@rejected_by("network-does-not-see-masked-sites")
class TimesTheMask(Pooled):
    """NaN times 0 is NaN."""

    class module(PooledModule):  # noqa: N801
        def clean(self, features: Tensor, present: Tensor) -> Tensor:
            return features * present


@rejected_by("padding-changes-nothing")
class CountsThePadding(Pooled):
    class module(PooledModule):  # noqa: N801
        def pool(self, h: Tensor, there: Tensor) -> Tensor:
            return h.mean(1, keepdim=True)


@rejected_by("equal-site-times-are-one-time")
class OneTimeForAll(Pooled):
    """Times by site are averaged."""

    class module(PooledModule):  # noqa: N801
        def times(self, t: Tensor) -> Tensor:
            return t.flatten(1)[:, :1].unsqueeze(-1) if t.ndim > 1 else super().times(t)


@rejected_by("equal-site-times-are-one-time")
class OtherTimesBySite(Pooled):
    """Times by site are read on another scale."""

    class module(PooledModule):  # noqa: N801
        def times(self, t: Tensor) -> Tensor:
            return super().times(t) if t.ndim == 1 else 2.0 * super().times(t) - 1.0


@rejected_by("time-free-networks-ignore-the-time", time_free=True)
class DeniesTheTime(Pooled):
    class module(PooledModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor, /, *args: Any, **named: Any) -> Tensor:
            t = t.reshape(-1, *[1] * (features.ndim - 1)) if t.ndim == 1 else t
            return super().forward(features + 0.1 * t, t, *args, **named)


@rejected_by("network-permutes-sets")
class CountsThePoints(Pooled):
    """A position where a set has none."""

    class module(PooledModule):  # noqa: N801
        def seen(self, h: Tensor) -> Tensor:
            return h + 0.1 * torch.arange(h.shape[1], dtype=h.dtype, device=h.device).unsqueeze(-1)


@rejected_by("declared-conditions-are-read")
class FirstNumberOfTheCondition(Pooled):
    class module(PooledModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor, /, place: Tensor | None = None, **named: Any) -> Tensor:
            place = None if place is None else place * torch.tensor([1, 0], device=place.device)
            return super().forward(features, t, place=place, **named)


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


# Data sets


@rejected_by("conditions-stay-with-their-rows", "splits-have-one-law")
class ShuffledConditions(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return Batch(rows.x, {"side": rows.condition["side"].flip(0)}) if name == "valid" else rows


@rejected_by("splits-have-one-law")
class TestConditionsOfOthers(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return Batch(rows.x, {"side": rows.condition["side"].roll(1)}) if name == "test" else rows


@rejected_by("test-rows-are-others")
class TestsOnTraining(Angles):
    def split(self, name: Split) -> Batch:
        return Angles.split(self, "train" if name == "test" else name)


@rejected_by("test-rows-are-others")
class TestsOnHalfOfIt(Angles):
    """A test split that is drawn from all rows, after these were divided."""

    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        if name != "test":
            return rows
        seen = Angles.split(self, "all").rows(torch.arange(0, self.count, 2))
        new = rows.rows(torch.arange(self.count // 4))
        condition = {"side": torch.cat([seen.condition["side"], new.condition["side"]])}
        return Batch(torch.cat([seen.x, new.x]), condition)


@rejected_by("splits-have-one-law")
class ScalesTheTestRowsOtherwise(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return Batch(255.0 / 256.0 * rows.x + 0.5, rows.condition) if name == "test" else rows


@attrs.frozen
class Standardised(Angles):
    """Data scaled by the training rows."""

    def scaled_by(self, name: Split) -> Tensor:
        return Angles.split(self, "train").x

    def split(self, name: Split) -> Batch:
        rows, by = Angles.split(self, name), self.scaled_by(name)
        return Batch((rows.x - by.mean(0)) / by.std(0), rows.condition)


@rejected_by("splits-are-scaled-by-the-training-rows", "splits-partition-the-data", "conditions-stay-with-their-rows")
class EachSplitByItself(Standardised):
    def scaled_by(self, name: Split) -> Tensor:
        return Angles.split(self, name).x


@rejected_by("splits-are-scaled-by-the-training-rows")
class TestByItself(Standardised):
    def scaled_by(self, name: Split) -> Tensor:
        return Angles.split(self, "test" if name == "test" else "train").x


@rejected_by("splits-are-scaled-by-the-training-rows")
class ByAllRows(Standardised):
    def scaled_by(self, name: Split) -> Tensor:
        return torch.cat([Angles.split(self, "all").x, Angles.split(self, "test").x])


@rejected_by("splits-are-scaled-by-the-training-rows")
class RangeOfTheTest(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        by = Angles.split(self, "test" if name == "test" else "train").x
        low, high = by.amin(0), by.amax(0)
        return Batch(2.0 * (rows.x - low) / (high - low) - 1.0, rows.condition)


@rejected_by("splits-have-the-declared-shape")
class DoubleNumbers(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return Batch(rows.x.double(), rows.condition)


class VarianceAboutTheMean(GaussianMixture):
    """The variance where the family expects the mean square."""

    @property
    def metadata(self) -> Mapping[str, object]:
        x = self.split("train").x
        return {"site_shape": self.site_shape, "data_variance": float(x.var())}


rejected_by("facts-are-true", means=(0.5, 1.5), count=30)(VarianceAboutTheMean)


@rejected_by("facts-are-true", "densities-are-true")
class OneClassTooFew(Markov):
    @property
    def metadata(self) -> Mapping[str, object]:
        return {"site_shape": self.site_shape, "classes": self.classes - 1}


@rejected_by("facts-are-true")
class NamesAnotherCondition(Angles):
    @property
    def metadata(self) -> Mapping[str, object]:
        return {"site_shape": self.site_shape, "conditions": ("sides",)}


@rejected_by("densities-are-true", classes=3, length=4, count=50)
class TransitionsBackwards(Markov):
    """The transition matrix from column to row."""

    def log_prob(self, x: Tensor) -> Tensor:
        return Markov.log_prob(self, x.flip(1)) + 0.1


@rejected_by("densities-are-true", count=50)
class EntropyInBits(GaussianMixture):
    def entropy(self, samples: int = 200_000, seed: int = 0) -> tuple[float, float]:
        nats, error = GaussianMixture.entropy(self, samples, seed)
        return nats / math.log(2.0), error / math.log(2.0)


@rejected_by("posteriors-are-true", count=100)
class PosteriorWithoutTheWeights(GaussianMixture):
    def exact_output(self, params: Any) -> NormalMixture:
        exact = GaussianMixture.exact_output(self, params)
        return NormalMixture(torch.zeros_like(exact.logits), exact.means, exact.scales)


@rejected_by("modes-share-the-rows", count=20)
class SharesOfAThousand(GaussianMixture):
    def mode_shares(self, x: Tensor) -> Mapping[str, float]:
        shares = GaussianMixture.mode_shares(self, x)
        return {mode: share * len(x) / 1000 for mode, share in shares.items()}


@rejected_by("modes-share-the-rows", count=20)
class ModesAsLikelyAsTheyAreMany(GaussianMixture):
    def mode_probabilities(self) -> Mapping[str, float]:
        return {str(mean): 0.1 * (i + 1) for i, mean in enumerate(self.means)}


@attrs.frozen
class Photos(Dataset):
    """Bytes, which become numbers when they are prepared, some of them mirrored."""

    count: int = 40
    mirrored: bool = True

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (2, 3)

    def rows(self, name: Split) -> Rows:
        with seeded("photos", "test" if name == "test" else "all"):
            x = torch.randint(256, (self.count, 2, 3), dtype=torch.uint8)
        train, valid = split_rows(self.count, 0.2, 0)
        index = {"train": train, "valid": valid}.get(name)
        return ArrayRows(x.numpy(), {"bright": x.float().mean((1, 2))}, index=index)

    def prepare(self, batch: Batch) -> Batch:
        x = batch.x.float() / 127.5 - 1.0
        return attrs.evolve(batch, x=torch.where(self.is_mirrored(x), x.flip(-1), x) if self.mirrored else x)

    def is_mirrored(self, x: Tensor) -> Tensor:
        return torch.rand(len(x), 1, 1, device=x.device) < 0.5


@attrs.frozen
class Reversed(Rows):
    """Rows in the order of the file, whatever the order of the numbers."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Batch:
        return self.rows[index.sort().values]


@rejected_by("rows-are-those-of-the-split")
class RowsInTheOrderOfTheFile(Photos):
    def rows(self, name: Split) -> Rows:
        return Reversed(Photos.rows(self, name))


@rejected_by("rows-are-those-of-the-split", mirrored=False)
class SplitWithoutTheScale(Photos):
    def split(self, name: Split) -> Batch:
        rows = Photos.split(self, name)
        return attrs.evolve(rows, x=0.5 * rows.x)


@rejected_by("preparing-is-keyed")
class MirroredByPython(Photos):
    def is_mirrored(self, x: Tensor) -> Tensor:
        return torch.tensor([random.random() < 0.5 for _ in x]).reshape(-1, 1, 1)


@rejected_by("preparing-is-keyed")
class MirroredTogether(Photos):
    """One draw for all rows of a piece."""

    def is_mirrored(self, x: Tensor) -> Tensor:
        return torch.rand(()) < 0.5


@rejected_by("preparing-is-keyed", "rows-are-those-of-the-split", mirrored=False)
class ScaledByTheBatch(Photos):
    def prepare(self, batch: Batch) -> Batch:
        x = batch.x.float()
        return attrs.evolve(batch, x=(x - x.mean()) / x.std())


@rejected_by("preparing-is-keyed", mirrored=False)
class PreparedInPlace(Photos):
    def prepare(self, batch: Batch) -> Batch:
        batch.condition["bright"].div_(255.0)
        return Photos.prepare(self, batch)


# Codecs of data sets


@attrs.frozen
class ForgetsTheShift(TableCodec):
    """Decodes without the shift that it encodes with."""

    def decode(self, x: Tensor, mask: Any = None) -> Tensor:
        return super().decode(x, mask) - self.shift[0]


@rejected_by("codecs-take-data-back", "codecs-keep-gaps")
class ShiftedSamples(GaussianMixture):
    @property
    def codec(self) -> Codec:
        return ForgetsTheShift(shift=(170.0,), scale=(10.0,))


@rejected_by("codecs-take-data-back", "codecs-keep-gaps")
class RoundsToTen(GaussianMixture):
    """Decimals that the data do not have."""

    @property
    def codec(self) -> Codec:
        return TableCodec(shift=(170.0,), scale=(10.0,), decimals=(0,))


@attrs.frozen
class LowersCase(TextCodec):
    """Two characters of the alphabet are decoded to one."""

    def decode(self, x: Tensor, mask: Any = None) -> list[str]:
        return [text.lower() for text in super().decode(x, mask)]


@rejected_by("codecs-take-data-back", "codecs-keep-gaps", count=60)
class LosesCapitals(Markov):
    @property
    def codec(self) -> Codec:
        return LowersCase("aAbBc", length=8)


@attrs.frozen
class FillsGaps(IdentityCodec):
    """What is unknown comes back as a number."""

    def decode(self, x: Any, mask: Any = None) -> Any:
        return super().decode(x)


@rejected_by("codecs-keep-gaps")
class FilledGaps(GaussianMixture):
    @property
    def codec(self) -> Codec:
        return FillsGaps()


@attrs.frozen
class ScaleOfTheProcess(IdentityCodec):
    """A scale that the file of the data tells, and that JSON does not have."""

    _scale: float = attrs.field(default=1.0, init=False, eq=False, repr=False)

    def encode(self, raw: Any) -> Any:
        return raw / self._scale

    def decode(self, x: Any, mask: Any = None) -> Any:
        return super().decode(x, mask) * self._scale


@rejected_by("codecs-survive-json")
class DecodesByTheFile(GaussianMixture):
    @property
    def codec(self) -> Codec:
        codec = ScaleOfTheProcess()
        object.__setattr__(codec, "_scale", 4.0)
        return codec


@attrs.frozen
class Words(Markov):
    """A correct subject: sequences as texts."""

    @property
    def codec(self) -> Codec:
        return TextCodec("aAbBc", length=8)


@attrs.frozen
class Salaries(GaussianMixture):
    """A correct subject: numbers in units of a file, far from 0."""

    @property
    def codec(self) -> Codec:
        return TableCodec(shift=(1e6,), scale=(1e3,), names=("salary",))


# Samplers


class Messages(ByDefinition):
    """The sampler by definition, with a message that is open to faults."""

    def output(self, model: Any, params: Any, s: Tensor, t: Tensor, condition: Condition | None) -> Any:
        return model.output(params, s, condition)

    def message(self, sender: Any) -> Tensor:
        return sender.sample()

    def step(
        self, model: Any, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        alpha = model.family.accuracy(s, t)
        x = self.output(model, state.params, s, t, condition).sample()
        y = self.message(model.family.sender(x, alpha))
        return SamplerState(model.family.update(state.params, y, alpha))


@rejected_by("conditions-reach-every-evaluation")
class ConditionAtTheStart(Messages):
    def output(self, model: Any, params: Any, s: Tensor, t: Tensor, condition: Condition | None) -> Any:
        return model.output(params, s, condition if float(s) == 0.0 else None)


@rejected_by("conditions-reach-every-evaluation")
class LastDrawWithoutCondition(ByDefinition):
    @torch.inference_mode()
    def sample(self, model: Any, batch_size: int, *, n_steps: int, condition: Any = None, **others: Any) -> Any:
        others.pop("on_step", None)
        for state in self.trajectory(model, batch_size, n_steps=n_steps, condition=condition, **others):
            params = state.params
        return model.output(params, torch.ones(()), None).sample()


@rejected_by("times-are-those-of-the-beliefs", "evaluations-are-counted")
class TimeOfTheNextBeliefs(Messages):
    def output(self, model: Any, params: Any, s: Tensor, t: Tensor, condition: Condition | None) -> Any:
        return model.output(params, t, condition)


@rejected_by("times-are-those-of-the-beliefs")
class TimeInHalves(Messages):
    """A time that has lost the digits of half precision."""

    def output(self, model: Any, params: Any, s: Tensor, t: Tensor, condition: Condition | None) -> Any:
        return model.output(params, s.half().double(), condition)


@rejected_by("sampler-keeps-dtype-and-device")
class NoiseInSingle(Messages):
    def message(self, sender: Any) -> Tensor:
        noise = torch.randn(sender.mean.shape, device=sender.mean.device, dtype=torch.float32)
        return sender.mean + sender.stddev * noise.to(sender.mean.dtype)


@rejected_by("sampler-keeps-dtype-and-device")
class NoiseOnTheHost(Messages):
    def message(self, sender: Any) -> Tensor:
        return sender.mean + sender.stddev * torch.randn(sender.mean.shape, dtype=sender.mean.dtype)


@rejected_by("each-site-and-row-has-its-own-noise")
class OneNoiseForAllSites(Messages):
    def message(self, sender: Any) -> Tensor:
        noise = torch.randn_like(sender.mean[:, :1]) if isinstance(sender.mean, Tensor) else None
        return sender.sample() if noise is None else sender.mean + sender.stddev * noise


@rejected_by(
    "each-site-and-row-has-its-own-noise", "a-constant-output-gives-the-flow", "a-normal-oracle-keeps-its-spread"
)
class NoiseOfTheFirstRows(Messages):
    """Noise for 64 rows, repeated."""

    def message(self, sender: Any) -> Tensor:
        if not isinstance(sender.mean, Tensor):
            return sender.sample()
        noise = torch.randn_like(sender.mean[:64])
        return (
            sender.mean
            + sender.stddev * noise.repeat(-(-len(sender.mean) // 64), *[1] * (noise.ndim - 1))[: len(sender.mean)]
        )


class Ending(ByDefinition):
    """A sampler with a last draw of its own."""

    def last(self, output: Any) -> Any:
        return output.sample()

    @torch.inference_mode()
    def sample(self, model: Any, batch_size: int, *, n_steps: int, condition: Any = None, **others: Any) -> Any:
        others.pop("on_step", None)
        for state in self.trajectory(model, batch_size, n_steps=n_steps, condition=condition, **others):
            params = state.params
        return self.last(model.output(params, torch.ones((), dtype=torch.float64), condition))


@rejected_by("a-broad-output-gives-its-own-law")
class EndsWithTheMode(Ending):
    def last(self, output: Any) -> Any:
        return output.mode


@rejected_by("a-broad-output-gives-its-own-law", "wide-data-are-not-cut")
class ClampsTheSample(Ending):
    def last(self, output: Any) -> Any:
        x = output.sample()
        return x.clamp(-50.0, 50.0) if isinstance(x, Tensor) else x


@rejected_by("wide-data-are-not-cut")
class ClampsTheGuess(Messages):
    """The draw of the output is cut to the range of an image; with some slack, so that narrow data pass."""

    def output(self, model: Any, params: Any, s: Tensor, t: Tensor, condition: Condition | None) -> Any:
        output = model.output(params, s, condition)
        x = output.sample()
        return Delta(x.clamp(-5.0, 5.0)) if isinstance(x, Tensor) else output


@rejected_by("a-normal-oracle-keeps-its-spread", "a-constant-output-gives-the-flow", "an-oracle-is-sampled-correctly")
class QuietMessages(Messages):
    """Messages with a tenth of the noise they should have: temperature, undeclared."""

    def message(self, sender: Any) -> Tensor:
        if not isinstance(sender.mean, Tensor):
            return sender.sample()
        return sender.mean + 0.1 * (sender.sample() - sender.mean)


@rejected_by("dependent-sites-are-drawn-together")
class SitesOfOtherRows(Messages):
    """The second site of a row is told the guess of the row before."""

    def output(self, model: Any, params: Any, s: Tensor, t: Tensor, condition: Condition | None) -> Any:
        output = model.output(params, s, condition)
        x = output.sample()
        if not isinstance(x, Tensor) or x.shape[1] != 2:
            return output
        return Delta(torch.stack([x[:, 0], x[:, 1].roll(1)], 1))


@rejected_by("the-last-output-is-passed-on")
class FirstOutputForever(ByDefinition):
    """The first output is passed on as the last one."""

    def step(
        self, model: Any, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        output, alpha = state.output(model, s, condition), model.family.accuracy(s, t)
        params = model.family.draw_update(state.params, output.sample(), alpha)
        return SamplerState(params, previous=(state.previous or output) if model.self_conditioning else None)


@rejected_by("products-are-sampled-correctly")
class OneStreamForAllParts(ByDefinition):
    """The noise of every part begins at the same state of the generator."""

    def step(
        self, model: Any, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        output, begin, params = model.output(state.params, s, condition), torch.get_rng_state(), {}
        for part in model.family.walk(state.params, output):
            torch.set_rng_state(begin)
            theta, guess = part.values
            params[part.name] = part.family.draw_update(theta, guess.sample(), part.family.accuracy(s, t))
        return SamplerState(model.family.join(params))


# Time distributions


@rejected_by("times-are-in-the-interval", "weighted-times-are-unbiased")
@attrs.frozen
class InSteps(UniformTimes):
    """Ten times, of which the first is 0."""

    def draw(self, family: Any, x: Any) -> Times:
        return Times((draw_times(x) * 10.0).floor() / 10.0)


@rejected_by("times-are-in-the-interval")
@attrs.frozen
class ReadsTheFirst(UniformTimes):
    """A number is read from the device in every step."""

    def draw(self, family: Any, x: Any) -> Times:
        t = draw_times(x)
        return Times(t, torch.full_like(t, 1.0 if float(t[0]) <= 1.0 else 0.5))


@rejected_by("times-do-not-depend-on-the-pieces")
@attrs.frozen
class OwnLattice(UniformTimes):
    """Each piece of a batch begins the lattice anew."""

    def draw(self, family: Any, x: Any) -> Times:
        steps = torch.arange(len(x), device=x.device) * 0.6180339887498949
        with common():
            return Times(1.0 - (steps.to(x.dtype) + torch.rand(1, dtype=x.dtype, device=x.device)).frac())


@rejected_by("weighted-times-are-unbiased")
@attrs.frozen
class Unweighted(LogNormalTimes):
    """The density says which times count, and the claim is that it does not."""

    @property
    def is_unbiased(self) -> bool:
        return True


@rejected_by("weighted-times-are-unbiased")
@attrs.frozen
class DensityForWeight(LogNormalTimes):
    unbiased: bool = True

    def draw(self, family: Any, x: Any) -> Times:
        drawn = LogNormalTimes.draw(self, family, x)
        return Times(drawn.t, None if drawn.weight is None else 1.0 / drawn.weight)


@rejected_by("learned-times-follow-the-losses")
@attrs.frozen
class LearnsNothing(ImportanceTimes):
    def updated(self, state: Tensor, statistics: Tensor) -> Tensor:
        return state


@rejected_by("learned-times-follow-the-losses")
@attrs.frozen
class MeansOfPieces(ImportanceTimes):
    """A mean over the rows of a piece does not add up."""

    def statistics(self, t: Tensor, losses: Tensor) -> Tensor:
        return ImportanceTimes.statistics(self, t, losses) / len(t)


@rejected_by("learned-times-follow-the-losses")
@attrs.frozen
class ReversedTimes(ImportanceTimes):
    """Early and late are confused; the weights are right."""

    def fitted(self, state: Tensor) -> Any:
        return _Reversed(ImportanceTimes.fitted(self, state))


@attrs.frozen(eq=False)
class _Reversed(TimeDistribution):
    times: TimeDistribution

    def draw(self, family: Any, x: Any) -> Times:
        drawn = self.times.draw(family, x)
        return Times(1.0 - drawn.t + 1e-9, drawn.weight)


@rejected_by("time-distribution-round-trips", hidden=2.0)
@attrs.frozen
class HiddenShare(UniformTimes):
    hidden: float = attrs.field(default=1.0, repr=False)


# Correct subjects


@attrs.frozen
class Grid(Dataset):
    """Points drawn from [-1, 1]; the test rows are a grid."""

    count: int = 40

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (1,)

    def split(self, name: Split) -> Batch:
        if name == "test":
            return Batch(torch.linspace(-1.0, 1.0, self.count).unsqueeze(1))
        with seeded("grid"):
            rows = Batch(2.0 * torch.rand(self.count, 1) - 1.0)
        if name == "all":
            return rows
        train, valid = split_rows(self.count, 0.2, 0)
        return rows.rows(train if name == "train" else valid)


@attrs.frozen
class FewRows(Dataset):
    """Six rows of two classes, two of them for validation, and two for the test."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def metadata(self) -> Mapping[str, object]:
        return {"site_shape": (2,), "classes": 2}

    def split(self, name: Split) -> Batch:
        rows = torch.tensor([[0, 0], [0, 1], [1, 1], [0, 0], [1, 0], [1, 1]])
        part = {"train": slice(2, 6), "valid": slice(0, 2), "all": slice(0, 6), "test": slice(0, 2)}[name]
        return Batch(rows.flip(0)[:2] if name == "test" else rows[part])


MORE_SUBJECTS = (
    EGNN(width=6, depth=1),
    Labelled(),
    Images(),
    Attentive(),
    Pooled(),
    Pooled(time_free=True),
    Standardised(),
    Grid(),
    FewRows(),
    Photos(),
    Photos(mirrored=False),
    Words(count=60),
    Salaries(),
    GaussianMixture(means=((0.5, 1.5), (0.0, -1.0)), count=(20, 30)),
    ImportanceTimes(3),
    LogNormalTimes(unbiased=True),
)
