"""Tables: what is read is what was written, and each fault is told with its place and an exit status."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bfn_columns import ROWS
from bfn_table import ClassesTable, Table
from bfn_toolkit import BFN, ConfigError, DataError, Experiment, ResourceError, train
from bfn_toolkit.cli import main
from bfn_toolkit.testing import check_dataset

X = np.random.default_rng(0).normal([3.0, -1.0, 100.0], [1.0, 0.1, 20.0], (100, 3))
SMALL = ["--training.steps", "1", "--training.batch_size", "8", "--network.width", "8", "--no-report"]


def csv_of(rows: Any, header: str | None = "a,b,c") -> str:
    lines = [",".join(str(v) for v in row) for row in rows]
    return "\n".join([*([header] if header else []), *lines, ""])


def npy_of(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz_of(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def header_of(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """A .npy of this header and 64 bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype})
    return buffer.getvalue() + bytes(64)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def with_value(row: int, column: int, value: object) -> Any:
    rows = X.astype(object)
    rows[row, column] = value
    return rows


def rows_of(dataset: Table | ClassesTable) -> Any:
    """All rows in the order of the file."""
    return dataset.content.rows.x.numpy()


# What is read


WRITERS: dict[str, Callable[[Any], bytes]] = {
    "x.csv": lambda x: csv_of(x.tolist()).encode(),
    "X.CSV": lambda x: csv_of(x.tolist()).replace("\n", "\r\n").encode("utf-8-sig"),
    "quoted.csv": lambda x: csv_of([[f'"{v}"' for v in row] for row in x.tolist()], '"a","b\n!","c"').encode(),
    "bare.csv": lambda x: csv_of(x.tolist(), None).encode(),
    "blank.csv": lambda x: csv_of(x.tolist()).replace("\n", "\n\n").encode(),
    "x.csv.gz": lambda x: gzip.compress(csv_of(x.tolist()).encode()),
    "x.npy": npy_of,
    "fortran.npy": lambda x: npy_of(np.asfortranarray(x)),
    "big-endian.npy": lambda x: npy_of(x.astype(">f8")),
    "x.npz": lambda x: npz_of(x=x),
    "packed.npz": lambda x: npz_of(compressed=True, x=x),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_numbers_that_were_written(name: str, tmp_path: Path) -> None:
    path = put(tmp_path, name, WRITERS[name](X))
    assert np.array_equal(rows_of(Table(path, scale="none")), X.astype(np.float32))


def test_safetensors_give_the_numbers_that_were_written(tmp_path: Path) -> None:
    save_file({"x": X, "y": np.arange(100) % 3}, tmp_path / "x.safetensors")
    dataset = Table(tmp_path / "x.safetensors", columns=("x",), label="y", scale="none")
    assert np.array_equal(rows_of(dataset), X.astype(np.float32))
    assert dataset.content.rows.condition["label"].tolist() == [i % 3 for i in range(100)]
    assert (dataset.facts["site_shape"], dataset.facts["labels"]) == ((3,), 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "float16", "float32", "float64", "bool", ">i4"])
def test_every_real_dtype_is_read(dtype: str, tmp_path: Path) -> None:
    numbers = (np.arange(60).reshape(20, 3) % 2).astype(dtype)
    path = put(tmp_path, "x.npy", npy_of(numbers))
    with pytest.warns(UserWarning, match="duplicates"):
        assert np.array_equal(rows_of(Table(path, scale="none")), numbers.astype(np.float32))
    assert np.array_equal(rows_of(ClassesTable(path)), numbers.astype(np.int64))


