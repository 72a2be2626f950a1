r"""Regions: samples of which some sites lie in given intervals, without rejection.

The output of a site is a distribution over classes; class k is the interval [k, k + 1) of a line, with uniform density
within.  A :class:`Region` is a union A of intervals of the line of one site.  After the known sites, those with regions
are drawn, one after another.  Each is drawn from the output truncated to its region, and has a weight, the *mass* of
the region:

.. math::
    x_d \sim p_O(x_d \mid x_{\text{before}}) \, \mathbb{1}[x_d \in A_d] \, / \, m_d, \qquad
    m_d = p_O(A_d \mid x_{\text{before}}) .

Each example has P particles, which are resampled by these weights: sequential Monte Carlo.  A particle and the class
that it draws are chosen together, systematically, so the weight acts before the draw.  The last region leaves one
particle, and the sampler draws the other sites with the values of this one known.

With one region this is exact.  With several, the distribution of the samples differs from the conditional one by an
error of order 1 / P, in proportion to the variance of the weights.  The product of the mean masses,
:math:`\prod_d \overline{m_d}`, is an unbiased estimate of the probability of the regions, given what is known.

It works for families with times by site whose outputs have classes at each site (:func:`class_logits`), and is exact as
far as a message at time 1 tells a site: for erasure channels, such as masked diffusion, up to :math:`e^{-\beta_1}`.

Source: the fully adapted particle filter (Pitt and Shephard 1999; Doucet and Johansen 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.data.codec import Codec, comparison, strings
from bfn_toolkit.data.formats import Cells, Raw
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.guidance.particle_filter import rows_of, systematic
from bfn_toolkit.model import Condition, Model, rows_of_condition
from bfn_toolkit.outputs import Finite
from bfn_toolkit.sampling.chunks import MIN_ROWS, rows_together
from bfn_toolkit.sampling.inpainting import InpaintedModel, Observed
from bfn_toolkit.sampling.masked import MaskedModel
from bfn_toolkit.sampling.sampler import OnStep, Sampler
from bfn_toolkit.sampling.site_times import AnyOrderSampler
from bfn_toolkit.shapes import Data, Times, by_row, in_float64


@singledispatch
def class_logits(output: Any) -> Tensor:
    """Unnormalised log-probabilities (B, *site, K) of the classes of an output whose sites are independent.

    A plugin registers a rule for its own output with ``class_logits.register``.

    Raises:
        ConfigError: If the output has no classes.
    """
    raise ConfigError(
        f"a region needs an output of classes at each site, found {type(output).__name__}; it works for families such "
        "as columns and masked"
    )


@class_logits.register
def _(output: Finite) -> Tensor:
    if output.support is not None:
        raise ConfigError("a region needs an output of classes at each site, found one with a support of numbers")
    return output.logits


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value))


def _regions(value: Iterable[Region]) -> tuple[Region, ...]:
    return tuple(value)


@attrs.frozen
class Region:
    """A union of half-open intervals [low, high) on the line of a site.

    Arguments:
        site: Number of the site, in the order of the data.
        low: Beginnings of the intervals, increasing, from 0 on.
        high: Their ends, each at most the next beginning.

    >>> both = Region(0, [1.0], [3.5]) & Region(0, [0.0, 3.0], [2.0, 4.0])
    >>> both.low, both.high
    ((1.0, 3.0), (2.0, 3.5))
    """

    site: int = field(validator=validators.integer(ge=0))
    low: tuple[float, ...] = field(converter=_floats)
    high: tuple[float, ...] = field(converter=_floats)

    def __attrs_post_init__(self) -> None:
        ends = [0.0, *(end for interval in zip(self.low, self.high, strict=False) for end in interval)]
        wide = all(low < high for low, high in zip(self.low, self.high, strict=False))
        if len(self.low) != len(self.high) or not wide or ends != sorted(ends):
            raise ConfigError(
                f"the intervals of a region must be in increasing order, from 0 on, got {self.low} to {self.high}"
            )

    def __and__(self, other: Region) -> Region:
        """The intersection of two regions of a site, which may have no interval."""
        low, high = self.pieces(torch.tensor([*other.low, *other.high], dtype=torch.float64))
        inside = other.contains(low)
        return Region(self.site, low[inside].tolist(), high[inside].tolist())

    def contains(self, x: Tensor) -> Tensor:
        """True where a point of the line is in the region."""
        wide = in_float64(x).contiguous()
        low, high = (wide.new_tensor([*ends, math.inf]) for ends in self._intervals)
        interval = torch.searchsorted(low, wide, right=True) - 1
        return ((interval >= 0) & (wide < high[interval.clamp_min(0)])).to(x.device)

    def pieces(self, borders: Tensor) -> tuple[Tensor, Tensor]:
        """Beginnings and ends of the intervals, cut at some borders: float64, on the CPU."""
        ends = torch.tensor([*self.low, *self.high], dtype=torch.float64)
        ends = torch.cat([ends, borders]).unique()  # type: ignore[no-untyped-call]
        inside = self.contains(ends[:-1])
        return ends[:-1][inside], ends[1:][inside]

    @property
    def _intervals(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.low, self.high


@attrs.frozen(eq=False)
class _Pieces:
    """A region cut at the classes, so that each piece is within one.

    Arguments:
        classes: Class of each piece, int64 (m,).
        share: Logarithm of the width of each piece, (m,).
        low: The first number of each piece in the dtype of the data, (m,).
        high: The last one.
    """

    classes: Tensor
    share: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, region: Region, classes: int, device: torch.device, dtype: torch.dtype) -> _Pieces:
        low, high = region.pieces(torch.arange(classes + 1, dtype=torch.float64))
        if float(high.max()) > classes:
            raise ConfigError(
                f"the region of site {region.site} ends at {float(high.max()):g}, beyond {classes} classes"
            )
        first, last = low.to(dtype), high.to(dtype)
        infinity = torch.tensor(torch.inf, dtype=dtype)
        first = torch.where(first < low, first.nextafter(infinity), first)
        last = torch.where(last >= high, last.nextafter(-infinity), last)
        kept = first <= last  # others have no number in this dtype
        parts = low.floor().long(), (high - low).log().to(dtype), first, last
        if not bool(kept.any()):
            raise ConfigError(f"the region of site {region.site} is too narrow: no number of {dtype} is within")
        return cls(*(part[kept].to(device) for part in parts))

    def points(self, chosen: Tensor) -> Tensor:
        """A uniform draw of each chosen piece, (B,)."""
        low, high = self.low[chosen], self.high[chosen]
        return torch.lerp(low, high, torch.rand_like(low)).clamp(low, high)


def _different(sampler: object, attribute: attrs.Attribute[Any], regions: Sequence[Region]) -> None:
    sites = [region.site for region in regions]
    if len(set(sites)) < len(sites) or not all(region.low for region in regions):
        raise validators.invalid(
            sampler, attribute, f"expected one region for each site, with an interval, got those of the sites {sites}"
        )


@attrs.frozen
class RegionSampler(Sampler[Any]):
    """Sequential Monte Carlo for samples with sites in regions; the other sites are drawn by another sampler.

    The network sees P rows for each example while the second and later regions are drawn, and must read times by site.

    Arguments:
        regions: The regions, of different sites, in the order in which they are drawn.
        particles: Number P of particles for each example; with one region it does not matter.
        sampler: The sampler of the other sites, and of all without regions.

    >>> from bfn_masked import Masked
    >>> from bfn_mlp import MLP
    >>> from bfn_toolkit import BFN
    >>> bfn = BFN(Masked((3,), classes=5), MLP(width=16, site_times=True))
    >>> bool((bfn.sample(100, n_steps=4, sampler=RegionSampler([Region(1, [2.0], [5.0])]))[:, 1] >= 2).all())
    True
    """

    regions: tuple[Region, ...] = field(default=(), converter=_regions, validator=_different)
    particles: int = field(default=64, validator=validators.integer(ge=1))
    sampler: Sampler[Any] = field(factory=AnyOrderSampler, validator=validators.instance_of(Sampler))

    @property
    def exact_for_constants(self) -> bool:  # type: ignore[override]
        """Whether the sampler of the other sites is."""
        return self.sampler.exact_for_constants

    def nfe(self, n_steps: int) -> int:
        """Number of evaluations: one for each region, and those of the sampler."""
        return len(self.regions) + self.sampler.nfe(n_steps)

    def times(self, model: Model, n_steps: int) -> Tensor:
        """The times of the sampler."""
        return self.sampler.times(model, n_steps)

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Any:
        """The state of the sampler."""
        return self.sampler.init(model, batch_size, device=device, dtype=dtype)

    def step(self, model: Model, state: Any, s: Times, t: Times, condition: Condition | None = None) -> Any:
        """A step of the sampler."""
        return self.sampler.step(model, state, s, t, condition)

    @torch.inference_mode()
    def sample(
        self,
        model: Model,
        batch_size: int,
        *,
        n_steps: int,
        condition: Condition | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        on_step: OnStep | None = None,
    ) -> Data:
        """Draws samples whose sites are in the regions.

        Arguments are those of :meth:`Sampler.sample`; evaluations for the regions are not reported.

        Raises:
            ConfigError: If the regions have no probability under the model, given what is known, or the outputs have
                no classes.
        """
        device, dtype = device or torch.device("cpu"), dtype or torch.get_default_dtype()
        if self.regions:
            self.times(model, n_steps)  # which may refuse the model or the number
            observed, log_mass = self.draw(model, batch_size, condition=condition, device=device, dtype=dtype)
            impossible = int((log_mass == -torch.inf).sum())
            if impossible:
                raise ConfigError(
                    f"the regions have no probability under the model for {impossible} of {batch_size} samples, given "
                    "what is known of them; widen a region, or leave out a known value"
                )
            model = InpaintedModel(model.model if isinstance(model, InpaintedModel) else model, observed)
        return self.sampler.sample(
            model, batch_size, n_steps=n_steps, condition=condition, device=device, dtype=dtype, on_step=on_step
        )

    @torch.inference_mode()
    def draw(
        self, model: Model, batch_size: int, *, condition: Condition | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Observed, Tensor]:
        """The known values and those of the regions, and the logarithm of an estimate of the regions' probability.

        Arguments:
            model: The model; an :class:`~bfn_toolkit.InpaintedModel` where values are known.
            batch_size: Number of examples B.
            condition: Conditions of the network by name, each with B rows.
            device: Device of the draws.
            dtype: Floating dtype of the beliefs.
        Returns:
            Values with shape (B, *site), and the logarithms, with shape (B,), each of an independent unbiased estimate.
        """
        family = model.family
        if family.has_parts:
            raise ConfigError("regions are of data without parts")
        site = family.network_io.site_shape
        if isinstance(model, InpaintedModel):
            values, told, model = model.observed.values, model.observed.mask, model.model
        else:
            values = torch.zeros(batch_size, *site, dtype=torch.int64 if family.is_discrete else dtype, device=device)
            told = torch.zeros(batch_size, *site, dtype=torch.bool, device=device)
        log_mass = torch.zeros(batch_size, dtype=dtype, device=device)
        each = torch.arange(batch_size, device=device)  # the example of each particle
        for number, region in enumerate(self.regions, 1):
            log_p = _log_probs(model, region.site, values, told, condition, each, dtype)
            pieces = _Pieces.of(region, log_p.shape[-1], device, log_p.dtype)
            weights = log_p[:, pieces.classes] + pieces.share
            before, known = by_row(values)[:, region.site], by_row(told)[:, region.site]
            fits = torch.where(region.contains(before), -math.log(len(pieces.share)), -torch.inf).to(weights.dtype)
            weights = torch.where(known.unsqueeze(1), fits.unsqueeze(1), weights).view(batch_size, -1)
            log_mass = log_mass + weights.logsumexp(1) - math.log(len(each) // batch_size)
            # The next particles: whose they are, and in which piece.
            draws = 1 if number == len(self.regions) else self.particles
            chosen = systematic(weights.softmax(1), draws)
            first = torch.arange(batch_size, device=device).unsqueeze(1) * (len(each) // batch_size)
            parent = (first + chosen.div(len(pieces.share), rounding_mode="floor")).flatten()
            drawn = pieces.points((chosen % len(pieces.share)).flatten())
            drawn = (drawn.floor() if family.is_discrete else drawn).to(values.dtype)
            values, told, each = values[parent], told[parent], each[parent]
            by_row(values)[:, region.site] = torch.where(known[parent], before[parent], drawn)
            by_row(told)[:, region.site] = True
        return Observed(values, told), log_mass


def _log_probs(
    model: Model,
    site: int,
    values: Tensor,
    told: Tensor,
    condition: Condition | None,
    each: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Log-probabilities (rows, K) of the classes of a site, of beliefs that were told the values of some sites.

    One message from time 0 to 1 told them.  The network sees some rows at a time, because all of their outputs together
    may be large.
    """
    family, t = model.family, in_float64(told)
    alpha = family.accuracy(torch.zeros_like(t), t).to(dtype)
    params = family.draw_update(family.prior(len(values), device=values.device, dtype=dtype), values, alpha)
    size = max(MIN_ROWS, rows_together(family, len(each)))
    log_p = []
    for rows in torch.split(torch.arange(len(each), device=each.device), size):
        there = model.rows(each[rows]) if isinstance(model, MaskedModel) else model
        output = there.output(rows_of(params, rows), t[rows], rows_of_condition(condition, each[rows]))
        logits = class_logits(output)
        log_p.append(logits.reshape(len(rows), told[0].numel(), -1)[:, site].log_softmax(-1))
    return torch.cat(log_p)


