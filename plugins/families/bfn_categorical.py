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

Source: Graves et al. 2023, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical, Distribution, Independent, constraints
from torch.nn.functional import one_hot, pad

from bfn_toolkit import (
    AccuracySchedule,
    ChannelFamily,
    DataError,
    Entry,
    Finite,
    NetworkIO,
    Output,
    QuadraticSchedule,
    as_shape,
    check_site_shape,
    check_values,
    expand,
    hookimpl,
    normal,
    per_example,
    seeded,
    validators,
)


@attrs.frozen(eq=False)
class CategoricalParams:
    """Beliefs softmax(logits) at each site, independent.

    Arguments:
        logits: Natural parameters v, the sum of all y + alpha, with shape (B, *site, K); not normalised.
        accuracy: Total accuracy beta of the messages, with shape (B,).
    """

    logits: Tensor
    accuracy: Tensor

    @property
    def log_probs(self) -> Tensor:
        """Logarithms of the probabilities, with shape (B, *site, K)."""
        return self.logits.log_softmax(-1)


class Receiver(Distribution):
    """Mixture of the K senders with weights at each site, in memory linear in K (eq. 187).

    Arguments:
        logits: Unnormalised log-weights, with shape (B, *site, K).
        alpha: Accuracy of the message, with shape (B,) or ().
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, logits: Tensor, alpha: Tensor) -> None:
        self.logits, self.alpha = logits, expand(alpha, logits)
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
        return per_example(density.sum(-1) + mixture)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + (B, *site, K): a class, then its message."""
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        return _message(Finite(None, logits).sample(), self.alpha, torch.randn_like(logits)) - self.alpha


