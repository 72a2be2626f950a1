"""The table of bad input: for every mistake the status, the words, no traceback, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from bad_input.cases import Case, faults_of
from bad_input.runs import EXECUTED
from bad_input.table import CASES
from faults.tiny import experiment

from bfn_toolkit import train

ROOT = Path(__file__).parents[2]
SAMPLE = ("C3", "C13", "L3", "L12", "D3", "D20", "F7", "E")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(experiment(steps=4, checkpoint_every=2), folder)
    return folder


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_mistake_is_told_and_nothing_else_happens(case: Case, tmp_path: Path, trained: Path) -> None:
    faults = faults_of(case, tmp_path, trained)
    assert not faults, "\n".join(faults)
    assert not list(tmp_path.rglob(EXECUTED))


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "change", [{"status": 3}, {"words": ["no such word"]}, {"words": ["x.toml:2", "error"]}, {"prints": int}], ids=str
)
def test_a_case_that_is_wrong_is_noticed(change: dict[str, Any], tmp_path: Path, trained: Path) -> None:
    case = next(case for case in CASES if case.id == "C1-unknown-key")
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    assert faults_of(case, tmp_path / "right", trained) == []
    assert faults_of(attrs.evolve(case, **change), tmp_path / "wrong", trained) != []


def test_neither_optimisation_nor_warnings_as_errors_change_an_answer() -> None:
    """A sample of the table, in one process: assertions are gone there, and a warning of any library is an error."""
    paths = [str(ROOT / "tests"), str(ROOT / "tests" / "robustness"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-O", "-W", "error", "-m", "bad_input", *SAMPLE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
