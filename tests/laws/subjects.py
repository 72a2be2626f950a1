"""Correct subjects of every kind and claim, as the author of a plugin would write them: no law may reject them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent
from torch.nn.functional import one_hot, silu

from bfn_toolkit import (
    ODE2,
    AccuracySchedule,
    AdditiveFamily,
    AncestralSampler,
    Batch,
    ChannelFamily,
    Condition,
    Dataset,
    Delta,
    Finite,
    Model,
    NetworkBuilder,
    NetworkIO,
    Output,
    QuadraticSchedule,
    Sampler,
    SamplerState,
    Split,
    SteppedFamily,
    TableSchedule,
    as_shape,
    expand,
    normal,
    seeded,
    split_rows,
    validators,
    von_mises,
)

# Families


def on_the_circle(x: Tensor) -> Tensor:
    return torch.stack([x.cos(), x.sin()], -1)


@attrs.frozen(eq=False)
class Told:
    """Natural parameters v (B, *site, 2), and the accuracy (B,) they have received."""

    v: Tensor
    accuracy: Tensor


@attrs.frozen
class Circle(ChannelFamily[Told]):
    """Angles: phi(x) = (cos x, sin x); the output is a point, or weights on ``bins`` angles."""

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape)
    bins: int = field(default=0, validator=validators.integer(ge=0))
    schedule: AccuracySchedule = field(factory=lambda: QuadraticSchedule(8.0))
    channels: int = field(default=2, init=False, repr=False, eq=False)

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape, 2, max(1, self.bins))

    def embed(self, x: Tensor) -> Tensor:
        return on_the_circle(x)

    def natural_params(self, params: Told) -> tuple[Tensor, Tensor]:
        return params.v, params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> Told:
        return Told(v, accuracy)

    def input(self, params: Told) -> Distribution:
        return von_mises(params.v)

    def features(self, params: Told) -> Tensor:
        return params.v / expand(1.0 + params.accuracy, params.v)

    def output(self, raw: Tensor, params: Told) -> Output:
        if not self.bins:
            return Delta(raw.squeeze(-1))
        angles = torch.arange(self.bins, dtype=raw.dtype, device=raw.device) * (2.0 * math.pi / self.bins)
        return Finite(angles, raw)


@attrs.frozen
class Classes(AdditiveFamily[Tensor]):
    """Classes 0..K-1 as the paper has them (eq. 141, 171, 185), in log space: params are log-probabilities."""

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape)
    classes: int = field(default=3, validator=validators.integer(ge=2))
    schedule: AccuracySchedule = field(factory=QuadraticSchedule)
    is_discrete = True

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape, self.classes, self.classes)

    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Tensor:
        shape = (batch_size, *self.site_shape, self.classes)
        return torch.full(shape, -math.log(self.classes), device=device, dtype=dtype)

    def input(self, params: Tensor) -> Distribution:
        return Independent(Categorical(logits=params, validate_args=False), params.ndim - 2)

    def mean(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Mean of the message."""
        code = self.classes * one_hot(x, self.classes) - 1.0
        return expand(alpha, code) * code

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return normal(self.mean(x, alpha), (self.classes * alpha).sqrt())

    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return (params + y).log_softmax(-1)

    def features(self, params: Tensor) -> Tensor:
        return 2.0 * params.exp() - 1.0

    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(torch.arange(self.classes, device=raw.device), raw)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        error = one_hot(x, self.classes) - output.expect(lambda k: one_hot(k, self.classes))
        return 0.5 * self.classes * error.square().sum(-1)


@attrs.frozen(eq=False)
class Direction:
    """Concentration times mean direction, (B, *site, 2)."""

    v: Tensor


@attrs.frozen
class Wheel(SteppedFamily[Direction]):
    """Angles told by a von Mises sender (CrysBFN): vectors add, accuracies do not."""

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape)
    schedule: TableSchedule = field(factory=lambda: TableSchedule((0.5, 1.0, 2.0, 4.0)))

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape, 2, 2)

    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Direction:
        return Direction(torch.zeros(batch_size, *self.site_shape, 2, device=device, dtype=dtype))

    def input(self, params: Direction) -> Distribution:
        return von_mises(params.v)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return von_mises(expand(alpha, x).unsqueeze(-1) * on_the_circle(x))

    def update(self, params: Direction, y: Tensor, alpha: Tensor) -> Direction:
        return Direction(params.v + expand(alpha, params.v) * on_the_circle(y))

    def features(self, params: Direction) -> Tensor:
        return params.v / (1.0 + params.v.norm(dim=-1, keepdim=True))

    def output(self, raw: Tensor, params: Direction) -> Output:
        v = params.v + raw
        return Delta(torch.atan2(v[..., 1], v[..., 0]))


# Other kinds


