"""A run that was stopped goes on to the bits that it would have had: metrics, weights, average, optimiser, samples."""

import json
import shutil
import signal
import time
from pathlib import Path

import attrs
import pytest
import torch
from faults.crashes import CRASHED, crash_at, forked, signal_at
from faults.disks import flip_bit
from faults.kill_and_resume import kill_and_resume
from faults.tiny import samples_of, state_of, with_everything

from bfn_toolkit import ConfigError, Run, RunDirectoryError, train
from bfn_toolkit.errors import BFNWarning
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.runs.checkpoints import find_checkpoint, list_checkpoints
from bfn_toolkit.runs.metrics_log import METRICS
from bfn_toolkit.training.step import TrainStep
from bfn_toolkit.training.trainer import resume

STEPS = 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(with_everything(), folder)
    return folder


def same(a: Path, b: Path) -> None:
    """Checks that two runs cannot be told apart, but by their times."""
    assert (a / METRICS).read_bytes() == (b / METRICS).read_bytes()
    assert state_of(a) == state_of(b)
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert torch.equal(samples_of(Run.open(a).model), samples_of(Run.open(b).model))
    best = [find_checkpoint(run, "best")[0] for run in (a, b)]
    assert best[0] is not None
    assert best[1] is not None
    assert (best[0].step, best[0].valid_loss) == (best[1].step, best[1].valid_loss)


def test_the_experiment_has_all_kinds_of_state(whole: Path) -> None:
    """Each kind of state would be noticed if it were lost: otherwise the law below is empty."""
    state = state_of(whole)
    assert {"weights.safetensors", "ema.safetensors", "optimizer.safetensors"} <= state.keys()
    assert state["state"]["scheduler"] is not None
    assert state["state"]["times"] is not None
    lines = [json.loads(line) for line in (whole / METRICS).read_text().splitlines()]
    assert len({line["lr"] for line in lines if "lr" in line}) > STEPS // 2
    assert [line["step"] for line in lines if "valid_loss" in line] == [7, 14, 21, 24]


@pytest.mark.parametrize("cut", range(1, STEPS))
def test_resume_equals_uninterrupted_at_every_cut(cut: int, whole: Path, tmp_path: Path) -> None:
    workers = 2 if cut in (3, 14) else 0
    with pytest.raises(Interrupted), signal_at(cut, signal.SIGTERM):
        train(with_everything(workers=workers), tmp_path / "run")
    found, _ = find_checkpoint(tmp_path / "run")
    assert found is not None
    assert found.step == cut
    resume(tmp_path / "run")
    same(whole, tmp_path / "run")


def test_resume_equals_uninterrupted_after_many_cuts(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted), signal_at(4, signal.SIGTERM):
        train(with_everything(), run)
    for cut in (5, 7, 14, 20):
        with pytest.raises(Interrupted), signal_at(cut, signal.SIGTERM):
            resume(run)
    resume(run)
    same(whole, run)
    resume(run)  # of a run that has ended: nothing is left to do
    same(whole, run)


MUTANTS = {
    "ema": lambda loop, c: attrs.evolve(c, ema=c.weights),
    "optimizer": lambda loop, c: attrs.evolve(c, optimizer={k: torch.zeros_like(v) for k, v in c.optimizer.items()}),
    "averaged": lambda loop, c: attrs.evolve(c, state={**c.state, "averaged": 1}),
    "scheduler": lambda loop, c: attrs.evolve(c, state={**c.state, "scheduler": _fresh(loop)}),
    "times": lambda loop, c: attrs.evolve(c, state={**c.state, "times": None}),
}


def _fresh(loop: TrainStep) -> object:
    from bfn_toolkit.training.step import flatten

    assert loop.scheduler is not None
    return flatten(loop.scheduler.state_dict())[1]


@pytest.mark.parametrize("lost", MUTANTS)
def test_an_engine_that_loses_a_kind_of_state_is_rejected(
    lost: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted), signal_at(9, signal.SIGTERM):
        train(with_everything(), tmp_path / "run")
    restore = TrainStep.restore
    monkeypatch.setattr(
        TrainStep, "restore", lambda loop, checkpoint, **_: restore(loop, MUTANTS[lost](loop, checkpoint))
    )
    resume(tmp_path / "run")
    with pytest.raises(AssertionError):
        same(whole, tmp_path / "run")