def test_numbers_of_more_than_one_chunk_are_in_order(tmp_path: Path) -> None:
    numbers = np.arange(2 * ROWS + 7)
    plain = put(tmp_path, "plain.csv", csv_of(numbers[:, None].tolist(), "n"))
    odd = put(tmp_path, "odd.csv", csv_of(numbers[:, None].tolist(), "n").replace("\n15000\n", '\n"15000"\n'))
    for path in (plain, odd):
        assert np.array_equal(rows_of(Table(path, scale="none"))[:, 0], numbers)
    wrong = put(tmp_path, "wrong.csv", csv_of(numbers[:, None].tolist(), "n").replace("\n15000\n", "\ninf\n"))
    with pytest.raises(DataError, match=r"wrong\.csv:15002: column 'n': inf overflows float32"):
        Table(wrong).split("train")


def test_images_keep_their_shape(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 4, (30, 4, 5))
    path = put(tmp_path, "x.npz", npz_of(images=images, digit=np.arange(30) % 10))
    dataset = ClassesTable(path, label="digit", test_fraction=0.6)
    with pytest.warns(UserWarning, match="no training row has the label"):
        rows = dataset.split("all")
    assert dataset.facts == {"site_shape": (4, 5), "classes": 4, "labels": 10}
    known = {image.tobytes(): i % 10 for i, image in enumerate(images)}
    assert rows.condition["label"].tolist() == [known[image.numpy().tobytes()] for image in rows.x]


def test_columns_are_chosen_by_name_and_in_that_order(tmp_path: Path) -> None:
    lines = ["id,kind,height,age,class", *(f"{i},k{i % 2},{i / 7},{i + 0.5},{i % 3}" for i in range(50)), ""]
    path = put(tmp_path, "x.csv", "\n".join(lines))
    rows = Table(path, columns=("age", "height"), label="class", scale="none").content.rows
    expected = [[i + 0.5, i / 7] for i in range(50)]
    assert np.array_equal(rows.x.numpy(), np.float32(expected))
    assert rows.condition["label"].tolist() == [i % 3 for i in range(50)]
    with pytest.warns(UserWarning, match="left out what begins with no number: 'kind'"):
        assert Table(path, label="class").site_shape == (3,)


def test_columns_of_an_array_and_arrays_as_columns(tmp_path: Path) -> None:
    array = put(tmp_path, "x.npy", npy_of(X))
    assert np.array_equal(rows_of(Table(array, columns=("x3", "x1"), scale="none")), X[:, [2, 0]].astype(np.float32))
    arrays = put(tmp_path, "x.npz", npz_of(u=X[:, 0], v=X[:, 1], w=X[:, 2]))
    assert np.array_equal(rows_of(Table(arrays, columns=("w", "u"), scale="none")), X[:, [2, 0]].astype(np.float32))


def test_an_index_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of([[i, *row] for i, row in enumerate(X.tolist())], ",a,b,c"))
    with pytest.warns(UserWarning, match="left out"):
        assert np.array_equal(rows_of(Table(path, scale="none")), X.astype(np.float32))


def test_first_row_of_numbers_and_a_text_is_no_header(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of([[*row, "setosa"] for row in X.tolist()], None))
    with pytest.warns(UserWarning, match="left out .*'x4'"):
        assert len(rows_of(Table(path))) == 100


# Splits, scale, facts


@pytest.mark.parametrize("rows", [4, 10, 100])
def test_every_row_is_in_one_split(rows: int, tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X[:rows]))
    one, other = Table(path, scale="none"), Table(path, scale="none", seed=1)
    splits = {name: one.split(name).x for name in ("train", "valid", "test", "all")}
    assert len(splits["valid"]) == max(1, round(0.1 * len(splits["all"])))
    assert len(splits["test"]) == max(1, round(0.1 * rows))
    joined = torch.cat([splits[name] for name in ("train", "valid", "test")])
    assert sorted(joined[:, 0].tolist()) == sorted(np.float32(X[:rows, 0]).tolist())
    learned = torch.cat([splits["train"], splits["valid"]])
    assert sorted(learned[:, 0].tolist()) == sorted(splits["all"][:, 0].tolist())
    if rows == 100:
        assert not torch.equal(other.split("test").x, splits["test"])


