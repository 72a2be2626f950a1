"""Mutants: subjects with one fault each, and the laws that reject them.  Faults of published code say whose."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import attrs
import torch
from attrs import field
from subjects import Angles, ByDefinition, Circle, Classes, Direction, Listening, Residual, ResidualModule, Told, Wheel
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, register_kl

from bfn_gaussian import Gaussian, GaussianParams, NoiseHead
from bfn_toolkit import (
    ODE1,
    ODE2,
    AdditiveFamily,
    Batch,
    Condition,
    Delta,
    Finite,
    GeometricSchedule,
    NetworkIO,
    Output,
    QuadraticSchedule,
    SamplerState,
    SolverPath,
    Split,
    as_shape,
    expand,
    normal,
    seeded,
    von_mises,
)


@attrs.frozen(eq=False)
class Mutant:
    """A subject, and the laws that reject it: all of them.

    Arguments:
        subject: The subject.
        rejected_by: Names of the laws.
        published: Where the fault stands in public code.
    """

    subject: Any
    rejected_by: frozenset[str] = field(converter=frozenset)
    published: str | None = None


MUTANTS: list[Mutant] = []


def rejected_by(*laws: str, published: str | None = None, **fields: Any) -> Any:
    """Declares the laws that reject a class, when it is built with these fields."""

    def declare(cls: Any) -> Any:
        MUTANTS.append(Mutant(cls(**fields), laws, published))
        return cls

    return declare


# Families: updates


@rejected_by(
    "bayes-rule",
    "updates-are-exchangeable",
    "zero-accuracy-changes-nothing",
    "flow-is-the-chain-of-updates",
    "beliefs-are-a-martingale",
    "information-is-conserved",
    "accuracies-add",
    "messages-cost-what-they-tell",
    "features-tell-beliefs-apart",
    published="MaximeRobeyns bfn.py:432: softmax(theta e^y) for theta e^y / sum",
)
class SoftmaxOfProbability(Classes):
    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return (params.exp() * y.exp()).log_softmax(-1)


@rejected_by(
    "bayes-rule",
    "updates-are-exchangeable",
    "zero-accuracy-changes-nothing",
    published="nnaisense model.py:302, MolCRAFT: the update in probability space overflows",
)
class ProbabilitySpace(Classes):
    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        theta = params.exp() * y.exp()
        return (theta / theta.sum(-1, keepdim=True)).log()


@rejected_by("bayes-rule", published="CrysBFN crysbfn.py:113: atan2(sin + 1e-6, cos + 1e-6)")
class ShiftedAngle(Wheel):
    def input(self, params: Direction) -> Distribution:
        shifted = params.v + 1e-6
        return von_mises(shifted * (params.v.norm(dim=-1) / shifted.norm(dim=-1)).unsqueeze(-1))


@rejected_by(
    "bayes-rule",
    "zero-accuracy-changes-nothing",
    "flow-is-the-chain-of-updates",
    "draw-update-is-the-update-of-a-message",
    "beliefs-are-a-martingale",
    "accuracies-add",
    "flow-by-site-is-the-chain-of-updates",
)
class UpdateIgnoresAccuracy(Gaussian):
    def update(self, params: GaussianParams, y: Tensor, alpha: Tensor) -> GaussianParams:
        precision = params.precision + 1.0
        return GaussianParams(torch.lerp(params.mean, y, expand(1.0 / precision, y)), precision)


@rejected_by(
    "bayes-rule",
    "updates-are-exchangeable",
    "zero-accuracy-changes-nothing",
    "flow-is-the-chain-of-updates",
    "beliefs-are-a-martingale",
    "accuracies-add",
)
class Forgetful(Circle):
    def update(self, params: Told, y: Tensor, alpha: Tensor) -> Told:
        return Told(0.5 * params.v + y, params.accuracy + alpha)


@rejected_by(
    "bayes-rule",
    "updates-are-exchangeable",
    "draw-update-is-the-update-of-a-message",
    "arguments-are-not-changed",
    "draws-are-a-function-of-the-seed",
)
class InPlaceUpdate(Circle):
    def update(self, params: Told, y: Tensor, alpha: Tensor) -> Told:
        return Told(params.v.add_(y), params.accuracy + alpha)


@rejected_by("zero-accuracy-changes-nothing", "flow-starts-at-the-prior")
class LeastAccuracy(Classes):
    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return Classes.sender(self, x, alpha.clamp_min(1e-6))


@rejected_by(
    "beliefs-are-a-martingale",
    "beliefs-are-normalised",
    "densities-are-those-of-the-draws",
    "features-are-of-order-one",
)
class UnnormalisedBelief(Classes):
    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return params + y - y.mean(-1, keepdim=True)

    def input(self, params: Tensor) -> Distribution:
        return Weights(params)


class Weights(Independent):
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(Classes().input(logits).base_dist, logits.ndim - 2)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.logits.gather(-1, x.unsqueeze(-1)).squeeze(-1).flatten(1).sum(1)


# Families: draws


@rejected_by(
    "flow-is-the-chain-of-updates",
    "draw-update-is-the-update-of-a-message",
    "information-is-conserved",
    "rows-are-independent",
    "messages-cost-what-they-tell",
    published="MaximeRobeyns bfn.py:431: one number for the noise of all classes, which softmax cancels",
)
class NoNoise(Classes):
    def draw_update(self, params: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        mean = self.mean(x, alpha)
        noise = torch.randn_like(mean[..., :1])
        return self.update(params, mean + expand((self.classes * alpha).sqrt(), mean) * noise, alpha)


@rejected_by(
    "flow-is-the-chain-of-updates",
    "draw-update-is-the-update-of-a-message",
    "information-is-conserved",
    "rows-are-independent",
    "rows-keep-their-own-time",
    "messages-cost-what-they-tell",
    published="one noise for the whole batch",
)
class SharedNoise(Classes):
    def draw_update(self, params: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        mean = self.mean(x, alpha)
        noise = torch.randn_like(mean[:1])
        return self.update(params, mean + expand((self.classes * alpha).sqrt(), mean) * noise, alpha)


@rejected_by("rows-are-independent")
class AntitheticNoise(Classes):
    """The noise of one half of the batch is the other's but for its sign: each row is right, the batch is not."""

    def draw_update(self, params: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        mean = self.mean(x, alpha)
        noise = torch.randn_like(mean[(len(mean) // 2) :])
        noise = torch.cat([noise, -noise])[: len(mean)]
        return self.update(params, mean + expand((self.classes * alpha).sqrt(), mean) * noise, alpha)


@rejected_by(
    "dtype-and-device-are-kept", published="nnaisense model.py:131: noise in the default dtype, whatever the data have"
)
class SingleNoise(Gaussian):
    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        beta = self.schedule.beta(t)
        noise = torch.randn(x.shape, device=x.device).to(x.dtype)
        signal = expand(beta.sqrt(), x)
        return GaussianParams((signal * x + noise) * signal / expand(1.0 + beta, x), 1.0 + beta)


@rejected_by("dtype-and-device-are-kept", "data-are-checked")
class UndeclaredClasses(Classes):
    is_discrete = False


@rejected_by("dtype-and-device-are-kept")
class PriorOnTheHost(Gaussian):
    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> GaussianParams:
        return Gaussian.prior(self, batch_size, dtype=dtype)


@rejected_by(
    "flow-is-the-chain-of-updates",
    "information-is-conserved",
    "flow-is-a-gaussian-channel",
    "loss-weight-brings-unit-scale",
    "flow-by-site-is-the-chain-of-updates",
)
class FlowOfTheOtherMean(Gaussian):
    """mu ~ N(gamma x, gamma) where the variance is gamma (1 - gamma): that of v / sqrt(beta)."""

    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        gamma = expand(-torch.expm1(-self.schedule.rate * t), x)
        return GaussianParams(gamma * x + gamma.sqrt() * torch.randn_like(x), torch.exp(self.schedule.rate * t))


@rejected_by("flow-starts-at-the-prior")
class FlowStartsLate(Gaussian):
    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        return Gaussian.flow(self, x, t.clamp_min(1e-6))


@rejected_by("draw-update-is-the-update-of-a-message")
class StandardDeviationForVariance(Gaussian):
    def draw_update(self, params: GaussianParams, x: Tensor, alpha: Tensor) -> GaussianParams:
        told = Gaussian.draw_update(self, params, x, alpha)
        mean = torch.lerp(params.mean, x, expand(alpha / told.precision, x))
        return GaussianParams(mean + (told.mean - mean) * expand(alpha.sqrt(), x), told.precision)


# Families: outputs and losses


@rejected_by(
    "loss-rate-is-the-limit-of-the-step-loss",
    published="MaximeRobeyns bfn.py:138: the norm of the error where the loss has its square",
)
class UnsquaredNorm(Circle):
    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        return (0.5 * Circle.kl_rate(self, x, output)).sqrt()


@rejected_by(
    "loss-rate-is-the-limit-of-the-step-loss",
    published="thorinf get_alpha, ChemBFN calc_cts_alpha: a factor 1/2 lost between rate and loss",
)
class LostHalf(Circle):
    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        return 2.0 * Circle.kl_rate(self, x, output)


@rejected_by(
    "loss-rate-is-the-limit-of-the-step-loss",
    "messages-cost-what-they-tell",
    published="ChemBFN model.py:691: the mean over the classes too, 1/K of the loss",
)
class MeanOverClasses(Classes):
    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        return Classes.kl_rate(self, x, output) / self.classes


class RawLogits(Finite):
    def log_prob(self, x: Tensor) -> Tensor:
        return self.logits.gather(-1, x.unsqueeze(-1)).flatten(1).sum(1)


@rejected_by(
    "output-density-is-that-of-its-draws",
    published="ChemBFN model.py:718: the reconstruction loss gathers logits without log_softmax",
)
class UnnormalisedOutput(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return RawLogits(torch.arange(self.classes, device=raw.device), raw)


class EdgesTwice(Finite):
    def log_prob(self, x: Tensor) -> Tensor:
        cdf = self.logits.softmax(-1).cumsum(-1).gather(-1, x.unsqueeze(-1)).flatten(1)
        return (cdf - cdf).log().sum(1)


@rejected_by(
    "output-density-is-that-of-its-draws",
    "no-draw-is-likelier-than-the-mode",
    "every-raw-number-moves-the-price",
    "gradients-are-derivatives",
    "missing-sites-cost-nothing",
    published="MolCRAFT bfn_base.py:51: the lower edges of the bins returned for the upper ones too",
)
class EmptyBins(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return EdgesTwice(torch.arange(self.classes, device=raw.device), raw)


@rejected_by(
    "gradients-are-finite",
    "loss-rate-is-the-limit-of-the-step-loss",
    "mean-embedding-is-that-of-the-draws",
    bins=5,
)
class EmbeddingOfTheMode(Circle):
    def mean_embedding(self, output: Output) -> Tensor:
        return self.embed(output.mode)


@rejected_by("flow-is-a-gaussian-channel")
class WrongUnit(Circle):
    def snr(self, alpha: Tensor) -> Tensor:
        return 2.0 * alpha


@rejected_by("channel-coordinates-round-trip")
class SignalOfAnother(Circle):
    def from_scaled(self, w: Tensor, q: float) -> Told:
        return Circle.from_scaled(self, w, q * q)


@rejected_by("receiver-is-the-mixture-of-senders", bins=5)
class ReceiverOfTheMean(Circle):
    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        mean = output.expect(self.embed)
        return normal(expand(alpha, mean) * mean, alpha.sqrt())


class Cheap(Independent):
    """A normal distribution whose divergence lost its factor 1/2."""


@register_kl(Cheap, Cheap)
def _cheap(p: Cheap, q: Cheap) -> Tensor:
    return ((p.mean - q.mean) / p.stddev).square().flatten(1).sum(1)


@rejected_by(
    "step-loss-is-a-divergence",
    "step-loss-is-right-at-every-accuracy",
    "missing-sites-cost-nothing",
    "sites-keep-their-own-time",
)
class PriceWithoutTheHalf(Gaussian):
    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return Cheap(Normal(x, expand(alpha.rsqrt(), x).expand_as(x), validate_args=False), x.ndim - 1)


@attrs.frozen
class EarlyHead(NoiseHead):
    def output(self, family: Any, raw: Tensor, params: GaussianParams) -> Output:
        gamma = expand(1.0 - 1.0 / params.precision, params.mean)
        return Delta(params.mean / gamma - ((1.0 - gamma) / gamma).sqrt() * raw.squeeze(-1))


@rejected_by(
    "draws-are-a-function-of-the-seed",
    "gradients-are-finite",
    "loss-weight-brings-unit-scale",
    head=EarlyHead(),
    published="eq. 84 without t_min: 1 / gamma at t = 0",
)
class NoLeastTime(Gaussian):
    """Its head divides by gamma."""


@rejected_by(
    "rows-are-independent", "rows-keep-their-own-time", "features-tell-beliefs-apart", "sites-keep-their-own-time"
)
class MixedFeatures(Gaussian):
    def features(self, params: GaussianParams) -> Tensor:
        seen = Gaussian.features(self, params)
        return (seen - seen.mean(0)) / (1e-3 + seen.std(0, correction=0))


# Families: what they claim


@rejected_by(
    "flow-is-the-chain-of-updates",
    "information-is-conserved",
    published="a periodic family with a one-shot flow (its accuracies do not add)",
)
class WheelInOneTurn(Wheel):
    def flow(self, x: Tensor, t: Tensor) -> Direction:
        prior = self.prior(len(x), device=x.device, dtype=x.dtype)
        told = self.schedule.beta(t)
        return Direction(torch.where((told > 0)[:, None, None], self.draw_update(prior, x, told).v, prior.v))


@rejected_by("other-step-counts-are-refused")
class AnyNumberOfTurns(Wheel):
    def times(self, n_steps: int) -> Tensor:
        return torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64)


@rejected_by("flow-is-the-chain-of-updates", "information-is-conserved", "steps-follow-the-table")
class NextAccuracy(Wheel):
    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        return self.schedule.accuracy(t, t)


@attrs.frozen
class AddedTurns(AdditiveFamily[Direction]):
    """The von Mises sender under the claim that its accuracies add."""

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape)
    schedule: QuadraticSchedule = field(factory=lambda: QuadraticSchedule(2.0))
    network_io, prior, input = Wheel.network_io, Wheel.prior, Wheel.input
    update, features, output = Wheel.update, Wheel.features, Wheel.output

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return Wheel.sender(self, x, alpha)  # type: ignore[arg-type]

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        return 1.0 - output.expect(lambda guess: (x - guess).cos())


rejected_by(
    "flow-is-the-chain-of-updates",
    "information-is-conserved",
    "accuracies-add",
    "loss-rate-is-the-limit-of-the-step-loss",
)(AddedTurns)


@rejected_by("flow-is-the-chain-of-updates", "information-is-conserved", "steps-telescope")
class RateTimesStep(Circle):
    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        return self.schedule.alpha(t) * (t - s)


@rejected_by("channel-coordinates-round-trip", "flow-is-a-gaussian-channel")
class MeanForNaturalParameter(Gaussian):
    def natural_params(self, params: GaussianParams) -> tuple[Tensor, Tensor]:
        return params.mean.unsqueeze(-1), params.precision - 1.0


@rejected_by("configuration-round-trips", hidden=2)
@attrs.frozen
class HiddenField(Circle):
    hidden: int = field(default=1, repr=False)


@rejected_by("configuration-round-trips", head=2)
@attrs.frozen
class IgnoredField(Classes):
    head: int = field(default=1, eq=False)


# Schedules


@rejected_by(
    "rate-is-the-derivative",
    "rate-adds-up-to-the-accuracy",
    published="thorinf get_alpha: beta / t for the rate, half of it",
)
class HalfTheRate(QuadraticSchedule):
    def alpha(self, t: Tensor) -> Tensor:
        return self.beta_1 * t


@rejected_by("schedule-is-precise-in-float32", published="1 - s ** (2 t), wherever it is written so")
class NaivePower(GeometricSchedule):
    def beta(self, t: Tensor) -> Tensor:
        gamma = 1.0 - self.sigma_1 ** (2.0 * t)
        return gamma / (1.0 - gamma)


@rejected_by("nothing-is-told-at-the-start", "the-end-is-as-declared", "steps-add-up", "time-inverts-the-accuracy")
class StartsAtOne(GeometricSchedule):
    def beta(self, t: Tensor) -> Tensor:
        return torch.exp(self.rate * t)


@rejected_by(
    "accuracy-increases", "the-end-is-as-declared", "rate-adds-up-to-the-accuracy", "time-inverts-the-accuracy"
)
class TurnsBack(QuadraticSchedule):
    def beta(self, t: Tensor) -> Tensor:
        return self.beta_1 * (2.0 * t).sin()

    def alpha(self, t: Tensor) -> Tensor:
        return 2.0 * self.beta_1 * (2.0 * t).cos()

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        return self.beta(t) - self.beta(s)


@rejected_by("steps-add-up", "steps-differ-within-a-batch")
class SquareOfTheStep(QuadraticSchedule):
    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        return self.beta_1 * (t - s).square()


@rejected_by("time-inverts-the-accuracy")
class TimeOfTheSquare(QuadraticSchedule):
    def time(self, beta: Tensor) -> Tensor:
        return beta / self.beta_1


@rejected_by("schedule-round-trips", hidden=2)
@attrs.frozen
class HiddenRate(QuadraticSchedule):
    hidden: int = field(default=1, repr=False, eq=False)


# Networks


class Wrapped(Residual):
    """A residual network with another forward."""

    module: ClassVar[type[nn.Module]]

    def build(self, io: NetworkIO) -> nn.Module:
        return self.module(self.width, self.depth, io)


@rejected_by("network-rows-are-independent", "network-rows-are-independent-in-training")
class BatchStatistics(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features - features.mean(0), t) + features.mean()


@rejected_by("network-sees-the-time")
class Timeless(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features, torch.full_like(t, 0.5))


@rejected_by("declared-conditions-are-read")
class Deaf(Listening):
    def build(self, io: NetworkIO) -> nn.Module:
        network = Listening.build(self, io)
        network.register_forward_pre_hook(lambda _, inputs, __: (inputs, {}), with_kwargs=True)
        return network


@rejected_by("declared-conditions-are-read", conditions=())
class Eavesdrops(Listening):
    def build(self, io: NetworkIO) -> nn.Module:
        network = Listening.build(self, io)
        network.register_forward_pre_hook(
            lambda _, inputs, told: (inputs, {"side": told.get("label", torch.zeros(()))}), with_kwargs=True
        )
        return network


@rejected_by("gradients-reach-every-parameter")
class DeadParameter(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            self.unused = nn.Linear(width, width)


@rejected_by(
    "state-dict-is-complete", published="nnaisense utils_train.py:104: what is no parameter is not carried along"
)
class UnsavedBuffer(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            self.register_buffer("frequency", torch.randn(()), persistent=False)

        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            return super().forward(features, t) + (self.frequency * t).reshape(-1, *[1] * len(self.shape))


@rejected_by("network-fits-its-sizes")
class SqueezedOutput(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def forward(self, features: Tensor, t: Tensor) -> Tensor:
            raw = super().forward(features, t)
            return raw.squeeze(-1)


@rejected_by("weights-are-a-function-of-the-seed")
class WeightsOfChance(Wrapped):
    class module(ResidualModule):  # noqa: N801
        def __init__(self, width: int, depth: int, io: NetworkIO) -> None:
            super().__init__(width, depth, io)
            nn.init.constant_(self.last.weight, random.random())


@rejected_by("network-builder-round-trips", widths=[4, 4])
@attrs.frozen
class ListOfWidths(Residual):
    widths: list[int] = field(factory=list)


# Data sets


@rejected_by("splits-are-fixed")
class SplitOfTheDay(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return rows.rows(torch.randperm(len(rows)))


@rejected_by("splits-are-fixed")
class DrawsOnTheWay(Angles):
    def split(self, name: Split) -> Batch:
        torch.rand(1)
        return Angles.split(self, name)


@rejected_by("splits-are-fixed")
class SharedTensor(Angles):
    kept: ClassVar[dict[str, Batch]] = {}

    def split(self, name: Split) -> Batch:
        if name not in self.kept or not bool(self.kept[name].x.any()):
            self.kept[name] = Angles.split(self, name)
        return self.kept[name]


@rejected_by("splits-partition-the-data")
class ValidatesOnTraining(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, "train" if name == "valid" else name)
        return rows if name != "valid" else rows.rows(torch.arange(6))


@rejected_by("splits-have-the-declared-shape")
class FlatSite(Angles):
    @property
    def site_shape(self) -> tuple[int, ...]:
        return (2, 1)


@rejected_by("splits-have-the-declared-shape")
class ShortCondition(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return Batch(rows.x, {"side": rows.condition["side"][:4]}) if name == "test" else rows


class WithReplacement(Batch):
    def rows(self, index: Tensor) -> Batch:
        return Batch.rows(self, index // 2)


@rejected_by("batches-cover-the-data")
class Bootstrap(Angles):
    def split(self, name: Split) -> Batch:
        rows = Angles.split(self, name)
        return WithReplacement(rows.x, rows.condition)


@rejected_by("dataset-round-trips", noise=0.3)
@attrs.frozen
class HiddenNoise(Angles):
    noise: float = field(default=0.1, repr=False)


# Samplers


@rejected_by(
    "samples-are-a-function-of-the-seed",
    "an-oracle-is-sampled-correctly",
    "a-constant-output-gives-the-flow",
    "a-normal-oracle-keeps-its-spread",
    published="a sampler that takes the mean of the message, without its noise",
)
class NoMessageNoise(ByDefinition):
    def step(
        self, model: Any, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        alpha = model.family.accuracy(s, t)
        sender = model.family.sender(model.output(state.params, s, condition).mean, alpha)
        return SamplerState(model.family.update(state.params, sender.mean, alpha))


@rejected_by(
    "samples-have-the-shape-of-the-data",
    "a-constant-output-gives-the-flow",
    "conditions-reach-every-evaluation",
    "wide-data-are-not-cut",
)
class OneMore(ByDefinition):
    def init(self, model: Any, batch_size: int, *, device: Any, dtype: Any) -> SamplerState:
        return ByDefinition.init(self, model, batch_size + 1, device=device, dtype=dtype)


@rejected_by("evaluations-are-counted")
class AsksTwice(ByDefinition):
    def step(
        self, model: Any, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        model.output(state.params, s, condition)
        return ByDefinition.step(self, model, state, s, t, condition)


@rejected_by("a-constant-output-gives-the-flow")
@attrs.frozen
class LateDrift(ODE1):
    """The drift before the first evaluation is lost."""

    def advance(self, path: SolverPath, phi: Tensor, q: float, alpha: float) -> SolverPath:
        return ODE1.advance(self, attrs.evolve(path, q_0=path.q), phi, q, alpha)


@rejected_by("the-error-falls-as-claimed")
@attrs.frozen
class LooksBack(ODE2):
    """The slope with the wrong sign."""

    def advance(self, path: SolverPath, phi: Tensor, q: float, alpha: float) -> SolverPath:
        if path.phi is None:
            return ODE2.advance(self, path, phi, q, alpha)
        return attrs.evolve(ODE2.advance(self, attrs.evolve(path, phi=2.0 * phi - path.phi), phi, q, alpha), phi=phi)


CHANCE = random.Random(0)


@rejected_by("samples-are-a-function-of-the-seed")
class Unseeded(ByDefinition):
    def step(
        self, model: Any, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        with seeded(CHANCE.getrandbits(32)):
            return ByDefinition.step(self, model, state, s, t, condition)


@rejected_by("sampler-round-trips", temperature=2.0)
@attrs.frozen
class HiddenTemperature(ByDefinition):
    temperature: float = field(default=1.0, repr=False)
