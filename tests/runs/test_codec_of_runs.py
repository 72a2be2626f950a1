"""A run keeps the codec of its data: samples, known values and conditions are in the user's units and names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bfn_text import Text
from bfn_toolkit import BFN
from bfn_toolkit.cli import main
from bfn_toolkit.errors import DataError, RunDirectoryError
from bfn_toolkit.runs.provenance import recorded_codec
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.sharing.export import open_model

TINY = ["--no-report", "--training.steps", "30", "--training.batch_size", "64", "--network.width", "16"]


def bfn(*arguments: str) -> int:
    return main([str(word) for word in arguments])


def put_people(path: Path, rows: int = 200) -> None:
    draws = np.random.default_rng(0)
    lines = ["height_cm,weight_kg,sex\n"]
    for _ in range(rows):
        height = draws.normal(172, 8)
        lines.append(f"{height:.1f},{0.9 * height - 85 + draws.normal(0, 6):.2f},{'fm'[int(height > 172)]}\n")
    path.write_text("".join(lines))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    put_people(folder / "people.csv")
    options = f"--dataset array --dataset.path {folder / 'people.csv'} --dataset.label sex --out {folder / 'run'}"
    assert bfn("train", *options.split(), *TINY) == 0
    return folder


def rows_of(path: Path) -> tuple[list[str], Any]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float)


def test_samples_have_header_units_and_decimals_of_the_file(people: Path, tmp_path: Path) -> None:
    assert bfn("sample", str(people / "run"), "-n", "400", "--steps", "10", "--out", str(tmp_path / "x.csv")) == 0
    header, rows = rows_of(tmp_path / "x.csv")
    assert header == ["height_cm", "weight_kg"]
    assert np.array_equal(rows, np.column_stack([rows[:, 0].round(1), rows[:, 1].round(2)]))
    # 400 samples of standard deviations 8 and 9.4 after a short training, which knows mean and scale of the columns.
    assert np.abs(rows.mean(0) - [172.0, 70.0]).max() < 4.0
    line = (tmp_path / "x.csv").read_text().splitlines()[1]
    assert [len(cell.partition(".")[2]) for cell in line.split(",")] == [1, 2]


@pytest.mark.parametrize("name", ["known.csv", "known.npy"])
def test_known_values_are_in_units_of_the_file_and_come_back_exactly(name: str, people: Path, tmp_path: Path) -> None:
    known, out = tmp_path / name, tmp_path / "x.csv"
    if name == "known.csv":
        known.write_text("weight_kg,height_cm\n,180\n,160.25\n61,\n,\n")
    else:
        np.save(known, np.array([[180, np.nan], [160.25, np.nan], [np.nan, 61], [np.nan, np.nan]], dtype=np.float32))
    assert bfn("sample", str(people / "run"), "--steps", "10", "--known", str(known), "--out", str(out)) == 0
    _, rows = rows_of(out)
    assert len(rows) == 4  # as many as the file has, without -n
    assert rows[:2, 0].tolist() == [180.0, 160.25]
    assert rows[2, 1] == 61.0
    assert out.read_text().splitlines()[1].startswith("180.0,")
    run = Run.open(people / "run")
    x = run.codec.encode(torch.tensor([[180.0, 70.0]]))
    assert abs(float(x[0, 0]) - (180.0 - 172.0) / 8.0) < 0.3


def test_a_condition_is_given_by_name(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, outs = str(people / "run"), []
    for value in ("m", "1"):
        outs.append(tmp_path / f"{value}.npy")
        assert (
            bfn("sample", run, "-n", "20", "--steps", "3", "--condition", f"sex={value}", "--out", str(outs[-1])) == 2
        )
    capsys.readouterr()
    for value, out in zip(("m", "1"), outs, strict=True):
        arguments = ("-n", "20", "--steps", "3", "--condition", f"label={value}", "--out", str(out))
        assert bfn("sample", run, *arguments) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert bfn("sample", run, "--condition", "label=x", "--out", str(tmp_path / "x.npy")) == 2
    assert "--condition label: expected one of f, m, or a number, got 'x'" in capsys.readouterr().err


def test_a_model_decodes_without_its_file(people: Path, tmp_path: Path) -> None:
    assert bfn("export", str(people / "run"), "--out", str(tmp_path / "exported")) == 0
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["codec"]["names"] == ["height_cm", "weight_kg"]
    assert config["plugins"]["codec"]["name"] == "table"
    model, run = BFN.from_pretrained(tmp_path / "exported"), Run.open(people / "run")
    assert model.codec == run.codec == run.model.codec == run.experiment.dataset.codec
    assert model.codec.categories == {"label": ("f", "m")}
    label = torch.ones(50, dtype=torch.int64)
    decoded = model.codec.decode(model.sample(50, n_steps=10, condition={"label": label}))
    assert 150 < float(decoded[:, 0].mean()) < 200
    out = tmp_path / "x.csv"
    arguments = ("-n", "3", "--steps", "3", "--condition", "label=f", "--out", str(out))
    assert bfn("sample", str(tmp_path / "exported"), *arguments) == 0
    assert rows_of(out)[0] == ["height_cm", "weight_kg"]
    model.save_pretrained(tmp_path / "again")
    assert open_model(tmp_path / "again").codec == run.codec


def test_a_checkpoint_has_the_codec(people: Path) -> None:
    assert Run.open(people / "run", checkpoint="last").codec == Run.open(people / "run").codec


def test_a_file_that_has_grown_is_refused_where_its_rows_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "people.csv", str(tmp_path / "run")
    put_people(path)
    options = f"--dataset array --dataset.path {path} --dataset.label sex --out {run}"
    assert bfn("train", *options.split(), *TINY) == 0
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    sample = ("sample", run, "-n", "5", "--steps", "3", "--condition", "label=f", "--out")
    assert bfn(*sample, str(before)) == 0
    put_people(path, 210)
    capsys.readouterr()
    for command in ("evaluate", "plot"):
        assert bfn(command, run, "-n", "5") == 3
        said = capsys.readouterr().err
        assert "not those that the model was trained on: rows: 200 then, 210 now; another sha256" in said
    assert bfn(*sample, str(after)) == 0
    assert before.read_bytes() == after.read_bytes()
    with pytest.warns(UserWarning, match="drawn from data that have changed since the training"):
        ResolvedPlan.of(Run.open(run), SamplePlan(n=2, steps=2)).draw()
    with pytest.raises(DataError, match="rows: 200 then"):
        Run.open(run).split("test")
    put_people(path)
    assert bfn("evaluate", run, "-n", "5", "--draws", "1", "--sample-steps", "2") == 0


def test_a_text_decodes_as_it_did_when_its_file_grows(tmp_path: Path) -> None:
    path, run, out = tmp_path / "w.txt", str(tmp_path / "run"), tmp_path / "s.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    options = f"--dataset text --dataset.path {path} --dataset.length 11 --out {run}"
    assert bfn("train", *options.split(), *TINY) == 0
    known = tmp_path / "known.txt"
    known.write_text("the q\n__e_____dog\n")
    assert bfn("sample", run, "--steps", "5", "--known", str(known), "--out", str(out)) == 0
    lines = out.read_text().splitlines()
    texts = Run.open(run).codec.formats[".txt"].read(out)
    assert len(lines) == len(texts) == 2
    assert texts[0].startswith("the q")
    assert (texts[1][2], texts[1][8:], {len(text) for text in texts}) == ("e", "dog", {11})
    x = Run.open(run).codec.encode(texts)
    path.write_text(path.read_text() + "An apple a day keeps 3 doctors away.\n" * 3)
    assert Run.open(run).codec.decode(x) == texts
    assert Text(path, length=11).decode(x) == texts  # the new characters of later lines have later classes


def test_digits_are_levels_and_a_sheet(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    options = "--no-report --training.steps 3 --network.width 8 --dataset digits --out"
    assert bfn("train", *options.split(), run) == 0
    for name in ("x.npy", "x.png"):
        assert bfn("sample", run, "-n", "9", "--steps", "3", "--out", str(tmp_path / name)) == 0
    levels = np.load(tmp_path / "x.npy")
    assert (levels.dtype, levels.shape) == (np.uint8, (9, 8, 8))
    assert levels.max() <= 16
    known = np.full((8, 8), -1)
    known[0] = 16
    np.save(tmp_path / "known.npy", known)
    arguments = ("-n", "3", "--steps", "3", "--known", str(tmp_path / "known.npy"), "--out", str(tmp_path / "y.npy"))
    assert bfn("sample", run, *arguments) == 0
    assert (np.load(tmp_path / "y.npy")[:, 0] == 16).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.float32(180.0), "a single number"),
        (np.zeros((0, 2), np.float32), "no rows"),
        (np.zeros((2, 3), np.float32), "expected 2 numbers for each example"),
    ],
)
def test_known_values_of_another_form_are_refused(
    values: Any, words: str, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "known.npy", values)
    arguments = ("--known", str(tmp_path / "known.npy"), "--out", str(tmp_path / "x.csv"))
    for more in ((), ("-n", "2")):
        assert bfn("sample", str(people / "run"), *arguments, *more) == 2
        assert words in capsys.readouterr().err


def test_known_integers_are_in_units_of_the_file(people: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "known.npy", np.array([[180, 61], [150, 40]]))
    arguments = ("--known", str(tmp_path / "known.npy"), "--steps", "2", "--out", str(tmp_path / "x.csv"))
    assert bfn("sample", str(people / "run"), *arguments) == 0
    assert rows_of(tmp_path / "x.csv")[1].tolist() == [[180.0, 61.0], [150.0, 40.0]]


def test_a_damaged_codec_is_told(tmp_path: Path) -> None:
    assert recorded_codec({}, tmp_path) is None
    for table in ({"name": "table", "scale": [0.0]}, {"name": "no-such-codec"}, [1]):
        with pytest.raises(RunDirectoryError, match="the codec of the data cannot be read"):
            recorded_codec({"codec": table}, tmp_path)
