"""Families as a plugin author would first write them: nothing overridden, so every verb is the definition."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from bfn_gaussian import GaussianParams
from bfn_toolkit import (
    AccuracySchedule,
    AdditiveFamily,
    ChannelFamily,
    Delta,
    Family,
    Finite,
    NetworkIO,
    Output,
    QuadraticSchedule,
    SteppedFamily,
    TableSchedule,
    expand,
    normal,
    von_mises,
)


@attrs.frozen(eq=False)
class CircleParams:
    v: Tensor
    accuracy: Tensor


@attrs.frozen
class Circle(ChannelFamily[CircleParams]):
    """Angles: phi(x) = (cos x, sin x), and beliefs von Mises(arg v, |v|)."""

    site_shape: tuple[int, ...] = (1,)
    schedule: AccuracySchedule = attrs.field(factory=lambda: QuadraticSchedule(8.0))
    channels: ClassVar[int] = 2

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape, 2, 1)

    def embed(self, x: Tensor) -> Tensor:
        return torch.stack([x.cos(), x.sin()], -1)

    def natural_params(self, params: CircleParams) -> tuple[Tensor, Tensor]:
        return params.v, params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> CircleParams:
        return CircleParams(v, accuracy)

    def input(self, params: CircleParams) -> Distribution:
        return von_mises(params.v)

    def features(self, params: CircleParams) -> Tensor:
        return params.v / expand(1 + params.accuracy, params.v)

    def output(self, raw: Tensor, params: CircleParams) -> Output:
        return Delta(raw.squeeze(-1))


@attrs.frozen
class PlainCategorical(AdditiveFamily[Tensor]):
    """Classes 0..K-1 as the paper has them (eq. 141 and 171), in log space; params are log probabilities."""

    site_shape: tuple[int, ...] = (1,)
    classes: int = 3
    schedule: AccuracySchedule = attrs.field(factory=QuadraticSchedule)
    is_discrete = True

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape, self.classes, self.classes)

    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Tensor:
        shape = (batch_size, *self.site_shape, self.classes)
        return torch.full(shape, -math.log(self.classes), device=device, dtype=dtype)

    def input(self, params: Tensor) -> Distribution:
        return Independent(Categorical(logits=params), params.ndim - 2)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        one_hot = torch.nn.functional.one_hot(x, self.classes).to(alpha.dtype)
        return normal(expand(alpha, one_hot) * (self.classes * one_hot - 1), (alpha * self.classes).sqrt())

    def update(self, params: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return (params + y).log_softmax(-1)

    def features(self, params: Tensor) -> Tensor:
        return 2 * params.exp() - 1

    def output(self, raw: Tensor, params: Tensor) -> Output:
        return Finite(torch.arange(self.classes), raw)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        def one_hot(value: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(value, self.classes).double()

        return 0.5 * self.classes * (one_hot(x) - output.expect(one_hot)).square().sum(-1)


@attrs.frozen
class SteppedGaussian(SteppedFamily[GaussianParams]):
    """Gaussian beliefs told step by step: accuracies do add, so that the fold has a known law."""

    site_shape: tuple[int, ...] = (1,)
    schedule: TableSchedule = attrs.field(factory=lambda: TableSchedule((0.5, 4.0, 2.0)))

    @property
    def network_io(self) -> NetworkIO:
        return NetworkIO(self.site_shape)

    def prior(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> GaussianParams:
        mean = torch.zeros(batch_size, *self.site_shape, device=device, dtype=dtype)
        return GaussianParams(mean, torch.ones(batch_size, device=device, dtype=dtype))

    def input(self, params: GaussianParams) -> Distribution:
        return normal(params.mean, params.precision.rsqrt())

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        return normal(x, alpha.rsqrt())

    def update(self, params: GaussianParams, y: Tensor, alpha: Tensor) -> GaussianParams:
        rho = params.precision + alpha
        return GaussianParams(params.mean + expand(alpha / rho, y) * (y - params.mean), rho)

    def features(self, params: GaussianParams) -> Tensor:
        return params.mean.unsqueeze(-1)

    def output(self, raw: Tensor, params: GaussianParams) -> Output:
        return Delta(raw.squeeze(-1), 0.1)


TOYS: tuple[Family[Any], ...] = (Circle(), PlainCategorical(), SteppedGaussian())
