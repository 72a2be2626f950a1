"""Ways to the laws: ``bfn check`` and ``pytest --bfn-check``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bfn_toolkit.cli import main

BROKEN = """
import attrs
from bfn_gaussian import Gaussian
from bfn_siren import Siren


@attrs.frozen
class Broken(Gaussian):
    '''The factor 1/2 is missing.'''

    def kl_rate(self, x, output):
        return (x - output.mean).square()


broken = Broken()


def factory():
    return Siren(width=4)


def choosy(size):
    return Siren(width=size)


nothing = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "author.py").write_text(BROKEN)
    monkeypatch.delitem(sys.modules, "author", raising=False)
    return tmp_path


def test_a_registered_name_is_checked_by_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "geometric", "ancestral", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert [line["subject"] for line in report["subjects"]] == ["geometric", "geometric", "ancestral"]
    assert all(v["verdict"] == "holds" and v["figure"] <= 1 for line in report["subjects"] for v in line["laws"])


def test_a_part_that_needs_a_file_leaves_its_namesake_to_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "table", "--json"]) == 0  # a schedule, and a data set
    (schedule,) = json.loads(capsys.readouterr().out)["subjects"]
    assert schedule["instance"].startswith("TableSchedule")
    assert main(["check", "text"]) == 5
    assert "cannot be built without arguments" in capsys.readouterr().err


@pytest.mark.parametrize("subject", ["author.py:broken", "author.py:Broken", "author:broken"])
def test_a_broken_family_is_told_its_law(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    law = "loss-rate-is-the-limit-of-the-step-loss"
    assert main(["check", subject, "--law", law, "--law", "steps-telescope"]) == 1
    out = capsys.readouterr().out
    assert f"{law} does not hold" in out
    for word in ("law:", "observed:", "tolerance:", "example:", "Broken(site_shape=(1,)"):
        assert word in out
    assert "steps-telescope does not hold" not in out


def test_a_break_that_is_expected_passes_and_one_that_is_mended_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    law = "loss-rate-is-the-limit-of-the-step-loss"
    options = ["--law", law, "--expect", f"{law}=half is missing"]
    assert main(["check", "author.py:broken", *options]) == 0
    assert "broken as expected: half is missing" in " ".join(capsys.readouterr().out.split()).replace(" │", "")
    assert main(["check", "gaussian", *options]) == 1
    assert "holds against expectation" in " ".join(capsys.readouterr().out.split()).replace(" │", "")


def test_a_factory_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "author.py:factory", "--law", "network-sees-the-time"]) == 0
    assert "Siren(width=4" in capsys.readouterr().out


def test_examples_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from bfn_gaussian import Gaussian

    calls = []
    update = Gaussian.update
    monkeypatch.setattr(Gaussian, "update", lambda *arguments: calls.append(1) or update(*arguments))
    for examples in ("5", "50"):
        calls.append(0)
        assert main(["check", "gaussian", "--law", "bayes-rule", "--examples", examples]) == 0
    few, many = calls[1 : calls.index(0, 1)], calls[calls.index(0, 1) + 1 :]
    assert len(many) > 3 * len(few) > 0


@pytest.mark.parametrize(
    ("status", "arguments", "words"),
    [
        (2, [], "SUBJECT...: missing"),
        (2, ["gausian"], "Did you mean 'gaussian'"),
        (2, ["author.py:brken"], "Did you mean 'broken'"),
        (2, ["missing.py:x"], "no file missing.py"),
        (2, ["author.py:nothing"], "which has no kind"),
        (2, ["gaussian", "--law", "bayes-rul"], "Did you mean 'bayes-rule'"),
        (2, ["gaussian", "--expect", "bayes-rule"], "the reason is missing"),
        (2, ["gaussian", "--expect", "bayes-rul=why"], "Did you mean 'bayes-rule'"),
        (2, ["gaussian", "--examples", "0"], "--examples"),
        (2, ["skip"], "there are laws for"),
        (5, ["author.py:choosy"], "cannot be built without arguments"),
        (5, ["raises.py:x"], "cannot be imported: ZeroDivisionError"),
    ],
)
def test_misuse_is_named(
    status: int, arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "raises.py").write_text("1 / 0")
    assert main(["check", *arguments]) == status
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


THREE_RUNS = """
import contextlib, io, json, sys
import pytest

results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = pytest.main(["-q", "-p", "no:cacheprovider", "--bfn-check", *arguments])
    results.append({"status": status, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(results))
"""  # in one process, which imports torch once


def test_pytest_needs_no_test_file(folder: Path) -> None:
    runs = [["quadratic"], ["author.py:broken", "-k", "limit or telescope"], ["gausian"]]
    command = [sys.executable, "-c", THREE_RUNS, json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    passed, failed, misused = json.loads(done.stdout)
    assert passed["status"] == 0, passed["out"]
    assert "22 passed" in passed["out"]  # eleven laws of schedules, two examples
    assert failed["status"] == 1
    assert "loss-rate-is-the-limit-of-the-step-loss does not hold" in failed["out"]
    assert "1 failed, 1 passed" in failed["out"]
    assert misused["status"] == 4
    assert "Did you mean 'gaussian'" in misused["err"]


def test_the_pytest_plugin_is_light() -> None:
    heavy = "[m for m in ('torch', 'numpy', 'hypothesis') if m in sys.modules]"
    code = f"import sys, bfn_toolkit.testing.pytest_plugin; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