@pytest.mark.parametrize("scale", ["standard", "range"])
def test_scale_is_of_the_training_rows_and_unscale_takes_it_back(scale: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X))
    dataset, plain = Table(path, scale=scale), Table(path, scale="none")
    x = dataset.split("train").x.double()
    eps = 2.0**-24  # of float32, in which the rows are
    if scale == "standard":
        assert float(x.mean(0).abs().max()) <= 8 * eps
        assert float((x.std(0, correction=0) - 1.0).abs().max()) <= 8 * eps
    else:
        assert x.amin(0).tolist() == [-1.0] * 3
        assert x.amax(0).tolist() == [1.0] * 3
    assert abs(float(x.square().mean()) - float(str(dataset.facts["data_variance"]))) <= 1e-12
    for name in ("train", "valid", "test"):
        found, expected = dataset.unscale(dataset.split(name).x), plain.split(name).x.double()
        assert float((found - expected).abs().max()) <= 4 * eps * 200.0  # the numbers are below 200


def test_scaling_before_rounding_keeps_what_float32_would_lose(tmp_path: Path) -> None:
    times = 1.7e9 + np.linspace(0.0, 1.0, 101)[:, None]
    x = Table(put(tmp_path, "x.npy", npy_of(times)), scale="range").split("all").x
    assert len(x.unique()) == len(x) == 91


@pytest.mark.parametrize("scale", ["standard", "range", "none"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_constant_columns_are_scaled_by_one(value: float, scale: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(np.column_stack([X[:, 0], np.full(100, value)])))
    dataset = Table(path, scale=scale)
    with pytest.warns(UserWarning, match="constant in the training rows, so scaled by 1: column 'x2'"):
        x = dataset.split("all").x[:, 1]
    assert (x == (np.float32(value) if scale == "none" else 0.0)).all()


def test_data_are_float32_and_int64(tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(np.arange(99).reshape(33, 3) % 4))
    with pytest.warns(UserWarning, match="duplicates"):
        assert Table(path).split("valid").x.dtype == torch.float32
    assert ClassesTable(path).split("valid").x.dtype == torch.int64
    assert ClassesTable(path).facts == {"site_shape": (3,), "classes": 4}


def test_tables_obey_the_laws_of_data_sets(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).permutation(96).reshape(24, 4)
    path = put(tmp_path, "x.npz", npz_of(numbers=numbers, classes=numbers % 5, y=np.arange(24) % 2))
    check_dataset(Table(path, columns=("numbers",), label="y"))
    check_dataset(Table(path, columns=["numbers"], scale="range", seed=3, valid_fraction=0.4, test_fraction=0.5))
    check_dataset(ClassesTable(path, columns=("classes",), label="y"))
    check_dataset(ClassesTable(path, columns=("classes",), classes=5, on_nan="drop"))


def test_a_value_survives_pickle_with_its_fingerprint(tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X))
    dataset = pickle.loads(pickle.dumps(Table(path)))
    assert dataset == Table(path)
    assert hash(dataset) == hash(Table(path))
    put(tmp_path, "x.npy", npy_of(X[:50]))
    with pytest.raises(DataError, match="fingerprint differs"):
        dataset.split("train")


def test_a_relative_path_is_that_of_the_folder_in_which_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "x.npy", npy_of(X))
    monkeypatch.chdir(tmp_path)
    dataset = Table("x.npy")
    monkeypatch.chdir("/")
    assert len(dataset.split("test")) == 10
    assert dataset == Table(tmp_path / "x.npy")


# Faults, by the command line


class Case:
    """A file, the options beside its path, the exit status and the words on stderr."""

    def __init__(self, name: str, content: Any, status: int, *words: str, options: str = "", dataset: str = "table"):
        self.name, self.content, self.status = name, content, status
        self.words, self.options, self.dataset = words, options, dataset

    def __str__(self) -> str:
        return f"{self.name}-{self.words[0][:30]}"


DROP = "--dataset.on_nan drop"
LABEL = "--dataset.label c"
ROWS_OF_CLASSES = np.arange(60).reshape(20, 3) % 5