def _message(x: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """Turns normal noise (B, *site, K) in place into y + alpha, where y is a message about x."""
    variance = (alpha * noise.shape[-1]).to(noise.dtype)
    index = x.unsqueeze(-1)
    return noise.mul_(variance.sqrt()).scatter_add_(-1, index, variance.expand(index.shape))


@lru_cache(maxsize=32)
def _entropy_linear_table(classes: int, beta_1: float) -> tuple[Tensor, Tensor, Tensor]:
    """Times at which the expected entropy reaches that of a grid of accuracies, by Monte Carlo with one set of draws.

    Returns times, accuracies and slopes d beta / dt of a monotone cubic (Fritsch and Carlson 1980), in float64.
    """
    from scipy.interpolate import PchipInterpolator

    draws = min(20_000, max(64, 2_000_000 // classes))
    grid = torch.cat([torch.zeros(1), torch.logspace(-3, 0, 96)]).double() * beta_1
    with seeded(0, "entropy", classes):
        noise = torch.randn(draws, classes, dtype=torch.float64)
    noise = torch.cat([noise, -noise])
    entropy = []
    for beta in grid.tolist():
        z = math.sqrt(beta * classes) * noise
        z[:, 0] += beta * classes
        log_p = z.log_softmax(-1)
        entropy.append(float(-(log_p.exp() * log_p).sum(-1).mean()))
    falls = torch.tensor(entropy, dtype=torch.float64)
    times = (falls[0] - falls) / (falls[0] - falls[-1])
    keep = torch.cat([torch.ones(1, dtype=torch.bool), times.diff() > 1e-9])
    times, grid = times[keep], grid[keep]
    curve = PchipInterpolator(times.numpy(), grid.numpy())
    return times, grid, torch.from_numpy(curve.derivative()(times.numpy()))


@attrs.frozen
class EntropyLinearSchedule(AccuracySchedule):
    """Schedule under which the expected entropy of the beliefs about one class falls at a constant rate.

    Under the quadratic schedule it deviates from this by up to 0.27 ln K.  The expected entropy is a Monte Carlo
    estimate with fixed draws, inverted by a monotone cubic.

    Arguments:
        classes: Number K of classes.
        beta_1: Accuracy at t = 1.
    """

    classes: int = field(default=2, validator=validators.integer(ge=2))
    beta_1: float = field(default=1.0, validator=validators.number(gt=0))

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        times, values, slopes = (
            part.to(t.device, t.dtype) for part in _entropy_linear_table(self.classes, self.beta_1)
        )
        i = torch.searchsorted(times, t.contiguous(), right=True).clamp_(1, len(times) - 1) - 1
        width = times[i + 1] - times[i]
        return (t - times[i]) / width, width, values[i], values[i + 1], slopes[i], slopes[i + 1]

    def beta(self, t: Tensor) -> Tensor:
        """Cubic Hermite interpolation of the table."""
        u, width, a, b, da, db = self._piece(t)
        rise = b - a
        curve = u * (width * da + u * (3.0 * rise - width * (2.0 * da + db) + u * (width * (da + db) - 2.0 * rise)))
        return a + curve

    def alpha(self, t: Tensor) -> Tensor:
        """Derivative of beta."""
        u, width, a, b, da, db = self._piece(t)
        rise = b - a
        slope = 2.0 * (3.0 * rise / width - 2.0 * da - db) + 3.0 * u * (da + db - 2.0 * rise / width)
        return da + u * slope


@attrs.frozen
class Categorical(ChannelFamily[CategoricalParams]):
    """Discrete data: classes 0..K-1 at each site, as int64.

    With two classes, the network sees one number at each site (the probability of class 1, scaled to [-1, 1]) and
    returns one (the logit of class 1).

    Arguments:
        site_shape: Shape of one example.
        classes: Number K of classes.
        beta_1: Accuracy at t = 1; by default 18 / K, which lies among the published values (9 for K = 2, 0.5625 for
            K = 27).
        skip: Whether raw numbers are added to the log-odds of the beliefs, so that the network needs to add only the
            information from other sites; otherwise they are the logits, as published.
        entropy_linear: Whether the entropy falls linearly in time (:class:`EntropyLinearSchedule`); otherwise beta is
            quadratic in time (eq. 182).

    >>> c = Categorical(site_shape=(2,), classes=3)
    >>> belief = c.update(c.prior(1), torch.tensor([[[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]]), torch.tensor([1.0]))
    >>> c.input(belief).mode
    tensor([[0, 0]])
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape, validator=check_site_shape)
    classes: int = field(default=2, validator=validators.integer(ge=2))
    beta_1: float = field(
        # Defaults are computed before the validators of other fields, so classes may be invalid.
        default=attrs.Factory(lambda self: 18.0 / max(2, self.classes), takes_self=True),
        validator=validators.number(gt=0),
    )
    skip: bool = True
    entropy_linear: bool = False
    schedule: AccuracySchedule = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        linear = self.entropy_linear
        schedule = EntropyLinearSchedule(self.classes, self.beta_1) if linear else QuadraticSchedule(self.beta_1)
        object.__setattr__(self, "schedule", schedule)

    @property
    def network_io(self) -> NetworkIO:  # noqa: D102
        numbers = 1 if self.classes == 2 else self.classes
        return NetworkIO(self.site_shape, numbers, numbers)

    @property
    def is_discrete(self) -> bool:  # noqa: D102
        return True

    @property
    def channels(self) -> int:  # noqa: D102
        return self.classes

    def embed(self, x: Tensor) -> Tensor:
        """The one-hot code."""
        return one_hot(x, self.classes).to(torch.get_default_dtype())

    def natural_params(self, params: CategoricalParams) -> tuple[Tensor, Tensor]:
        """Returns v and B = K beta."""
        return params.logits, self.classes * params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> CategoricalParams:
        """Stores v and beta = B / K."""
        return CategoricalParams(v, accuracy / self.classes)

    def snr(self, alpha: Tensor) -> Tensor:
        """Returns K alpha."""
        return self.classes * alpha

    def mean_embedding(self, output: Output) -> Tensor:
        """The probabilities of the classes."""
        return output.logits.softmax(-1) if isinstance(output, Finite) else super().mean_embedding(output)

    def input(self, params: CategoricalParams) -> Distribution:
        """softmax(v) at each site."""
        base = TorchCategorical(logits=params.logits, validate_args=False)
        return Independent(base, params.logits.ndim - 2, validate_args=False)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """Eq. 141."""
        code = self.classes * one_hot(x, self.classes).to(alpha.dtype) - 1.0
        return normal(expand(alpha, code) * code, (self.classes * alpha).sqrt())

    def update(self, params: CategoricalParams, y: Tensor, alpha: Tensor) -> CategoricalParams:
        """Eq. 171, as a sum."""
        return CategoricalParams(params.logits + (y + expand(alpha, y)), params.accuracy + alpha)

    def draw_update(self, params: CategoricalParams, x: Tensor, alpha: Tensor) -> CategoricalParams:
        """Draws a message about x and adds it to v, without a one-hot code."""
        message = _message(x, expand(alpha, params.logits), torch.randn_like(params.logits))
        return CategoricalParams(message.add_(params.logits), params.accuracy + alpha)

    def flow(self, x: Tensor, t: Tensor) -> CategoricalParams:
        """Eq. 185, in one draw."""
        beta = self.schedule.beta(t)
        noise = torch.randn((*x.shape, self.classes), dtype=t.dtype, device=x.device)
        return CategoricalParams(_message(x, expand(beta, noise), noise), beta)

    def receiver(self, output: Output, alpha: Tensor) -> Distribution:
        """The mixture of the K senders."""
        if isinstance(output, Finite):
            return Receiver(output.logits, alpha)
        return super().receiver(output, alpha)

    def features(self, params: CategoricalParams) -> Tensor:
        """Probabilities scaled to [-1, 1]; for two classes only that of class 1."""
        if self.classes == 2:
            return (0.5 * (params.logits[..., 1:] - params.logits[..., :1])).tanh()
        return params.logits.softmax(-1).mul_(2.0).sub_(1.0)

    def output(self, raw: Tensor, params: CategoricalParams) -> Output:
        """Distribution over the classes with logits from the raw numbers; for two classes the logit of class 1."""
        logits = pad(raw, (1, 0)) if self.classes == 2 else raw
        return Finite(None, logits + params.logits if self.skip else logits)

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """K / 2 times the squared distance of the one-hot code from the probabilities, computed without the code."""
        return 0.5 * self.classes * self._error(x, output).square().sum(-1)

    def loss_rate(self, x: Tensor, output: Output, t: Tensor) -> Tensor:
        """Eq. 205, summed over the sites before it is scaled."""
        return self._error(x, output).square().flatten(1).sum(1) * (self.schedule.alpha(t) * (0.5 * self.classes))

    def _error(self, x: Tensor, output: Output) -> Tensor:
        """Probabilities minus the one-hot code."""
        p, index = self.mean_embedding(output), x.unsqueeze(-1)
        return p.scatter_add(-1, index, p.new_full((), -1.0).expand(index.shape))

    def step_loss(self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1) -> Tensor:
        r"""Eq. 190 without the terms common to all components, and with a control variate for small accuracies.

        .. math:: -E \ln \sum_k p_k e^{d_k}, \quad d_k = y_k - y_x, \quad E \sum_k p_k d_k = -\alpha K (1 - p_x)

        The control variate is the first order of the logarithm, times e^(-alpha K), since it does not help at large
        accuracies.
        """
        if not isinstance(output, Finite):
            return super().step_loss(x, output, alpha, samples)
        log_p, index = output.logits.log_softmax(-1), x.unsqueeze(-1)
        p = log_p.exp()
        variance = expand(alpha, x) * self.classes
        expected = variance * (p.gather(-1, index).squeeze(-1) - 1.0)
        loss = torch.zeros_like(expected)
        for _ in range(samples):
            y = _message(x, expand(alpha, log_p), torch.randn_like(log_p))
            difference = y - y.gather(-1, index)
            first_order = ((p * difference).sum(-1) - expected) * (-variance).exp()
            loss = loss + first_order - (log_p + difference).logsumexp(-1)
        return per_example(loss / samples)

    def check_data(self, x: Tensor) -> None:
        """Checks shape, dtype int64, and the range 0..K-1."""
        super().check_data(x)
        if x.dtype != torch.int64:
            raise DataError(f"Categorical expects classes as torch.int64, found {x.dtype}; convert with x.long()")
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
