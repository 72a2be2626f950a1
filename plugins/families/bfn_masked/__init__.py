r"""Masked diffusion (plugin): classes by an erasure channel, an additive family whose loss rate is a cross-entropy.

A message about a site is its class, or nothing: "?", the *mask*.  With :math:`\beta` the accumulated accuracy,

.. math::
    P(y = x) = 1 - e^{-\alpha}, \qquad P(y = \text{?}) = e^{-\alpha}, \qquad
    P(\theta = \text{?} \mid x; t) = e^{-\beta(t)} .

Nothing twice has probability :math:`e^{-a} e^{-b} = e^{-(a + b)}`: accuracies add.  The beliefs about a site are the
class, if a message had it, and otherwise the prior, uniform.  The output knows the known sites, so that a message costs

.. math::
    \mathrm{KL}(p_S \,\|\, p_R) = (1 - e^{-\alpha}) \sum_{\text{masked}} -\ln p_O(x), \qquad
    \text{loss rate} = \alpha(t) \sum_{\text{masked}} -\ln p_O(x) .

Under the log-linear schedule the fraction of masked sites falls linearly in time, and :math:`\alpha(t) e^{-\beta(t)}`
is constant: each masked site counts 1 / (its probability of being masked), the weighted bound of masked diffusion.
The ancestral sampler is that of masked diffusion: a step unmasks each site with one probability, to a draw of the
output.  :class:`~bfn_toolkit.ChurnSampler` masks sites again.

Source: Sahoo et al. 2024 (arXiv 2406.07524), MDLM, and Shi et al. 2024 (arXiv 2406.04329), MD4, whose time runs the
other way; the log-linear schedule is that of Lou et al. 2023 (arXiv 2310.16834).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical, Distribution, Independent, constraints

from bfn_toolkit import (
    AccuracySchedule,
    AdditiveFamily,
    Entry,
    Finite,
    NetworkIO,
    Output,
    QuadraticSchedule,
    as_axes,
    as_shape,
    check_axes,
    check_site_shape,
    check_values,
    expand,
    hookimpl,
    plus,
    present,
    validators,
    weighted,
)

STEPS = 256  # largest default number of steps
CERTAIN = 1e6  # nats between a known class and the others; finite, because guidance subtracts logits


@attrs.frozen(eq=False)
class MaskedParams:
    """Beliefs about classes: certain at the known sites, uniform at the masked ones.

    Arguments:
        x: The class at each site, or K where it is masked, as int64 with shape (B, *site).
        accuracy: Total accuracy beta of the messages, with shape (B,), or (B, *site) if sites differ.
    """

    x: Tensor
    accuracy: Tensor


class Erasure(Distribution):
    """Sender at each site: the class with probability 1 - e^-alpha, else the mask K.

    Arguments:
        x: Classes, with shape (B, *site).
        alpha: Accuracy, which broadcasts against x.
        classes: Number K of classes.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes
    support = constraints.nonnegative_integer

    def __init__(self, x: Tensor, alpha: Tensor, classes: int) -> None:
        self.x, self.alpha, self.classes = x, alpha, classes
        super().__init__(x.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Erasure:
        """The same distribution for more examples."""
        return Erasure(self.x.expand(*batch_shape), self.alpha, self.classes)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats; -inf for another class."""
        told = torch.where(value == self.x, (-torch.expm1(-self.alpha)).log(), -torch.inf)
        return torch.where(value == self.classes, -self.alpha, told)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + batch shape, from uniform numbers in the dtype of alpha."""
        u = torch.rand((*sample_shape, *self.x.shape), dtype=self.alpha.dtype, device=self.x.device)
        return torch.where(u < -torch.expm1(-self.alpha), self.x, self.classes)


@attrs.frozen
class LogLinearSchedule(AccuracySchedule):
    r"""Schedule under which the fraction of masked sites falls linearly, from 1 to :math:`e^{-\beta_1}`.

    .. math:: \beta(t) = -\ln S(t), \qquad \alpha(t) = \frac{1 - e^{-\beta_1}}{S(t)}, \qquad
              S(t) = 1 - t \, (1 - e^{-\beta_1})

    Arguments:
        beta_1: Accuracy at t = 1; in [1e-6, 16].

    Source: Lou et al. 2023 (arXiv 2310.16834), "log-linear noise".

    >>> LogLinearSchedule().beta(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 0.0000,  0.6931, 10.0000])
    """

    # Beyond 16, float32 cannot tell the last masked sites from none: e^-16 is its resolution at t = 1.
    beta_1: float = field(default=10.0, validator=validators.number(ge=1e-6, le=16))

    @property
    def fall(self) -> float:
        """1 - e^-beta_1: by how much the masked fraction falls."""
        return -math.expm1(-self.beta_1)

    def masked(self, t: Tensor) -> Tensor:
        """Fraction S(t) of masked sites, to the last digits at both ends."""
        return (1.0 - t) + math.exp(-self.beta_1) * t

    def beta(self, t: Tensor) -> Tensor:  # noqa: D102
        return self.accuracy(torch.zeros_like(t), t)

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return self.fall / self.masked(t)

    def accuracy(self, s: Tensor, t: Tensor) -> Tensor:
        """ln S(s) / S(t), without the difference of two accuracies."""
        return torch.log1p(self.fall * (t - s) / self.masked(t))

    def time(self, beta: Tensor) -> Tensor:  # noqa: D102
        return -torch.expm1(-beta) / self.fall


@attrs.frozen
class Masked(AdditiveFamily[MaskedParams]):
    """Discrete data by masked diffusion: classes 0..K-1 at each site, as int64.

    The network sees the one-hot code of each site, with the mask as class K, and returns K logits: the mask is never
    predicted.  Its raw numbers at known sites have no effect.

    Arguments:
        site_shape: Shape of one example.
        classes: Number K of classes.
        schedule: Accuracy schedule.  It shapes the variance of the loss and the steps of the samplers; the
            continuous-time loss of a network that ignores the time depends on beta(1) alone.
        axes: Names of the axes of the site shape (:class:`~bfn_toolkit.PartIO`); empty if they have none.

    >>> m = Masked(site_shape=(3,), classes=2)
    >>> m.update(m.prior(1), torch.tensor([[0, 2, 1]]), torch.tensor([1.0])).x
    tensor([[0, 2, 1]])
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape, validator=check_site_shape)
    classes: int = field(default=2, validator=validators.integer(ge=2))
    schedule: AccuracySchedule = field(factory=LogLinearSchedule, validator=validators.instance_of(AccuracySchedule))
    axes: tuple[str, ...] = field(default=(), kw_only=True, converter=as_axes, validator=check_axes)

    @property
    def network_io(self) -> NetworkIO:  # noqa: D102
        return NetworkIO(self.site_shape, self.classes + 1, self.classes, self.axes, "classes", self.classes)

    @property
    def default_steps(self) -> int:
        """One step for each site, as far as 256."""
        return min(math.prod(self.site_shape), STEPS)

    @property
    def one_by_one(self) -> bool:
        """True: sites drawn together are drawn as if they were independent."""
        return True

    @property
    def site_times(self) -> bool:  # noqa: D102
        return True

    @property
    def is_discrete(self) -> bool:  # noqa: D102
        return True

    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MaskedParams:
        """Every site is masked."""
        x = torch.full((batch_size, *self.site_shape), self.classes, device=device)
        return MaskedParams(x, torch.zeros(batch_size, device=device, dtype=dtype))

    def _code(self, params: MaskedParams) -> Tensor:
        """One-hot code of the sites, with the mask as class K: (B, *site, K + 1)."""
        classes = torch.arange(self.classes + 1, device=params.x.device)
        return (params.x.unsqueeze(-1) == classes).to(params.accuracy.dtype)

    def input(self, params: MaskedParams) -> Distribution:
        """The known class, or the uniform distribution."""
        code = self._code(params)
        base = TorchCategorical(logits=(code[..., :-1] + code[..., -1:]).log(), validate_args=False)
        return Independent(base, params.x.ndim - 1, validate_args=False)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """The class with probability 1 - e^-alpha, else K."""
        return Independent(Erasure(x, expand(alpha, x), self.classes), x.ndim - 1, validate_args=False)

    def update(self, params: MaskedParams, y: Tensor, alpha: Tensor) -> MaskedParams:
        """The message, where it has a class."""
        accuracy = plus(params.accuracy, alpha.to(params.accuracy.dtype))
        return MaskedParams(torch.where(y == self.classes, params.x, y), accuracy)

    def draw_update(self, params: MaskedParams, x: Tensor, alpha: Tensor) -> MaskedParams:
        """The update of a message drawn in the dtype of the beliefs, which classes do not have."""
        return super().draw_update(params, x, alpha.to(params.accuracy.dtype))

    def forget(self, params: MaskedParams, alpha: Tensor) -> MaskedParams:
        """Masks known sites again, each with probability (e^alpha - 1) / (e^beta - 1)."""
        u = torch.rand(params.x.shape, dtype=params.accuracy.dtype, device=params.x.device)
        alpha = alpha.to(u.dtype)
        # Without the division, which would be 0 / 0 at the prior.
        gone = u * expand(params.accuracy.expm1(), u) < expand(alpha.expm1(), u)
        return MaskedParams(torch.where(gone, self.classes, params.x), plus(params.accuracy, -alpha).clamp_min(0.0))

    def features(self, params: MaskedParams) -> Tensor:
        """One-hot code of the sites, with the mask as class K."""
        return self._code(params)

    def output(self, raw: Tensor, params: MaskedParams) -> Output:
        """The class at known sites, and the network's logits at masked ones."""
        code = self._code(params)
        return Finite(None, torch.addcmul(CERTAIN * code[..., :-1], code[..., -1:], raw))

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """-ln p_O(x) at each site, by its marginal probability."""
        if isinstance(output, Finite):
            return -output.logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return -output.expect(lambda value: (value == x).to(torch.get_default_dtype())).log()

    def step_loss(
        self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1, mask: Tensor | None = None
    ) -> Tensor:
        """(1 - e^-alpha) times -ln p_O(x), for classes that are independent over the sites."""
        if not isinstance(output, Finite):
            return super().step_loss(x, output, alpha, samples, mask)
        return weighted(self.kl_rate(present(x, mask), output), -torch.expm1(-alpha), mask)

    def check_data(self, x: Tensor) -> None:
        """Checks shape, dtype and the range 0..K-1."""
        super().check_data(x)
        check_values(self, x, (x < 0) | (x >= self.classes), f"classes 0..{self.classes - 1}")


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """The family."""
    examples = (Masked(), Masked((2, 3), classes=4), Masked((2,), classes=3, schedule=QuadraticSchedule(4.0)))
    return [Entry("masked", Masked, examples)]


@hookimpl
def bfn_schedules() -> Sequence[Entry]:
    """The log-linear schedule."""
    return [Entry("log-linear", LogLinearSchedule, (LogLinearSchedule(), LogLinearSchedule(beta_1=2.0)))]
