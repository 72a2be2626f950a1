"""Mutants of families and losses: what a real author gets wrong in one verb, and the laws that reject it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import torch
from attrs import field
from family_subjects import Erasure
from mutants import rejected_by
from subjects import Circle, Classes, Direction, Told, Wheel
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import one_hot

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, GaussianParams, NoiseHead, UnsquaredNormLoss
from bfn_gaussian_heads import MixtureHead
from bfn_toolkit import (
    Condition,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Finite,
    Model,
    Output,
    ProductFamily,
    ReconstructionLoss,
    SiteNormalMixture,
    draw_times,
    expand,
    kl,
    normal,
    per_example,
)
from bfn_toolkit.masks import mask_by_part
from bfn_toolkit.product_family import JointOutput
from bfn_toolkit.shapes import batch_size

# Rows


@rejected_by(
    "information-is-conserved",
    "rows-keep-their-own-time",
    "flow-by-site-is-the-chain-of-updates",
    "sites-keep-their-own-time",
    "the-loss-does-not-depend-on-the-path",
)
class FlowAtTheFirstTime(Gaussian):
    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        return Gaussian.flow(self, x, t[:1].expand_as(t))


@rejected_by("information-is-conserved", "rows-keep-their-own-time", "messages-cost-what-they-tell")
class FlowAtTheMeanTime(Classes):
    def flow(self, x: Tensor, t: Tensor) -> Tensor:
        return Classes.flow(self, x, t.mean().expand_as(t))


@rejected_by("information-is-conserved", "rows-keep-their-own-time")
class MessageOfTheFirstAccuracy(Classes):
    def draw_update(self, params: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        return Classes.draw_update(self, params, x, alpha.reshape(-1)[0].expand(len(x)))


@rejected_by("rows-keep-their-own-time", "step-loss-is-right-at-every-accuracy")
class ReceiverOfTheFirstAccuracy(Circle):
    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        return Circle.receiver(self, output, alpha.reshape(-1)[:1].expand(alpha.shape))


@rejected_by("rows-keep-their-own-time")
class PriceOfTheMeanAccuracy(Gaussian):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        return 0.5 * alpha.mean() * per_example((x - output.mean).square())


@rejected_by("loss-rate-is-alpha-times-the-kl-rate", "rows-keep-their-own-time")
class RateAtTheMeanTime(Circle):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        return self.schedule.alpha(t.mean()) * per_example(self.kl_rate(x, output))


@rejected_by("loss-rate-is-alpha-times-the-kl-rate", "rows-keep-their-own-time", "gradients-are-derivatives")
class RateOfTheBatch(Circle):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        return self.schedule.alpha(t) * self.kl_rate(x, output).sum()


@rejected_by("rows-keep-their-own-time")
class NeedsManyAccuracies(Classes):
    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return Classes.update(self, params, y, alpha[:, None])


@rejected_by("rows-keep-their-own-time")
class SharpestOfTheBatch(Circle):
    def features(self, params: Told) -> Tensor:
        return params.v / (1.0 + params.accuracy.max())


# Noise


@rejected_by("draws-are-a-function-of-the-seed", "float32-is-precise")
class KeptNoise(Gaussian):
    kept: ClassVar[dict[Any, Tensor]] = {}

    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        noise = self.kept.setdefault((x.shape, x.dtype, x.device), torch.randn_like(x))
        beta = expand(self.schedule.beta(t), x)
        return GaussianParams((beta * x + beta.sqrt() * noise) / (1.0 + beta), 1.0 + self.schedule.beta(t))


GENERATOR = torch.Generator().manual_seed(0)


@rejected_by(
    "draws-are-a-function-of-the-seed", "float32-is-precise", "missing-sites-cost-nothing", "sites-keep-their-own-time"
)
class OwnGenerator(Gaussian):
    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        noise = torch.randn(x.shape, generator=GENERATOR, dtype=x.dtype).to(x.device)
        beta = expand(self.schedule.beta(t), x)
        return GaussianParams((beta * x + beta.sqrt() * noise) / (1.0 + beta), 1.0 + self.schedule.beta(t))


@rejected_by("draws-are-a-function-of-the-seed")
class PriceSeedsItself(Classes):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        torch.manual_seed(0)
        return Classes.step_loss(self, x, output, alpha, samples)


# Shapes


@rejected_by(
    "gradients-are-finite",
    "loss-rate-is-alpha-times-the-kl-rate",
    "results-have-their-shapes",
    "gradients-are-derivatives",
    site_shape=(2,),
)
class PriceOfEachSite(Circle):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        return expand(self.schedule.alpha(t), x) * self.kl_rate(x, output)


@rejected_by("loss-rate-is-alpha-times-the-kl-rate", site_shape=(2,))
class MeanOverSites(Circle):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        return self.schedule.alpha(t) * self.kl_rate(x, output).mean(-1)


@rejected_by("results-have-their-shapes")
class FlatFeatures(Circle):
    def features(self, params: Told) -> Tensor:
        return Circle.features(self, params).flatten(1)


@rejected_by("flow-is-a-gaussian-channel", "results-have-their-shapes")
class PriorOfThePosition(Circle):
    """The prior of later rows is not that of the first."""

    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Told:
        prior = Circle.prior(self, batch_size, device=device, dtype=dtype)
        prior.v[1:] += 0.2
        return prior


# Densities


class Lighter(Independent):
    """A normal distribution without its factor 1 / sqrt(2 pi)."""

    def log_prob(self, value: Tensor) -> Tensor:
        return Independent.log_prob(self, value) + 0.5 * math.log(2.0 * math.pi) * self.event_shape.numel()


@rejected_by("densities-are-those-of-the-draws")
class BeliefWithoutTwoPi(Gaussian):
    def input(self, params: GaussianParams) -> Distribution:
        scale = expand(params.precision.rsqrt(), params.mean).expand_as(params.mean)
        return Lighter(Normal(params.mean, scale, validate_args=False), params.mean.ndim - 1)


class LighterMixture(SiteNormalMixture):
    def log_prob(self, x: Tensor) -> Tensor:
        return SiteNormalMixture.log_prob(self, x) + 0.5 * math.log(2.0 * math.pi) * x[0].numel()


@attrs.frozen
class LighterHead(MixtureHead):
    def output(self, family: Any, raw: Tensor, params: GaussianParams) -> Output:
        normals = self.normals(family, raw, params)
        return LighterMixture(normals.logits, normals.means, normals.scales)


@rejected_by("output-density-is-that-of-its-draws", head=LighterHead(components=2))
class OutputWithoutTwoPi(Gaussian):
    """The head's log-density lacks 2 pi."""


