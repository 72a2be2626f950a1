"""The progress of a training on the screen."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from bfn_gaussian import Gaussian
from bfn_siren import Siren
from bfn_toolkit import BFN, Experiment, resume, train
from bfn_toolkit.runs.wording import clock
from bfn_toolkit.training import progress
from bfn_toolkit.training.metrics import TrainingEvent
from bfn_toolkit.training.progress import Progress

TINY = {
    "network": {"width": 4},
    "dataset": {"count": 40},
    "training": {"steps": 3, "batch_size": 8, "validate_every": 3},
}

MODEL = BFN(Gaussian(), Siren(width=4))


def tiny(**training: object) -> Experiment:
    return Experiment.from_mapping({**TINY, "training": {**TINY["training"], **training}}, base="default")


def test_python_prints_plan_losses_end_and_what_to_do_next(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny(), tmp_path / "run", progress=True)
    out, err = capfd.readouterr()
    plan, place, step, done, following = err.splitlines()
    assert not out
    assert plan.startswith("plan   gaussian-mixture, ")
    assert "rows; gaussian; siren, " in plan
    assert place.strip() == f"3 steps of 8 rows; cpu; seed 0; in {tmp_path / 'run'}"
    assert step.startswith("step 3/3 (100 %)  loss ")
    assert "validation " in step
    assert done.startswith("done   3 steps in 0:")
    assert following.startswith("next   run.model.sample(16)")


def test_a_resumed_training_counts_its_own_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny(), tmp_path / "run")
    resume(tmp_path / "run", overrides=[("training.steps", "5")], allow_inexact=True, progress=True)
    err = capfd.readouterr().err
    assert "from step 3 to 5 steps" in err
    assert "done   2 steps" in err


def test_a_notebook_which_shows_stderr_as_an_error_has_the_lines_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ipython = pytest.importorskip("IPython")
    for shell, place in ((SimpleNamespace(), 1), (SimpleNamespace(kernel=None), 0)):  # of a terminal, of a notebook
        monkeypatch.setattr(ipython, "get_ipython", lambda shell=shell: shell)
        progress.say("a line")
        assert capsys.readouterr()[place] == "a line\n"


def test_nothing_is_printed_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny())
    assert capfd.readouterr() == ("", "")


def test_a_log_has_a_line_by_time_and_none_before_the_first_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step takes 3 s here: lines are 5 s apart at least, and 60 s at most after a long time."""
    shown = Progress(2000, began=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 3.0 * shown.step)
    for step in range(1, 2001):
        shown.advance(step)
        if step % 20 == 0:
            shown(TrainingEvent(step, ({"step": step, "loss": float(step)},), MODEL, None))
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.split("/")[0].removeprefix("step ").replace(",", "")) for line in lines]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert steps[-1] == 2000
    assert max(gaps) == 20
    assert min(gaps[:-1]) == 2
    assert "loss" not in lines[0]
    assert "nan" not in "".join(lines)
    assert "3 s/step" in lines[0]


def test_the_bar_shows_losses_and_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with progress._bar(console, 40, 0, True) as bar:
        bar.advance(10)
        bar(TrainingEvent(10, ({"step": 10, "loss": 0.5},), MODEL, None))
        bar.advance(20)
    shown = screen.getvalue()
    assert "20/40" in shown
    assert "loss 0.5000" in shown
    assert "at most 0:01 left" in shown
    assert "nan" not in shown


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:01"), (38, "0:38"), (3599.5, "1:00:00"), (7500, "2:05:00")])
def test_times_are_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
