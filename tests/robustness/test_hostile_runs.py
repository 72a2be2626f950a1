"""Run directories that somebody made to do harm: refused within bounds, and nothing of the user's is changed."""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.hostile_runs import HOSTILE, Hostile, snapshot
from faults.tiny import experiment

from bfn_toolkit import train
from bfn_toolkit.cli import main


class StillRunning(BaseException):
    """A fault was neither refused nor got over in time."""


SECONDS, MEGABYTES = 10.0, 200  # of the process, which may share its processor


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(experiment(steps=4, checkpoint_every=2), folder)
    return folder


def planted(case: Hostile, place: Path, trained: Path) -> tuple[Path, Path]:
    """The hostile run, and the user's files, which it may lead to."""
    run, mine = place / "run", place / "mine"
    shutil.copytree(trained, run)
    (mine / "photos").mkdir(parents=True)
    (mine / "photos" / "1.jpg").write_text("a photo")
    (mine / "diary.txt").write_text('{"step": 1}\n')
    case.plant(run, mine)
    return run, mine


@contextmanager
def bounded() -> Iterator[None]:
    """Scope that ends after a while, and may not take much memory."""

    def end(*_: object) -> None:
        raise StillRunning

    before, began = signal.signal(signal.SIGALRM, end), time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, 6.0 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - began < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 < MEGABYTES


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_run_does_no_harm(
    name: str, tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = HOSTILE[name]
    run, mine = planted(case, tmp_path, trained)
    before = snapshot(mine)
    with bounded():
        status = main(shlex.split(case.command.format(run=run)))
    said = "".join(capsys.readouterr())
    assert status in case.statuses, said
    assert "Traceback" not in said
    assert not name.startswith(("wide", "deep")) or "the description is not that of these weights" in said
    assert re.findall(r"[^\n\t -\x7e\xa1-\uffff]|[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", said) == []
    assert snapshot(mine) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_the_fault_of_a_hostile_run_fires_in_a_naive_program(name: str, tmp_path: Path, trained: Path) -> None:
    case = HOSTILE[name]
    assert case.fires(*planted(case, tmp_path, trained))


def test_a_run_as_it_was_made_is_not_refused(tmp_path: Path, trained: Path) -> None:
    for command in {case.command for case in HOSTILE.values()}:
        run, _ = planted(Hostile(lambda run, mine: None, lambda run, mine: False, command), tmp_path / "x", trained)
        assert main(shlex.split(command.format(run=run))) == 0, command
        shutil.rmtree(tmp_path / "x")