class Narrow(Independent):
    """Draws with half of the standard deviation that the density says."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.mean + 0.5 * (Independent.sample(self, sample_shape) - self.mean)


@rejected_by(
    "flow-is-the-chain-of-updates",
    "draw-update-is-the-update-of-a-message",
    "beliefs-are-a-martingale",
    "loss-rate-is-the-limit-of-the-step-loss",
    "step-loss-is-right-at-every-accuracy",
    "flow-by-site-is-the-chain-of-updates",
)
class NarrowMessages(Gaussian):
    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return Narrow(Normal(x, expand(alpha.rsqrt(), x).expand_as(x), validate_args=False), x.ndim - 1)


@rejected_by(
    "beliefs-are-a-martingale",
    "beliefs-are-normalised",
    "densities-are-those-of-the-draws",
    "a-point-is-as-sharp-as-the-last-beliefs",
)
class NarrowBeliefs(Gaussian):
    def input(self, params: GaussianParams) -> Distribution:
        scale = expand(params.precision.rsqrt(), params.mean).expand_as(params.mean)
        return Narrow(Normal(params.mean, scale, validate_args=False), params.mean.ndim - 1)


class LeastLikely(Finite):
    @property
    def mode(self) -> Tensor:
        return self._at(self.logits.argmin(-1))


@rejected_by("no-draw-is-likelier-than-the-mode")
class ModeOfTheLeast(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return LeastLikely(None, raw)


class RoundedMean(Finite):
    @property
    def mode(self) -> Tensor:
        return self.mean.round().long()


@rejected_by("no-draw-is-likelier-than-the-mode", classes=5)
class ModeOfTheMean(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return RoundedMean(None, raw)


@attrs.frozen
class BluntHead(NoiseHead):
    def output(self, family: Any, raw: Tensor, params: GaussianParams) -> Output:
        point = NoiseHead.output(self, family, raw, params)
        return attrs.evolve(point, std=family.sigma_1**2)  # type: ignore[arg-type]


@rejected_by("a-point-is-as-sharp-as-the-last-beliefs", head=BluntHead())
class VarianceForTheStd(Gaussian):
    """The point has the variance of the last beliefs for its standard deviation."""


class MeanOfTheMode(Finite):
    @property
    def mean(self) -> Tensor:
        return self.mode.to(self.logits.dtype)


@rejected_by("output-density-is-that-of-its-draws")
class ModeForTheMean(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return MeanOfTheMode(None, raw)


# Prices


@rejected_by("step-loss-is-a-divergence", "step-loss-is-right-at-every-accuracy", "sites-keep-their-own-time")
class PriceWithoutAccuracy(Gaussian):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        return 0.5 * per_example((x - output.mean).square()) + 0.0 * alpha


@rejected_by("messages-cost-what-they-tell", "step-loss-is-right-at-every-accuracy", "sites-keep-their-own-time")
class PriceWithoutTheNoise(Categorical):
    """The draws of the message are forgotten in the price, which at large accuracies is small anyway."""

    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        return alpha * per_example(self.kl_rate(x, output))


@rejected_by("step-loss-is-right-at-every-accuracy")
class SumOfSamples(Classes):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        prices = [kl(self.sender(x, alpha), self.receiver(output, alpha)) for _ in range(samples)]
        return torch.stack(prices).sum(0)


@rejected_by("step-loss-is-right-at-every-accuracy")
class OneSampleAlways(Classes):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        return kl(self.sender(x, alpha), self.receiver(output, alpha))


@rejected_by("step-loss-is-a-divergence", "messages-cost-what-they-tell", "step-loss-is-right-at-every-accuracy")
class ReverseDivergence(Classes):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        return kl(self.receiver(output, alpha), self.sender(x, alpha), samples)


@rejected_by("receiver-is-the-mixture-of-senders", "loss-rate-is-the-limit-of-the-step-loss", bins=4)
class EqualWeights(Circle):
    """The receiver does not weigh its components."""

    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        if isinstance(output, Finite):
            output = Finite(output.support, 0.0 * output.logits)
        return Circle.receiver(self, output, alpha)


@rejected_by("receiver-is-the-mixture-of-senders")
class WarmReceiver(Classes):
    """The weights of the receiver are those of another temperature."""

    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        if isinstance(output, Finite):
            output = Finite(output.support, 1.05 * output.logits)
        return Classes.receiver(self, output, alpha)


@rejected_by("step-loss-is-a-divergence", "messages-cost-what-they-tell", "step-loss-is-right-at-every-accuracy")
class BoundedPrice(Classes):
    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        sender, receiver = self.sender(x, alpha), self.receiver(output, alpha)
        y = sender.sample()
        return (sender.log_prob(y) - receiver.log_prob(y)).clamp_min(0.0)


@rejected_by("loss-rate-is-alpha-times-the-kl-rate")
class RateOfTime(Circle):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        return 8.0 * t * per_example(self.kl_rate(x, output))


@rejected_by("loss-rate-is-alpha-times-the-kl-rate")
class RateOfTheStart(Circle):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        return self.schedule.alpha(t.clamp(0.05, 0.95)) * per_example(self.kl_rate(x, output))


@rejected_by("every-raw-number-moves-the-price", "gradients-are-derivatives")
class DetachedOutput(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(None, raw.detach() + 0.0 * raw)


@rejected_by("gradients-are-derivatives")
class HalfDetached(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(None, 0.5 * raw + 0.5 * raw.detach())


@rejected_by("every-raw-number-moves-the-price", "gradients-are-derivatives", bins=4)
class DeadBin(Circle):
    def output(self, raw: Tensor, params: Told) -> Output:
        return Circle.output(self, torch.cat([raw[..., :-1], raw[..., -1:].detach()], -1), params)


@rejected_by("every-raw-number-moves-the-price", site_shape=(3,))
class FirstSiteForAll(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(None, raw[:, :1].expand_as(raw))


@rejected_by("every-raw-number-moves-the-price")
class ClampedLogits(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(None, raw.clamp(0.0, 1e-9))


@rejected_by("every-raw-number-moves-the-price")
class NoHelpOfRaw(Classes):
    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(None, params + 0.0 * raw)


@attrs.frozen
class RateForTheWeight(NoiseHead):
    def loss_weight(self, family: Any, t: Tensor) -> Tensor:
        return 1.0 + family.schedule.alpha(t)


@rejected_by("loss-weight-brings-unit-scale", head=RateForTheWeight())
class WeightedTwice(Gaussian):
    """The head's weight multiplies by the rate instead of dividing by it."""