@attrs.frozen
class CellConditions:
    """Conditions on the columns of a table.

    Arguments:
        known: Texts of the cells that must have one value, by the name of the column.
        ranges: Regions of the columns with other conditions.
        regions: Those of them whose cells are not known.
        asked: Regions of all columns with conditions; none if a known cell has no interval of its own.
        texts: The conditions.
    """

    known: Mapping[str, str] = field(factory=dict, hash=False)
    ranges: tuple[Region, ...] = field(default=(), converter=_regions)
    regions: tuple[Region, ...] = field(default=(), converter=_regions)
    asked: tuple[Region, ...] = field(default=(), converter=_regions)
    texts: tuple[str, ...] = field(default=(), converter=strings)

    @classmethod
    def of(cls, codec: Codec, texts: Sequence[str]) -> CellConditions:
        """Conditions that all hold together.

        Arguments:
            codec: Codec of the data, which has the columns.
            texts: Such as "species=Adelie" and "body_mass_g>4000".  Equality with a text makes the cell known;
                "sex=" asks for a gap, in the spelling of the training rows.
        Raises:
            ConfigError: If a name, an operator or a value is wrong, or two conditions exclude each other.
        """
        known: dict[str, str] = {}
        exact: dict[str, Region] = {}
        ranges: dict[str, Region] = {}
        said: dict[str, list[str]] = {}
        for text in texts:
            name, low, high = codec.region(text)
            _, operator, value = comparison(text, [name])
            said.setdefault(name, []).append(text)
            equal = operator == "=" and value
            if equal and known.setdefault(name, value) != value:
                raise _impossible(said[name])
            if name in codec.names:  # a constant is not
                region, of_kind = (
                    Region(codec.names.index(name), low.tolist(), high.tolist()),
                    exact if equal else ranges,
                )
                of_kind[name] = of_kind[name] & region if name in of_kind else region
        asked = {**ranges, **exact}
        told = cls(known, ranges=ranges.values(), texts=texts)
        for name, region in ranges.items():
            if not region.low or (name in known and bool(told.excluded(codec, told.pair(codec)[0])[region.site])):
                raise _impossible(said[name])
        free = [region for name, region in ranges.items() if name not in known]
        return attrs.evolve(told, regions=free, asked=asked.values() if all(r.low for r in asked.values()) else ())

    def excluded(self, codec: Codec, x: Tensor) -> Tensor:
        """True where a point (..., D) does not satisfy the conditions on its column."""
        values, mask = self.pair(codec)
        wrong = mask & (x != values)
        for region in self.ranges:
            wrong[..., region.site] |= ~region.contains(x[..., region.site])
        return wrong

    def raw(self, codec: Codec) -> Raw:
        """One row with the known cells, in the user's form."""
        columns = {name: [text] for name, text in self.known.items()}
        return codec.from_cells(Cells(columns, Path("--condition"), [1]))

    def pair(self, codec: Codec) -> tuple[Tensor, Tensor]:
        """Values of the known cells and their mask, each with shape (D,), for ``known=``."""
        x = codec.encode(self.raw(codec))[0] if self.known else torch.full((len(codec.names),), torch.nan)
        return x, ~x.isnan()


def _impossible(texts: Sequence[str]) -> ConfigError:
    together = " together; leave one out" if len(texts) > 1 else ""
    return ConfigError(f"no cell satisfies {' and '.join(map(repr, texts))}{together}")
