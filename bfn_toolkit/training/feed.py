"""Checks of the rows of a training, before they reach the model.

Rows in memory are all checked at the start.  So are stored rows of up to :data:`CHECKED` bytes; of more, rows at equal
distances that take as many bytes, and then each batch when it is read.  They are prepared on the CPU for that.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.data.conditions import ConditionSpec, SizeSpec, seen_in
from bfn_toolkit.data.dataset import Batch, Dataset, Rows
from bfn_toolkit.data.rows import bytes_per_row, pieces
from bfn_toolkit.errors import BFNWarning, ConfigError, DataError, PluginError
from bfn_toolkit.families import Family, check_present
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs.conditions import unread

CHECKED = 2**28  # bytes, as stored
LEAST, MOST = 0.01, 10.0  # mean squares of data of order 1
LOST = 0.01  # largest share of the mean square that a bound of the outputs may take away


@attrs.frozen
class Check:
    """Checks of prepared rows against the parts of an experiment."""

    experiment: Experiment

    def prepared(self, rows: Batch) -> Batch:
        """Prepares rows that are on the CPU, with draws of its own, and checks them.

        Raises:
            DataError: If a value is outside the domain of the family, or a weight is negative.
            ConfigError: If a condition is outside the domain of the network.
            PluginError: If the data set returns another number of rows.
        """
        dataset, network = self.experiment.dataset, self.experiment.network
        with seeded(self.experiment.seed, "check"):
            batch: Batch = dataset.prepare(rows)
        if len(batch) != len(rows):
            raise PluginError(f"{type(dataset).__name__}.prepare returns {len(batch)} rows of {len(rows)}")
        check_present(self.experiment.family, batch.x, batch.mask)
        for name in batch.condition.keys() - set(unread(network, batch.condition)):
            network.check_condition(name, batch.condition[name])
        if batch.weight is not None and not bool((batch.weight.isfinite() & (batch.weight >= 0)).all()):
            raise DataError("weight: expected finite numbers of at least 0")
        return batch


@attrs.frozen(eq=False)
class CheckedRows(Rows):
    """Rows that are checked when they are read.

    Arguments:
        rows: The rows.
        check: The checks.
    """

    rows: Rows
    check: Check

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Batch:
        batch = self.rows[index]
        self.check.prepared(batch)
        return batch


@attrs.define
class Summary:
    """Numbers of prepared rows.

    Arguments:
        conditions: Kind and range of each condition.
        squares: Sum of squares and number of the numbers of each continuous part, embedded, and their dtype.
        sums: Their sum.
        clipped: Sum of their squares after they are clipped to the bound of outputs, that bound, and their largest one.
        weights: Sum and number of the weights.
        sizes: Sizes of rows that are padded; None if there are none, or rows have other gaps.
    """

    conditions: dict[str, ConditionSpec] = attrs.field(factory=dict)
    squares: dict[str, tuple[float, int, torch.dtype]] = attrs.field(factory=dict)
    sums: dict[str, float] = attrs.field(factory=dict)
    clipped: dict[str, tuple[float, float, float]] = attrs.field(factory=dict)
    weights: tuple[float, int] = (0.0, 0)
    sizes: SizeSpec | None = None
    _padded: bool = True  # whether all rows so far have sizes

    @property
    def weight(self) -> float:
        """Mean of the weights; 1 if there are none."""
        total, count = self.weights
        return total / count if total else 1.0

    def add(self, family: Family[Any], batch: Batch) -> None:
        """Adds the numbers of more rows."""
        for name, spec in seen_in(batch.condition).items():
            if not (math.isfinite(spec.low) and math.isfinite(spec.high)):
                raise DataError(f"the condition '{name}' has a value that is not finite; leave out its row")
            self.conditions[name] = self.conditions[name].plus(spec) if name in self.conditions else spec
        for part in family.walk(batch.x):
            (rows,) = part.values
            if part.family.is_discrete:
                continue
            mask = batch.mask.get(part.name) if isinstance(batch.mask, Mapping) else batch.mask
            with suppress(ConfigError):  # not a channel
                channel = part.as_channel()
                phi = channel.embed(rows)
                phi = phi if mask is None else phi[mask]
                total, count, _ = self.squares.get(part.name, (0.0, 0, phi.dtype))
                norm = float(torch.linalg.vector_norm(phi, dtype=torch.float64))
                self.squares[part.name] = total + norm * norm, count + phi.numel(), phi.dtype
                self.sums[part.name] = self.sums.get(part.name, 0.0) + float(phi.sum(dtype=torch.float64))
                bound = channel.embedding_bound
                if bound < math.inf and phi.numel():
                    total, _, largest = self.clipped.get(part.name, (0.0, bound, 0.0))
                    square = float(phi.clamp(-bound, bound).square().sum(dtype=torch.float64))
                    self.clipped[part.name] = total + square, bound, max(largest, float(phi.abs().max()))
        sizes = SizeSpec.of(batch.mask)
        self._padded = self._padded and sizes is not None
        if sizes is None or not self._padded:
            self.sizes = None
        else:
            self.sizes = sizes if self.sizes is None else sizes.plus(self.sizes)
        if batch.weight is not None:
            total, count = self.weights
            self.weights = total + float(batch.weight.double().sum()), count + len(batch)

    def check_scale(self, *, warn: bool) -> None:
        """Warns of embedded data that are far from mean 0 and variance 1, the scale at which beliefs begin.

        Raises:
            DataError: If squares of the data overflow.
        """
        cure = "scale them to mean 0 and variance 1: for --dataset array by --dataset.scale standard"
        for name, (total, count, dtype) in self.squares.items():
            square, where = total / max(1, count), f"part '{name}': " if name else ""
            mean = self.sums[name] / max(1, count)
            variance = max(0.0, square - mean * mean)
            if square > torch.finfo(dtype).max:
                raise DataError(f"{where}the mean square of the data is {square:.2g}, which overflows {dtype}; {cure}")
            messages = []
            if not LEAST <= square <= MOST:
                messages.append(f"the mean square of the data is {square:.2g}, far from 1; {cure}")
            elif variance < LEAST * LEAST and variance < 1e-3 * square:
                message = f"the data are {mean:.3g} with a standard deviation of {math.sqrt(variance):.2g}; {cure}"
                messages.append(message)
            clipped, bound, largest = self.clipped.get(name, (total, math.inf, 0.0))
            if clipped < (1.0 - LOST) * total:
                head = f"--family.parts.{name}.head" if name else "--family.head"
                messages.append(
                    f"the data reach {largest:.3g}, and samples are clipped to [-{bound:g}, {bound:g}]; write {head} "
                    f"skip, or scale the data, or train for longer with {head}.clip {1.05 * largest:.2g}"
                )
            for message in messages if warn and count else ():
                warnings.warn(where + message, BFNWarning, stacklevel=2)


def checked(name: str, rows: Rows, check: Check) -> tuple[Rows, Summary]:
    """Checks the rows of a split, and reads those again that are checked later (see :mod:`bfn_toolkit.training.feed`).

    Raises:
        DataError: If there are no rows, or rows are outside the domain of the family.
        PluginError: If the data set returned something else.
    """
    if not isinstance(rows, Rows):
        found, cls = type(rows).__name__, type(check.experiment.dataset)
        raise PluginError(
            f"dataset {cls.__module__}.{cls.__qualname__} returned a {found} for its {name} rows; expected a Batch"
        )
    if not len(rows):
        raise DataError(f"{type(check.experiment.dataset).__name__} has no {name} rows, so there are no batches")
    summary, most = Summary(), sys.maxsize if isinstance(rows, Batch) else CHECKED
    if isinstance(rows, Batch) and type(check.experiment.dataset).prepare is Dataset.prepare:
        parts: Iterable[tuple[Tensor, Batch]] = [(torch.arange(len(rows)), rows)]
    else:
        parts = pieces(rows, most)
    for index, piece in parts:
        try:
            batch = check.prepared(piece)
        except DataError as error:
            if len(index) == len(rows):
                raise
            first, last = int(index[0]), int(index[-1])
            raise DataError(f"among the {name} rows {first} to {last}: {error}") from error
        summary.add(check.experiment.family, batch)
    if len(rows) * bytes_per_row(piece) > most:
        rows = CheckedRows(rows, check)
    return rows, summary