@rejected_by("loss-weight-brings-unit-scale")
class NegativeWeight(Circle):
    def loss_weight(self, t: Tensor) -> Tensor:
        return t - 0.5


# Features


@rejected_by("features-are-of-order-one")
class NaturalFeatures(Gaussian):
    def features(self, params: GaussianParams) -> Tensor:
        return (params.mean * expand(params.precision, params.mean)).unsqueeze(-1)


@rejected_by("features-are-of-order-one")
class TinyFeatures(Gaussian):
    def features(self, params: GaussianParams) -> Tensor:
        return 1e-3 * Gaussian.features(self, params)


@rejected_by("features-tell-beliefs-apart", site_shape=(2,))
class FirstSiteSeen(Circle):
    def features(self, params: Told) -> Tensor:
        seen = Circle.features(self, params)
        return seen[:, :1].expand_as(seen)


@rejected_by("features-tell-beliefs-apart")
class LengthOfTheBelief(Circle):
    def features(self, params: Told) -> Tensor:
        return params.v.norm(dim=-1, keepdim=True).expand_as(params.v) / expand(1.0 + params.accuracy, params.v)


@rejected_by("features-tell-beliefs-apart")
class FeaturesWithoutSign(Circle):
    def features(self, params: Told) -> Tensor:
        return Circle.features(self, params).abs()