def test_a_crash_while_files_are_written_costs_no_more_than_what_came_after_the_last_save(tmp_path: Path) -> None:
    """The child ends in the middle of a save, or of what comes around it; what is there is of one step."""
    saved = tmp_path / "saved"
    train(with_everything(steps=8, checkpoint_every=8), tmp_path / "whole")
    with pytest.raises(Interrupted), signal_at(7, signal.SIGTERM):
        train(with_everything(steps=8, checkpoint_every=8), saved)
    found, run = set(), tmp_path / "run"
    for k in range(3, 200, 13):  # every step of a save by itself: tests/runs/test_checkpoints.py
        shutil.copytree(saved, run)
        ended = not crash_at(k, lambda: resume(run))
        listed, _ = find_checkpoint(run)
        assert listed is not None
        found.add(listed.step)
        resume(run)
        same(tmp_path / "whole", run)
        shutil.rmtree(run)
        if ended:
            break
    assert ended
    assert found == {7, 8}  # 7 is saved anew, once its validation is known to be the best


def test_random_kills_cost_nothing_but_time(tmp_path: Path) -> None:
    """For many more kills: ``python -m faults.kill_and_resume``."""
    made = with_everything(steps=120, checkpoint_every=3)
    start = time.monotonic()
    train(made, tmp_path / "whole")
    longest = 0.4 * (time.monotonic() - start)
    kills = list(kill_and_resume(made, tmp_path / "run", 8, longest))
    assert any(0 < kill.step < 120 for kill in kills)
    same(tmp_path / "whole", resume(tmp_path / "run").path or tmp_path)


@pytest.mark.parametrize("step", [7, 8])
def test_a_kill_after_a_save_loses_no_line_of_the_metrics(
    step: int, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at the moment at which the checkpoint is durable."""
    import os

    from bfn_toolkit.training import checkpointer

    save = checkpointer.save_checkpoint

    def save_and_die(run: Path, checkpoint: object, keep: int) -> None:
        save(run, checkpoint, keep)  # type: ignore[arg-type]
        if checkpoint.step == step:  # type: ignore[attr-defined]
            os._exit(CRASHED)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "save_checkpoint", save_and_die)
        assert forked(lambda: train(with_everything(checkpoint_every=1), tmp_path / "run")) == CRASHED
    resume(tmp_path / "run")
    assert (tmp_path / "run" / METRICS).read_bytes() == (whole / METRICS).read_bytes()


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_end_is_the_same(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted), signal_at(13, signal.SIGTERM):
        train(with_everything(checkpoint_every=5, keep=2), run)
    flip_bit(run / "checkpoints" / "step-00000013" / "weights.safetensors", 0)
    with pytest.warns(BFNWarning, match=r"skipped: .*step-00000013/weights\.safetensors is damaged"):
        resume(run)
    same(whole, run)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": "1"}, "seed: 0 then, 1 now"),
        ({"training.lr": "0.1"}, r"training\.lr: 0\.003 then, 0\.1 now"),
        ({"dataset.count": "60"}, r"data; dataset\.count: 50 then, 60 now"),
    ],
)
def test_what_would_not_be_exact_is_refused_and_named(changes: dict[str, str], named: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted), signal_at(3, signal.SIGTERM):
        train(with_everything(), run)
    with pytest.raises(ConfigError, match="--allow-inexact"):
        resume(run, overrides=list(changes.items()))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    text = (run / "experiment.toml").read_text()
    with pytest.MonkeyPatch.context() as patch:
        from bfn_toolkit.training import trainer

        read = trainer.read_experiment
        patch.setattr(trainer, "read_experiment", lambda *a, **k: _changed(read(*a, **k), changes))
        with pytest.raises(RunDirectoryError, match=f"since the checkpoint: {named}"):
            resume(run)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    resume(run, overrides=list(changes.items()), allow_inexact=True)
    assert (run / "experiment.toml").read_text() != text
    assert state_of(run)["state"]["inexact"][0]["step"] == 3


def _changed(experiment: object, changes: dict[str, str]) -> object:
    return type(experiment).from_mapping(experiment.to_mapping(), overrides=list(changes.items()))  # type: ignore[attr-defined]


def test_a_log_that_a_crash_cut_is_taken_up_again(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted), signal_at(11, signal.SIGTERM):
        train(with_everything(), run)
    with (run / METRICS).open("a") as file:
        file.write('{"step": 12, "loss": 0.5}\n{"step": 13, "lo')
    resume(run)
    assert (run / METRICS).read_bytes() == (whole / METRICS).read_bytes()


def test_the_last_checkpoints_are_kept_and_the_best(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(with_everything(checkpoint_every=2, keep=2), run)
    best, _ = find_checkpoint(run, "best")
    assert best is not None
    assert [one.step for one in list_checkpoints(run)] == sorted({best.step, 22, 24})
