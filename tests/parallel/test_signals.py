"""Signals: what was done is saved, and the exit status says which one came."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from faults import parts
from faults.crashes import forked, signal_at
from faults.parts import FaultyLoss
from faults.tiny import experiment, samples_of

from bfn_toolkit import Sampler, load_run, train
from bfn_toolkit.cli import main
from bfn_toolkit.parallel.signals import SIGNALS, Interrupted, listening, pending
from bfn_toolkit.runs.checkpoints import find_checkpoint, list_checkpoints
from bfn_toolkit.training import trainer
from bfn_toolkit.training.trainer import resume

OPTIONS = ["--dataset.count", "50", "--network.width", "8", "--training.steps", "6", "--training.device", "cpu"]


def last_step(run: Path) -> int:
    found, passed = find_checkpoint(run)
    assert found is not None
    assert passed == []
    return found.step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_stops_after_saving_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "a run")
    handlers = [signal.getsignal(n) for n in SIGNALS]
    with signal_at(3, number):
        assert main(["train", "--out", run, "--no-report", *OPTIONS]) == 128 + number
    assert f"stopped by {number.name}; continue with: bfn train --resume '{run}'" in capsys.readouterr().err
    assert last_step(tmp_path / "a run") == 3
    assert not (tmp_path / "a run" / "model.json").exists()
    assert [signal.getsignal(n) for n in SIGNALS] == handlers
    assert main(["train", "--resume", run, "--no-report"]) == 0
    assert last_step(tmp_path / "a run") == 6


@pytest.mark.parametrize("moment", ["_finish", "_result"])
def test_a_signal_in_the_final_save_leaves_a_finished_model(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = getattr(trainer._Training, moment), tmp_path / "run"

    def interrupted(training: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(training)

    monkeypatch.setattr(trainer._Training, moment, interrupted)
    assert main(["train", "--out", str(run), *OPTIONS]) == 143
    said = capsys.readouterr().err
    assert f"stopped by SIGTERM; the model is finished: {run}" in said
    assert "figure" not in said
    assert load_run(run).family is not None
    assert last_step(run) == 6


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup, when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signal_at(3, signal.SIGHUP):
            assert train(experiment(), tmp_path / "run").weights.step == 6
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigusr1_saves_and_goes_on(tmp_path: Path) -> None:
    with signal_at(3, signal.SIGUSR1):
        train(experiment(), tmp_path / "run")
    assert [one.step for one in list_checkpoints(tmp_path / "run", verify=True)] == [3, 6]
    assert torch.equal(samples_of(load_run(tmp_path / "run")), samples_of(train(experiment()).model))


def test_a_second_sigint_stops_at_once_and_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    run = ["train", "--out", str(tmp_path / "run"), *OPTIONS, "--training.checkpoint_every", "2"]
    with signal_at(5, signal.SIGINT, signal.SIGINT):
        assert main(run) == 130
    assert last_step(tmp_path / "run") == 4


def test_a_second_sigint_long_after_the_first_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from bfn_toolkit.parallel import signals

    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with listening():
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += signals.AT_ONCE + 1.0
        os.kill(os.getpid(), signal.SIGINT)
        assert pending() == signal.SIGINT
        now[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_between_the_blocks_of_a_validation_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bfn_toolkit.training import validation

    parts.register()
    monkeypatch.setattr(validation, "VALIDATION_ROWS", 4)
    train(experiment(FaultyLoss(), validate_every=3), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(experiment(FaultyLoss("signal", step=2, training=False), validate_every=3), tmp_path / "run")
    found, _ = find_checkpoint(tmp_path / "run")
    assert found is not None
    assert (found.step, found.valid_loss) == (3, None)  # its second block of five was the last
    resume(tmp_path / "run", overrides=[("loss.fault", "none"), ("loss.training", "true")], allow_inexact=True)
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    best, _ = find_checkpoint(tmp_path / "run", "best")
    assert best is not None
    assert best.valid_loss is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1])
def test_a_signal_in_the_report_leaves_a_trained_run(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Sampler.sample

    def interrupted(self: object, *args: object, **kwargs: object) -> object:
        os.kill(os.getpid(), number)
        return draw(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Sampler, "sample", interrupted)
    run = ["train", "--out", str(tmp_path / "run"), *OPTIONS]
    expected = 0 if number == signal.SIGUSR1 else 128 + number
    if number == signal.SIGUSR1:
        monkeypatch.setattr("bfn_toolkit.reports.report.write_figures", lambda *_: [])
    found = forked(lambda: os._exit(main(run)))
    assert found == expected
    assert load_run(tmp_path / "run") is not None
    assert (tmp_path / "run" / "evaluation.json").exists() == (number == signal.SIGUSR1)


def test_handlers_come_back_also_after_an_error() -> None:
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with contextlib.suppress(ZeroDivisionError), listening():
            assert signal.getsignal(signal.SIGTERM) is not mine
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_listening_within_listening_loses_no_signal() -> None:
    with listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with listening():
            assert pending() == signal.SIGTERM
        assert pending() == signal.SIGTERM
    assert pending() is None


def test_training_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    handlers = [signal.getsignal(n) for n in SIGNALS]
    found: list[object] = []

    def work() -> None:
        found.append(train(experiment(steps=2), tmp_path / "run").weights.step)
        found.append([signal.getsignal(n) for n in SIGNALS] == handlers)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [2, True]
