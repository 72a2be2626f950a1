"""A short form of ``make fuzz``: one case of each kind of file that is read without a training, in this process."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import pytest
from fuzz.cases import Answer, faults_of, state_of, write_case
from fuzz.child import answer
from fuzz.corpus import make
from fuzz.mutations import EVERY, mutated

QUICK = "model|SUMS|experiment|state|MANIFEST|known|priced|classes|parquet|npz|commas|toml|pt"
CASES = 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("number", range(CASES))
def test_damaged_files_end_in_a_known_status_and_change_nothing(
    number: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "case"
    case = write_case(corpus, folder, 0, number, QUICK)
    monkeypatch.chdir(folder)
    before = state_of(corpus)
    with capfd.disabled():
        found = Answer(**answer(case.command))
    assert faults_of(found, before, state_of(corpus)) == [], f"{case}: {found.printed}"


def test_what_breaks_a_promise_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a")
    before = state_of(tmp_path)
    (tmp_path / "x").write_text("ab")
    faults = faults_of(Answer(70, 300.0, "\x1b[2J", has_control=True), before, state_of(tmp_path))
    assert faults == ["status 70", "300 MB", "control bytes are printed", "files outside are changed"]
    assert faults_of(Answer(-9), before, before) == ["status -9"]
    assert faults_of(Answer(None), before, before) == ["no answer within 60 seconds, or killed"]


def test_a_case_is_a_function_of_seed_and_number(corpus: Path, tmp_path: Path) -> None:
    one, other, third = (write_case(corpus, tmp_path / str(i), 3, n) for i, n in enumerate((5, 5, 7)))
    assert one == other != third
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1") != files_of(corpus)


@pytest.mark.parametrize("mutation", EVERY, ids=lambda function: function.__name__)
def test_every_mutation_changes_something(mutation: object) -> None:
    data = b'{"a": [1, 2.5, {"b": null}], "c": "d"}\nx,1\ny,2\n'
    assert any(mutation(data, random.Random(seed)) != data for seed in range(5))  # type: ignore[operator]
    assert mutated(data, random.Random(1), [b""]) == mutated(data, random.Random(1), [b""])
