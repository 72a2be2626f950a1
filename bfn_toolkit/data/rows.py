"""Rows on disk or in memory: arrays read by row number, and rows made ready for a model."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch, Dataset, Rows, Split, take
from bfn_toolkit.errors import DataError
from bfn_toolkit.shapes import leaves, map_data

Array: TypeAlias = "np.ndarray[Any, Any] | Tensor"

PIECE = 2**20  # bytes that are read together in a pass over all rows
MAPPED = 2**29  # bytes of the maps that may count as memory of this process
FAULT = 2**21  # bytes that the system may map for each row that is read


def index_dtype(n: int) -> torch.dtype:
    """The smaller dtype that holds row numbers below n."""
    return torch.int32 if n < 2**31 else torch.int64


class ArrayRows(Rows):
    """Rows of arrays.  Those of a memory map are read when they are asked for; arrays in memory are not copied.

    A memory map that was opened read-only, as by ``numpy.load(path, mmap_mode="r")``, is pickled as its place in the
    file, and the pages that were read are given back now and then.

    Arguments:
        x: Data, with shape (N, *site), or a mapping from the names of parts to arrays; arrays of NumPy, or tensors.
        condition: Arrays with N rows by name.
        mask: See :class:`Batch`.
        weight: See :class:`Batch`.
        index: Numbers of the rows of the split, with shape (n,); None for all of them, in their order.
    Raises:
        DataError: If the arrays have different numbers of rows or a dtype that torch does not have, or if the index is
            outside of them.

    >>> rows = ArrayRows(np.arange(12, dtype=np.uint8).reshape(6, 2), index=torch.tensor([5, 1, 3]))
    >>> len(rows), rows[torch.tensor([0, 2])].x
    (3, tensor([[10, 11],
            [ 6,  7]], dtype=torch.uint8))
    """

    def __init__(
        self,
        x: Any,
        condition: Mapping[str, Array] | None = None,
        mask: Any = None,
        weight: Array | None = None,
        *,
        index: Tensor | None = None,
    ) -> None:
        self._arrays = x, dict(condition or {}), mask, weight
        if not leaves(x):
            raise DataError("ArrayRows: x: expected an array, or arrays by name, got {}")
        total = len(leaves(x)[0])
        for name, array in self._named():
            if len(array) != total:
                raise DataError(f"{name} has {len(array)} rows, and the data have {total}")
            if isinstance(array, np.ndarray):
                try:
                    torch.from_numpy(np.empty(0, array.dtype))
                except (TypeError, ValueError):
                    raise DataError(
                        f"{name} is stored as {array.dtype.str}, which torch does not have; store it as numbers that "
                        "it has, such as uint8 or float32, in the byte order of this machine"
                    ) from None
        if index is not None:
            if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
                raise DataError(f"index is {index.dtype} of shape {tuple(index.shape)}; expected row numbers, (n,)")
            if len(index) and not 0 <= int(index.min()) <= int(index.max()) < total:
                raise DataError(f"index: rows {int(index.min())} to {int(index.max())}, and the data have {total}")
        self.index = None if index is None else index.to(index_dtype(total))
        self._total, self._read = total, 0

    def _named(self) -> Iterator[tuple[str, Array]]:
        x, condition, mask, weight = self._arrays
        for name, value in [("x", x), *condition.items(), ("the mask", mask), ("weight", weight)]:
            yield from ((name, leaf) for leaf in leaves(value) if leaf is not None)

    def _map(self, function: Callable[[Any], Any]) -> tuple[Any, Any, Any, Any]:
        """The arrays after a function of each."""
        x, condition, *others = self._arrays
        mask, weight = (None if value is None else map_data(function, value) for value in others)
        return map_data(function, x), {name: function(value) for name, value in condition.items()}, mask, weight

    @cached_property
    def _maps(self) -> list[Any]:
        """The memory maps, if they are large."""
        maps = [found for _, array in self._named() if (found := _mapping(array)) is not None]
        return maps if hasattr(mmap, "MADV_DONTNEED") and sum(file.nbytes for file in maps) > MAPPED else []

    def __len__(self) -> int:
        return self._total if self.index is None else len(self.index)

    def __getitem__(self, index: Tensor) -> Batch:
        chosen = index.long() if self.index is None else self.index[index.long()].long()

        return Batch(*self._map(lambda array: self._take(array, chosen)))

    def _take(self, array: Array, index: Tensor) -> Tensor:
        """Rows of an array; of large memory maps a few at a time, so that few pages are mapped."""
        if isinstance(array, Tensor):
            return take(array, index)
        if not self._maps:
            return torch.from_numpy(array[index.numpy()])  # take would copy an array that is not contiguous
        array, numbers, few = np.asarray(array), index.numpy(), max(1, MAPPED // FAULT)
        taken = np.empty((len(numbers), *array.shape[1:]), array.dtype)
        for start in range(0, len(numbers), few):
            part = slice(start, start + few)
            taken[part] = array[numbers[part]]
            self._read += len(numbers[part])
            if self._read >= few:
                self._unmap()
        return torch.from_numpy(taken)

    def _unmap(self) -> None:
        """Gives pages that were read back to the system, which keeps them: they count as memory of the process."""
        self._read = 0
        for file in self._maps:
            file._mmap.madvise(mmap.MADV_DONTNEED)

    @property
    def stamp(self) -> str:
        """Sizes of the memory-mapped files, and the times of their last changes."""
        maps = (_mapping(array) for _, array in self._named())
        files = dict.fromkeys(str(found.filename) for found in maps if found is not None)
        try:
            status = [os.stat(file) for file in files]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}") from error
        return " ".join(f"{found.st_size} {found.st_mtime_ns}" for found in status)

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_arrays": self._map(_Place.of)}
        return {name: value for name, value in state.items() if name != "_maps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._arrays = self._map(_opened)


def _mapping(array: Any) -> Any:
    """The read-only memory map that an array is a view of, or None."""
    found = None
    while isinstance(array, np.ndarray):
        found, array = array if isinstance(array, np.memmap) else found, array.base
    return found if found is not None and found.filename and found.mode == "r" else None


@attrs.frozen
class _Place:
    """Place of an array in a file, by which a memory map is pickled."""

    path: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any

    @classmethod
    def of(cls, array: Any) -> Any:
        """The place of a memory-mapped array; other values are returned unchanged."""
        found = _mapping(array)
        if found is None:
            return array
        offset = found.offset + array.ctypes.data - found.ctypes.data
        return cls(str(found.filename), offset, array.shape, array.strides, array.dtype)


def _opened(value: Any) -> Any:
    if not isinstance(value, _Place):
        return value
    try:
        file = np.memmap(value.path, np.uint8, "r")
        return np.ndarray(value.shape, value.dtype, file, value.offset, value.strides)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{value.path} cannot be opened again: {error}") from error


@attrs.frozen(eq=False)
class PreparedRows(Rows):
    """Rows that are sent to a device and prepared as they are read.

    Arguments:
        rows: The rows.
        prepare: Function from a batch of them on the device to one for the model.
        device: The device.
    """

    rows: Rows
    prepare: Callable[[Batch], Batch]
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Batch:
        return self.prepare(sent(self.rows[index], self.device))


def prepared_rows(dataset: Dataset, name: Split, device: torch.device) -> Rows:
    """Rows of a split for a model on a device; a batch on the device, if they are in memory and need no preparation."""
    rows = dataset.rows(name)
    if isinstance(rows, Batch):
        rows = rows.to(device)
    is_ready = isinstance(rows, Batch) and type(dataset).prepare is Dataset.prepare
    return rows if is_ready else PreparedRows(rows, dataset.prepare, device)


def sent(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; the CPU does not wait for the transfer."""
    if device.type != "cuda":
        return batch.to(device)
    return batch.map(lambda values: values if values.is_cuda else values.pin_memory().to(device, non_blocking=True))


def bytes_per_row(batch: Batch) -> int:
    """Bytes of one row of a batch, at least 1."""
    tensors = [*leaves(batch.x), *batch.condition.values(), *leaves(batch.mask), batch.weight]
    size = sum(v.element_size() * v[:1].numel() for v in tensors if v is not None)
    return max(1, size)


def spread(n: int, most: int) -> Tensor:
    """Numbers of at most so many of n rows, at equal distances: (m,)."""
    m = min(n, max(1, most))
    return torch.arange(m) * n // max(1, m)


def pieces(rows: Rows, most: int) -> Iterator[tuple[Tensor, Batch]]:
    """Reads rows piece by piece: all of them, or rows at equal distances that take at most so many bytes.

    Arguments:
        rows: The rows.
        most: Largest number of bytes, as they are stored.
    Returns:
        The row numbers of each piece, with the piece.
    """
    if not len(rows):
        return
    size = bytes_per_row(rows[torch.zeros(1, dtype=torch.int64)])
    for index in torch.split(spread(len(rows), most // size), max(1, PIECE // size)):
        yield index, rows[index]
