r"""Samplers that give sites or parts times of their own, on top of another sampler.

Let :math:`\theta_d` be the beliefs about site d.  Nothing says that all of them have to be at the same time: under
every path of the times :math:`t_d` from 0 to 1 the messages tell the same, and the code length is the same.  Which path
is good for samples depends on the network, which has to be trained with such times: one that reads them
(``site_times``), trained with ``known_rate``.

=========================== ==============================================================================
sampler                     times
=========================== ==============================================================================
:class:`AnyOrderSampler`    blocks of sites, one after another: each runs from 0 to 1, with earlier ones at 1
:class:`PartTimesSampler`   a grid for each part of the data
:class:`KnownFirstSampler`  1 at known sites, from the beginning
=========================== ==============================================================================

With blocks of one site and an exact posterior, :class:`AnyOrderSampler` is exact for any number of steps, because no
two sites are drawn at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.errors import ConfigError, StepCountError
from bfn_toolkit.families import Family
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Output
from bfn_toolkit.sampling.ancestral import AncestralSampler
from bfn_toolkit.sampling.inpainting import InpaintedModel
from bfn_toolkit.sampling.sampler import Sampler, SamplerState
from bfn_toolkit.sampling.time_grids import TimeGrid
from bfn_toolkit.shapes import Times, fit


class _OwnTimes:
    """Samplers that give times to another one; they cannot be inside each other."""


def _is_plain(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Sampler) or isinstance(value, _OwnTimes):
        raise ValueError(f"{attribute.name} must be a sampler; {type(value).__name__} cannot be inside another one")


def _begins_free(sampler: Sampler[Any]) -> bool:
    """Whether the first step of a sampler needs no evaluation."""
    return sampler.nfe(1) == 1


def _check_site_times(family: Family[Any]) -> None:
    if not family.site_times:
        raise ConfigError(
            f"{type(family).__name__} has one time for all sites; write sampler=AncestralSampler(), "
            "on the command line --sampler ancestral"
        )


@attrs.frozen(eq=False)
class OrderedState(SamplerState):
    """State of the sampler below, and the number of the block of each site, (B, *site)."""

    inner: SamplerState
    block: Tensor


@attrs.frozen
class AnyOrderSampler(_OwnTimes, Sampler[OrderedState]):
    """Draws blocks of sites one after another, in a given or a random order: semi-autoregressive sampling.

    For data of several parts, the sites are the leading axes that all parts share.  The n steps are divided among the
    blocks.  Known sites are in the first blocks.

    Arguments:
        sampler: The sampler of a block.
        block: Number of sites in a block.
        sequence: "random", another order for each example, or "given", the order in which the data are stored.
    """

    sampler: Sampler[Any] = field(factory=AncestralSampler, validator=_is_plain)
    block: int = field(default=1, validator=validators.integer(ge=1))
    sequence: Literal["random", "given"] = field(default="random", validator=validators.one_of("random", "given"))

    @property
    def exact_for_constants(self) -> bool:  # type: ignore[override]
        """Whether the sampler of a block is."""
        return self.sampler.exact_for_constants

    def nfe(self, n_steps: int) -> int:
        """Number of evaluations of the sampler of a block."""
        return self.sampler.nfe(n_steps)

    def times(self, model: Model, n_steps: int) -> Tensor:
        """Numbers of the steps, divided by n; for one block the times of its sampler.

        Raises:
            StepCountError: If there are fewer steps than blocks.
            ConfigError: If the family has one time for all sites.
        """
        blocks, free = self._blocks(model.family), _begins_free(self.sampler)
        if blocks == 1:
            return self.sampler.times(model, n_steps)
        _check_site_times(model.family)
        if n_steps < blocks + free:
            raise StepCountError(
                f"{blocks} blocks need at least {blocks + free} steps, got n_steps={n_steps}; write more, or blocks of "
                f"more sites: {type(self).__name__}(block={2 * self.block})"
            )
        self.sampler.times(model, n_steps // blocks + free)  # which the sampler may refuse
        return torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64)

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> OrderedState:
        """The prior, and an order of the sites."""
        inner, shape = self.sampler.init(model, batch_size, device=device, dtype=dtype), _sites(model.family)
        sites = math.prod(shape)
        if self.sequence == "given":
            place = torch.linspace(0.0, 1.0, sites, device=device, dtype=dtype).expand(batch_size, sites)
        else:
            place = torch.rand(batch_size, sites, device=device, dtype=dtype)
        if isinstance(model, InpaintedModel):
            place = place - 2.0 * _known_sites(model, shape).reshape(batch_size, sites)
        block = place.argsort(1).argsort(1) // self.block  # of each site
        return OrderedState(inner.params, inner, block.reshape(batch_size, *shape))

    def step(
        self, model: Model, state: OrderedState, s: Times, t: Times, condition: Condition | None = None
    ) -> OrderedState:
        """A step of the sampler of a block, under the times of all sites; s and t may be those of the blocks."""
        if self._blocks(model.family) > 1:
            if s.ndim == 0:
                n = round(1.0 / float(t - s))
                first = round(float(s) * n)
                s, t = (self._block_times(model, n, number) for number in (first, first + 1))
            s, t = s.to(state.block.device)[state.block], t.to(state.block.device)[state.block]
        inner = self.sampler.step(model, state.inner, s, t, condition)
        return OrderedState(inner.params, inner, state.block, previous=inner.previous)

    def step_times(self, model: Model, n_steps: int) -> Tensor:
        """The times of the blocks, which need no division to tell the number of the step."""
        times = self.times(model, n_steps)
        if self._blocks(model.family) == 1:
            return times.unsqueeze(1)
        return torch.stack([self._block_times(model, n_steps, number) for number in range(n_steps + 1)])

    def _blocks(self, family: Family[Any]) -> int:
        return -(-math.prod(_sites(family)) // self.block)

    def _block_times(self, model: Model, n: int, number: int) -> Tensor:
        """Times of the blocks after a number of the n steps.

        The first step of a sampler that begins without an evaluation is at the same time the last of the block before.
        """
        blocks, free = self._blocks(model.family), _begins_free(self.sampler)
        few, more = divmod(n - free, blocks)
        short, long = (self.sampler.times(model, few + free + extra) for extra in (0, 1))
        steps = few + (torch.arange(blocks) < more).long()
        since = (number - (steps.cumsum(0) - steps)).clamp_min(0)
        return torch.where(steps == few, short[since.clamp_max(len(short) - 1)], long[since.clamp_max(len(long) - 1)])


def _sites(family: Family[Any]) -> tuple[int, ...]:
    """Shape of the sites that have times of their own: of a product, the axes that all parts share."""
    return family.network_io.site_shape if family.has_parts else tuple(family.sites)


def _known_sites(model: InpaintedModel, shape: tuple[int, ...]) -> Tensor:
    """True at sites of which everything is known."""
    masks = model.observed.mask
    each = masks.values() if isinstance(masks, Mapping) else [masks]
    known = [mask.reshape(*mask.shape[: 1 + len(shape)], -1).all(-1) for mask in each]
    whole = len(known) == len(model.family.parts)
    return torch.stack(known).all(0) if whole else torch.zeros_like(known[0])


def _grids(value: Mapping[str, TimeGrid]) -> dict[str, TimeGrid]:
    return dict(value)


@attrs.frozen
class PartTimesSampler(_OwnTimes, Sampler[Any]):
    """Gives parts of the data time grids of their own; the other parts keep the times of the sampler.

    Arguments:
        grids: Grids by the names of parts.  All have n times, and the last is 1; they do not matter for n = 1.
        sampler: The sampler.
    """

    grids: Mapping[str, TimeGrid] = field(
        factory=dict, converter=_grids, eq=lambda grids: tuple(sorted(grids.items(), key=lambda item: item[0]))
    )
    sampler: Sampler[Any] = field(factory=AncestralSampler, validator=_is_plain)

    @property
    def exact_for_constants(self) -> bool:  # type: ignore[override]
        """Whether the sampler is."""
        return self.sampler.exact_for_constants

    def nfe(self, n_steps: int) -> int:
        """Number of evaluations of the sampler."""
        return self.sampler.nfe(n_steps)

    def times(self, model: Model, n_steps: int) -> Tensor:
        """Numbers of the steps, divided by n; without grids, or for n = 1, the times of the sampler.

        Raises:
            ConfigError: If a grid has the name of no part, or the part is not a channel.
            StepCountError: If a grid does not have n times.
        """
        for name, grid in self.grids.items():
            if name not in model.family.parts:
                parts = ", ".join(filter(None, model.family.parts)) or "none, whose grid is named ''"
                raise ConfigError(f"{type(self).__name__} has a grid for '{name}', and the data have the parts {parts}")
            grid.times(model.family.parts[name], n_steps)
        times = self.sampler.times(model, n_steps)
        if not self.grids or n_steps == 1:
            return times
        return torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64)

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Any:
        """The state of the sampler."""
        return self.sampler.init(model, batch_size, device=device, dtype=dtype)

    def step(self, model: Model, state: Any, s: Times, t: Times, condition: Condition | None = None) -> Any:
        """A step of the sampler, under the times of all parts."""
        if self.grids:
            n = round(1.0 / float(t - s))
            first = round(float(s) * n)
            s, t = (self._part_times(model, n, number) for number in (first, first + 1))
        return self.sampler.step(model, state, s, t, condition)

    def trajectory(self, model: Model, batch_size: int, *, n_steps: int, **options: Any) -> Iterator[Any]:
        """The n + 1 states."""
        self.times(model, n_steps)  # checks the grids
        if n_steps == 1:
            return self.sampler.trajectory(model, batch_size, n_steps=n_steps, **options)
        return super().trajectory(model, batch_size, n_steps=n_steps, **options)

    def _part_times(self, model: Model, n: int, number: int) -> Times:
        times = dict.fromkeys(model.family.parts, self.sampler.times(model, n)[number])
        for name, grid in self.grids.items():
            own = grid.times(model.family.parts[name], n)
            times[name] = own[number - 1] if number else torch.zeros_like(own[0])
        return model.family.join(times)


def _check_two(n_steps: int) -> None:
    if n_steps < 2:
        raise StepCountError(f"n_steps must be at least 2 where times differ, got {n_steps}")


class _Told(ModelWrapper):
    """Model that says the known values without asking a network; its other sites are not meant to move."""

    def __init__(self, model: InpaintedModel) -> None:
        super().__init__(model)
        self._clamp = model.observed.clamp

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        features = self.family.features(params)
        raw = features.new_zeros(*features.shape[:-1], self.family.network_io.out_features)
        return self._clamp(self.family.output(raw, params))


@attrs.frozen
class KnownFirstSampler(_OwnTimes, Sampler[Any]):
    """Tells the beliefs all about known sites at once, and then samples the others by another sampler.

    From the beginning, known sites are at time 1, so no draw is made in ignorance of them: under the exact posterior
    this is the conditional distribution, which the replacement of :mod:`~bfn_toolkit.sampling.inpainting` alone is not.
    The network must read such times, and should be trained with ``known_rate``.

    Arguments:
        sampler: The sampler of the other sites.
    """

    sampler: Sampler[Any] = field(factory=AncestralSampler, validator=_is_plain)

    @property
    def exact_for_constants(self) -> bool:  # type: ignore[override]
        """Whether the sampler is."""
        return self.sampler.exact_for_constants

    def nfe(self, n_steps: int) -> int:
        """Number of evaluations of the sampler."""
        return self.sampler.nfe(n_steps)

    def times(self, model: Model, n_steps: int) -> Tensor:
        """The times of the sampler.

        Raises:
            ConfigError: If values are known, and the family has one time for all sites.
            StepCountError: If the sampler does not allow this number of steps, or n is 1 and values are known.
        """
        if isinstance(model, InpaintedModel):
            _check_site_times(model.family)
            _check_two(n_steps)
        return self.sampler.times(model, n_steps)

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Any:
        """The state of the sampler, with known sites at time 1 unless its first step needs no evaluation."""
        state = self.sampler.init(model, batch_size, device=device, dtype=dtype)
        return state if _begins_free(self.sampler) else self._tell(model, state, torch.zeros((), dtype=torch.float64))

    def step(self, model: Model, state: Any, s: Times, t: Times, condition: Condition | None = None) -> Any:
        """A step of the sampler for the other sites."""
        if isinstance(model, InpaintedModel) and s == 0.0 and _begins_free(self.sampler):
            return self._tell(model, self.sampler.step(model, state, s, t, condition), t)
        return self.sampler.step(model, state, _with_known(model, s), _with_known(model, t), condition)

    def _tell(self, model: Model, state: Any, t: Tensor) -> Any:
        """Moves the known sites from t to 1."""
        if not isinstance(model, InpaintedModel):
            return state
        told = self.sampler.step(_Told(model), state, t, _with_known(model, t))
        return attrs.evolve(told, previous=state.previous)


def _with_known(model: Model, t: Tensor) -> Times:
    """The time t, and 1 at known sites."""
    if not isinstance(model, InpaintedModel):
        return t
    family, known = model.family, model.observed.mask
    times = {}
    for part in family.walk():
        mask = known.get(part.name) if isinstance(known, Mapping) else known
        if mask is None:
            times[part.name] = t
        else:
            times[part.name] = torch.where(fit(mask, 1 + len(part.family.sites)), 1.0, t.to(mask.device))
    return family.join(times)