@rejected_by("features-tell-beliefs-apart")
class RoundedFeatures(Classes):
    def features(self, params: Tensor) -> Tensor:
        return (2.0 * params.exp() - 1.0).round()


@rejected_by("features-tell-beliefs-apart")
class CertainFeatures(Classes):
    def features(self, params: Tensor) -> Tensor:
        return one_hot(params.argmax(-1), self.classes).to(params.dtype)


# Precision


@rejected_by("float32-is-precise", sigma_1=1e-3)
class NaiveFlow(Gaussian):
    """gamma = 1 - sigma_1^(2t), and 1 - gamma: both cancel."""

    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        gamma = expand(1.0 - self.sigma_1 ** (2.0 * t), x)
        noise = torch.randn_like(x)
        return GaussianParams(gamma * x + (gamma * (1.0 - gamma)).sqrt() * noise, 1.0 / (1.0 - gamma.flatten(1)[:, 0]))


@rejected_by(
    "bayes-rule",
    "flow-starts-at-the-prior",
    "information-is-conserved",
    "gradients-are-finite",
    "features-are-of-order-one",
    "missing-sites-cost-nothing",
)
class SinglePrecisionConstant(Circle):
    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        phi = self.embed(x)
        return normal(expand(alpha, phi) * phi, alpha * alpha.float().rsqrt().to(alpha.dtype))


@rejected_by(
    "loss-rate-is-alpha-times-the-kl-rate",
    "gradients-are-derivatives",
    "float32-is-precise",
    "sites-keep-their-own-time",
    sigma_1=1e-3,
)
class CancellingPrice(Gaussian):
    """(x^2 - 2 x m + m^2) around a large offset."""

    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        m, far = output.mean, 300.0
        square = (x + far).square() - 2.0 * (x + far) * (m + far) + (m + far).square()
        return per_example(square) * 0.5 * self.schedule.alpha(t)


