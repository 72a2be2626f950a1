"""``bfn score``: prices of rows of a file, for tables and for other data."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from bfn_toolkit import Run, raw_prices
from bfn_toolkit.cli import main

COPIES = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table with one row a hundred times among 900 others."""
    path, random = tmp_path_factory.mktemp("score"), np.random.default_rng(0)
    kinds = random.choice(["a", "b", "c"], 900)
    sizes = random.normal(size=900) + 5.0 * (kinds == "a")
    lines = [
        f"{kind},{size:.1f},{'' if random.random() < 0.1 else random.integers(0, 30)},x"
        for kind, size in zip(kinds, sizes, strict=True)
    ]
    lines += ["b,0.7,13,x"] * COPIES
    random.shuffle(lines)
    (path / "people.csv").write_text("kind,size,count,one\n" + "\n".join(lines) + "\n")
    options = ["--training.steps", "300", "--network.width", "64", "--no-report", "--out", str(path / "run")]
    assert main(["train", str(path / "people.csv"), *options]) == 0
    return path


def score(folder: Path, *arguments: str, status: int = 0) -> list[dict[str, str]]:
    assert main(["score", *arguments, "--out", str(folder / "prices.csv"), "--force"]) == status
    return list(csv.DictReader(io.StringIO((folder / "prices.csv").read_text()))) if not status else []


def written(folder: Path, *lines: str) -> str:
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.csv")


def test_a_planted_row_is_found_by_its_price(folder: Path) -> None:
    rows = score(folder, str(folder / "run"), str(folder / "people.csv"))
    cells = (folder / "people.csv").read_text().splitlines()[1:]
    nats = np.array([float(row["nats"]) for row in rows])
    copies = np.array([line == "b,0.7,13,x" for line in cells])
    assert copies.sum() >= COPIES
    pairs = nats[copies][:, None] - nats[~copies][None]
    assert float(((pairs < 0) + 0.5 * (pairs == 0)).mean()) >= 0.99  # AUC
    assert max(float(row["percentile"]) for row, copy in zip(rows, copies, strict=True) if copy) < 1.0


def test_columns_of_the_file_and_of_python_agree(folder: Path) -> None:
    rows = score(folder, str(folder / "run"), str(folder / "people.csv"), "--orders", "1")
    assert list(rows[0]) == ["row", "nats", "percentile", "kind_nats", "size_nats", "count_nats", "one_nats"]
    assert [row["row"] for row in rows] == [str(i + 1) for i in range(1000)]
    run = Run.open(folder / "run")
    prices = raw_prices(run.model, run.codec.read_rows(folder / "people.csv"), orders=1)
    np.testing.assert_allclose([float(row["nats"]) for row in rows], prices.total, atol=1e-6)
    for name, part in prices.columns.items():
        np.testing.assert_allclose([float(row[f"{name}_nats"]) for row in rows], part, atol=1e-6)
    sums = [sum(float(row[f"{name}_nats"]) for name in prices.columns) for row in rows]
    np.testing.assert_allclose(sums, prices.total, atol=1e-5)  # of one order
    assert {row["one_nats"] for row in rows} == {"0.000000"}
    ranks = np.argsort([float(row["nats"]) for row in rows])
    percentiles = np.array([float(row["percentile"]) for row in rows])[ranks]
    assert (np.diff(percentiles) >= 0).all()
    assert percentiles[0] == 0.0
    assert percentiles[-1] > 95.0


