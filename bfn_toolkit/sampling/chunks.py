"""Blocks of rows: draws that depend neither on how many rows are asked for nor on who computes which.

Rows are drawn in blocks of a fixed number, each in a :func:`~bfn_toolkit.seeded` scope of its own whose key ends in the
number of the block; the last one is drawn whole and cut.  So the first ten rows of a hundred are the same bits as ten
rows drawn alone, and processes can share the blocks among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from bfn_toolkit.errors import ResourceError
from bfn_toolkit.parallel import processes
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, map_data

NUMBERS = 2**15  # in one block, as far as MIN_ROWS and MAX_ROWS allow
MIN_ROWS, MAX_ROWS = 16, 1024  # rows of a block; matrix products of a few rows can round otherwise


def chunk_rows(numbers: int) -> int:
    """Rows of a block, where one row has so many numbers: a power of two."""
    rows = max(1, NUMBERS // max(1, numbers))
    return min(MAX_ROWS, max(MIN_ROWS, 1 << (rows.bit_length() - 1)))


def map_chunks(
    n: int,
    rows: int,
    draw: Callable[[int], Data],
    key: Sequence[int | str],
    device: torch.device | str = "cpu",
    first: int = 0,
    halve_micro_batch: Callable[[], bool] = lambda: False,
) -> Data:
    """Rows ``first`` to ``first + n``, drawn block by block, on every process of the job.

    Arguments:
        n: Number of rows.
        rows: Rows of a block.
        draw: Draws a whole block, given its number.
        key: Of the draws.
        device: Whose generator they use.
        first: The first row.
        halve_micro_batch: Called when memory does not suffice, to make do with less; False where that is impossible.
    Raises:
        ResourceError: If memory does not suffice.
    """
    numbers = range(first // rows, (first + n - 1) // rows + 1)
    drawn = list(_drawn(numbers, draw, key, device, halve_micro_batch))
    together = _concatenated([processes.all_gather(block) for block in drawn])
    start = first - numbers[0] * rows
    return map_data(lambda part: part[start : start + n], together)


def _drawn(
    numbers: range,
    draw: Callable[[int], Data],
    key: Sequence[int | str],
    device: torch.device | str,
    halve_micro_batch: Callable[[], bool],
) -> Iterator[Data]:
    """The blocks of this process: each process draws one of every group, and the last group is filled up."""
    for group in range(numbers.start, numbers.stop, processes.world_size()):
        number = min(group + processes.rank(), numbers.stop - 1)
        processes.check_signals(device, together=True)
        while True:  # a process may come back here alone, so that it can ask the others nothing
            try:
                with seeded(*key, number, device=device):
                    block = draw(number)
                break
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if not halve_micro_batch():
                    raise ResourceError(
                        f"out of memory, even with {MIN_ROWS} rows at once: {str(error).splitlines()[0]}"
                    ) from error
        yield block


def _out_of_memory(error: Exception) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(error)


def _concatenated(blocks: Sequence[Data]) -> Data:
    if isinstance(blocks[0], Mapping):
        return {name: _concatenated([block[name] for block in blocks]) for name in blocks[0]}
    return torch.cat(list(blocks))