@rejected_by("bayes-rule")
class NaiveLogProb(Classes):
    def input(self, params: Tensor) -> Distribution:
        return Classes.input(self, (params.exp() + 1e-7).log())


# Data


@rejected_by("data-are-checked")
class AcceptsAnything(Classes):
    def check_data(self, x: Tensor) -> None:
        pass


@rejected_by("data-are-checked")
class AcceptsOneTooMany(Categorical):
    def check_data(self, x: Tensor) -> None:
        Categorical.check_data(self, x.clamp_max(self.classes - 1) if x.amax() == self.classes else x)


@rejected_by("data-are-checked")
class RefusesTheLastClass(Categorical):
    def check_data(self, x: Tensor) -> None:
        Categorical.check_data(self, x + 1)


@rejected_by("data-are-checked")
class ChecksTheFirstRow(Gaussian):
    def check_data(self, x: Tensor) -> None:
        Gaussian.check_data(self, x[:1])


@rejected_by("arguments-are-not-changed", "results-have-their-shapes")
class ClampsTheTime(Gaussian):
    def loss_weight(self, t: Tensor) -> Tensor:
        return Gaussian.loss_weight(self, t.clamp_(0.0, 0.4))


@rejected_by("data-are-checked")
class ComplainsInItsOwnWords(Gaussian):
    def check_data(self, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise ValueError("not finite")
        Gaussian.check_data(self, x)


# Products


PARTS = {"x": Gaussian(site_shape=(2,)), "z": Gaussian(site_shape=(2,), sigma_1=0.1)}


@rejected_by("a-point-is-as-sharp-as-the-last-beliefs", parts=PARTS)
class SwappedOutputs(ProductFamily):
    def output(self, raw: Tensor, params: Any) -> Output:
        first, second = ProductFamily.output(self, raw, params).parts.values()  # type: ignore[attr-defined]
        return JointOutput(dict(zip(self.parts, (second, first), strict=True)))


@rejected_by("step-loss-is-right-at-every-accuracy", "parts-are-told-apart", parts=PARTS)
class FirstPartIsPaid(ProductFamily):
    def step_loss(self, x: Any, output: Any, alpha: Any, samples: int = 1) -> Tensor:
        name, family = next(iter(self.parts.items()))
        a = alpha if isinstance(alpha, Tensor) else alpha[name]
        return family.step_loss(x[name], output[name], a, samples)


@rejected_by("parts-are-told-apart", parts=PARTS)
class MeanOfTheParts(ProductFamily):
    def loss_rate(self, x: Any, output: Any, t: Any) -> Tensor:
        return ProductFamily.loss_rate(self, x, output, t) / len(self.parts)


@rejected_by(
    "flow-is-the-chain-of-updates",
    "information-is-conserved",
    "parts-are-told-apart",
    "flow-by-site-is-the-chain-of-updates",
    parts=PARTS,
)
class OneAccuracyForAll(ProductFamily):
    def accuracy(self, s: Any, t: Any) -> Any:
        told = ProductFamily.accuracy(self, s, t)
        return dict.fromkeys(told, next(iter(told.values())))


@rejected_by("features-tell-beliefs-apart", parts=PARTS)
class FeaturesOfTheFirst(ProductFamily):
    def features(self, params: Any) -> Tensor:
        seen = ProductFamily.features(self, params)
        return seen[..., :1].expand_as(seen)


# Sites and masks


@rejected_by(
    "flow-by-site-is-the-chain-of-updates",
    "sites-keep-their-own-time",
    "the-loss-does-not-depend-on-the-path",
    site_shape=(2,),
)
class FlowAtTheTimeOfTheFirstSite(Gaussian):
    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        return Gaussian.flow(self, x, t if t.ndim < 2 else t[:, :1].expand_as(t))


@rejected_by("flow-by-site-is-the-chain-of-updates", "sites-keep-their-own-time", site_shape=(2,))
class UpdateOfTheMeanAccuracy(Gaussian):
    def update(self, params: GaussianParams, y: Tensor, alpha: Tensor) -> GaussianParams:
        return Gaussian.update(self, params, y, alpha if alpha.ndim < 2 else alpha.mean(1))


@rejected_by("sites-keep-their-own-time", "the-loss-does-not-depend-on-the-path", site_shape=(2,))
class RateOfTheMeanTime(Gaussian):
    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Tensor | None = None) -> Tensor:
        return Gaussian.loss_rate(self, x, output, t if t.ndim < 2 else t.mean(1), mask)


