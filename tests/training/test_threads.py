"""Two jobs in two threads of one process: each has the numbers that it has alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import attrs
import torch
from faults.crashes import forked
from faults.tiny import experiment, samples_of
from torch import Tensor

from bfn_mlp import MLP
from bfn_toolkit import Experiment, seeded, streams, train

STEPS = 30


def first() -> Experiment:
    return experiment(steps=STEPS, batch_size=32, validate_every=10, accumulate=2)


def second() -> Experiment:
    other = experiment(steps=STEPS, batch_size=16, ema_decay=0.9, precision="bf16", optimizer="adamw")
    return attrs.evolve(other, network=MLP(width=8, depth=1, dropout=0.3), seed=7)


def weights(of: Experiment) -> Tensor:
    return torch.cat([p.detach().flatten() for p in train(of).model.parameters()])


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """Results of jobs that run at the same time, each in a thread."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(number: int) -> None:
        start.wait()
        try:
            results[number] = jobs[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
        assert not thread.is_alive()
    for result in results:
        assert not isinstance(result, Exception), repr(result)
    return results


def test_two_trainings_have_the_weights_of_each_alone() -> None:
    alone = weights(first()), weights(second())
    for _ in range(3):  # threads meet in another way each time
        for found, expected in zip(together(lambda: weights(first()), lambda: weights(second())), alone, strict=True):
            assert torch.equal(found, expected)


def test_sampling_and_training_have_the_numbers_of_each_alone() -> None:
    model = train(first()).model
    expected, samples = weights(second()), samples_of(model, 20_000)
    found, *drawn = together(lambda: weights(second()), *[lambda: samples_of(model, 20_000)] * 2)
    assert torch.equal(found, expected)
    assert all(torch.equal(one, samples) for one in drawn)


def test_a_scope_of_draws_is_that_of_one_thread_at_a_time() -> None:
    """Each of many short scopes gets the draws of its key, also where a scope stands within another."""

    def draws(key: str) -> list[Tensor]:
        drawn = []
        for number in range(300):
            with seeded(key, number):
                first_draw = torch.rand(5)
                with streams()("inner"):
                    drawn.append(torch.rand(5))
                drawn.append(first_draw + torch.rand(5))
        return drawn

    alone = draws("a"), draws("b")
    for found, expected in zip(together(lambda: draws("a"), lambda: draws("b")), alone, strict=True):
        assert all(map(torch.equal, found, expected))


def test_a_child_that_is_forked_while_another_thread_draws_can_draw() -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with seeded("held"):
            inside.set()
            leave.wait(60.0)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(60.0)

    def child() -> None:
        def draw() -> None:
            with seeded("child"):
                torch.rand(1)
            os._exit(0)

        threading.Timer(20.0, os._exit, (9,)).start()
        draw()

    try:
        assert forked(child) == 0
    finally:
        leave.set()
        thread.join()


def test_a_child_that_is_forked_inside_of_a_scope_can_leave_it() -> None:
    def child() -> None:
        threading.Timer(20.0, os._exit, (9,)).start()
        with seeded("inner"):
            torch.rand(1)

    with seeded("outer"):
        assert forked(child) == 0