def class_csv(value: object) -> str:
    rows = ROWS_OF_CLASSES.astype(object)
    rows[11, 1] = value
    return csv_of(rows.tolist())


CASES = [
    # D1: nothing
    Case("x.csv", "", 3, "x.csv: no rows"),
    Case("x.csv", "a,b\n", 3, "x.csv: no rows below the header"),
    Case("x.csv", "\n\n\n", 3, "x.csv: no rows"),
    Case("x.npy", npy_of(np.zeros((0, 3))), 3, "no rows", "(0, 3)"),
    Case("x.npy", npy_of(np.zeros((2**40, 0))), 3, "no rows"),
    Case("x.npz", npz_of(), 3, "no rows"),
    Case("x.csv.gz", gzip.compress(b""), 3, "no rows"),
    Case("x.csv", csv_of(with_value(0, 0, "nan")[:1]), 3, "column 'a' has no number"),
    # D2: too few
    Case("x.csv", csv_of(X[:1]), 3, "x.csv: cannot split 1 row;", "3 or more"),
    Case("x.csv", csv_of(X[:2]), 3, "cannot split 2 rows"),
    # D3: missing numbers
    Case("x.csv", csv_of(with_value(16, 2, "nan")), 3, "x.csv:18: column 'c': expected a number, got nan", "on_nan"),
    Case("x.csv", csv_of(with_value(16, 2, "")), 3, "x.csv:18: column 'c': expected a number, got nan"),
    Case("x.npy", npy_of(with_value(16, 2, np.nan).astype(float)), 3, "row 16 of 0...99: column 'x3'", "nan"),
    Case("x.csv", csv_of(with_value(16, 2, "")), 0, "run:", options=DROP),
    Case("x.csv", csv_of(np.where(np.eye(3), np.nan, np.arange(9).reshape(3, 3))), 3, "no rows", options=DROP),
    # D4: beyond float32
    *(
        Case("x.csv", csv_of(with_value(4, 1, value)), 3, "x.csv:6: column 'b'", "overflows float32", options=options)
        for value in ("inf", "-inf", "1e39", "-1e999")
        for options in ("", DROP)
    ),
    Case("x.npy", npy_of(with_value(4, 1, 1e39).astype(float)), 3, "row 4 of 0...99: column 'x2': 1e+39 overflows"),
    # D5: a column without numbers
    Case("x.csv", csv_of([[*row[:2], "nan"] for row in X]), 3, "column 'c' has no number in all 100 rows"),
    Case("x.csv", csv_of([[*row[:2], ""] for row in X]), 3, "column 'c' has no number", options=DROP),
    # D6, D7: nothing to learn
    Case("x.csv", csv_of([[*row[:2], 7] for row in X]), 0, "warning: ", "constant", "column 'c'"),
    Case("x.csv", csv_of([[1.5, 2.5, 0.1]] * 10), 0, "9 of 10 rows are duplicates", "scaled by 1"),
    # D8, D9: other than a table of numbers
    Case("x.csv", csv_of(X).replace("\n", "\n1,2,3,4,5\n", 4), 3, "x.csv:2: found 5 fields, expected 3"),
    Case("x.csv", csv_of([*X[:5], [1, 2], *X[5:]]), 3, "x.csv:7: found 2 fields, expected 3"),
    Case(
        "x.csv", csv_of(with_value(7, 1, "x" * 99)), 3, f"x.csv:9: column 'b': expected a number, got '{'x' * 40}'..."
    ),
    Case("x.csv", csv_of(with_value(7, 1, "1_000")), 3, "x.csv:9: column 'b': expected a number, got '1_000'"),
    Case("x.csv", csv_of(with_value(7, 1, "１２")), 3, "x.csv:9: column 'b'"),  # full-width digits
    Case("x.csv", csv_of(with_value(7, 1, "a\0b")), 3, "x.csv:9: column 'b'", r"'a\x00b'"),
    Case("x.csv", csv_of(with_value(7, 1, '"1"2"')), 3, "x.csv:9: not CSV"),
    Case("x.csv", csv_of(with_value(7, 1, '"1')), 3, "not CSV"),
    Case("x.csv", csv_of(X).replace(",", ";"), 3, "x.csv:1: the fields are separated by ';'", "commas"),
    Case("x.csv", "a,b\nu,v\nw,x\ny,z\n", 3, "no column of numbers among a, b"),
    Case("x.csv", csv_of(X, "a,b,a"), 3, "two columns are named 'a'"),
    Case("x.csv", csv_of(X).encode("utf-16"), 3, "x.csv:1: not UTF-8"),
    Case("x.csv", csv_of(X).encode() + b"1,\xff,2\n", 3, "x.csv:102: not UTF-8"),
    Case("x.csv", "a,b\n" + "1" * 2_000_000, 3, "x.csv:2: a line of 1,000,000 characters or more"),
    # D10: other than classes
    *(
        Case(
            "x.csv",
            class_csv(value),
            3,
            "x.csv:13: column 'b': expected a class, an integer in 0...4, got",
            found,
            dataset="classes-table",
        )
        for value, found in ((-1, "-1"), (1.9, "1.9"), (1e30, "1e+30"), ("inf", "inf"))
    ),
    Case("x.csv", class_csv("nan"), 3, "x.csv:13: column 'b'", "got nan", dataset="classes-table"),
    Case(
        "x.csv",
        class_csv(5),
        3,
        "x.csv:13: column 'b'",
        "0...4, got 5",
        options="--dataset.classes 5",
        dataset="classes-table",
    ),
    Case("x.npy", npy_of(ROWS_OF_CLASSES - 1), 3, "row 0 of 0...19: column 'x1'", "got -1", dataset="classes-table"),
    Case("x.csv", csv_of([[*row[:2], i % 3] for i, row in enumerate(X)]), 0, "run:", options=LABEL),
    Case(
        "x.csv",
        csv_of([[*row[:2], i % 3 - 1] for i, row in enumerate(X)]),
        3,
        "x.csv:2: column 'c': expected a class",
        options=LABEL,
    ),
    Case(
        "x.csv",
        csv_of([[*row[:2], "cat"] for row in X]),
        3,
        "x.csv:2: column 'c': expected a number, got 'cat'",
        options=LABEL,
    ),
    # D11: an unseen class
    Case("x.csv", class_csv(6), 0, "warning: ", "no training row has the class 5", dataset="classes-table"),
    Case("x.csv", csv_of([[*row[:2], 2] for row in X]), 0, "no training row has the label 0, 1", options=LABEL),
    # D12: outside of the range of bins
    Case(
        "x.npy",
        npy_of(np.arange(256)[:, None]),
        3,
        "expects data in [-1, 1]",
        options="--family.head discretised --dataset.scale none",
    ),
    # D13: another shape
    Case("x.npy", npy_of(X.reshape(25, 4, 3)), 3, "(B, 4, 4)", "4, 3)", options="--family.site_shape [4,4]"),
    # D14: dtypes
    Case("x.npy", npy_of(X.astype(complex)), 3, "dtype complex128", "integers, floats or booleans"),
    Case("x.npy", npy_of(np.array([["a", "b"]])), 3, "dtype <U1"),
    Case("x.npy", npy_of(np.zeros(3, [("a", int)])), 3, "dtype [('a'"),
    # D16, D17: pickle
    Case("x.npy", npy_of(np.array([None, {}], object)), 3, "dtype object", "unpickled"),
    Case("x.npz", npz_of(x=np.array([None, {}], object)), 3, "dtype object"),
    Case("x.npy", pickle.dumps(X), 3, "truncated or no .npy"),
    # D19: claims
    Case("x.npy", header_of((2**60,)), 3, "larger than the file"),
    Case("x.npy", header_of((2**40, 2**40)), 3, "larger than the file"),
    Case("x.npy", header_of((-1, 8)), 3, "damaged"),
    Case("x.npy", header_of((9,)), 3, "truncated"),
    # D20: cut
    Case("x.npy", npy_of(X)[:-1], 3, "the array is truncated"),
    Case("x.npy", npy_of(X)[:50], 3, "truncated"),
    Case("x.npy", npy_of(X).replace(b"}", b" "), 3, "truncated or no .npy"),
    Case("x.npy", b"", 3, "truncated"),
    Case("x.csv.gz", gzip.compress(csv_of(X).encode())[:-20], 3, "truncated"),
    Case("x.csv.gz", csv_of(X).encode(), 3, "cannot be read", "gzip"),
    Case("x.npz", npz_of(x=X)[:-30], 3, "truncated"),
    Case("x.npz", npz_of(x=X).replace(X.tobytes()[80:96], bytes(16)), 3, "damaged", "CRC"),
    Case("x.npz", b"", 3, "truncated"),
    Case("x.safetensors", b"\xff" * 64, 3, "truncated or no .safetensors"),
    Case("x.safetensors", b"", 3, "truncated or no .safetensors"),
    # D25: differing lengths
    Case("x.npz", npz_of(x=X, c=np.arange(99)), 3, "differing lengths: 'x' has 100 rows, 'c' 99", options=LABEL),
    Case("x.npz", npz_of(x=X, c=np.zeros((100, 2))), 3, "column 'c'", "(100,)", "(100, 2)", options=LABEL),
    Case("x.npz", npz_of(x=np.float64(3.0)), 3, "a single number"),
    # Options
    Case("x.tsv", csv_of(X), 2, "cannot tell the format of 'x.tsv'", ".csv.gz"),
    Case("x.csv", csv_of(X), 2, "no column named 'd'", "a, b, c", options='--dataset.columns ["d"]'),
    Case("x.csv", csv_of(X), 2, "no column named 'd'", options="--dataset.label d"),
    Case("x.csv", csv_of(X), 2, "take it out of columns", options=LABEL + ' --dataset.columns ["a","c"]'),
    Case("x.csv", csv_of(X), 2, "different names", options='--dataset.columns ["a","a"]'),
    Case("x.csv", csv_of(X), 2, "different names", options="--dataset.columns []"),
    Case("x.csv", csv_of(X), 2, "valid_fraction", options="--dataset.valid_fraction 1.0"),
    Case("x.csv", csv_of(X), 2, "test_fraction", options="--dataset.test_fraction nan"),
    Case("x.csv", csv_of(X), 3, "leaves no training rows", options="--dataset.test_fraction 0.999"),
    Case("x.csv", csv_of(X), 2, "standard", options="--dataset.scale standart"),
    Case("x.csv", csv_of(X), 2, "classes", options="--dataset.classes 1", dataset="classes-table"),
    Case("x.npz", npz_of(a=X, b=X), 2, "holds the arrays a, b; choose: columns"),
    Case("x.npy", npy_of(X[:, 0]), 2, "only an array (B, D) has columns", options='--dataset.columns ["x1"]'),
]


