"""Jobs of several processes: the numbers of one process, and failures told once, as those of the one that failed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from subprocess import Popen

import attrs
import pytest
import torch
from faults import parts
from faults.crashes import forked, start, wait_for
from faults.numbers import oom_above
from faults.parts import FaultyLoss, OwnRows
from faults.ranks import launched, listening_on, two_ranks
from faults.tiny import experiment, samples_of, state_of
from torch import Tensor

from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    ContinuousTimeLoss,
    Experiment,
    ImportanceTimes,
    RunDirectoryError,
    likelihood_bound,
    seeded,
    train,
)
from bfn_toolkit.cli.display import LAUNCHED
from bfn_toolkit.cli.launcher import end_with_launcher
from bfn_toolkit.errors import BFNWarning, OutOfStepError
from bfn_toolkit.runs.checkpoints import find_checkpoint, list_checkpoints
from bfn_toolkit.runs.run import Run
from bfn_toolkit.training.step import TrainStep
from bfn_toolkit.training.trainer import resume

ROUNDING = 2e-6  # relative; measured 2e-7: sums in float32, in another order


def shared(**training: object) -> Experiment:
    options = {"batch_size": 32, "ema_decay": 0.9, "validate_every": 6, "steps": 12, **training}
    loss = ContinuousTimeLoss("unit", ImportanceTimes(8))
    return attrs.evolve(experiment(loss, **options), network=MLP(width=8, depth=1, dropout=0.3))


def test_two_processes_train_to_the_numbers_of_one(tmp_path: Path) -> None:
    one = train(shared(), tmp_path / "one")
    rows = one.experiment.dataset.split("valid")

    def job(rank: int) -> tuple[list[float], float, Tensor]:
        run = train(shared(), tmp_path / "two")
        bound = likelihood_bound(one.model, rows, draws=3)
        norms = [p.double().norm().item() for p in run.model.parameters()]
        return norms, bound.total.value, samples_of(one.model)

    norms, bounds, samples = zip(*two_ranks(job), strict=True)
    assert norms[0] == norms[1]
    assert norms[0] == pytest.approx([p.double().norm().item() for p in one.model.parameters()], rel=ROUNDING)
    alone, together = (list(Run.open(tmp_path / name).metrics) for name in ("one", "two"))
    assert [m.keys() for m in alone] == [m.keys() for m in together]
    for a, b in zip(alone, together, strict=True):
        assert dict(b) == pytest.approx(dict(a), rel=10 * ROUNDING)  # gradients differ by more than losses do
    # A model is what it is, and its rows are drawn to the same bits, whoever draws them.
    assert bounds[0] == bounds[1] == likelihood_bound(one.model, rows, draws=3).total.value
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples_of(one.model))


def test_a_job_of_two_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def interrupted(rank: int) -> str:
        loss = FaultyLoss("signal", step=5, rank=1)  # one process gets the signal, and all stop
        return type(_caught(lambda: train(attrs.evolve(shared(), loss=loss), tmp_path / "cut"))).__name__

    def go_on(rank: int) -> int:
        return resume(tmp_path / "cut", overrides=[("loss.fault", "none")], allow_inexact=True).weights.step

    def whole(rank: int) -> int:
        return train(attrs.evolve(shared(), loss=FaultyLoss()), tmp_path / "whole").weights.step

    parts.register()
    assert two_ranks(interrupted) == ["Interrupted"] * 2
    found, _ = find_checkpoint(tmp_path / "cut")
    assert found is not None
    assert found.step == 5
    assert isinstance(_caught(lambda: resume(tmp_path / "cut")), RunDirectoryError)  # one process is not two
    assert two_ranks(go_on) == two_ranks(whole) == [12, 12]
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    cut, not_cut = state_of(tmp_path / "cut"), state_of(tmp_path / "whole")
    for name in ("weights.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert cut[name] == not_cut[name], name


def _caught(work: object) -> BaseException:
    try:
        work()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_processes_with_other_data_are_noticed(tmp_path: Path) -> None:
    parts.register()
    apart = attrs.evolve(experiment(), dataset=OwnRows(apart=True))
    for error in two_ranks(lambda rank: train(apart, tmp_path / "run")):
        assert isinstance(error, OutOfStepError)
        assert error.exit_status == 6
        assert "do not have the same data: process 0 has" in str(error)
    assert not (tmp_path / "run").exists()


def test_processes_whose_weights_went_apart_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bfn_toolkit.training import trainer

    monkeypatch.setattr(trainer, "AGREE_EVERY", 4)
    step = TrainStep.step

    def drifting(loop: TrainStep, batch: object, number: int) -> object:
        result = step(loop, batch, number)  # type: ignore[arg-type]
        if number == 2 and os.environ.get("RANK") == "1":
            with torch.no_grad():
                loop.parameters[0][0] += 0.01
        return result

    monkeypatch.setattr(TrainStep, "step", drifting)
    for error in two_ranks(lambda rank: train(experiment(), tmp_path / "run")):
        assert isinstance(error, OutOfStepError)
        assert "same weights: process 0 has" in str(error)
        assert "at step 4" in str(error)
    assert list_checkpoints(tmp_path / "run") == []


def test_one_process_can_run_out_of_memory_alone() -> None:
    with seeded(0):
        rich = BFN(experiment().family, Siren(width=8))
    expected = _draw(rich)

    def job(rank: int) -> Tensor:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        hungry = BFN(rich.family, oom_above(64, Siren(width=8), rank=1))
        hungry.network.inner.load_state_dict(rich.network.state_dict())
        drawn = _draw(hungry)
        assert (hungry.network.refusals > 0) == (rank == 1)
        return drawn

    for samples in two_ranks(job):
        assert torch.equal(samples, expected)


def _draw(model: BFN) -> Tensor:
    with seeded(1), torch.no_grad():
        drawn = model.sample(700, n_steps=3)
    assert isinstance(drawn, Tensor)
    return drawn


OPTIONS = ["--dataset.count", "50", "--network.width", "8", "--training.device", "cpu", "--loss", "faulty"]


@pytest.mark.timeout(600)  # of three jobs together
def test_a_process_that_fails_is_named_once_and_one_that_hangs_ends_the_job_after_the_timeout(tmp_path: Path) -> None:
    """While the launcher waits for the process that hangs, the jobs with the others run."""

    def faulty(fault: str, *more: str) -> Popen[str]:
        options = ["--training.steps", "20", "--training.checkpoint_every", "2", *more]
        options += ["--loss.fault", fault, "--loss.rank", "1", "--loss.step", "8"]
        return launched(["--out", str(tmp_path / fault), *OPTIONS, *options], tmp_path / f"site-{fault}")

    start_of_hanging = time.monotonic()
    hanging = faulty("hang", "--training.timeout", "4")
    wait_for((tmp_path / "hang" / "metrics.jsonl").exists)
    failing = {fault: faulty(fault) for fault in ("raise", "kill")}
    _, errors = hanging.communicate(timeout=120)
    assert hanging.returncode == 7, errors
    assert "lost contact with the other processes" in errors
    assert time.monotonic() - start_of_hanging < 100
    assert find_checkpoint(tmp_path / "hang")[0] is not None
    for fault, status, said in [("raise", 5, "ZeroDivisionError"), ("kill", 137, "SIGKILL")]:
        _, errors = failing[fault].communicate(timeout=120)
        lines = [line for line in errors.splitlines() if "error" in line]
        assert len(lines) == 1, errors
        assert "process 1 of 2 failed first" in lines[0]
        assert said in lines[0]
        assert failing[fault].returncode == status
        found, passed = find_checkpoint(tmp_path / fault)
        assert found is not None
        assert found.step in (6, 7)  # 7 where the other process could still save it
        assert passed == []


STRANGERS = ("secrets", "random", "torch", "numpy", "pickle", "sitecustomize", "conftest", "bfn_gaussian")


def test_sigterm_to_the_launcher_saves_and_ends_with_143(tmp_path: Path) -> None:
    """In a stranger's folder, from which nothing is imported; and nobody outside of this machine can connect."""
    run, folder, executed = tmp_path / "run", tmp_path / "folder", tmp_path / "executed"
    folder.mkdir()
    for name in STRANGERS:
        (folder / f"{name}.py").write_text(f"open({str(executed)!r}, 'a').write({name!r})\n")
    plain = [sys.executable, "-c", "import secrets"]  # the fault fires
    assert subprocess.run(plain, cwd=folder).returncode == 0
    assert "secrets" in executed.read_text()
    executed.unlink()
    options = ["--out", str(run), *OPTIONS, "--training.steps", "100000"]
    process = launched(options, tmp_path / "site", cwd=folder)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    if Path("/proc/net/tcp").exists():
        assert listening_on(process.pid) == {"0100007F"}
    assert not executed.exists()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    found, passed = find_checkpoint(run)
    assert found is not None
    assert found.step > 0
    assert passed == []


