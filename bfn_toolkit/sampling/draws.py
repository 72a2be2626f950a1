"""Draws: a plan of samples, resolved and checked once, from which any range of rows can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from bfn_toolkit import arguments, masks
from bfn_toolkit.errors import ConfigError, NonFiniteError
from bfn_toolkit.families import check_n_steps
from bfn_toolkit.model import Condition, Model, ModelWrapper, dtype_of_beliefs, rows_of_condition
from bfn_toolkit.outputs import Output
from bfn_toolkit.randomness import Blocks, draw_key, seeded
from bfn_toolkit.sampling.chunks import (
    MIN_ROWS,
    Deal,
    RowsTogether,
    block_rows,
    chunk_rows,
    concatenated,
    deal_here,
    row_numbers,
)
from bfn_toolkit.sampling.default import default_sampler, default_steps
from bfn_toolkit.sampling.inpainting import Given, InpaintedModel, Observed
from bfn_toolkit.sampling.masked import MaskedModel, checked_mask
from bfn_toolkit.sampling.sampler import OnStep, Sampler, SamplerStep
from bfn_toolkit.shapes import Data, Mask, Times, leaves, map_data
from bfn_toolkit.validators import shown, whole_number


class ObservedRows(Protocol):
    """Observed values that can be indexed by row."""

    def rows(self, index: Tensor) -> Observed:
        """Observed values of the rows ``index``, on the device of ``index``."""


@attrs.frozen(eq=False)
class Draws:
    """Plan of samples of a model, with sampler, conditions and observed values resolved and checked.

    Row i does not depend on which rows are drawn together, in which order, or by which process.

    Arguments:
        model: The model.
        n: Number of samples.
        n_steps: Number of steps.
        sampler: The sampler.
        key: Key of the draws.
        condition: Function from row indices, with shape (rows,), to their conditions by name, or None.
        observed: Observed values of all rows, or None.
        mask: Function from row indices to their masks, or None where nothing is missing.
    """

    model: Model
    n: int
    n_steps: int
    sampler: Sampler[Any]
    key: tuple[int | str, ...]
    condition: Callable[[Tensor], Condition | None]
    observed: ObservedRows | None = None
    mask: Callable[[Tensor], Mask | None] = lambda index: None

    @classmethod
    def of(
        cls,
        model: Model,
        n: int,
        *,
        n_steps: int | None = None,
        sampler: Sampler[Any] | None = None,
        condition: Condition | None = None,
        known: Given | None = None,
        mask: Mask | None = None,
    ) -> Draws:
        """Checks the arguments, and draws the key from torch's generator.

        Arguments and errors are those of :meth:`FlowModel.sample <bfn_toolkit.FlowModel.sample>`.
        """
        n = whole_number("batch_size", n, most=2**63 - 1, write=16)
        n_steps = default_steps(model.family) if n_steps is None else check_n_steps(n_steps)
        if sampler is not None and not isinstance(sampler, Sampler):
            raise ConfigError(
                f"sampler: expected a Sampler or its name, got {shown(sampler)}; write sampler=AncestralSampler()"
            )
        condition = arguments.conditions(model, condition, n, move=True)
        given = None if mask is None else checked_mask(model.family, mask, n)
        return cls(
            model,
            n,
            n_steps,
            sampler or default_sampler(model.family, n_steps),
            (draw_key(),),
            lambda index: rows_of_condition(condition, index),
            None if known is None else Observed.of(model.family, known, n),
            lambda index: map_data(lambda part: part[index.to(part.device)], given) if given is not None else None,
        )

    def draw(self, rows: range, *, deal: Deal = deal_here, on_step: OnStep | None = None) -> Data:
        """Draws a range of rows; missing sites have the value 0.

        Arguments:
            rows: Indices of the rows, among the n.
            deal: Function that draws the chunks; :func:`~bfn_toolkit.parallel.chunks.deal_chunks` divides them among
                processes.
            on_step: Callback that receives each :class:`~bfn_toolkit.SamplerStep`.
        Raises:
            NonFiniteError: If the samples or the network's raw numbers are NaN or infinite.
            ResourceError: If there is not enough memory.
        """
        device, dtype = _place(self.model)
        seen, drawn_numbers = row_numbers(self.model.family)
        size, block = chunk_rows(seen, device), block_rows(drawn_numbers)
        computed = _in_full_products(rows)

        def draw(here: range) -> Data:
            index = torch.arange(here.start, here.stop).clamp_max_(self.n - 1)

            def on_chunk_step(step: SamplerStep) -> object:
                return on_step and on_step(attrs.evolve(step, first=here.start))

            # These may draw, and not for rows of these blocks.
            mask, condition = self.mask(index), self.condition(index)
            observed = None if self.observed is None else self.observed.rows(index.to(device))
            with seeded(*self.key, device=device), Blocks(here, block, device) as noise:
                model: Model = _WithoutNoise(self.model, noise)
                if mask is not None:
                    mask = map_data(lambda part: part.to(device), mask)
                    model = MaskedModel(model, mask)
                if observed is not None:
                    model = InpaintedModel(model, observed)
                x = self.sampler.sample(
                    model,
                    len(here),
                    n_steps=self.n_steps,
                    condition=condition,
                    device=device,
                    dtype=dtype,
                    on_step=None if on_step is None else on_chunk_step,
                )
                return masks.present(x, mask)

        with self.model.finite_guard() as is_finite:
            chunks, together = range(computed.start // size, (computed.stop - 1) // size + 1), RowsTogether()

            def draw_chunk(chunk: int) -> Data:
                rows = range(max(chunk * size, computed.start), min((chunk + 1) * size, computed.stop))
                return together.compute(draw, rows)

            drawn = concatenated(deal(chunks, draw_chunk, device))
            if not is_finite():  # a class drawn from NaN logits is still a valid class
                raise NonFiniteError("the network returned numbers that are not finite; look at its weights")
        first = rows.start - computed.start
        samples = map_data(lambda part: part[first : first + len(rows)], drawn)
        bad = sum(int((~part.isfinite()).sum()) for part in leaves(samples))
        if bad:
            raise NonFiniteError(f"{bad} numbers of {len(rows)} samples are not finite; look at the family's updates")
        return samples


class _WithoutNoise(ModelWrapper):
    """Model whose evaluations most likely draw nothing, so that they need not be watched for draws."""

    def __init__(self, model: Model, noise: Blocks) -> None:
        super().__init__(model)
        self._noise = noise

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        output: Output = self._noise.aside(lambda: masks.told(self.model.output, params, t, condition, **told))
        return output


def _in_full_products(rows: range) -> range:
    """The rows, and a few more unless they are few: matrix products of 16 rows and more round all of them alike."""
    if len(rows) < MIN_ROWS:
        return rows
    return range(rows.start // MIN_ROWS * MIN_ROWS, -(-rows.stop // MIN_ROWS) * MIN_ROWS)


def _place(model: Model) -> tuple[torch.device, torch.dtype | None]:
    """Device and dtype of the beliefs: those of the weights.

    Raises:
        ConfigError: If the weights have half precision.
    """
    weight = next(model.parameters(), None)
    if weight is None:
        return torch.device("cpu"), None
    dtype = dtype_of_beliefs(model)
    if dtype is not None and torch.finfo(dtype).bits < 32:
        raise ConfigError(
            f"the weights are {dtype}, which is too coarse for beliefs, and the state is float32; "
            "keep the weights in float32 and sample under torch.autocast"
        )
    return weight.device, dtype