def test_prices_are_the_same_bytes_each_time_and_on_stdout(
    folder: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    run, rows = str(folder / "run"), str(folder / "people.csv")
    score(folder, run, rows)
    first = (folder / "prices.csv").read_bytes()
    score(folder, run, rows)
    assert (folder / "prices.csv").read_bytes() == first
    capsysbinary.readouterr()
    assert main(["score", run, rows, "--out", "-"]) == 0
    assert capsysbinary.readouterr().out == first
    score(folder, run, rows, "--seed", "5")
    assert (folder / "prices.csv").read_bytes() != first  # other orders
    assert main(["score", run, rows, "--out", str(folder / "prices.npy"), "--force"]) == 0
    assert np.load(folder / "prices.npy").shape == (1000, 7)


def test_gaps_are_cells_and_missing_columns_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folder / "run")
    whole = score(folder, run, written(folder, "kind,size,count,one", "a,5.0,7,x", "a,5.0,,x"))
    assert float(whole[1]["count_nats"]) == pytest.approx(-math.log(0.1), abs=0.7)  # a gap in a tenth of the rows
    part = score(folder, run, written(folder, "kind,size", "a,5.0", "a,"))
    assert "the rows have no columns count, one" in capsys.readouterr().err
    assert [row["count_nats"] for row in part] == ["0.000000"] * 2
    assert float(part[0]["nats"]) < float(whole[0]["nats"])
    assert part[1]["size_nats"] == "0.000000"  # the column has no gaps


def test_cells_that_are_never_drawn_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a,5.0,7,x", "new,5.0,7,x", "a,500,7,x", "a,5.0,7,y"]
    known, *strange = score(folder, str(folder / "run"), written(folder, "kind,size,count,one", *lines))
    err = capsys.readouterr().err
    assert "1 in 'kind' (row 2: 'new'), 1 in 'size' (row 3: '500'), 1 in 'one' (row 4: 'y')" in err
    training = 1000 * 0.9 * 0.9
    for name, row in zip(("kind", "size", "one"), strange, strict=True):
        assert float(row[f"{name}_nats"]) >= math.log(2 * training) - 1e-5
        assert float(row[f"{name}_nats"]) > float(known[f"{name}_nats"])
        assert float(row["percentile"]) > 90.0


def test_a_saved_model_has_no_training_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder / "run"), "--out", str(folder / "model"), "--force"]) == 0
    rows = score(folder, str(folder / "model"), written(folder, "kind,size,count,one", "a,5.0,7,x"))
    assert "no percentiles" in capsys.readouterr().err
    assert rows[0]["percentile"] == ""
    assert float(rows[0]["nats"]) > 0.0


def test_other_data_have_a_bound_with_its_standard_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "points.npy", random.normal(size=(200, 2)).astype(np.float32))
    options = ["--training.steps", "50", "--network.width", "32", "--no-report", "--out", str(tmp_path / "run")]
    assert main(["train", str(tmp_path / "points.npy"), *options]) == 0
    np.save(tmp_path / "rows.npy", np.array([[0.0, 0.0], [9.0, 9.0], [0.0, np.nan]], np.float32))
    near, far, part = score(tmp_path, str(tmp_path / "run"), str(tmp_path / "rows.npy"))
    assert list(near) == ["row", "nats", "stderr"]
    assert float(far["nats"]) > float(near["nats"]) + 10.0
    assert float(near["stderr"]) > 0.0
    assert math.isfinite(float(part["nats"]))


@pytest.mark.parametrize(
    ("rows", "words", "status"),
    [
        (
            "kind,sise\na,1.0\n",
            "no column is named 'sise'; the columns are kind, size, count, one. Did you mean 'size'?",
            3,
        ),
        ("", "empty", 3),
    ],
)
def test_faults_are_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], rows: str, words: str, status: int
) -> None:
    (folder / "rows.csv").write_text(rows)
    score(folder, str(folder / "run"), str(folder / "rows.csv"), status=status)
    assert words in capsys.readouterr().err


def test_files_are_not_replaced_unless_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "there.csv").write_text("mine")
    line = ["score", str(folder / "run"), str(folder / "people.csv"), "--out"]
    assert main([*line, str(folder / "there.csv")]) == 2
    assert "exists; choose another --out, or replace it with --force" in capsys.readouterr().err
    assert main([*line, str(folder / "prices.xyz")]) == 2
    assert "end its name in .csv" in capsys.readouterr().err
    assert main(["score", str(folder / "run"), str(folder / "no.csv"), "--out", "-"]) == 3
