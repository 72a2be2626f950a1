r"""Gaussian family for continuous data (plugin).

Beliefs are a mean and a precision at each site, starting from N(0, 1).  With sender y ~ N(x, 1/alpha), Bayes' rule is

.. math:: \rho' = \rho + \alpha, \qquad \mu' = \mu + \frac{\alpha}{\rho'} (y - \mu),

the difference form, which leaves mu bit-identical if alpha = 0.  With gamma(t) = 1 - sigma_1^{2t} the flow is

.. math:: \mu \sim N\big(\gamma x, \gamma (1 - \gamma)\big), \qquad \rho = \sigma_1^{-2t}.

A *head* reads the network's raw number as a point estimate x_hat (a :class:`~bfn_toolkit.Delta`).

Source: Graves et al. 2023 (arXiv 2308.07037), section 4: eq. 49, 50 (update), 72 (schedule), 77, 80 (flow), 84 (noise
head), 86 (sender), 101 (loss).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs import field
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit import (
    ChannelFamily,
    Condition,
    DataError,
    Delta,
    Entry,
    GeometricSchedule,
    Loss,
    Model,
    NetworkIO,
    Output,
    OutputHead,
    as_axes,
    as_shape,
    by_example,
    check_axes,
    check_site_shape,
    coefficient,
    draw_times,
    expand,
    hookimpl,
    normal,
    output_at,
    plus,
    present,
    same_for_all,
    validators,
    weighted,
)


@attrs.frozen(eq=False)
class GaussianParams:
    """Beliefs N(mean, 1 / precision).

    Arguments:
        mean: mu, with shape (B, *site).
        precision: rho, with shape (B,), or the shape of the mean if sites differ.
    """

    mean: Tensor
    precision: Tensor


Head = OutputHead[GaussianParams]


class PointHead(Head):
    """Head whose estimate of x is an affine function of a raw number; its slope is the scale of the raw number."""

    @abc.abstractmethod
    def estimates(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> tuple[Tensor, Tensor | float]:
        """Estimates of x from raw numbers (B, *site, C), and the scale of a raw number, in units of the data.

        The scale has shape (B,); where all rows share the precision, it may be one number.
        """


@attrs.frozen
class DataHead(PointHead):
    """Data prediction: the raw number is x_hat."""

    def features(self, family: Gaussian, params: GaussianParams) -> Tensor:
        """The mean."""
        return params.mean.unsqueeze(-1)

    def estimates(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> tuple[Tensor, Tensor | float]:
        """The raw numbers, at scale 1."""
        return raw, torch.ones_like(params.precision)

    def output(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> Output:
        """A point at the raw number."""
        return Delta(raw.squeeze(-1), family.sigma_1)


@attrs.frozen
class NoiseHead(PointHead):
    r"""Noise prediction: the raw number is the noise in mu.

    .. math:: \hat x = \mu / \gamma - \sqrt{(1 - \gamma) / \gamma} \, \hat\epsilon, \qquad
              \hat x = 0 \text{ for } t < t_{min}

    Arguments:
        clip: Bound of x_hat, which is clipped to [-clip, clip]; inf for no clipping.
        t_min: Time before which x_hat is 0, because 1 / gamma is unbounded.

    Source: Graves et al. 2023, eq. 84.
    """

    clip: float = field(default=1.0, validator=validators.number(gt=0, le=math.inf))
    t_min: float = field(default=1e-6, validator=validators.number(ge=0, lt=1))

    @property
    def bound(self) -> float:
        """The clip."""
        return self.clip

    def features(self, family: Gaussian, params: GaussianParams) -> Tensor:
        """The mean."""
        return params.mean.unsqueeze(-1)

    def estimates(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> tuple[Tensor, Tensor | float]:
        """The mean without the noise, with a finite value and gradient at every t; before t_min it is 0, at scale 1."""
        rho, mean = coefficient(params.precision), params.mean.unsqueeze(-1)
        if isinstance(rho, float):
            return self._estimates(rho - 1.0, family.schedule.rate, raw, mean)
        beta = rho - 1.0
        early = beta < math.expm1(family.schedule.rate * self.t_min)
        # The early rows are computed with beta = 1, because a gradient of where(early, 0, inf) would be NaN.
        beta = torch.where(early | (beta <= 0.0), 1.0, beta)
        scale = beta.rsqrt()
        x_hat = expand(1.0 + 1.0 / beta, mean) * mean - expand(scale, raw) * raw
        return torch.where(expand(early, x_hat), 0.0, x_hat), torch.where(early, 1.0, scale)

    def _estimates(self, beta: float, rate: float, raw: Tensor, mean: Tensor) -> tuple[Tensor, float]:
        """The same at a precision that all rows share."""
        if beta < math.expm1(rate * self.t_min) or beta <= 0.0:
            return torch.zeros_like(raw), 1.0
        scale = 1.0 / math.sqrt(beta)
        return torch.add(mean * (1.0 + 1.0 / beta), raw, alpha=-scale), scale

    def output(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> Output:
        """A point at the clipped estimate."""
        x_hat = self.estimates(family, raw, params)[0].squeeze(-1)
        return Delta(x_hat if math.isinf(self.clip) else x_hat.clamp(-self.clip, self.clip), family.sigma_1)

    def loss_weight(self, family: Gaussian, t: Tensor) -> Tensor:
        """The weight that makes the rate the squared error of the noise: 2 beta / alpha."""
        return 2.0 * family.schedule.beta(t) / family.schedule.alpha(t)


@attrs.frozen
class SkipHead(PointHead):
    r"""Bounded form: the best linear estimate of x, plus the raw number times the scale of the residual.

    With data variance v and beta = rho - 1,

    .. math:: \hat x = \frac{v \rho}{1 + v \beta} \mu + \sqrt{\frac{v}{1 + v \beta}} \, F(c \mu, t), \qquad
              c = \frac{\rho}{\sqrt{\beta (1 + v \beta)}} ,

    so that features and target of the network have unit scale at every t and stay bounded at both ends of time.

    Arguments:
        data_variance: Mean square v of the data (in a configuration, the default is the data set's value).

    Source: the preconditioning of Karras et al. 2022 (arXiv 2206.00364), for this family as in BSI (arXiv 2502.07580).
    """

    data_variance: float = field(default=1.0, validator=validators.number(gt=0))

    def features(self, family: Gaussian, params: GaussianParams) -> Tensor:
        """The mean at unit scale; 0 at t = 0."""
        # Below 1e-6 float32 does not resolve rho - 1, and the mean is pure noise.
        rho, v = coefficient(params.precision), self.data_variance
        if isinstance(rho, float):
            least = max(rho - 1.0, 1e-6)
            return (params.mean * (rho / math.sqrt(least + v * least * least))).unsqueeze(-1)
        beta = (rho - 1.0).clamp_min(1e-6)
        scale = rho * torch.addcmul(beta, beta, beta, value=v).rsqrt()
        return (params.mean * expand(scale, params.mean)).unsqueeze(-1)

    def estimates(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> tuple[Tensor, Tensor | float]:
        """Linear estimate plus scaled residual."""
        return self._estimates(raw, params.mean.unsqueeze(-1), params.precision)

    def _estimates(self, raw: Tensor, mean: Tensor, precision: Tensor) -> tuple[Tensor, Tensor | float]:
        """The same from raw numbers and a mean of one shape."""
        rho = coefficient(precision)
        shift = 1.0 / self.data_variance - 1.0  # rho + shift = (1 + v beta) / v
        if isinstance(rho, float):
            scale = 1.0 / math.sqrt(rho + shift)
            return torch.add(raw, mean, alpha=scale * rho).mul_(scale), scale
        deviation = (rho + shift if shift else rho).rsqrt()
        x_hat = torch.addcmul(raw, mean, expand(deviation * rho, mean)).mul_(expand(deviation, raw))
        return x_hat, deviation

    def output(self, family: Gaussian, raw: Tensor, params: GaussianParams) -> Output:
        """A point at the estimate."""
        return Delta(self._estimates(raw.squeeze(-1), params.mean, params.precision)[0], family.sigma_1)

    def loss_weight(self, family: Gaussian, t: Tensor) -> Tensor:
        """Weight that turns the rate into the squared error of the raw number."""
        schedule = family.schedule
        return (1.0 / self.data_variance + schedule.beta(t)) * 2.0 / schedule.alpha(t)


@attrs.frozen
class Gaussian(ChannelFamily[GaussianParams]):
    """Continuous data with mean near 0 and values of order 1.

    Arguments:
        site_shape: Shape of one example.
        sigma_1: Standard deviation of the beliefs at t = 1, the resolution of the data; in [1e-8, 1).  Data of order 1
            resolve 5e-7 in float32, less than that only in float64.
        head: Head that turns raw numbers into the output distribution.
        axes: Names of the axes of the site shape (:class:`~bfn_toolkit.PartIO`); empty if they have none.

    >>> g = Gaussian(site_shape=(1,), sigma_1=0.1)
    >>> belief = g.update(g.prior(1), torch.tensor([[0.5]]), torch.tensor([3.0]))
    >>> belief.mean, belief.precision
    (tensor([[0.3750]]), tensor([4.]))
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape, validator=check_site_shape)
    sigma_1: float = field(default=0.01, validator=validators.number(ge=1e-8, lt=1))
    head: Head = field(factory=SkipHead, validator=validators.instance_of(OutputHead))
    axes: tuple[str, ...] = field(default=(), kw_only=True, converter=as_axes, validator=check_axes)
    schedule: GeometricSchedule = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "schedule", GeometricSchedule(self.sigma_1))

    @property
    def network_io(self) -> NetworkIO:  # noqa: D102
        return NetworkIO(self.site_shape, self.head.features_per_site, self.head.raw_per_site, self.axes)

    @property
    def site_times(self) -> bool:  # noqa: D102
        return True

    @property
    def channels(self) -> int:  # noqa: D102
        return 1

    @property
    def embedding_variance(self) -> float:
        """The data variance of the head."""
        return self.head.data_variance

    @property
    def embedding_bound(self) -> float:
        """The bound of the head."""
        return self.head.bound

    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> GaussianParams:
        """N(0, 1) at each site."""
        mean = torch.zeros((batch_size, *self.site_shape), device=device, dtype=dtype)
        return GaussianParams(mean, torch.ones(batch_size, device=device, dtype=dtype))

    def input(self, params: GaussianParams) -> Distribution:
        """N(mean, 1 / precision)."""
        return normal(params.mean, params.precision.rsqrt())

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """N(x, 1 / alpha)."""
        return normal(x, alpha.rsqrt())

    def update(self, params: GaussianParams, y: Tensor, alpha: Tensor) -> GaussianParams:
        """Eq. 49 and 50, in the difference form."""
        y, alpha = (value.to(params.mean.dtype) for value in (y, alpha))
        precision = plus(params.precision, alpha)
        return GaussianParams(torch.lerp(params.mean, y, expand(alpha, y) / expand(precision, y)), precision)

    def draw_update(self, params: GaussianParams, x: Tensor, alpha: Tensor) -> GaussianParams:
        """Eq. 52: the sender's noise enters the mean at scale sqrt(alpha) / rho', so that no 1 / alpha is formed."""
        alpha = alpha.to(params.mean.dtype)
        precision = plus(params.precision, alpha)
        alpha, rho = expand(alpha, x), expand(precision, x)
        mean = torch.lerp(params.mean, x, alpha / rho)
        noise = torch.randn_like(mean)
        return GaussianParams(mean.addcmul_(noise, alpha.sqrt() / rho), precision)

    def flow(self, x: Tensor, t: Tensor) -> GaussianParams:
        """Eq. 77 and 80 as mu = (sqrt(beta) x + noise) sqrt(beta) / rho: accurate at both ends of time."""
        beta = self.schedule.beta(by_example(t, len(x)))
        precision, signal = beta + 1.0, beta.sqrt()
        noise = torch.randn_like(x)
        mean = noise.addcmul_(x, expand(signal, x)).mul_(expand(signal / precision, x))
        return GaussianParams(mean, precision)

    def features(self, params: GaussianParams) -> Tensor:
        """Features of the head."""
        return self.head.features(self, params)

    def output(self, raw: Tensor, params: GaussianParams) -> Output:
        """Output of the head."""
        return self.head.output(self, raw, params)

    def loss_weight(self, t: Tensor) -> Tensor:
        """Loss weight of the head."""
        return self.head.loss_weight(self, t)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """Half the squared error of the output's mean."""
        return 0.5 * (x - output.mean).square()

    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Eq. 101."""
        error = F.mse_loss(output.mean, present(x, mask), reduction="none")
        return weighted(error, 0.5 * self.schedule.alpha(t), mask)

    def embed(self, x: Tensor) -> Tensor:
        """The data themselves."""
        return x.unsqueeze(-1)

    def mean_embedding(self, output: Output) -> Tensor:
        """The output's mean."""
        return output.mean.unsqueeze(-1)

    def natural_params(self, params: GaussianParams) -> tuple[Tensor, Tensor]:
        """v = rho mu, B = rho - 1."""
        v = params.mean * expand(params.precision, params.mean)
        return v.unsqueeze(-1), params.precision - 1.0

    def from_natural(self, v: Tensor, accuracy: Tensor) -> GaussianParams:
        """mu = v / (1 + B), rho = 1 + B."""
        precision, v = accuracy + 1.0, v.squeeze(-1)
        return GaussianParams(v / expand(precision, v), precision)

    def from_scaled(self, w: Tensor, q: float) -> GaussianParams:
        """mu = w q / (1 + q^2), in one pass."""
        rho = 1.0 + q * q
        return GaussianParams(w.squeeze(-1) * (q / rho), same_for_all(rho, w))

    def check_data(self, x: Tensor) -> None:
        """Checks shape, floating dtype, finite values and their resolution, then the requirements of the head."""
        super().check_data(x)
        wide = None if x.device.type == "mps" else torch.float64  # which Apple's GPUs have not
        size = max(1.0, float(torch.linalg.vector_norm(x, dtype=wide)) / math.sqrt(max(1, x.numel())))
        least = 4.0 * torch.finfo(x.dtype).eps * size  # a rounding is then a sixteenth of sigma_1, and costs 0.01 nats
        if self.sigma_1 < least:
            cure = f"write sigma_1 = {1.05 * least:.1e}, or use float64: x.double()"
            if least > 0.1 * math.sqrt(torch.finfo(x.dtype).eps):  # the data are not of order 1
                cure = "scale the data to mean 0 and variance 1: for --dataset array by --dataset.scale standard"
            raise DataError(
                f"sigma_1 = {self.sigma_1:g} is finer than the rounding of {x.dtype} at the root mean square of the "
                f"data, {size:.3g}; {cure}"
            )
        self.head.check_data(self, x)