@rejected_by("missing-sites-cost-nothing", site_shape=(2,))
class ProductWithTheMask(Gaussian):
    """NaN times 0 is NaN."""

    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Tensor | None = None) -> Tensor:
        rate = expand(self.schedule.alpha(t), x) * self.kl_rate(x, output)
        return per_example(rate if mask is None else rate * mask)


@rejected_by("missing-sites-cost-nothing", "sites-keep-their-own-time", site_shape=(2,))
class MeanOfThePresent(Gaussian):
    """The price of a site depends on how many there are."""

    def step_loss(
        self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1, mask: Tensor | None = None
    ) -> Tensor:
        loss = Gaussian.step_loss(self, x, output, alpha, samples, mask)
        return loss if mask is None else loss * mask[0].numel() / mask.flatten(1).sum(1).clamp_min(1)


@rejected_by(
    "a-masked-product-is-the-product-without-the-part",
    "missing-sites-cost-nothing",
    "sites-keep-their-own-time",
    parts=PARTS,
)
class MaskOfTheFirstPart(ProductFamily):
    def loss_rate(self, x: Any, output: Any, t: Any, mask: Any = None) -> Tensor:
        first = next(iter(self.parts))
        return ProductFamily.loss_rate(self, x, output, t, mask and {first: mask.get(first)})


@rejected_by(
    "a-masked-product-is-the-product-without-the-part", parts={"k": Categorical(classes=3), "m": Categorical(classes=3)}
)
class DrawsOneAfterTheOther(ProductFamily):
    """A missing part makes other draws of those after it."""

    def step_loss(self, x: Any, output: Any, alpha: Any, samples: int = 1, mask: Any = None) -> Tensor:
        if not isinstance(output, JointOutput):
            return ProductFamily.step_loss(self, x, output, alpha, samples, mask)
        parts = self.walk(x, output, alpha, mask_by_part(x, mask))
        losses = [part.family.step_loss(*part.values[:3], samples, part.values[3]) for part in parts]
        return torch.stack(losses).sum(0)


# Erasures and tables


@rejected_by("dtype-and-device-are-kept", "loss-rate-is-the-limit-of-the-step-loss")
class QuadraticRate(Erasure):
    """The rate of a normal channel in place of the cross-entropy."""

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        error = one_hot(x, self.classes) - output.expect(lambda k: one_hot(k, self.classes).double())
        return 0.5 * self.classes * error.square().sum(-1)


@rejected_by(
    "updates-are-exchangeable", "zero-accuracy-changes-nothing", "flow-is-the-chain-of-updates", "accuracies-add"
)
class ForgetsTheClass(Erasure):
    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        told = Erasure.update(self, params, y, alpha)
        prior = self.prior(len(params), device=params.device, dtype=params.dtype)
        return torch.where((y < self.classes).unsqueeze(-1), told, prior)


@rejected_by("flow-starts-at-the-prior", "flow-is-the-chain-of-updates", "information-is-conserved")
class LastBeliefsForAll(Wheel):
    """All messages are received whatever the time."""

    def flow(self, x: Tensor, t: Tensor) -> Direction:
        return Wheel.flow(self, x, torch.ones_like(t))


# Losses


@attrs.frozen
class Paid(ContinuousTimeLoss):
    """A continuous-time loss with another price."""

    def price(self, rate: Tensor) -> Tensor:
        return rate

    def _rate(self, family: Any, x: Any, output: Output, t: Tensor) -> Tensor:
        return self.price(ContinuousTimeLoss._rate(self, family, x, output, t))