def bfn_train(path: Path, case: Case, out: Path) -> int:
    options = case.options.split()
    return main(["train", "--dataset", case.dataset, "--dataset.path", str(path), *options, *SMALL, "--out", str(out)])


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case}")
def test_a_file_is_trained_on_or_refused_with_its_place(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path, case.name, case.content)
    status = bfn_train(path, case, tmp_path / "run")
    said = capsys.readouterr().err
    assert status == case.status, said
    assert [word for word in case.words if word not in said] == []
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1 or not status  # one line for one fault
    assert (tmp_path / "run").exists() is (not status)


@pytest.mark.parametrize("what", ["missing", "folder", "fifo", "loop", "device", "below-a-file"])
def test_what_is_no_regular_file_is_refused_at_once(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "below-a-file":
        path.write_text("")
        path = path / "x.csv"
    start = time.monotonic()
    assert main(["train", "--dataset", "table", "--dataset.path", str(path)]) == 3
    assert time.monotonic() - start < 10.0  # milliseconds on an idle machine; a pipe would never answer
    assert "not a regular file" in capsys.readouterr().err


def test_a_path_with_a_nul_is_a_wrong_option() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        Table("a\0.csv")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_missing_permission(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of(X))
    path.chmod(0)
    with pytest.raises(ResourceError, match="may not be read"):
        Table(path).split("train")


def test_what_does_not_fit_into_memory_is_a_missing_resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    path = put(tmp_path, "x.npy", npy_of(X))
    monkeypatch.setattr("bfn_columns._array", full)
    with pytest.raises(ResourceError, match="more than fits into memory"):
        Table(path).split("train")


@pytest.mark.parametrize("name", ["x.npz", "x.csv.gz"])
def test_a_bomb_fills_no_memory(name: str, tmp_path: Path) -> None:
    path, zeros = tmp_path / name, bytes(2**24)
    if name == "x.npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("x.npy", header_of((2**26,))[:-64] + zeros * 2**5)
    else:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(2**5):
                file.write(b"0\n" * 2**23)
    code = (
        "import resource, sys; from bfn_toolkit.cli import main; import torch, bfn_table;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "status = main(['train', '--dataset', 'table', '--dataset.path', sys.argv[1]]);"
        "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    status, kilobytes = map(int, done.stdout.split())
    assert status == 3
    assert "size limit" in done.stderr
    # Half a gigabyte is packed into 3 MB.  Linux counts in KB.
    assert sys.platform != "linux" or kilobytes < 50_000


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X))
    dataset = Table(path)
    dataset.split("train")
    put(tmp_path, "x.npy", npy_of(X[::-1]))
    os.utime(path, (1.0, 1.0))
    with pytest.raises(DataError, match="changed while it was in use: its fingerprint differs"):
        dataset.split("train")
    assert np.array_equal(rows_of(Table(path, scale="none")), X[::-1].astype(np.float32))  # a new one reads it


