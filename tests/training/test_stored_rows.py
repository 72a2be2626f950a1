"""Training on rows that are read by number and prepared on the device: the same numbers, in little memory."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from faults import parts
from faults.crashes import signal_at
from faults.ranks import two_ranks
from faults.tiny import state_of, with_everything

from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    ArrayRows,
    Batch,
    ContinuousTimeLoss,
    DataError,
    Dataset,
    Experiment,
    Training,
    likelihood_bound,
    train,
)
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.reports.report import evaluate, write_figures
from bfn_toolkit.runs import run as runs
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.training import feed
from bfn_toolkit.training.step import TrainStep
from bfn_toolkit.training.trainer import resume

X = np.random.default_rng(0).integers(0, 256, (240, 4), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", X)
    parts.register()
    return str(tmp_path / "x.npy")


def stored(path: str, **training: object) -> Experiment:
    """24 steps of 32 rows of 180, in pieces, with dropout and with rows that are reversed at random."""
    return attrs.evolve(with_everything(**training), dataset=parts.StoredRows(path), family=Gaussian((4,)))


@attrs.frozen
class Given(Dataset):
    """The same rows in one of two forms, numbers that need no preparation."""

    path: str
    in_memory: bool
    weight: float = 0.0

    @property
    def site_shape(self):
        return (4,)

    def rows(self, name):
        x = np.load(self.path, mmap_mode="r")
        x = ArrayRows(x, weight=np.full(len(x), self.weight, np.float32) if self.weight else None)
        return x[torch.arange(len(x))] if self.in_memory else x


@pytest.mark.parametrize("workers", [0, 2])
def test_a_memory_map_trains_as_the_same_rows_in_memory_to_the_bit(workers, tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float32) / 127.5 - 1.0)
    datasets = Given(str(tmp_path / "x.npy"), in_memory=True), Given(str(tmp_path / "x.npy"), in_memory=False)
    runs = [
        train(attrs.evolve(with_everything(workers=workers), dataset=dataset, family=Gaussian((4,))))
        for dataset in datasets
    ]
    assert runs[0].metrics == runs[1].metrics
    assert len({m["loss"] for m in runs[0].metrics if "loss" in m}) == 24
    bounds = [likelihood_bound(run.model, run.rows("test"), draws=4).total for run in runs]
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize(("cut", "workers"), [(3, 0), (5, 2), (17, 0)])
def test_a_run_on_stored_rows_is_resumed_to_the_bit(cut, workers, path, tmp_path):
    train(stored(path), tmp_path / "whole")
    with pytest.raises(Interrupted), signal_at(cut, signal.SIGTERM):
        train(stored(path, workers=workers), tmp_path / "cut")
    resume(tmp_path / "cut")
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")


def losses(run: object) -> list[float]:
    return [m["loss"] for m in run.metrics if "loss" in m]


def test_the_draws_of_the_preparation_do_not_depend_on_the_pieces(path):
    one, two = losses(train(stored(path, accumulate=1))), losses(train(stored(path, accumulate=7)))
    assert one == pytest.approx(two, rel=1e-4)

    def shared(rank: int) -> list[float]:
        return losses(train(stored(path, accumulate=2)))

    first, second = two_ranks(shared)
    assert first == pytest.approx(one, rel=1e-4)
    assert second in ([], first)


def test_validation_prepares_its_rows_the_same_way_each_time(path):
    run = train(stored(path, steps=6, validate_every=3, lr=1e-30, ema_decay=0.0))
    first, second = [m["valid_loss"] for m in run.metrics if "valid_loss" in m]
    assert first == second


def test_the_preparation_is_drawn_anew_in_each_step(path):
    prepare, seen = parts.StoredRows.prepare, []

    def watched(self, batch):
        seen.append(prepare(self, batch))
        return seen[-1]

    experiment = stored(path, steps=5, batch_size=180, accumulate=1, validate_every=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.StoredRows, "prepare", watched)
        train(experiment)
    steps = torch.stack([batch.x for batch in seen if len(batch) == 180][-5:])
    plain = torch.from_numpy(X[torch.arange(240) % 4 != 3]).float() / 127.5 - 1.0
    straight = (steps == plain).all(2).float().mean(1)
    assert bool(((straight - 0.5).abs() < 6 * 0.5 / 180**0.5).all())  # half of the rows, by chance
    assert len({tuple(row) for row in (steps == plain).all(2).tolist()}) == 5


def test_equal_weights_change_nothing_and_others_weigh_the_rows(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float32) / 127.5 - 1.0)
    path = str(tmp_path / "x.npy")
    for in_memory in (True, False):
        runs = [
            losses(
                train(
                    attrs.evolve(
                        with_everything(steps=6), dataset=Given(path, in_memory, weight), family=Gaussian((4,))
                    )
                )
            )
            for weight in (0.0, 0.3)
        ]
        assert runs[0] == runs[1]
    x = torch.from_numpy(X[:32].astype(np.float32)) / 127.5 - 1.0
    weight = torch.arange(32.0) / 15.5  # of mean 1
    step = TrainStep(BFN(Gaussian((4,)), MLP(width=8)), ContinuousTimeLoss(), Training(), seed=0)
    each = [float(step.gradients(Batch(x, weight=32.0 * torch.eye(32)[i]), 1)) for i in range(32)]
    whole = float(step.gradients(Batch(x, weight=weight), 1))
    assert whole == pytest.approx(sum(w * loss for w, loss in zip(weight.tolist(), each, strict=True)) / 32, rel=1e-5)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_row_is_found_before_it_trains(at_once, workers, tmp_path, monkeypatch):
    x = X.astype(np.float32) / 127.5 - 1.0
    x[137, 2] = np.inf
    np.save(tmp_path / "x.npy", x)
    if not at_once:
        monkeypatch.setattr(feed, "CHECKED", 160)  # ten rows
    experiment = attrs.evolve(
        with_everything(workers=workers), dataset=Given(str(tmp_path / "x.npy"), False), family=Gaussian((4,))
    )
    with pytest.raises(DataError, match="Gaussian expects finite data, found inf"):
        train(experiment)


def test_negative_weights_are_an_error(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    with pytest.raises(DataError, match="weight: expected finite numbers of at least 0"):
        train(
            attrs.evolve(with_everything(), dataset=Given(str(tmp_path / "x.npy"), False, -1.0), family=Gaussian((4,)))
        )


def test_bytes_in_memory_stay_bytes_and_a_memory_map_stays_on_disk():
    """The largest resident memory beyond that of a small training, as a multiple of the data as they are stored."""
    command = [sys.executable, "-m", "benchmarks.memory", "--mapped", "4", "--held", "0.25", "--steps", "50"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    found = json.loads(done.stdout)
    assert found["mapped"] <= 0.2
    assert 1.0 <= found["held"] <= 1.5


def test_a_run_on_stored_rows_is_evaluated_and_drawn(path, tmp_path, monkeypatch):
    run = train(stored(path), tmp_path / "run")
    assert len(run.split("all").x) == 240
    monkeypatch.setattr(runs, "SHOWN", 10 * 4 * 4)  # ten rows of four numbers
    assert torch.equal(run.split("all").x, run.split("all").x)
    assert len(run.split("all").x) == 10
    plan = ResolvedPlan.of(run, SamplePlan(20, 5))
    first, second = (evaluate(plan, n_steps=5, draws=2, density=4, particles=2) for _ in range(2))
    assert first == second
    assert math.isfinite(first["total_nats"])
    assert first["examples"] == 60
    assert {path.stem for path in write_figures(plan, tmp_path, plan.draw())} >= {"data", "samples"}
