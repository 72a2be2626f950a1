r"""Classes: the discrete family, its receiver and its schedules.

With K classes, :math:`e_x` the one-hot code and :math:`\beta` the accumulated accuracy, the beliefs are
:math:`\mathrm{softmax}(v)`, and everything is linear in the natural parameters v, which matter only up to a constant:

.. math::
    y &\sim N(\alpha (K e_x - 1), \alpha K I) && \text{(eq. 141)} \\
    v' &= v + y + \alpha && \text{(eq. 171, in logarithms)} \\
    v &\sim N(\beta K e_x, \beta K I) && \text{(eq. 185)} \\
    \text{rate} &= \tfrac{1}{2} K \lVert e_x - \hat e \rVert^2 && \text{(eq. 205)}

It is the channel of :math:`\phi(x) = e_x` with B = K beta.  No tensor is larger than B x site x K: a training step
needs no one-hot code, and the receiver sums its K components in place.

Of two classes only the difference of the two numbers matters, and one number at each site is enough:

.. math:: \frac{v_1 - v_0}{2} \sim N(\pm \beta, \beta), \qquad p_1 - p_0 = \tanh \frac{v_1 - v_0}{2} .

This is the channel of :math:`\phi(x) = \pm 1 / \sqrt 2`, also with B = 2 beta.  Messages keep their two numbers, and
beliefs and outputs still have ``logits`` (B, \*site, 2), computed when they are asked for (:class:`PairParams`,
:class:`Pair`).

By default K beta(1) is 18 + 3 ln(K / 2).  If all classes are equally likely, the most probable class after all messages
is wrong for these shares of the sites, and this entropy is left, in nats at each site:

====== ========= ============== ============ ========================
K      K beta(1) wrong classes  entropy left wrong at K beta(1) = 18
====== ========= ============== ============ ========================
2      18.0      0.13 %         0.004        0.13 %
3      19.2      0.19 %         0.005        0.26 %
27     25.8      0.34 %         0.01         2.3 %
256    32.6      0.41 %         0.013        9.4 %
1,000  36.6      0.44 %         0.015        17 %
8,192  43.0      0.46 %         0.016        34 %
====== ========= ============== ============ ========================

Source: Graves et al. 2023, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical, Distribution, Independent, constraints
from torch.nn.functional import mse_loss, one_hot, pad

from bfn_toolkit import (
    AccuracySchedule,
    ChannelFamily,
    Entry,
    Finite,
    NetworkIO,
    Output,
    QuadraticSchedule,
    as_axes,
    as_shape,
    by_example,
    check_axes,
    check_site_shape,
    check_values,
    clamp,
    control_variate,
    expand,
    guide,
    hookimpl,
    in_float64,
    marginal,
    normal,
    per_example,
    plus,
    present,
    validators,
)

HALF = math.sqrt(0.5)
CERTAIN = 1e4  # log-odds whose sigmoid is 1, and whose logits are finite
EVEN = 1e-3  # share of the time in which beta grows evenly under the entropy-linear schedule


@attrs.frozen(eq=False)
class CategoricalParams:
    """Beliefs softmax(logits) at each site, independent.

    Arguments:
        logits: Natural parameters v, the sum of all y + alpha, with shape (B, *site, K); not normalised.
        accuracy: Total accuracy beta of the messages, with shape (B,), or (B, *site) if sites differ.
    """

    logits: Tensor
    accuracy: Tensor

    @property
    def log_probs(self) -> Tensor:
        """Logarithms of the probabilities, with shape (B, *site, K)."""
        return self.logits.log_softmax(-1)

    @property
    def half_odds(self) -> Tensor:
        """Half the log-odds of class 1 of two, with shape (B, *site)."""
        return _half_odds(self.logits)


@attrs.frozen(eq=False)
class PairParams:
    """Beliefs about two classes: one number at each site; their logits are made when they are asked for.

    Arguments:
        half_odds: Half the log-odds of class 1, with shape (B, *site).
        accuracy: Total accuracy beta of the messages, with shape (B,), or (B, *site) if sites differ.
    """

    half_odds: Tensor
    accuracy: Tensor

    @property
    def logits(self) -> Tensor:
        """Natural parameters with the mean 0 at each site, with shape (B, *site, 2)."""
        return _logits(self.half_odds)

    @property
    def log_probs(self) -> Tensor:
        """Logarithms of the probabilities, with shape (B, *site, 2)."""
        return self.logits.log_softmax(-1)


Params: TypeAlias = CategoricalParams | PairParams


class Pair(Finite):
    """Weights of two classes from the log-odds of class 1; their logits are made when they are asked for.

    Arguments:
        support: None, for the classes 0 and 1.
        logits: Unnormalised log-weights, with shape (B, *site, 2); or None.
        log_odds: In place of them their difference, with shape (B, *site).
    """

    log_odds: Tensor

    def __init__(
        self, support: Tensor | None = None, logits: Tensor | None = None, *, log_odds: Tensor | None = None
    ) -> None:
        object.__setattr__(self, "support", support)
        object.__setattr__(self, "log_odds", log_odds if logits is None else 2.0 * _half_odds(logits))

    @property
    def logits(self) -> Tensor:
        """Log-weights with the mean 0, with shape (B, *site, 2)."""
        return _logits(0.5 * self.log_odds)

    def sample(self) -> Tensor:
        """Draws a class at each site, with one uniform number."""
        return (torch.rand_like(self.log_odds) < self.log_odds.sigmoid()).long()


@clamp.register
def _(output: Pair, values: Tensor, mask: Tensor) -> Output:
    certain = torch.where(values > 0, CERTAIN, -CERTAIN).to(output.log_odds.dtype)
    return Pair(log_odds=torch.where(mask, certain, output.log_odds))


@guide.register
def _(given: Pair, free: Any, weight: float) -> Output:
    if not isinstance(free, Pair):
        return guide.dispatch(Finite)(given, free, weight)
    return Pair(log_odds=given.log_odds + weight * (given.log_odds - free.log_odds))


def _half_odds(logits: Tensor) -> Tensor:
    return 0.5 * (logits[..., 1] - logits[..., 0])


def _logits(half_odds: Tensor) -> Tensor:
    return torch.stack([-half_odds, half_odds], -1)


class Receiver(Distribution):
    """Mixture of the K senders with weights at each site, in memory linear in K (eq. 187).

    Arguments:
        logits: Unnormalised log-weights, with shape (B, *site, K).
        alpha: Accuracy of the message, with shape (B,), () or (B, *site).
        mask: True at the sites whose density counts; None if all do.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, logits: Tensor, alpha: Tensor, mask: Tensor | None = None) -> None:
        self.logits, self.alpha, self.mask = logits, expand(alpha, logits), mask
        super().__init__(logits.shape[:1], logits.shape[1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return constraints.independent(constraints.real, len(self.event_shape))  # type: ignore[no-untyped-call]

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density in nats per example; the quadratic term is that of the class with the largest density."""
        variance = self.logits.shape[-1] * self.alpha
        centred, log_p = y + self.alpha, self.logits.log_softmax(-1)
        best = (log_p + centred).argmax(-1, keepdim=True)
        far = centred.scatter_add(-1, best, -variance.to(centred.dtype).expand(best.shape))
        density = -0.5 * (far.square() / variance + (2.0 * math.pi * variance).log())
        mixture = (log_p + (centred - centred.gather(-1, best))).logsumexp(-1)
        return per_example(density.sum(-1) + mixture, self.mask)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + (B, *site, K): a class, then its message."""
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        return _message(Finite(None, logits).sample(), self.alpha, torch.randn_like(logits)) - self.alpha


@marginal.register
def _(distribution: Receiver, mask: Tensor) -> Distribution:
    return Receiver(distribution.logits, distribution.alpha, mask)


def _message(x: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """Turns normal noise (B, *site, K) in place into y + alpha, where y is a message about x."""
    variance = (alpha * noise.shape[-1]).to(noise.dtype)
    index = x.unsqueeze(-1)
    return noise.mul_(variance.sqrt()).scatter_add_(-1, index, variance.expand(index.shape))


def _half_message(x: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """Half the difference of a message's two numbers, in place in its normal noise (B, *site)."""
    alpha = expand(alpha, noise)
    return noise.mul_(alpha.sqrt()).addcmul_(x.to(noise.dtype), alpha, value=2.0).sub_(alpha)


def _ends(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The embedding of two classes, with shape (B, *site, 1)."""
    return x.to(dtype).mul_(2.0).sub_(1.0).mul_(HALF).unsqueeze(-1)


def _squared_error(classes: int, snr: float) -> float:
    r"""Expectation of :math:`\lVert e_x - \mathrm{softmax}(v) \rVert^2` at B = K beta, by quadrature.

    softmax(v) is the law of the class with the largest :math:`v_k + g_k`, where g is Gumbel noise.  With the density f
    and the distribution function F of :math:`g + \sqrt B \epsilon`, that class is x with probability

    .. math:: E \, p_x = \int f(a) F(a + B)^{K-1} \, da, \qquad E \lVert e_x - p \rVert^2 = 1 - E \, p_x .
    """
    deviation, reach = math.sqrt(snr), 6.5
    noise = torch.linspace(-reach, reach, 2 * max(12, math.ceil(2.0 * reach * deviation)) + 1, dtype=torch.float64)
    weights = (-0.5 * noise.square()).softmax(0)
    # Gumbel noise is in [-3.5, 25] up to 1e-11.
    a = torch.linspace(-3.5 - reach * deviation, 25.0 + reach * deviation, 200, dtype=torch.float64)
    log_cdf = -(deviation * noise - a.unsqueeze(-1)).exp()
    density, shifted_cdf = (-log_cdf * log_cdf.exp()) @ weights, (log_cdf * math.exp(-snr)).exp() @ weights
    return float(torch.trapezoid(density * (1.0 - shifted_cdf ** (classes - 1)), a))


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _entropy_linear_table(classes: int, beta_1: float) -> tuple[Tensor, Tensor, Tensor]:
    """Times, accuracies and slopes d beta / dt, in float64 on the CPU."""
    total = classes * beta_1
    last = min(total, 80.0 + 4.0 * math.log(classes))  # where less than 1e-8 of the entropy is left
    root = torch.linspace(0.0, 1.0, 129, dtype=torch.float64)
    error = torch.tensor([_squared_error(classes, snr) for snr in (last * root.square()).tolist()], dtype=torch.float64)
    rate = 2.0 * last * root * error  # twice the fall of the entropy per unit of root, integrated by Simpson's rule
    fall = pad(((rate[:-1:2] + 4.0 * rate[1::2] + rate[2::2]) / (3.0 * 128)).cumsum(0), (1, 0))
    snr, error = last * root[::2].square(), error[::2]
    if last < total:
        snr, error, fall = pad(snr, (0, 1), value=total), pad(error, (0, 1)), torch.cat([fall, fall[-1:]])
    times = torch.lerp(fall / fall[-1], snr / total, EVEN)
    slopes = torch.lerp(error / fall[-1], torch.full_like(error, 1.0 / total), EVEN).reciprocal() / classes
    return times, beta_1 * (snr / total), slopes


@attrs.frozen
class EntropyLinearSchedule(AccuracySchedule):
    r"""Schedule under which the expected entropy of the beliefs about one class falls at a constant rate.

    Each time then costs the beliefs of independent sites the same, since the entropy falls at the loss rate:

    .. math:: -\frac{dH}{d\beta} = \frac{K}{2} E \lVert e_x - \mathrm{softmax}(v) \rVert^2

    This is integrated by quadrature and inverted by cubic pieces, in float64.  A thousandth of the time is spent on a
    constant growth of beta instead: alpha stays below about 1000 beta_1 although the entropy never reaches 0, and the
    entropy differs from the straight line by less than that share of its fall.  Under the quadratic schedule it differs
    by 0.2 to 0.3 of its fall.

    Arguments:
        classes: Number K of classes.
        beta_1: Accuracy at t = 1; in [1e-6, 1e6].

    Source: Guo, Shamai and Verdu 2005 (arXiv cs/0412108) for the derivative of the entropy.
    """

    classes: int = field(default=2, validator=validators.integer(ge=2))
    beta_1: float = field(default=1.0, validator=validators.number(ge=1e-6, le=1e6))

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        table = _entropy_linear_table(self.classes, self.beta_1)
        times, values, slopes = (part.to(t.device, non_blocking=True) for part in table)
        i = torch.searchsorted(times, t.detach().contiguous(), right=True).clamp_(1, len(times) - 1) - 1
        width, low, high = times[i + 1] - times[i], values[i], values[i + 1]
        rise = high - low
        return (t - times[i]) / width, width, low, high, slopes[i] * width - rise, slopes[i + 1] * width - rise

    def beta(self, t: Tensor) -> Tensor:
        """Cubic Hermite interpolation of the table; exact at both ends."""
        u, _, low, high, start, end = self._piece(in_float64(t))
        return (torch.lerp(low, high, u) + u * (1.0 - u) * ((1.0 - u) * start - u * end)).to(t)

    def alpha(self, t: Tensor) -> Tensor:
        """Derivative of beta."""
        u, width, low, high, start, end = self._piece(in_float64(t))
        bend = (1.0 - u) * (1.0 - 3.0 * u) * start - u * (2.0 - 3.0 * u) * end
        return ((high - low + bend) / width).to(t)

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """beta(t) - beta(s), the difference in float64."""
        return super().accuracy(in_float64(s), in_float64(t)).to(t)


def _default_beta_1(classes: int) -> float:
    """Accuracy that leaves as few sites undecided for many classes as for two: K beta grows with ln K."""
    k = max(2, classes)  # defaults are computed before the validators of other fields, so classes may be invalid
    return (18.0 + 3.0 * math.log(k / 2)) / k


@attrs.frozen
class Categorical(ChannelFamily[Params]):
    """Discrete data: classes 0..K-1 at each site, as int64.

    With two classes, the network sees one number at each site (the probability of class 1, scaled to [-1, 1]) and
    returns one (the logit of class 1).

    Arguments:
        site_shape: Shape of one example.
        classes: Number K of classes.
        beta_1: Accuracy at t = 1; by default (18 + 3 ln(K / 2)) / K, with which the most probable class is the truth
            at more than 99.5 % of the sites for every K.  Published values are 9 for K = 2, which is this default, and
            0.5625 for K = 27, which leaves 4.5 % of the sites wrong.
        skip: Whether raw numbers are added to the log-odds of the beliefs, so that the network needs to add only the
            information from other sites; otherwise they are the logits, as published.
        entropy_linear: Whether the entropy falls linearly in time (:class:`EntropyLinearSchedule`); otherwise beta is
            quadratic in time (eq. 182).
        axes: Names of the axes of the site shape (:class:`~bfn_toolkit.PartIO`); empty if they have none.

    >>> c = Categorical(site_shape=(2,), classes=3)
    >>> belief = c.update(c.prior(1), torch.tensor([[[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]]), torch.tensor([1.0]))
    >>> c.input(belief).mode
    tensor([[0, 0]])
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape, validator=check_site_shape)
    classes: int = field(default=2, validator=validators.integer(ge=2))
    beta_1: float = field(
        default=attrs.Factory(lambda self: _default_beta_1(self.classes), takes_self=True),
        validator=validators.number(gt=0),
    )
    skip: bool = True
    entropy_linear: bool = False
    axes: tuple[str, ...] = field(default=(), kw_only=True, converter=as_axes, validator=check_axes)
    schedule: AccuracySchedule = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        linear = self.entropy_linear
        schedule = EntropyLinearSchedule(self.classes, self.beta_1) if linear else QuadraticSchedule(self.beta_1)
        object.__setattr__(self, "schedule", schedule)

    @property
    def network_io(self) -> NetworkIO:  # noqa: D102
        numbers = 1 if self.classes == 2 else self.classes
        return NetworkIO(self.site_shape, numbers, numbers, self.axes, "classes", self.classes)

    @property
    def site_times(self) -> bool:  # noqa: D102
        return True

    @property
    def is_discrete(self) -> bool:  # noqa: D102
        return True

    @property
    def channels(self) -> int:  # noqa: D102
        return 1 if self.classes == 2 else self.classes

    def embed(self, x: Tensor) -> Tensor:
        """The one-hot code; for two classes the difference of its two numbers, at the same noise: -1 or 1 / sqrt(2)."""
        dtype = torch.get_default_dtype()
        if self.classes == 2:
            return _ends(x, dtype)
        return torch.zeros((*x.shape, self.classes), dtype=dtype, device=x.device).scatter_(-1, x.unsqueeze(-1), 1.0)

    def natural_params(self, params: Params) -> tuple[Tensor, Tensor]:
        """Returns v and B = K beta."""
        v = params.half_odds.unsqueeze(-1) / HALF if self.classes == 2 else params.logits
        return v, self.classes * params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> Params:
        """Stores v and beta = B / K."""
        beta = accuracy / self.classes
        return PairParams(v.squeeze(-1) * HALF, beta) if self.classes == 2 else CategoricalParams(v, beta)

    def snr(self, alpha: Tensor) -> Tensor:
        """Returns K alpha."""
        return self.classes * alpha

    def mean_embedding(self, output: Output) -> Tensor:
        """The probabilities of the classes; for two classes their difference over sqrt(2)."""
        if not isinstance(output, Finite):
            return super().mean_embedding(output)
        if self.classes == 2:
            half_odds = 0.5 * output.log_odds if isinstance(output, Pair) else _half_odds(output.logits)
            return half_odds.tanh().unsqueeze(-1) * HALF  # not in place: the gradient of tanh needs its result
        return output.logits.softmax(-1)

    def input(self, params: Params) -> Distribution:
        """softmax(v) at each site."""
        base = TorchCategorical(logits=params.logits, validate_args=False)
        return Independent(base, params.logits.ndim - 2, validate_args=False)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """Eq. 141."""
        code = self.classes * one_hot(x, self.classes).to(torch.get_default_dtype()) - 1.0
        return normal(expand(alpha, code) * code, (self.classes * alpha).sqrt())

    def update(self, params: Params, y: Tensor, alpha: Tensor) -> Params:
        """Eq. 171, as a sum."""
        if self.classes == 2:
            half_odds = params.half_odds
            change, alpha = _half_odds(y).to(half_odds.dtype), alpha.to(half_odds.dtype)
            return PairParams(half_odds + change, plus(params.accuracy, alpha))
        y, alpha = (value.to(params.logits.dtype) for value in (y, alpha))
        return CategoricalParams(params.logits + (y + expand(alpha, y)), plus(params.accuracy, alpha))

    def draw_update(self, params: Params, x: Tensor, alpha: Tensor) -> Params:
        """Draws a message about x and adds it to v, without a one-hot code."""
        if self.classes == 2:
            alpha = alpha.to(params.half_odds.dtype)
            message = _half_message(x, alpha, torch.randn_like(params.half_odds))
            return PairParams(message.add_(params.half_odds), plus(params.accuracy, alpha))
        alpha = alpha.to(params.logits.dtype)
        message = _message(x, expand(alpha, params.logits), torch.randn_like(params.logits))
        return CategoricalParams(message.add_(params.logits), plus(params.accuracy, alpha))

    def flow(self, x: Tensor, t: Tensor) -> Params:
        """Eq. 185, in one draw."""
        beta = self.schedule.beta(by_example(t, len(x)))
        if self.classes == 2:
            return PairParams(_half_message(x, beta, torch.randn(x.shape, dtype=t.dtype, device=x.device)), beta)
        noise = torch.randn((*x.shape, self.classes), dtype=t.dtype, device=x.device)
        return CategoricalParams(_message(x, expand(beta, noise), noise), beta)

    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        """The mixture of the K senders."""
        if isinstance(output, Finite):
            return Receiver(output.logits, alpha)
        return super().receiver(output, alpha)

    def features(self, params: Params) -> Tensor:
        """Probabilities scaled to [-1, 1]; for two classes only that of class 1."""
        if self.classes == 2:
            return params.half_odds.tanh().unsqueeze(-1)
        return params.logits.softmax(-1).mul_(2.0).sub_(1.0)

    def output(self, raw: Tensor, params: Params) -> Output:
        """Distribution over the classes with logits from the raw numbers; for two classes the logit of class 1."""
        if self.classes == 2:
            odds = raw.squeeze(-1)
            return Pair(log_odds=torch.add(odds, params.half_odds, alpha=2.0) if self.skip else odds)
        return Finite(None, raw + params.logits if self.skip else raw)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """K / 2 times the squared distance of the one-hot code from the probabilities, computed without the code."""
        return 0.5 * self.classes * self._error(x, output).square().sum(-1)

    def loss_rate(self, x: Tensor, output: Output, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Eq. 205, summed over the sites before it is scaled."""
        if mask is not None or t.ndim > 1:
            return super().loss_rate(x, output, t, mask)
        if isinstance(output, Pair):
            p = output.log_odds.sigmoid()
            return mse_loss(p, x.to(p.dtype), reduction="none").flatten(1).sum(1) * (2.0 * self.schedule.alpha(t))
        return self._error(x, output).square().flatten(1).sum(1) * (self.schedule.alpha(t) * (0.5 * self.classes))

    def _error(self, x: Tensor, output: Output) -> Tensor:
        """Expected embedding minus the embedding."""
        p, index = self.mean_embedding(output), x.unsqueeze(-1)
        if self.classes == 2:
            return p - _ends(x, p.dtype)
        return p.scatter_add(-1, index, p.new_full((), -1.0).expand(index.shape))

    def step_loss(
        self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1, mask: Tensor | None = None
    ) -> Tensor:
        r"""Eq. 190 without the terms common to all components, with the :func:`~bfn_toolkit.control_variate`.

        .. math:: -E \ln \sum_k p_k e^{y_k - y_x}
        """
        if not isinstance(output, Finite):
            return super().step_loss(x, output, alpha, samples, mask)
        x = present(x, mask)
        log_p, index = output.logits.log_softmax(-1), x.unsqueeze(-1)
        alpha = expand(alpha, log_p)
        variance = (self.classes * alpha).to(log_p.dtype).expand(index.shape)
        near = log_p.scatter_add(-1, index, 0.5 * variance).softmax(-1)  # the components near the messages about x
        shift = variance.sqrt() * near.scatter_add(-1, index, near.new_full((), -1.0).expand(index.shape))
        ratio = 1.0 + variance * near * (1.0 - near)
        loss = log_p.new_zeros(len(log_p))
        for _ in range(samples):
            noise = torch.randn_like(log_p)
            y = _message(x, alpha, noise.clone())
            mixture = (log_p + (y - y.gather(-1, index))).logsumexp(-1)
            loss = loss + control_variate(noise, shift, ratio, mask) - per_example(mixture, mask)
        return loss / samples

    def check_data(self, x: Tensor) -> None:
        """Checks shape, dtype and the range 0..K-1."""
        super().check_data(x)
        check_values(self, x, (x < 0) | (x >= self.classes), f"classes 0..{self.classes - 1}")


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """The family."""
    examples: Sequence[Any] = (
        Categorical(site_shape=(2,), classes=2),
        Categorical(classes=5, entropy_linear=True),
        Categorical(site_shape=(2, 2), classes=3, beta_1=2.0),
    )
    return [Entry("categorical", Categorical, examples)]


@hookimpl
def bfn_schedules() -> Sequence[Entry]:
    """The entropy-linear schedule."""
    examples = (EntropyLinearSchedule(), EntropyLinearSchedule(classes=5, beta_1=3.0))
    return [Entry("entropy-linear", EntropyLinearSchedule, examples)]