def test_processes_end_with_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()

    def worker() -> None:
        monkeypatch.setenv(LAUNCHED, str(os.getppid()))
        end_with_launcher()
        os.write(write, b"%d" % os.getpid())
        signal.pause()

    def launcher() -> None:
        if os.fork() == 0:
            worker()
        os.read(read, 20)
        os.write(write, b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(launcher) == -signal.SIGKILL
    os.close(write)  # the worker has it too, until it ends
    began = time.monotonic()
    while os.read(read, 20):
        pass
    os.close(read)
    assert time.monotonic() - began < 20.0


def test_two_processes_cannot_write_one_run_and_a_kill_frees_it(tmp_path: Path) -> None:
    """Also while workers that fetch rows outlive their parent for some seconds."""
    run = tmp_path / "run"
    options = ["--training.steps", "1000000", "--training.workers", "1", "--training.batch_size", "32"]
    options += ["--training.checkpoint_every", "0"]
    process = start(["train", "--out", str(run), "--no-report", *OPTIONS, *options], tmp_path / "site")
    wait_for(lambda: (run / "metrics.jsonl").exists())
    parts.register()
    with pytest.raises(RunDirectoryError, match=rf"process {process.pid} on {socket.gethostname()} since") as caught:
        resume(run)
    assert caught.value.exit_status == 4
    process.kill()
    process.communicate()
    with pytest.warns(BFNWarning, match="holds no checkpoint, so the training starts again at step 0"):
        resumed = resume(run, overrides=[("training.steps", "3"), ("training.workers", "0")], allow_inexact=True)
    assert Run.open(run).experiment.training.steps == 3
    assert resumed.weights.step == 3


def test_the_lock_of_a_run_is_not_inherited_by_its_children(tmp_path: Path) -> None:
    from bfn_toolkit.storage.locks import locked

    ready = tmp_path / "ready"

    def parent() -> None:
        with locked(tmp_path):
            if os.fork() == 0:  # outlives its parent
                ready.touch()
                time.sleep(20)
                os._exit(0)
            wait_for(ready.exists)
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(parent) == -signal.SIGKILL
    with locked(tmp_path):
        pass


def test_checkpoints_of_two_processes_are_those_of_one_writer(tmp_path: Path) -> None:
    assert two_ranks(lambda rank: train(experiment(checkpoint_every=2), tmp_path / "run").weights.step) == [6, 6]
    assert [one.fault for one in list_checkpoints(tmp_path / "run", verify=True)] == [None] * 3
    assert Run.open(tmp_path / "run").weights.step == 6
