"""Runs at a glance, also those that are damaged or a stranger's."""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bfn_toolkit.cli import main
from bfn_toolkit.runs.listing import MAX_METRICS, RunSummary, find_runs, settings_that_differ, summarise
from bfn_toolkit.storage.locks import locked
from bfn_toolkit.storage.sealed import write_sealed

TOML = """
seed = 1
[dataset]
name = "table"
path = "data/people.csv"
[family]
name = "columns"
[network]
name = "mlp"
width = {width}
[training]
steps = 40
"""


def weights(*shapes: tuple[int, ...], pad: bytes = b"") -> bytes:
    """The bytes of a file of weights of these shapes, in float32."""
    header, end = {}, 0
    for n, shape in enumerate(shapes):
        size = 4
        for length in shape:
            size *= length
        header[f"w{n}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"a": "b"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end) + pad


def make_run(folder: Path, *, width: int = 8, losses: tuple[float, ...] = (0.5, 0.25, 0.75), date: int = 0) -> Path:
    folder.mkdir(parents=True)
    lines = [{"step": 1, "loss": 3.0}]
    lines += [{"step": 10 * n + 10, "valid_loss": loss} for n, loss in enumerate(losses)]
    files: dict[str, str | bytes] = {
        "experiment.toml": TOML.format(width=width),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "lo',
        "model.json": json.dumps({"step": 40, "format": 1}),
        "model.safetensors": weights((width, 3), (5,)),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write_sealed(folder / "evaluation.json", {"total_nats": 1.5, "total_nats_stderr": 0.25, "samples": {"w1": 0.125}})
    for name in (*files, "evaluation.json"):
        os.utime(folder / name, (1e9 + date, 1e9 + date))
    return folder


def test_a_run_at_a_glance(tmp_path: Path) -> None:
    run = summarise(make_run(tmp_path / "run"))
    assert (run.data, run.family, run.network) == ("table people.csv", "columns", "mlp")
    assert (run.weights, run.step, run.steps) == (8 * 3 + 5, 30, 40)
    assert (run.valid_loss, run.best_valid_loss, run.bound, run.bound_stderr) == (0.75, 0.25, 1.5, 0.25)
    assert (run.state, run.faults, run.scores["samples.w1"]) == ("finished", (), 0.125)


def test_states(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "model.json").unlink()
    state = folder / "checkpoints" / "step-00000030"
    state.mkdir(parents=True)
    (state / "weights.safetensors").write_bytes(weights((7,)))
    assert (summarise(folder).state, summarise(folder).weights) == ("stopped", 7)
    with locked(folder):
        assert summarise(folder).state == "running"
    assert summarise(folder).state == "stopped"
    for path in (folder / "metrics.jsonl", folder / "evaluation.json", state / "weights.safetensors"):
        path.unlink()
    state.rmdir()
    bare = summarise(folder)
    assert (bare.step, bare.weights, bare.bound, bare.faults) == (None, None, None, ())


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def special(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return change


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_METRICS + 1)


FILES = ("experiment.toml", "metrics.jsonl", "model.json", "model.safetensors", "evaluation.json")
DEEP = "[" * 100_000
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "toml": (write("experiment.toml", "seed = ["), "experiment.toml:1"),
    "toml-of-another": (write("experiment.toml", "[network]\nname = 3\n"), "not an experiment"),
    "toml-deep": (write("experiment.toml", f"x = {DEEP}"), "nested too deeply"),
    "toml-bytes": (write("experiment.toml", b"\xff"), "not UTF-8"),
    "model": (write("model.json", "{"), "model.json is not JSON"),
    "model-deep": (write("model.json", DEEP), "nested too deeply"),
    "model-list": (write("model.json", "[]"), "no step"),
    "model-step": (write("model.json", '{"step": -1}'), "no step"),
    "model-digits": (write("model.json", '{"step": ' + "9" * 5000 + "}"), "model.json"),
    "weights-short": (write("model.safetensors", weights((8, 3))[:-1]), "does not fit"),
    "weights-long": (write("model.safetensors", weights((8, 3), pad=b"x")), "does not fit"),
    "weights-header": (write("model.safetensors", struct.pack("<Q", 2**63)), "its header does not fit"),
    "weights-empty": (write("model.safetensors", b""), "its header does not fit"),
    "weights-table": (write("model.safetensors", struct.pack("<Q", 8) + b'{"w": 3}'), "damaged"),
    "weights-huge": (
        write("model.safetensors", weights((1,)).replace(b"[1]", b"[9" + b"9" * 30 + b"]")),
        "model.safetensors is damaged",
    ),
    "metrics": (write("metrics.jsonl", '{"step": 1}\nnonsense\n'), "metrics.jsonl:2: not an object"),
    "metrics-validation": (write("metrics.jsonl", '{"valid_loss": \n{"step": 1}\n'), "metrics.jsonl:1"),
    "metrics-line": (write("metrics.jsonl", b"x" * 2**17), "longer than 64 kB"),
    "metrics-huge": (special("metrics.jsonl", sparse), "more than 1 GB"),
    "scores": (write("evaluation.json", "3"), "evaluation.json is damaged"),
    "scores-edited": (
        lambda run: write("evaluation.json", (run / "evaluation.json").read_text().replace("1.5", "1.0"))(run),
        "evaluation.json is damaged: its content",
    ),
    "scores-of-others": (
        lambda run: [
            write_sealed(run / "evaluation.json", {"total_nats": 1.5, "weights": {"sha256": "a"}}),
            write("model.json", '{"step": 40, "sha256": "b"}')(run),
        ],
        "evaluation.json belongs to other weights",
    ),
    "metrics-of-others": (
        write("model.json", '{"step": 40, "metrics": {"bytes": 10, "sha256": "b"}}'),
        "metrics.jsonl is damaged, or of another run",
    ),
    "scores-twice": (write("evaluation.json", '{"a": 1, "a": 2}'), "repeated"),
    **{f"fifo-{name}": (special(name, os.mkfifo), "not a regular file") for name in FILES if name != FILES[0]},
    **{f"folder-{name}": (special(name, Path.mkdir), name) for name in FILES},
    **{f"link-{name}": (special(name, lambda path: path.symlink_to("/dev/zero")), name) for name in FILES},
    "fifo": (special("experiment.toml", os.mkfifo), "a FIFO"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_listed_with_the_reason(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = DAMAGES[damage]
    change(make_run(tmp_path / "runs" / "bad"))
    make_run(tmp_path / "runs" / "good")
    start = time.monotonic()
    assert main(["runs", str(tmp_path / "runs"), "--sort", "name"]) == 0
    assert time.monotonic() - start < 5.0
    _, bad, good = capsys.readouterr().out.splitlines()
    assert "damaged: " in bad
    assert reason in bad
    assert good.endswith("finished")
    assert main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    states = {Path(run["path"]).name: run["faults"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert reason in states["bad"][0]
    assert states["good"] == []


@pytest.mark.parametrize("number", ["NaN", "1e999", "true", '"3"', "9" * 400, "[1]", "null"])
def test_what_is_no_number_is_unknown(number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text(f'{{"step": {number}, "valid_loss": {number}}}\n')
    write_sealed(folder / "evaluation.json", {"total_nats": json.loads(number)})
    run = summarise(folder)
    assert (run.step, run.valid_loss, run.best_valid_loss, run.bound, run.faults) == (40, None, None, None, ())
    assert main(["runs", str(folder), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert (listed["valid_loss"], listed["bound"]) == (None, None)


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a[/b]\x1b[31m\n")
    text = (folder / "experiment.toml").read_text()
    (folder / "experiment.toml").write_text(text.replace('"mlp"', '"\\u001b]0;x\\u0007"'))
    for arguments in ([str(tmp_path)], [str(folder), str(make_run(tmp_path / "b"))]):
        assert main(["runs", *arguments]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "a[/b]\\x1b[31m\\n" in out


def test_runs_are_found_and_sorted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs" / "old", losses=(0.1,), date=0)
    make_run(tmp_path / "runs" / "sweep" / "new", losses=(0.3,), date=200)
    make_run(tmp_path / "runs" / "sweep" / "none", losses=(), date=100)
    (tmp_path / "runs" / "sweep" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "notes.txt").write_text("")
    shorter = [path for path in find_runs(tmp_path / "runs") if "loop" not in str(path)]
    assert [path.name for path in shorter] == ["old", "new", "none"]
    (tmp_path / "runs" / "sweep" / "loop").unlink()

    def names(*options: str) -> list[str]:
        assert main(["runs", str(tmp_path / "runs"), *options]) == 0
        return [Path(line.split()[0]).name for line in capsys.readouterr().out.splitlines()[1:]]

    assert names() == ["new", "none", "old"]
    assert names("--sort", "loss") == ["old", "new", "none"]
    assert names("--sort", "name") == ["old", "new", "none"]


def test_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_run(tmp_path / "a", width=8), make_run(tmp_path / "b", width=16, losses=(0.125,))
    differing: dict[str, list[Any]] = settings_that_differ([summarise(first), summarise(second)])
    assert differing == {"network.width": [8, 16]}
    assert main(["runs", str(first), str(second)]) == 0
    lines = (re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    rows = {line[0]: line[1:] for line in lines}
    assert rows["network.width"] == ["8", "16"]
    assert rows["lowest of them"] == ["0.25", "0.125"]
    assert rows["samples.w1"] == ["0.125", "0.125"]
    assert main(["runs", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differing"] == {"network.width": [8, 16]}


def test_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 4
    assert "bfn train" in capsys.readouterr().err
    Path("runs").mkdir()
    assert main(["runs"]) == 0
    assert capsys.readouterr().err == "no runs here; bfn train makes one\n"
    assert main(["runs", "nowhere"]) == 4
    assert summarise(Path("nowhere")).faults != RunSummary(Path()).faults
