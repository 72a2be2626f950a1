"""Chunks of rows, shared among the processes of a job."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bfn_toolkit.parallel import processes
from bfn_toolkit.shapes import Data, batch_size, device_of, map_data


def deal_chunks(numbers: range, draw: Callable[[int], Data], device: torch.device | str = "cpu") -> list[Data]:
    """Deals chunks among the processes of the job and gathers all of them; signals are answered between chunks.

    All processes call it together, with the same numbers.  Each draws one chunk of every group of as many chunks as
    there are processes; the last group is filled up with its last chunk.  Nothing is gathered before every chunk is
    drawn, so a process that has to draw one again keeps the others waiting only at the next group.

    Arguments:
        numbers: Numbers of the chunks, one after another.
        draw: Function that draws a chunk, given its number.
        device: Device of the chunks and of the communication.
    Returns:
        Every chunk, in the order of the numbers, on every process.
    Raises:
        Interrupted: If a signal has asked any process to stop.
    """
    world, drawn = processes.world_size(), []
    for group in range(numbers.start, numbers.stop, world):
        processes.check_signals(device, together=True)
        drawn.append(draw(min(group + processes.rank(), numbers.stop - 1)))
    if world == 1:
        return drawn
    return [chunk for mine in drawn for chunk in _gathered(mine)][: len(numbers)]


def _gathered(mine: Data) -> list[Data]:
    """The chunks of one group, in the order of the processes."""
    device = device_of(mine)
    rows = processes.all_gather(torch.tensor([batch_size(mine)], device=device)).tolist()
    filled = torch.arange(max(rows), device=device).clamp_max_(batch_size(mine) - 1)  # up to the longest
    together = processes.all_gather(map_data(lambda part: part[filled], mine))

    def of_process(other: int) -> Data:
        first = other * max(rows)
        return map_data(lambda part: part[first : first + rows[other]], together)

    return [of_process(other) for other in range(len(rows))]
