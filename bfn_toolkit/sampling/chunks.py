"""Chunks of rows: draws that depend neither on the number of rows nor on the process that computes them.

Rows are drawn in chunks of a fixed size, each in its own :func:`~bfn_toolkit.seeded` scope whose key ends in the
chunk's index; the last chunk is drawn in full and cut.  So the first ten rows of a hundred are bit-identical to ten
rows drawn alone, and processes can divide the chunks among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from bfn_toolkit.errors import ResourceError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, map_data

NUMBERS = 2**15  # target for one chunk, within MIN_ROWS and MAX_ROWS
MIN_ROWS, MAX_ROWS = 16, 1024  # rows of a chunk; matrix products of fewer rows can round differently

Deal: TypeAlias = Callable[[range, Callable[[int], Data], "torch.device | str"], list[Data]]


def chunk_rows(numbers: int) -> int:
    """Rows of a chunk, a power of two, if one row has ``numbers`` numbers."""
    rows = max(1, NUMBERS // max(1, numbers))
    return min(MAX_ROWS, max(MIN_ROWS, 1 << (rows.bit_length() - 1)))


def deal_here(numbers: range, draw: Callable[[int], Data], device: torch.device | str) -> list[Data]:
    """Draws the chunks with these indices in this process, one after the other."""
    return [draw(number) for number in numbers]


def map_chunks(
    rows: range,
    size: int,
    draw: Callable[[int], Data],
    key: Sequence[int | str],
    *,
    device: torch.device | str = "cpu",
    deal: Deal = deal_here,
    halve: Callable[[], bool] = lambda: False,
) -> Data:
    """Draws consecutive rows chunk by chunk.

    Arguments:
        rows: Indices of the rows.
        size: Rows of a chunk.
        draw: Function from a chunk's index to the full chunk.
        key: Key of the draws.
        device: Device whose generator they use.
        deal: Function that calls ``draw`` for each chunk of a range and returns the chunks in order.
        halve: Function called when memory runs out, to use less; returns False if that is impossible.
    Raises:
        ResourceError: If there is not enough memory.
    """

    def attempt(number: int) -> Data:
        while True:
            try:
                with seeded(*key, number, device=device):
                    return draw(number)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if not halve():
                    raise ResourceError(
                        f"out of memory, even with only {MIN_ROWS} rows together: {str(error).splitlines()[0]}"
                    ) from error

    numbers = range(rows.start // size, (rows.stop - 1) // size + 1)
    together = concatenated(deal(numbers, attempt, device))
    start = rows.start - numbers[0] * size
    return map_data(lambda part: part[start : start + len(rows)], together)


def _out_of_memory(error: Exception) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(error)


def concatenated(chunks: Sequence[Data]) -> Data:
    """Joins the rows of chunks."""
    if isinstance(chunks[0], Mapping):
        return {name: concatenated([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return torch.cat(list(chunks))