@rejected_by("the-mean-loss-is-an-entropy")
@attrs.frozen
class HalfTheLoss(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return 0.5 * rate


@rejected_by("the-mean-loss-is-an-entropy")
@attrs.frozen
class Bits(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return rate / math.log(2.0)


@rejected_by("knowledge-lowers-the-loss", "the-mean-loss-is-an-entropy")
@attrs.frozen
class Gain(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return -rate


@rejected_by("losses-of-rows-are-independent", "losses-have-gradients", "the-mean-loss-is-an-entropy")
@attrs.frozen
class CentredOnTheBatch(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return rate - rate.mean()


@rejected_by(
    "losses-are-one-per-example",
    "losses-of-rows-are-independent",
    "knowledge-lowers-the-loss",
    "the-mean-loss-is-an-entropy",
    "losses-of-parts-add-up",
)
@attrs.frozen
class MeanOfTheBatch(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return rate.mean()


@rejected_by("losses-have-gradients")
@attrs.frozen
class DetachedLoss(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return rate.detach() * (1.0 + 0.0 * rate)


@rejected_by("losses-are-one-per-example", "losses-have-gradients")
@attrs.frozen
class Float32Loss(Paid):
    def price(self, rate: Tensor) -> Tensor:
        return rate.float()


@rejected_by("the-model-hears-time-and-condition")
@attrs.frozen
class DeafLoss(ContinuousTimeLoss):
    def part_losses(self, model: Model, x: Any, condition: Condition | None = None) -> Any:
        return ContinuousTimeLoss.part_losses(self, model, x)


@rejected_by("the-model-hears-time-and-condition")
@attrs.frozen
class OtherTime(ContinuousTimeLoss):
    """The model is told another time than that of the beliefs."""

    def part_losses(self, model: Model, x: Any, condition: Condition | None = None) -> Any:
        t = draw_times(x)
        output = model.output(model.family.flow(x, t), draw_times(x), condition)
        return {part.name: self._rate(part.family, *part.values, t) for part in model.family.walk(x, output)}


@rejected_by("the-mean-loss-is-an-entropy")
@attrs.frozen
class LossWithoutN(DiscreteTimeLoss):
    def part_losses(self, model: Model, x: Any, condition: Condition | None = None) -> Any:
        losses = DiscreteTimeLoss.part_losses(self, model, x, condition)
        return {name: nats / self.n_steps for name, nats in losses.items()}


@rejected_by("losses-of-rows-are-independent", "the-mean-loss-is-an-entropy")
@attrs.frozen
class ReconstructionOfTheMode(ReconstructionLoss):
    def part_losses(self, model: Model, x: Any, condition: Condition | None = None) -> Any:
        t = torch.ones(batch_size(x), dtype=torch.float64)
        output = model.output(model.family.flow(x, t), t, condition)
        return {part.name: -part.values[0].log_prob(part.values[0].mode) for part in model.family.walk(output)}


@rejected_by("losses-of-parts-add-up")
@attrs.frozen
class FirstPartOnly(ContinuousTimeLoss):
    def part_losses(self, model: Model, x: Any, condition: Condition | None = None) -> Any:
        losses = ContinuousTimeLoss.part_losses(self, model, x, condition)
        return dict(list(losses.items())[:1])


@rejected_by("losses-of-parts-add-up")
@attrs.frozen
class PartsOnceMore(ContinuousTimeLoss):
    def __call__(self, model: Model, x: Any, condition: Condition | None = None) -> Tensor:
        return torch.stack(list(self.part_losses(model, x, condition).values())).mean(0)


@rejected_by("the-mean-loss-is-an-entropy")
@attrs.frozen
class FrozenTimes(ContinuousTimeLoss):
    """All rows at one time that chance has nothing to do with."""

    def part_losses(self, model: Model, x: Any, condition: Condition | None = None) -> Any:
        t = torch.full_like(draw_times(x), 0.5)
        output = model.output(model.family.flow(x, t), t, condition)
        return {part.name: self._rate(part.family, *part.values, t) for part in model.family.walk(x, output)}


@rejected_by("loss-round-trips", hidden=2.0)
@attrs.frozen
class HiddenScale(UnsquaredNormLoss):
    hidden: float = field(default=1.0, repr=False)
