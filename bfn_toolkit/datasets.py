"""Datasets: batches of examples, split for training, validation and test.

A data set is a frozen attrs class: its fields say where the data come from (a generator, a file of the user's, a
package), and the data are a function of them.  Nothing is downloaded.
"""

from __future__ import annotations

import abc
import signal
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any, ClassVar, Literal, TypeAlias, cast

import attrs
import torch
from torch import Tensor

from bfn_toolkit.errors import DataError, ResourceError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, batch_size, device_of, map_data

Split: TypeAlias = Literal["train", "valid", "test", "all"]


@attrs.frozen(eq=False)
class Batch:
    """Examples and what they are conditioned on.

    Arguments:
        x: Data, with shape (B, *site), or a mapping from the names of parts to such.
        condition: Named tensors with B rows, handed to the network as keywords.
    """

    x: Data
    condition: Mapping[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return batch_size(self.x)

    def rows(self, index: Tensor) -> Batch:
        """The examples with these numbers."""
        condition = {name: value.index_select(0, index) for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part.index_select(0, index), self.x), condition)

    def part(self, start: int, stop: int) -> Batch:
        """The examples from ``start`` to before ``stop``, sharing their memory."""
        condition = {name: value[start:stop] for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part[start:stop], self.x), condition)

    def to(self, device: torch.device) -> Batch:
        """The same examples on a device."""
        condition = {name: value.to(device) for name, value in self.condition.items()}
        return Batch(map_data(lambda part: part.to(device), self.x), condition)


def split_rows(n: int, valid_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for validation: disjoint, shuffled, fixed by the seed.

    Raises:
        DataError: If either part would be empty.
    """
    n_valid = round(n * valid_fraction)
    if not 0 < n_valid < n:
        part = "training" if n_valid else "validation"
        raise DataError(f"valid_fraction={valid_fraction} leaves no {part} rows of {n}")
    with seeded(seed, "split"):
        rows = torch.randperm(n)
    return rows[n_valid:], rows[:n_valid]


def _order(n: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Row numbers of the batches of an epoch."""
    if n <= batch_size:
        return (torch.arange(n),)
    with seeded(seed, "order", epoch):
        return torch.split(torch.randperm(n), batch_size)[: n // batch_size]


def minibatches(rows: Batch, batch_size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
    """Batches that cover the rows once, in an order that is a function of the seed and the epoch.

    Rows that fill no whole batch are left to other epochs; where all rows fit in one batch, that is the batch.
    """
    if len(rows) <= batch_size:
        yield rows
        return
    device = device_of(rows.x)
    order = torch.cat(_order(len(rows), batch_size, seed, epoch)).to(device)
    for index in torch.split(order, batch_size):
        yield rows.rows(index)


def row_order(n: int, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Row numbers of the batches of one epoch after another, without end, from batch ``start`` on."""
    epoch, skip = divmod(start, max(1, n // batch_size))
    for number in count(epoch):
        yield from _order(n, batch_size, seed, number)[skip:]
        skip = 0


def batches(rows: Batch, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Batch]:
    """The batches of one epoch after another, without end, from batch ``start`` on."""
    epoch, skip = divmod(start, max(1, len(rows) // batch_size))
    for number in count(epoch):
        yield from islice(minibatches(rows, batch_size, seed=seed, epoch=number), skip, None)
        skip = 0


class _Fetched(torch.utils.data.Dataset["Batch | DataError"]):
    """Batches by their row numbers, as a loader's workers fetch them."""

    def __init__(self, rows: Batch) -> None:
        self.rows = rows

    def __getitem__(self, index: Tensor) -> Batch | DataError:
        try:
            return self.rows.rows(index)
        except Exception:  # the loader would make its traceback the message: what is wrong is a value here
            for row in index.tolist():
                try:
                    self.rows.rows(torch.tensor([row]))
                except Exception as error:
                    return DataError(f"row {row} cannot be read: {type(error).__name__}: {error}")
            raise


def fetched_batches(
    rows: Batch, batch_size: int, *, seed: int, start: int = 0, workers: int, timeout: float
) -> Iterator[Batch]:
    """The batches of :func:`batches`, fetched ahead by other processes.

    Raises:
        DataError: If rows cannot be read.
        ResourceError: If a worker is killed, or does not answer within ``timeout`` seconds.
    """
    loader = torch.utils.data.DataLoader(
        _Fetched(rows),
        batch_size=None,
        sampler=cast(Any, row_order(len(rows), batch_size, seed=seed, start=start)),
        num_workers=workers,
        generator=torch.Generator(),  # the caller's generator is not ours to draw from
        worker_init_fn=_default_signals,
        timeout=timeout,
    )
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise ResourceError(
            f"a worker that fetches rows ended: {str(error).splitlines()[0]} Its memory may have run out, or that in "
            "/dev/shm; use fewer: training.workers = 0"
        ) from error


def _default_signals(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, *(getattr(signal, f"SIGUSR{i}") for i in (1, 2))):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


class Dataset(abc.ABC):
    """Examples of one shape in splits.

    A class may have a ``recipe``: tables of an experiment, such as ``{"family": "categorical"}``, that suit it better
    than the default ones.  They lie beneath whatever the user says.
    """

    kind: ClassVar[str] = "dataset"
    recipe: ClassVar[Mapping[str, object]] = {}

    @property
    @abc.abstractmethod
    def site_shape(self) -> tuple[int, ...] | Mapping[str, tuple[int, ...]]:
        """Shape of one example, or the shapes of its parts."""

    @abc.abstractmethod
    def split(self, name: Split) -> Batch:
        """All examples of a split, in memory; "all" is the training and validation rows together."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What a family, its head or a network may want to know; fields of these names take them as their defaults."""
        return {} if isinstance(self.site_shape, Mapping) else {"site_shape": self.site_shape}

    def mode_shares(self, x: Data) -> Mapping[str, float] | None:
        """Share of the examples near each of the distribution's modes, where the data set knows its modes."""
        return None
