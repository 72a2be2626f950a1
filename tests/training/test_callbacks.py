"""Callbacks: called in the first process with the model to sample from, while the others wait without a timeout."""

from __future__ import annotations

import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.ranks import two_ranks
from faults.tiny import experiment
from torch import Tensor

from bfn_toolkit import TrainingEvent, resume, seeded, train
from bfn_toolkit.errors import BFNWarning

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "training.md"


def documented() -> dict[str, Any]:
    """Names of the example in the docs: ``watch``, the callback, and what it has ``seen``."""
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def watch" in text]
    names: dict[str, Any] = {"TrainingEvent": TrainingEvent, "seeded": seeded, "torch": torch}
    exec(block, names)
    return names


def weights(run: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_the_documented_callback_works_in_a_job_of_two() -> None:
    """It samples, in the first process alone."""

    def job(rank: int) -> tuple[list[Any], Tensor]:
        example = documented()
        run = train(experiment(steps=45, timeout=20), callbacks=[example["watch"]])
        return example["seen"], weights(run)

    (seen, one), (nothing, two) = two_ranks(job)
    assert seen == [(20, 20, True), (40, 20, True), (45, 5, True)]
    assert nothing == []
    assert torch.equal(one, two)


def stop_at(step: int) -> Any:
    def callback(event: TrainingEvent) -> None:
        if event.step >= step:
            event.stop("good enough")

    return callback


def test_a_callback_stops_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is complete: a resume takes no further step, unless it has more steps than before."""
    run = train(experiment(steps=45), tmp_path / "run", callbacks=[stop_at(20)], progress=True)
    assert run.weights.step == 20
    assert "stopped at step 20 of 45: good enough" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "model.json").read_text())["stopped"] == "good enough"
    again = resume(tmp_path / "run")
    assert again.weights.step == 20
    assert torch.equal(weights(again), weights(run))
    assert torch.equal(weights(run), weights(train(experiment(steps=45), callbacks=[stop_at(20)])))
    further = resume(tmp_path / "run", overrides=[("training.steps", "50")], allow_inexact=True)
    assert further.weights.step == 50
    assert "stopped" not in json.loads((tmp_path / "run" / "model.json").read_text())


def test_all_processes_stop_with_the_first() -> None:
    assert two_ranks(lambda rank: train(experiment(steps=45), callbacks=[stop_at(20)]).weights.step) == [20, 20]


def test_a_callback_may_take_longer_than_the_timeout_of_the_group() -> None:
    def job(rank: int) -> tuple[float, int]:
        calls = []

        def slow(event: TrainingEvent) -> None:
            calls.append(event.step)
            time.sleep(12.0 if event.step == 20 else 0.0)

        start = time.monotonic()
        step = train(experiment(steps=25, timeout=8), callbacks=[slow]).weights.step
        assert calls == ([20, 25] if rank == 0 else [])
        return time.monotonic() - start, step

    for seconds, step in two_ranks(job):
        assert seconds > 12.0
        assert step == 25


def test_a_callback_that_fails_in_a_job_of_two_is_not_called_after_three_times() -> None:
    def job(rank: int) -> tuple[int, int]:
        calls = []

        def failing(event: TrainingEvent) -> None:
            calls.append(event.step)
            raise ZeroDivisionError

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", BFNWarning)
            step = train(experiment(steps=100), callbacks=[failing]).weights.step
        assert all("failing: ZeroDivisionError" in str(one.message) for one in told if one.category is BFNWarning)
        return len(calls), step

    assert two_ranks(job) == [(3, 100), (0, 100)]
