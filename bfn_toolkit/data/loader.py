"""Batches of rows: a pure function of seed, epoch and position."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, cast

import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.data.rows import index_dtype
from bfn_toolkit.errors import DataError, ResourceError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import device_of


def _order(n: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Row numbers of the batches of an epoch, one batch after another."""
    if n <= batch_size:
        return torch.arange(n)
    with seeded(seed, "order", epoch):
        return torch.randperm(n, dtype=index_dtype(n))[: n // batch_size * batch_size]


def _cut(order: Tensor, batch_size: int, skip: int = 0) -> Iterator[Tensor]:
    """The batches of an epoch from number ``skip`` on; one at a time, because millions of tensors fill the memory."""
    return (order[start : start + batch_size] for start in range(skip * batch_size, len(order), batch_size))


def minibatches(rows: Rows, batch_size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
    """Batches that cover the rows once, in an order fixed by the seed and the epoch.

    Rows that do not fill a batch are left out of this epoch; if all rows fit in one batch, there is one batch.
    """
    order = _order(len(rows), batch_size, seed, epoch)
    if not isinstance(rows, Batch):
        yield from (read(rows, index.long()) for index in _cut(order, batch_size))
    elif len(rows) <= batch_size:
        yield rows
    else:
        yield from map(rows.rows, _cut(order.to(device_of(rows.x)), batch_size))


def row_order(n: int, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Row indices of the batches of one epoch after another, without end, from batch ``start`` on."""
    epoch, skip = divmod(start, max(1, n // batch_size))
    for number in count(epoch):
        yield from (index.long() for index in _cut(_order(n, batch_size, seed, number), batch_size, skip))
        skip = 0


def batches(rows: Rows, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Batch]:
    """The batches of one epoch after another, without end, from batch ``start`` on."""
    if not isinstance(rows, Batch):  # a batch that is skipped is not read
        yield from (read(rows, index) for index in row_order(len(rows), batch_size, seed=seed, start=start))
        return
    epoch, skip = divmod(start, max(1, len(rows) // batch_size))
    for number in count(epoch):
        yield from islice(minibatches(rows, batch_size, seed=seed, epoch=number), skip, None)
        skip = 0


def read(rows: Rows, index: Tensor) -> Batch:
    """Reads rows.

    Raises:
        DataError: If a row cannot be read; the message has its number.
    """
    try:
        return rows[index]
    except DataError:
        raise
    except Exception:
        for row in index.tolist():
            try:
                rows[torch.tensor([row])]
            except Exception as error:
                raise DataError(f"row {row} cannot be read: {type(error).__name__}: {error}") from error
        raise


class _Fetched(torch.utils.data.Dataset["Batch | DataError"]):
    """Batches by row indices, for the workers of a data loader."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, index: Tensor) -> Batch | DataError:
        try:
            return read(self.rows, index)
        except DataError as error:  # returned, because the loader would turn the traceback into the message
            return DataError(str(error))


def fetched_batches(
    rows: Rows, batch_size: int, *, seed: int, start: int = 0, workers: int, timeout: float
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
        generator=torch.Generator(),  # leaves the caller's generator untouched
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
            f"a data-loader worker died: {str(error).splitlines()[0]} It may have run out of memory or of /dev/shm; "
            "use fewer workers, such as training.workers = 0"
        ) from error


def _default_signals(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, *(getattr(signal, f"SIGUSR{i}") for i in (1, 2))):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