# Training


def test_a_table_trains_by_name_and_its_samples_are_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of([[*row[:2], i % 2] for i, row in enumerate(X)]))
    table = {"dataset": {"name": "table", "path": str(path), "label": "c"}, "training": {"steps": 3}}
    experiment = Experiment.from_mapping(table, base="default")
    assert (experiment.network.labels, experiment.family.site_shape) == (2, (2,))
    assert experiment.family.head.data_variance == experiment.dataset.facts["data_variance"]
    run = train(experiment)
    assert isinstance(run.model, BFN)
    samples = experiment.dataset.unscale(run.model.sample(500, n_steps=5, label=torch.zeros(500, dtype=torch.int64)))
    # An untrained network is the best linear estimate, which knows the scale of the columns: within half of it.
    assert torch.allclose(samples.mean(0), torch.tensor([3.0, -1.0]).double(), rtol=0, atol=0.5)
    assert Experiment.from_mapping(experiment.to_mapping()) == experiment


def test_classes_train_by_name(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of((np.arange(300).reshape(100, 3) % 7).tolist()))
    table = {"dataset": {"name": "classes-table", "path": str(path)}, "training": {"steps": 3}}
    experiment = Experiment.from_mapping(table, base="default")
    assert (type(experiment.family).__name__, experiment.family.classes) == ("Categorical", 7)
    assert train(experiment).metrics[-1]["step"] == 3


def test_a_million_rows_are_read_in_seconds(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 10**4, (10**5, 2)) / 1024
    block = "\n".join(f"{a},{b}" for a, b in numbers.tolist())
    path = put(tmp_path, "x.csv", "a,b\n" + "\n".join([block] * 10) + "\n")
    start = time.process_time()
    with pytest.warns(UserWarning, match="duplicates"):
        x = rows_of(Table(path, scale="none"))
    assert np.array_equal(x[: 10**5], numbers.astype(np.float32))
    assert len(x) == 10**6
    assert time.process_time() - start < 20.0  # about 1 s on one core