@attrs.frozen
class UnsquaredNormLoss(Loss):
    r"""Continuous-time loss with the norm of the error instead of its square, as in the blog post.

    .. math:: -\ln \sigma_1 \; E_t \; \sigma_1^{-2t} \lVert x - \hat x \rVert

    It is not a likelihood: its minimiser is the conditional median.  At zero error the gradient of the norm is 0.

    Source: https://proger.github.io/posts/bfn/normal.html
    """

    def __call__(  # noqa: D102
        self,
        model: Model,
        x: Tensor,
        condition: Condition | None = None,
        mask: Tensor | None = None,
        held: Tensor | None = None,
    ) -> Tensor:
        family: Any = model.family
        t = draw_times(x)
        output, unknown = output_at(model, x, t, condition, mask, held)
        error: Tensor = torch.linalg.vector_norm(present(x - output.mean, unknown).reshape(len(x), -1), dim=1)
        weight: Tensor = 0.5 * family.schedule.alpha(t)
        return weight * error


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """The family."""
    examples: Sequence[Any] = (
        Gaussian(),
        Gaussian(site_shape=(2, 3), sigma_1=0.1, head=NoiseHead()),
        Gaussian(site_shape=(4,), sigma_1=0.02, head=DataHead()),
    )
    return [Entry("gaussian", Gaussian, examples)]


@hookimpl
def bfn_heads() -> Sequence[Entry]:
    """Its heads."""
    return [
        Entry("skip", SkipHead, (SkipHead(),)),
        Entry("noise", NoiseHead, (NoiseHead(),)),
        Entry("data", DataHead, (DataHead(),)),
    ]


@hookimpl
def bfn_losses() -> Sequence[Entry]:
    """The loss of the blog post."""
    return [Entry("unsquared-norm", UnsquaredNormLoss, (UnsquaredNormLoss(),))]