@attrs.frozen
class SaturatingSchedule(AccuracySchedule):
    r"""beta(t) = -b ln(1 - t + t e^{-1/b}) beta_1, with b = 1/2 (the form of ChemBFN)."""

    beta_1: float = field(default=3.0, validator=validators.number(gt=0))

    def beta(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta_1 * torch.log1p(t * math.expm1(-2.0))

    def alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta_1 * math.expm1(-2.0) / (1.0 + t * math.expm1(-2.0))


class ResidualModule(nn.Module):
    def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
        super().__init__()
        size = math.prod(io.site_shape)
        self.shape = (*io.site_shape, io.out_features)
        self.first = nn.Linear(size * io.in_features + 1, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, size * io.out_features)
        nn.init.zeros_(self.last.weight)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        h = self.first(torch.cat([features.flatten(1), t.unsqueeze(-1)], -1))
        for block in self.blocks:
            h = h + block(silu(h))
        return self.last(h).reshape(-1, *self.shape)


@attrs.frozen
class Residual(NetworkBuilder):
    """Residual multilayer perceptron whose last layer starts at zero."""

    width: int = field(default=16, validator=validators.integer(ge=1))
    depth: int = field(default=2, validator=validators.integer(ge=1))

    def build(self, io: NetworkIO) -> nn.Module:
        return ResidualModule(self.width, self.depth, io)


class AdaptedModule(ResidualModule):
    def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
        super().__init__(width, depth, io)
        self.adapter = nn.Parameter(torch.zeros(2))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return super().forward(features, t) * (1.0 + self.adapter.sum())


@attrs.frozen
class Adapted(Residual):
    """The same, with a factor that is trained beside its weights."""

    @property
    def base(self) -> NetworkBuilder:
        return Residual(self.width, self.depth)

    def base_names(self, network: nn.Module) -> Mapping[str, str]:
        return {name: name for name in network.state_dict() if name != "adapter"}

    def base_state(self, network: nn.Module) -> Mapping[str, Tensor]:
        state = network.state_dict()
        factor = 1.0 + state["adapter"].sum()
        found = {name: state[name] for name in self.base_names(network)}
        return found | {name: factor * state[name] for name in ("last.weight", "last.bias")}

    def build(self, io: NetworkIO) -> nn.Module:
        return AdaptedModule(self.width, self.depth, io)


class ListeningModule(ResidualModule):
    def forward(self, features: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        side = condition.get("side", torch.zeros_like(t)).to(t.dtype)
        return super().forward(features, t + side)


@attrs.frozen
class Listening(Residual):
    """The same, with a condition that it hears as another time."""

    conditions: tuple[str, ...] = ("side",)

    def build(self, io: NetworkIO) -> nn.Module:
        return ListeningModule(self.width, self.depth, io)


@attrs.frozen
class Angles(Dataset):
    """Angles of two directions, with one example that occurs twice, and the direction for a condition."""

    count: int = field(default=30, validator=validators.integer(ge=4))
    seed: int = 7

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (2,)

    def split(self, name: Split) -> Batch:
        with seeded(self.seed, "test" if name == "test" else "all"):
            side = torch.randint(2, (self.count,))
            x = 0.3 * torch.randn(self.count, 2) + 2.0 * side.unsqueeze(-1) - 1.0
        x[1], side[1] = x[0], side[0]
        rows = Batch(x, {"side": side})
        if name in ("test", "all"):
            return rows
        train, valid = split_rows(self.count, 0.2, self.seed)
        return rows.rows(train if name == "train" else valid)


@attrs.frozen
class ByDefinition(Sampler[SamplerState]):
    """The ancestral sampler, message by message."""

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        return SamplerState(model.family.prior(batch_size, device=device, dtype=dtype))

    def step(
        self, model: Model, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        alpha = model.family.accuracy(s, t)
        y = model.family.sender(model.output(state.params, s, condition).sample(), alpha).sample()
        return SamplerState(model.family.update(state.params, y, alpha))


@attrs.frozen
class Meaning(AncestralSampler):
    """First-order stochastic solver (SDE-BFN-Solver 1): the output's mean where the ancestral sampler has a draw."""

    def step(
        self, model: Model, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        x = model.output(state.params, s, condition).mean
        return SamplerState(model.family.draw_update(state.params, x, model.family.accuracy(s, t)))


SUBJECTS: tuple[Any, ...] = (
    Circle(),
    Circle(site_shape=(2,), bins=5),
    Classes(),
    Classes(site_shape=(2, 2), classes=4, schedule=SaturatingSchedule()),
    Wheel(),
    Residual(),
    Residual(width=5, depth=1),
    Adapted(),
    Listening(),
    Angles(),
    SaturatingSchedule(),
    ByDefinition(),
    Meaning(),
    ODE2(),
)
