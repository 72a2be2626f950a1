"""``bfn train PATH``, what it says, --dry-run, bfn presets, and samples on stdout."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from bfn_toolkit import BFN, Experiment
from bfn_toolkit.cli import main
from bfn_toolkit.cli.display import duration
from bfn_toolkit.config.layers import preset_text, presets
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, stream_samples
from bfn_toolkit.runs.wording import shown_parameters
from bfn_toolkit.training.dry_run import dry_run

READ = [
    "read   people.csv: 40 rows, 2 columns (as table; --as array says otherwise)",
    "       height  numbers, up to 2 decimals",
    "       age     integers",
]
SMALL = ["--training.steps", "2", "--network.width", "8"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("height,age\n" + "".join(f"{i / 4},{i * 7 % 20}\n" for i in range(40)))
    np.save("answers.npy", np.indices((3, 3, 3)).reshape(3, 27).T)
    np.save("grid.npy", np.random.default_rng(0).normal(size=(30, 2, 2)))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def test_a_path_is_read_planned_trained_and_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "train", "people.csv", *SMALL, "--no-report")
    lines = err.splitlines()
    assert lines[:3] == READ
    assert re.fullmatch(r"plan   table, 34 rows; columns; mlp, [\d,]+ parameters", lines[3])
    assert lines[4].strip().startswith("2 steps of 64 rows; cpu; seed 0; in ")
    assert lines[-1] == "next   bfn sample runs/001 -n 20 --out samples.csv"
    assert main([*lines[-1].split()[2:], "--steps", "2"]) == 0
    assert Path("samples.csv").read_text().startswith("height,age\n")


def test_without_a_path_the_data_are_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "train", *SMALL, "--no-report", "--out", "a run")
    assert not re.search("^read ", err, re.M)
    assert re.search(r"^plan   gaussian-mixture, 3,600 rows; gaussian; siren, [\d,]+ parameters$", err, re.M)
    assert err.splitlines()[-1] == "next   bfn sample 'a run' -n 20 --out samples.npy"
    _, err = said(capsys, "train", "--dataset", "mixed", *SMALL, "--no-report")
    assert "product of gaussian, categorical, circle; mlp, " in err


@pytest.mark.parametrize(
    "words",
    [
        ["answers.npy", "--as", "array", "--seed", "3"],
        ["--seed", "3", "--as=array", "answers.npy"],
        ["--seed=3", "answers.npy", "--dataset", "array"],
    ],
)
def test_a_path_stands_anywhere_among_the_options(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    out, _ = said(capsys, "train", *words, "--options")
    as_options = ["--dataset", "array", "--dataset.path", "answers.npy", "--seed", "3"]
    assert out == said(capsys, "train", *as_options, "--options")[0]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("people.txt", 3, "people.txt: No such file or directory; name a file or a folder"),
        ("people.csv answers.npy", 2, "unexpected argument 'answers.npy'"),
        ("--as array", 2, "--as array goes with a path: bfn train PATH --as array"),
        ("people.csv --as arrya", 2, "Did you mean 'array'?"),
        ("people.csv --as digits", 2, "data set 'digits' reads no file"),
        ("people.csv --dataset.path answers.npy", 2, "leave out one of them"),
        ("people.csv --resume run", 2, "--resume continues a run on its own data; leave out people.csv"),
        ("--as array --resume run", 2, "leave out --as"),
        ("people.csv --dry-run --processes 2", 2, "--dry-run measures a new training in one process"),
        ("--resume run --dry-run", 4, "run"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: str, status: int, message: str) -> None:
    out, err = said(capsys, "train", *words.split(), status=status)
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err
    assert not Path("runs").exists()


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    out, err = said(capsys, "train", "people.csv", *SMALL, "--dry-run")
    assert sorted(folder.rglob("*")) == before
    assert err.splitlines() == READ
    for words in ("dry run; nothing is written", "parameters", "moving average", "2 steps of 34 rows"):
        assert words in out
    assert re.search(r"\d [MG]B", out)  # the memory of this process, which earlier tests have grown


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_dry_run_counts_what_the_training_holds(optimizer: str) -> None:
    options = [("training.optimizer", optimizer), ("training.ema_decay", "0.9"), ("network.width", "8")]
    experiment = Experiment.from_path("people.csv", "array", overrides=options)
    found, network = dry_run(experiment), BFN(experiment.family, experiment.network).network
    weights = 4 * found.parameters  # float32
    state = weights + 4 * sum(buffer.numel() for buffer in network.buffers())
    assert found.parameters == sum(weight.numel() for weight in network.parameters())
    assert (found.weights, found.gradients, found.average) == (state, weights, state)
    # Adam keeps two numbers for each weight, and its number of steps for each tensor.
    assert found.optimizer == 0 if optimizer == "sgd" else 0 <= found.optimizer - 2 * weights < 200
    assert (found.batch, found.rows) == (32, 32)  # of 40, 4 each are held out
    assert found.peak > 10**7
    assert found.total_seconds == found.steps * found.seconds


def test_a_dry_run_of_a_slow_network_makes_no_step_of_more_than_2_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfn_toolkit.training.dry_run.BRIEF", 0.0)
    found = dry_run(Experiment.from_path("people.csv"))
    assert found.rows == 2
    assert found.total_seconds == pytest.approx(found.steps * 17 * found.seconds)


def test_words_for_numbers() -> None:
    assert [shown_parameters(n) for n in (99, 12_345, 274_179, 24_808_961)] == [
        "99 parameters",
        "12,345 parameters",
        "0.274 M parameters",
        "24.8 M parameters",
    ]
    seconds = (0.0123, 7.94, 100.0, 150.0, 7_300.0, 200_000.0, 3.2e8)
    words = ["0.012 s", "7.9 s", "100 s", "2.5 minutes", "2.03 hours", "2.31 days", "3,704 days"]
    assert [duration(s) for s in seconds] == words


def test_presets_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "presets")
    assert {line.split()[0] for line in out.splitlines() if not line.startswith(" ")} == set(presets())
    assert re.search(r"^mnist +Binarised MNIST as published.*\n +arXiv 2308\.07037", out, re.M)
    assert said(capsys, "presets", "mnist")[0] == preset_text("mnist")
    assert "Did you mean 'mnist'?" in said(capsys, "presets", "mnst", status=2)[1]


@pytest.fixture
def run(folder: Path) -> str:
    assert main(["train", "people.csv", *SMALL, "--no-report", "--out", "run"]) == 0
    return "run"


def test_samples_go_to_stdout_as_text(run: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    capfdbinary.readouterr()
    assert main(["sample", run, "-n", "5", "--steps", "2", "--out", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert main(["sample", run, "-n", "5", "--steps", "2", "--out", "x.csv"]) == 0
    assert out == Path("x.csv").read_bytes()
    assert b"weights: " in err
    assert not Path("-").exists()


def test_samples_in_a_stream_are_those_of_a_file_whatever_the_batch(run: str) -> None:
    plan, stream = ResolvedPlan.of(Run.open(run), SamplePlan(n=2500, steps=1)), io.BytesIO()
    stream_samples(plan, Path("x.csv"))
    stream_samples(plan, stream, batch=1024)
    assert stream.getvalue() == Path("x.csv").read_bytes()


def test_a_closed_pipe_ends_the_samples(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["sample", run, "-n", "5", "--steps", "1", "--out", "-"]) == 141


def test_samples_that_are_no_text_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "grid.npy", *SMALL, "--no-report", "--out", "grid"]) == 0
    out, err = said(capsys, "sample", "grid", "-n", "2", "--steps", "1", "--out", "-", status=2)
    assert (out, err.splitlines()[-1]) == (
        "",
        "error: --out -: these samples are not text; name a file that ends in .npy, .safetensors",
    )


def test_labels_and_trajectories_leave_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("named.csv").write_text("a,b,kind\n" + "".join(f"{i / 4},{i},{'xy'[i % 2]}\n" for i in range(40)))
    train = ["train", "named.csv", "--as", "array", "--dataset.label", "kind", *SMALL, "--no-report", "--out", "named"]
    assert main(train) == 0
    words = ["sample", "named", "-n", "3", "--steps", "1", "--condition", "label=y", "--trajectory", "way.npz"]
    out, err = said(capsys, *words, "--out", "-")
    assert len(out.splitlines()) == 4
    assert "way.npz" in err
    assert json.loads(Path("named/model.json").read_text())["step"] == 2
