"""Chunks of rows: draws that depend neither on the number of rows nor on the process that computes them.

Prices are drawn in chunks of a fixed size (:func:`map_chunks`), each in its own :func:`~bfn_toolkit.seeded` scope whose
key ends in the chunk's index; the last chunk is drawn in full and cut.

Samples cost a network's time for each row, so only those that are wanted are computed
(:mod:`~bfn_toolkit.sampling.draws`).  Their noise is drawn in smaller blocks (:func:`block_rows`,
:class:`~bfn_toolkit.randomness.Blocks`), and a chunk is what the network sees in one call.

In both ways the first hundred rows of a thousand are those of a hundred drawn alone, and processes can share the
chunks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.errors import BFNWarning, is_out_of_memory, out_of_memory
from bfn_toolkit.families import Family
from bfn_toolkit.randomness import Shard, rewind, seeded
from bfn_toolkit.shapes import Data, map_data

NUMBERS, DEVICE_NUMBERS = 2**15, 2**20  # target for one chunk, within MIN_ROWS and MAX_ROWS: on the CPU, elsewhere
MIN_ROWS, MAX_ROWS = 16, 1024  # rows of a chunk; matrix products of fewer rows can round differently
BLOCK_NUMBERS, BLOCK_ROWS = 2**11, 256  # target for the noise of one block, and its largest number of rows

PRICED_NUMBERS = 2**24  # largest number of features of rows that are priced together: 64 MiB in float32

Deal: TypeAlias = Callable[[range, Callable[[int], Data], "torch.device | str"], list[Data]]


def chunk_rows(numbers: int, device: torch.device | str = "cpu") -> int:
    """Rows of a chunk, a power of two, if one row has ``numbers`` numbers."""
    most = NUMBERS if torch.device(device).type == "cpu" else DEVICE_NUMBERS
    return min(MAX_ROWS, max(MIN_ROWS, _power_of_two(most // numbers)))


def block_rows(numbers: int) -> int:
    """Rows of a block of noise, a power of two; few, because a block is drawn in full for one row, but not too few."""
    rows = _power_of_two(BLOCK_NUMBERS // numbers)
    return min(BLOCK_ROWS, rows) if rows >= MIN_ROWS else min(MIN_ROWS, _power_of_two(NUMBERS // numbers))


def row_numbers(family: Family[Any]) -> tuple[int, int]:
    """Numbers of one row that its network sees, for :func:`chunk_rows`, and that it draws, for :func:`block_rows`.

    Where beliefs know a site or do not, the features are codes, almost all 0, and a draw is one number for each site.
    """
    numbers = family.network_io.flat().in_numbers
    if not family.one_by_one:
        return numbers, numbers
    sites = math.prod(family.network_io.site_shape)
    return max(sites, numbers // 16), sites


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above a number; 1 below 1."""
    return 1 << (max(1, number).bit_length() - 1)


def rows_together(family: Family[Any], most: int) -> int:
    """Rows that are priced together: at most ``most``, and fewer where a row has many numbers, as with many classes."""
    io = family.network_io
    numbers = math.prod(io.site_shape) * max(io.in_features, io.out_features)
    return max(1, min(most, PRICED_NUMBERS // numbers))


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
) -> Data:
    """Draws consecutive rows chunk by chunk.

    Arguments:
        rows: Indices of the rows.
        size: Rows of a chunk.
        draw: Function from a chunk's index to the full chunk.
        key: Key of the draws.
        device: Device whose generator they use.
        deal: Function that calls ``draw`` for each chunk of a range and returns the chunks in order.
    """

    def seeded_draw(number: int) -> Data:
        with seeded(*key, number, device=device):
            return draw(number)

    numbers = range(rows.start // size, (rows.stop - 1) // size + 1)
    together = concatenated(deal(numbers, seeded_draw, device))
    start = rows.start - numbers[0] * size
    return map_data(lambda part: part[start : start + len(rows)], together)


@attrs.define
class RowsTogether:
    """Computes rows together, and in smaller pieces where memory is short, down to one row.

    The pieces have at least 16 rows as long as memory allows; fewer are rounded differently, with a warning.

    Arguments:
        most: Largest number of rows of a piece, which falls to the power of two below when memory runs out.
    """

    most: int = 2**62

    def compute(self, function: Callable[[range], Data], rows: range) -> Data:
        """Results of a function of a range of rows, for all of them, one after another.

        Raises:
            ResourceError: If there is not enough memory for one row.
        """
        found, first = list[Data](), rows.start
        while first < rows.stop:
            stop = min(rows.stop, first + self.most)
            # Too small a rest is computed together with rows before it.
            start = min(first, max(rows.start, stop - min(self.most, MIN_ROWS)))
            try:
                values = function(range(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(stop - start, error)
            else:
                found.append(_from(first - start, values))
                first = stop
        return concatenated(found)

    def price(self, function: Callable[[Batch], Data], batch: Batch, device: torch.device) -> Data:
        """Results of a function of a batch, whose pieces draw the numbers that they draw in the whole."""
        n, again = len(batch), rewind(device)

        def of_piece(piece: range) -> Data:
            again()
            if len(piece) == n:
                return function(batch)
            with Shard(piece.start, len(piece), n):
                return function(batch.part(piece.start, piece.stop))

        return self.compute(of_piece, range(n))

    def _shrink(self, tried: int, error: Exception) -> None:
        if tried == 1:
            advice = "use a device with more memory, or a smaller model"
            raise out_of_memory(error, "for a single row", advice) from error
        before, self.most = self.most, _power_of_two(tried - 1)
        if self.most < MIN_ROWS <= before:
            warnings.warn(
                f"memory holds fewer than {MIN_ROWS} rows together: the last digits can differ from those of a machine "
                "with more of it",
                BFNWarning,
                stacklevel=2,
            )


def _from(first: int, values: Data) -> Data:
    return map_data(lambda part: part[first:], values) if first else values


def concatenated(chunks: Sequence[Data]) -> Data:
    """The rows of all chunks, one after another."""
    if isinstance(chunks[0], Mapping):
        return {name: concatenated([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return torch.cat(list(chunks))
