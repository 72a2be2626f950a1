"""Chunks that processes share: all of them, in order, on every process, whatever the number of processes."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from faults.ranks import two_ranks

from bfn_toolkit import seeded
from bfn_toolkit.parallel import signals
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.parallel.signals import Interrupted


def chunk(number: int) -> dict[str, torch.Tensor]:
    with seeded("chunk", number):
        return {"x": torch.randn(4, 2), "label": torch.full((4,), number)}


def equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(u[name], v[name]) for u, v in zip(a, b, strict=True) for name in u)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("numbers", [range(0), range(3, 4), range(5), range(2, 8)])
def test_every_process_has_every_chunk_in_order_and_draws_its_share(processes: int, numbers: range) -> None:
    def job(rank: int) -> tuple[bool, list[int]]:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        drawn: list[int] = []

        def draw(number: int) -> Any:
            drawn.append(number)
            return chunk(number)

        return equal(deal_chunks(numbers, draw, "cpu"), [chunk(number) for number in numbers]), drawn

    answers = two_ranks(job, processes)
    assert [answer[0] for answer in answers] == [True] * processes
    shares = [answer[1] for answer in answers]
    assert {len(share) for share in shares} == {-(-len(numbers) // processes)}
    assert {number for share in shares for number in share} == set(numbers)


def test_a_signal_to_one_process_stops_all_between_two_chunks() -> None:
    def job(rank: int) -> tuple[int, list[int]]:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        drawn: list[int] = []

        def draw(number: int) -> Any:
            drawn.append(number)
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return chunk(number)

        with signals.listening():
            try:
                deal_chunks(range(100), draw)
            except Interrupted as stop:
                return int(stop.number), drawn
        return 0, drawn

    assert two_ranks(job) == [(signal.SIGTERM, [0, 2]), (signal.SIGTERM, [1, 3])]
