r"""Columns of a table by an erasure channel (plugin): a message tells the class of a cell, or nothing.

Column d is a line [0, K_d), divided into classes of unit width: class k is [k, k + 1).  A cell is a point x of the
line, and its density within a class is constant: which levels share a class, and their widths, is up to the codec.
With :math:`\beta` the accumulated accuracy and k the class of x, as in :mod:`bfn_masked`,

.. math::
    P(y = k) = 1 - e^{-\alpha}, \qquad P(y = \text{?}) = e^{-\alpha}, \qquad
    \text{loss rate} = \alpha(t) \sum_{\text{unknown}} -\ln p_O(x) .

The beliefs know the classes of some cells, and nothing about the others.  So training at random times is
training with random known cells, any cell may be given, and cells drawn one after another have the price of the chain
rule, :math:`-\sum_i \ln p_O(x_i \mid x_{<i})`, whatever their order.

The network sees for each column which class is known, as a one-hot code, and T *coarse* numbers of it: the heights of
ramps along the line for columns in order, and the code of the first T classes for others.  It returns K numbers r and M
coarse ones w, the weights of bumps of several widths, or further numbers for the first M classes:

.. math:: \text{logit}_k = \ln s_k + g \, r_k + \sum_m w_m \, b_m(k), \qquad
          b_m(k) = e^{-\frac12 \left((k - c_m) / (0.7\, h_m)\right)^2} \text{ or } \delta_{m k} .

with the shares s of the classes and gains, among them g, that make coarse numbers learn faster than those of single
classes.  So neighbouring classes of a number learn from each other, and a linear map of coarse numbers
(:attr:`PartIO.coarse <bfn_toolkit.PartIO>`) is an additive model of all pairs of columns.

Source: Hoogeboom et al. 2022 (arXiv 2110.02037), absorbing diffusion as autoregression in any order; Gulati and Roysdon
2023 (arXiv 2312.06089), masked classes of quantiles for tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Distribution, Independent, Uniform

from bfn_masked import LogLinearSchedule, Masked, MaskedParams
from bfn_toolkit import (
    AccuracySchedule,
    AdditiveFamily,
    ConfigError,
    Entry,
    Finite,
    Kernel,
    NetworkIO,
    Output,
    PartIO,
    as_shape,
    check_values,
    class_logits,
    hookimpl,
    present,
    validators,
    weighted,
)

RAMPS = 25  # largest number of coarse features of a column
BUMPS = (3, 6, 12, 24)  # numbers of bumps along a line, of each width
NEVER = -1e6  # logit of a class beyond the last of its column
GAIN = 3.0  # of coarse codes of classes, in features and in logits: they are learned faster
FINE, MANY = 0.3, 16  # effect of the K numbers where there are many classes in order: they are learned more slowly
MOST = 2**20  # numbers of a row, for which 300 MB of codes are kept
STEPS = 100  # largest default number of steps
SMALLEST = 4  # classes; with fewer, an order needs no help


@attrs.frozen(eq=False)
class Histogram:
    """Density on lines that is constant in each class, independent over the columns.

    Arguments:
        logits: Unnormalised log-weights of the classes, with shape (B, D, K).
    """

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """E[x] of each column."""
        return self.expect(lambda x: x)

    @property
    def mode(self) -> Tensor:
        """The middle of the most probable class."""
        return self.logits.argmax(-1).to(self.logits.dtype) + 0.5

    def sample(self) -> Tensor:
        """Draws a point for each column, by inverting the distribution function with one uniform number."""
        cdf = self.logits.softmax(-1).cumsum(-1)
        u = torch.rand_like(cdf[..., :1]) * cdf[..., -1:]
        k = torch.searchsorted(cdf, u, right=True).clamp_max_(cdf.shape[-1] - 1)
        below = torch.where(k > 0, cdf.gather(-1, (k - 1).clamp_min(0)), 0.0)
        width = (cdf.gather(-1, k) - below).clamp_min(torch.finfo(cdf.dtype).tiny)
        return _inside(k, (u - below) / width).squeeze(-1)

    def site_log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the points, in nats by column: (B, D)."""
        k = x.long().clamp(0, self.logits.shape[-1] - 1)
        return self.logits.log_softmax(-1).gather(-1, k.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats per example, with shape (B,)."""
        return weighted(self.site_log_prob(present(x, mask)), x.new_ones(()), mask)

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)] for a function that is linear in each class.

        Raises:
            ConfigError: If it is not linear, so that its value at the middle of a class is not its mean there.
        """
        k = torch.arange(self.logits.shape[-1], device=self.logits.device, dtype=self.logits.dtype)
        low, middle, high = (function((k + place).expand(self.logits.shape)) for place in (0.25, 0.5, 0.75))
        if not torch.allclose(low + high, 2.0 * middle, atol=1e-4):
            raise ConfigError("a Histogram takes expectations of functions that are linear in each class")
        return (self.logits.softmax(-1) * middle).sum(-1)

    def mix(self, kernel: Kernel) -> Distribution:
        """Mixture of the kernel over the classes, for a kernel that is the same in all of a class."""
        middles = torch.arange(self.logits.shape[-1], device=self.logits.device, dtype=self.logits.dtype) + 0.5
        return Finite(middles, self.logits).mix(kernel)


@class_logits.register
def _(output: Histogram) -> Tensor:
    return output.logits


def _inside(k: Tensor, u: Tensor) -> Tensor:
    """The point k + u of class k, which rounding does not move into another class."""
    start = k.to(u.dtype)
    return torch.minimum(start + u.clamp(0.0, 1.0), torch.nextafter(start + 1.0, start))


def _coarse(sizes: tuple[int, ...], ordered: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """Coarse numbers of each class (D, K + 1, T), 0 for none; and the effect of each on the logits (D, M, K).

    The last of both is that of the last class, which may be a gap.
    """
    classes = max(sizes)
    counts = [m for m in BUMPS if m < classes] or [2]
    t, m = max(2, min(RAMPS, classes)), sum(counts) + 1
    k = torch.arange(float(classes))
    codes, bumps = torch.zeros(len(sizes), classes + 1, t), torch.zeros(len(sizes), m, classes)
    for d, size in enumerate(sizes):
        if not (ordered and ordered[d]) or size < SMALLEST:
            codes[d, range(min(size, t)), range(min(size, t))] = GAIN
            bumps[d, range(min(size, m)), range(min(size, m))] = GAIN
            continue
        rows = []
        for count in counts:
            width = (size - 1) / (count - 1)
            rows.append(torch.exp(-0.5 * ((k - torch.arange(count).unsqueeze(1) * width) / (0.7 * width)).square()))
        bumps[d, :-1] = torch.cat(rows)
        along = (k[:size].unsqueeze(1) + 0.5) * ((t - 1) / size) - torch.arange(float(t - 1))
        codes[d, :size, :-1] = (along.clamp(0.0, 1.0) - 0.5) * (4.0 / math.sqrt(t - 1))
        codes[d, size - 1, -1] = bumps[d, -1, size - 1] = GAIN
    return codes, bumps


def _base(
    sizes: tuple[int, ...], ordered: tuple[bool, ...], shares: tuple[tuple[float, ...], ...]
) -> tuple[Tensor, Tensor]:
    """Logits of a network of zeros, and the effect of each of its K numbers: (D, K)."""
    base, effect = torch.full((len(sizes), max(sizes)), NEVER), torch.ones(len(sizes), 1)
    for d, size in enumerate(sizes):
        base[d, :size] = torch.tensor(shares[d]).log() if shares else 0.0
        if ordered and ordered[d] and size >= MANY:
            effect[d] = FINE
    return base, effect


@lru_cache(maxsize=16)
def _tables(family: Columns, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The tensors of :func:`_coarse` and of :func:`_base`, copied to a device once."""
    with torch.inference_mode(False):  # a training may use them after a sampler
        tables = *_coarse(family.sizes, family.ordered), *_base(family.sizes, family.ordered, family.shares)
        return tuple(table.to(device, dtype) for table in tables)


def _numbers(value: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(number) for number in row) for row in value)


def _booleans(value: Sequence[Any]) -> tuple[bool, ...]:
    return tuple(bool(item) for item in value)


@attrs.frozen(cache_hash=True)
class Columns(AdditiveFamily[MaskedParams]):
    """Rows of D columns, each a point of its line [0, K_d): real numbers of shape (B, D).

    Arguments:
        sizes: Number K_d of classes of each column.
        ordered: Whether the classes of each column are in order, as those of numbers are; () if none is.
        shares: Shares of the classes of each column among the training rows, from which a fresh network starts; () for
            equal ones.
        schedule: Accuracy schedule; see :class:`bfn_masked.Masked`.

    >>> c = Columns(sizes=(2, 5), ordered=(False, True))
    >>> c.update(c.prior(1), torch.tensor([[5, 3]]), torch.tensor([1.0])).x
    tensor([[5, 3]])
    """

    sizes: tuple[int, ...] = field(default=(2,), converter=as_shape)
    ordered: tuple[bool, ...] = field(default=(), converter=_booleans)
    shares: tuple[tuple[float, ...], ...] = field(default=(), converter=_numbers)
    schedule: AccuracySchedule = field(factory=LogLinearSchedule, validator=validators.instance_of(AccuracySchedule))

    @sizes.validator
    def _check_sizes(self, _: object, sizes: tuple[int, ...]) -> None:
        if not sizes or not all(isinstance(size, int) and size >= 2 for size in sizes):
            raise ValueError(f"sizes must be integers of at least 2, at least one, got {sizes}")
        if (numbers := len(sizes) * max(sizes)) > MOST:
            raise ValueError(
                f"sizes: {len(sizes):,} columns of {max(sizes):,} classes are {numbers:,} numbers a row, "
                f"more than {MOST:,}; leave columns out, or merge their rare classes"
            )

    @ordered.validator
    def _check_ordered(self, _: object, ordered: tuple[bool, ...]) -> None:
        if ordered and len(ordered) != len(self.sizes):
            raise ValueError(f"ordered must have {len(self.sizes)} values, one for each column, got {len(ordered)}")

    @shares.validator
    def _check_shares(self, _: object, shares: tuple[tuple[float, ...], ...]) -> None:
        if not shares:
            return
        if tuple(map(len, shares)) != self.sizes or not all(0.0 < share < math.inf for row in shares for share in row):
            raise ValueError(f"shares must be positive numbers, one for each class of {self.sizes}")

    @property
    def site_shape(self) -> tuple[int, ...]:
        """Shape (D,)."""
        return (len(self.sizes),)

    @property
    def classes(self) -> int:
        """The largest number of classes."""
        return max(self.sizes)

    @cached_property
    def _masked(self) -> Masked:
        """The family of the classes."""
        return Masked(self.site_shape, self.classes, self.schedule)

    def _tables(self, like: Tensor) -> tuple[Tensor, ...]:
        return _tables(self, like.device, like.dtype)

    @cached_property
    def network_io(self) -> NetworkIO:  # noqa: D102
        codes, bumps, *_ = self._tables(torch.zeros(()))
        t, m, classes = codes.shape[2], bumps.shape[1], self.classes
        part = PartIO(self.site_shape, ("column",), classes + 1 + t, classes + m, "classes", classes, (t, m))
        return NetworkIO(parts={"": part})

    @property
    def default_steps(self) -> int:
        """One step for each column, as far as 100."""
        return min(len(self.sizes), STEPS)

    @property
    def one_by_one(self) -> bool:
        """True: columns drawn together are drawn as if they were independent."""
        return True

    @property
    def raw_in_use(self) -> Tensor:
        """True at classes below the size of the column, and at coarse numbers that have an effect."""
        _, bumps, base, _ = self._tables(torch.zeros(()))
        return torch.cat([base > NEVER, bumps.sum(-1) > 0.0], -1)

    @property
    def site_times(self) -> bool:  # noqa: D102
        return True

    def prior(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MaskedParams:
        """No cell is known."""
        return self._masked.prior(batch_size, device=device, dtype=dtype)

    def input(self, params: MaskedParams) -> Distribution:
        """Uniform on the known class, or on the line."""
        known, size = params.x < self.classes, params.accuracy.new_tensor(self.sizes)
        low = torch.where(known, params.x, 0).to(size.dtype)
        high = torch.where(known, low + 1.0, size)
        return Independent(Uniform(low, high, validate_args=False), 1, validate_args=False)

    def sender(self, x: Tensor, alpha: Tensor) -> Distribution:
        """The class of the point with probability 1 - e^-alpha, else K."""
        return self._masked.sender(x.long(), alpha)

    def update(self, params: MaskedParams, y: Tensor, alpha: Tensor) -> MaskedParams:
        """The message, where it has a class."""
        return self._masked.update(params, y, alpha)

    def draw_update(self, params: MaskedParams, x: Tensor, alpha: Tensor) -> MaskedParams:
        """The update of a message drawn in the dtype of the beliefs."""
        return self._masked.draw_update(params, x.long(), alpha)

    def forget(self, params: MaskedParams, alpha: Tensor) -> MaskedParams:
        """Forgets known cells, each with probability (e^alpha - 1) / (e^beta - 1)."""
        return self._masked.forget(params, alpha)

    def features(self, params: MaskedParams) -> Tensor:
        """One-hot code of the known class, or of class K for none, and its coarse numbers: (B, D, K + 1 + T)."""
        code = self._masked.features(params)
        codes, *_ = self._tables(code)
        return torch.cat([code, codes[torch.arange(len(self.sizes), device=code.device), params.x]], -1)

    def output(self, raw: Tensor, params: MaskedParams) -> Output:
        """A histogram of each column: of the known class, or from the network."""
        _, bumps, base, effect = self._tables(raw)
        of_network = torch.addcmul(base, raw[..., : self.classes], effect)
        weights = raw[..., self.classes :].transpose(0, 1)
        of_network = torch.baddbmm(of_network.transpose(0, 1), weights, bumps).transpose(0, 1)
        point = params.x.unsqueeze(-1)
        known = torch.where(torch.arange(self.classes, device=raw.device) == point, 0.0, NEVER)
        return Histogram(torch.where(point < self.classes, known, of_network))

    def kl_rate(self, x: Tensor, output: Output) -> Tensor:
        """-ln p_O of the class of each column."""
        if isinstance(output, Histogram):
            return -output.site_log_prob(x)
        return -output.expect(lambda value: (value.floor() == x.floor()).to(x.dtype)).log()

    def step_loss(
        self, x: Tensor, output: Output, alpha: Tensor, samples: int = 1, mask: Tensor | None = None
    ) -> Tensor:
        """(1 - e^-alpha) times -ln p_O of the class, for columns that are independent."""
        if not isinstance(output, Histogram):
            return super().step_loss(x, output, alpha, samples, mask)
        return weighted(self.kl_rate(present(x, mask), output), -torch.expm1(-alpha), mask)

    def check_data(self, x: Tensor) -> None:
        """Checks shape, dtype and the lines [0, K)."""
        super().check_data(x)
        size = torch.tensor(self.sizes, device=x.device)
        check_values(self, x, (x < 0.0) | (x >= size), "points of [0, K) in each column")


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """The family."""
    started = Columns((3, 5), shares=[(0.2, 0.5, 0.3), (0.2,) * 5], schedule=LogLinearSchedule(2.0))
    return [Entry("columns", Columns, (Columns((2, 9, 40), (False, True, True)), started))]
