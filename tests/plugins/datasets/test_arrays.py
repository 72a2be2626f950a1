"""Tables: what is read is what was written, and each fault is told with its place and an exit status."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_input.contents import X, csv_of, header_of, npy_of, npz_of
from safetensors.numpy import save_file

from bfn_arrays import ClassArray, NumberArray
from bfn_files.columns import ROWS
from bfn_toolkit import BFN, ConfigError, DataError, Experiment, ResourceError, train
from bfn_toolkit.cli import main
from bfn_toolkit.testing import check_dataset


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(dataset: NumberArray | ClassArray) -> Any:
    """All rows in the order of the file."""
    return dataset.content.rows.x.numpy()


# What is recognised


def classes(*shape: int, dtype: str = "int64") -> bytes:
    return npy_of(np.arange(int(np.prod(shape))).reshape(shape).astype(dtype) % 3)


RECOGNISED: dict[str, tuple[str | bytes, int | None, int | None]] = {
    "x.csv": ("a,b\n1,0.5\n2,1\n", 1, None),
    "integers.csv": ("a,b\n1,5\n2,1\n", 1, 1),
    "negative.csv": ("a,b\n1,5\n2,-1\n", 1, None),
    "bare.csv": ("1,0.5\n2,1\n", 1, None),
    "packed.csv.gz": (gzip.compress(b"a,b\n1,0.5\n2,1\n"), 1, None),
    "texts.csv": ("a,b\nu,v\nw,x\n", None, None),
    "empty.csv": ("", 1, None),
    "x.safetensors": ("damaged", 3, None),
    "floats.npy": (npy_of(X), 2, None),
    "grid.npy": (npy_of(np.zeros((5, 4, 4))), 2, None),
    "classes.npy": (classes(20, 4), 1, 2),
    "bytes.npy": (classes(20, 4, dtype="uint8"), 1, 2),
    "booleans.npy": (npy_of(np.eye(3) > 0), 1, 2),
    "images.npy": (classes(20, 4, 4, dtype="uint8"), 1, 1),
    "negative.npy": (npy_of(np.array([[0], [-1]])), 2, None),
    "large.npy": (npy_of(np.array([[0], [10**6]])), 2, None),
    "damaged.npy": (npy_of(X)[:20], 2, None),
    "lying.npy": (header_of((-5, 3), "<i8"), 2, None),
    "one.npz": (npz_of(x=np.arange(6).reshape(3, 2)), 1, 2),
    "several.npz": (npz_of(x=X, y=X), 1, None),
    "damaged.npz": (npz_of(x=X)[:50], 2, None),
    "x.txt": ("a,b\n1,2\n", None, None),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_tables_are_recognised(name: str, tmp_path: Path) -> None:
    content, as_table, as_classes = RECOGNISED[name]
    path = put(tmp_path, name, content)
    found = [cls.recognise(path) for cls in (NumberArray, ClassArray)]
    assert [answer and answer.certainty for answer in found] == [as_table, as_classes]
    folder = tmp_path / "folder" / name
    folder.mkdir(parents=True)
    assert NumberArray.recognise(folder) is ClassArray.recognise(folder) is None


def test_recognition_describes_the_content(tmp_path: Path) -> None:
    def said(name: str, content: str | bytes, cls: type[NumberArray] | type[ClassArray] = NumberArray) -> str:
        answer = cls.recognise(put(tmp_path, name, content))
        assert answer is not None
        return answer.description

    assert said("x.csv", "height,age,name\n1.5,2,ann\n") == "2 columns of numbers: height, age"
    assert said("x.npy", npy_of(np.zeros((1200, 4, 5)))) == "1,200 rows of 4 x 5 numbers"
    assert said("y.npy", classes(20), ClassArray) == "20 classes"
    assert said("x.npz", npz_of(x=X, y=X)) == "2 arrays: x, y"


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
    "dumps.npz": lambda x: npz_of(compressed=True, x=x),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_numbers_that_were_written(name: str, tmp_path: Path) -> None:
    path = put(tmp_path, name, WRITERS[name](X))
    assert np.array_equal(rows_of(NumberArray(path, scale="none")), X.astype(np.float32))


def test_safetensors_give_the_numbers_that_were_written(tmp_path: Path) -> None:
    save_file({"x": X, "y": np.arange(100) % 3}, tmp_path / "x.safetensors")
    dataset = NumberArray(tmp_path / "x.safetensors", columns=("x",), label="y", scale="none")
    assert np.array_equal(rows_of(dataset), X.astype(np.float32))
    assert dataset.content.rows.condition["label"].tolist() == [i % 3 for i in range(100)]
    assert (dataset.metadata["site_shape"], dataset.metadata["labels"]) == ((3,), 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "float16", "float32", "float64", "bool", ">i4"])
def test_every_real_dtype_is_read(dtype: str, tmp_path: Path) -> None:
    numbers = (np.arange(60).reshape(20, 3) % 2).astype(dtype)
    path = put(tmp_path, "x.npy", npy_of(numbers))
    with pytest.warns(UserWarning, match="duplicates"):
        assert np.array_equal(rows_of(NumberArray(path, scale="none")), numbers.astype(np.float32))
    assert np.array_equal(rows_of(ClassArray(path)), numbers.astype(np.int64))


def test_numbers_of_more_than_one_chunk_are_in_order(tmp_path: Path) -> None:
    numbers = np.arange(2 * ROWS + 7)
    plain = put(tmp_path, "plain.csv", csv_of(numbers[:, None].tolist(), "n"))
    odd = put(tmp_path, "odd.csv", csv_of(numbers[:, None].tolist(), "n").replace("\n15000\n", '\n"15000"\n'))
    for path in (plain, odd):
        assert np.array_equal(rows_of(NumberArray(path, scale="none"))[:, 0], numbers)
    wrong = put(tmp_path, "wrong.csv", csv_of(numbers[:, None].tolist(), "n").replace("\n15000\n", "\ninf\n"))
    with pytest.raises(DataError, match=r"wrong\.csv:15002: column 'n': inf overflows float32"):
        NumberArray(wrong).split("train")


def test_images_keep_their_shape(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 4, (30, 4, 5))
    path = put(tmp_path, "x.npz", npz_of(images=images, digit=np.arange(30) % 10))
    dataset = ClassArray(path, label="digit", test_fraction=0.6)
    with pytest.warns(UserWarning, match="no training row has the label"):
        rows = dataset.split("all")
    assert dataset.metadata == {"site_shape": (4, 5), "classes": 4, "labels": 10}
    known = {image.tobytes(): i % 10 for i, image in enumerate(images)}
    assert rows.condition["label"].tolist() == [known[image.numpy().tobytes()] for image in rows.x]


def test_columns_are_chosen_by_name_and_in_that_order(tmp_path: Path) -> None:
    lines = ["id,kind,height,age,class", *(f"{i},k{i % 2},{i / 7},{i + 0.5},{i % 3}" for i in range(50)), ""]
    path = put(tmp_path, "x.csv", "\n".join(lines))
    rows = NumberArray(path, columns=("age", "height"), label="class", scale="none").content.rows
    expected = [[i + 0.5, i / 7] for i in range(50)]
    assert np.array_equal(rows.x.numpy(), np.float32(expected))
    assert rows.condition["label"].tolist() == [i % 3 for i in range(50)]
    texts = r"left out columns of texts or without a name: 'kind' \('k0'\)"
    with pytest.warns(UserWarning, match="column 'id' counts the rows"), pytest.warns(UserWarning, match=texts):
        assert NumberArray(path, label="class").site_shape == (3,)


def test_labels_may_be_names(tmp_path: Path) -> None:
    names = ["tall", "short", "", "mid, dle"]
    lines = ["h,size", *(f'{i / 7},"{names[i % 4]}"' for i in range(40)), ""]
    path = put(tmp_path, "x.csv", "\n".join(lines))
    dataset = NumberArray(path, label="size", scale="none", on_nan="drop")
    assert dataset.codec.categories == {"label": ("mid, dle", "short", "tall")}
    assert dataset.metadata["labels"] == 3
    kept = [i for i in range(40) if names[i % 4]]
    assert dataset.content.rows.condition["label"].tolist() == [[2, 1, None, 0][i % 4] for i in kept]
    assert np.array_equal(rows_of(dataset)[:, 0], np.float32([i / 7 for i in kept]))
    for others in (["tall", "3"], ["tall", "tall"]):  # a number among names, and only one name
        path = put(tmp_path, "y.csv", "h,size\n" + "".join(f"{i},{others[i % 2]}\n" for i in range(20)))
        with pytest.raises(DataError, match=r"y\.csv:2: column 'size': expected a number, got 'tall'"):
            NumberArray(path, label="size").split("train")


def test_columns_of_an_array_and_arrays_as_columns(tmp_path: Path) -> None:
    array = put(tmp_path, "x.npy", npy_of(X))
    assert np.array_equal(
        rows_of(NumberArray(array, columns=("x3", "x1"), scale="none")), X[:, [2, 0]].astype(np.float32)
    )
    arrays = put(tmp_path, "x.npz", npz_of(u=X[:, 0], v=X[:, 1], w=X[:, 2]))
    assert np.array_equal(
        rows_of(NumberArray(arrays, columns=("w", "u"), scale="none")), X[:, [2, 0]].astype(np.float32)
    )


FORMS: dict[str, tuple[str, str]] = {  # how 1234.5 and a tenth of it are written, and what is said of it
    "decimal comma": ("1234,5;123,45", ""),
    "quotes": ('"1234,5";"123,45"', ""),
    "thousands": ("1.234,5;123,45", ""),
    "blanks": ("1 234,5;123,45", ""),
    "apostrophes": ("1'234.5;123.45", ""),
    "commas": ('"1,234.5","123.45"', ""),
    "signs": ("+1234.5,+1.2345e2", ""),
    "percent": ("1234.5%,123.45 %", "read without its '%'"),
    "euros": ("1234.5 \u20ac,\u20ac123.45", "read without its '\u20ac'"),
    "exponents": ("1,2345e3;1,2345E+2", ""),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("missing", ["", "NA", "n/a", "#N/A", "NULL", "-", "None"])
def test_numbers_are_read_as_people_write_them(name: str, missing: str, tmp_path: Path) -> None:
    text, said = FORMS[name]
    separator = ";" if ";" in text else ","
    lines = [f"a{separator}b", *[text] * 5, f"{missing}{separator}{missing}"]
    path = put(tmp_path, "x.csv", "\n".join(lines))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = rows_of(NumberArray(path, scale="none", on_nan="drop"))
        assert rows.tolist() == [np.float32([1234.5, 123.45]).tolist()] * 5
        with pytest.raises(DataError, match=r"x\.csv:7: column 'a': expected a number, got nan"):
            NumberArray(path, header=True).split("train")
    assert any(said in str(one.message) for one in caught)


def test_what_could_be_two_numbers_is_said(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "a;b\n" + "".join(f"{i}.234;{i * i},5\n" for i in range(1, 7)))
    with pytest.warns(UserWarning, match=r"x\.csv:2: column 'a': '1.234' is read as 1234; if that is wrong, write"):
        assert rows_of(NumberArray(path, scale="none"))[0].tolist() == [1234.0, 1.5]


def test_wide_tables_take_linear_time(tmp_path: Path) -> None:
    def seconds(columns: int, gap: str) -> float:
        rows = [",".join(f"{(i * k) % 97}.{i}" for k in range(columns)) for i in range(1, 6)]
        rows[2] += gap
        path = put(tmp_path, f"{columns}{len(gap)}.csv", "\n".join([",".join(f"g{k}" for k in range(columns)), *rows]))
        start = time.process_time()
        NumberArray(path, on_nan="drop").content.codec.names  # noqa: B018
        return time.process_time() - start

    assert seconds(16_000, "") < 8 * max(seconds(4000, ""), 0.1)  # was 16 times


def test_an_index_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of([[i, *row] for i, row in enumerate(X.tolist())], ",a,b,c"))
    with pytest.warns(UserWarning, match="left out"):
        assert np.array_equal(rows_of(NumberArray(path, scale="none")), X.astype(np.float32))


def test_first_row_of_numbers_and_a_text_is_no_header(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of([[*row, "setosa"] for row in X.tolist()], None))
    with pytest.warns(UserWarning, match="left out .*'x4'"):
        assert len(rows_of(NumberArray(path))) == 100


# Splits, scale, facts


@pytest.mark.parametrize("rows", [4, 10, 100])
def test_every_row_is_in_one_split(rows: int, tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X[:rows]))
    one, other = NumberArray(path, scale="none"), NumberArray(path, scale="none", seed=1)
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
def test_scale_is_of_the_training_rows_or_their_range_and_the_codec_takes_it_back(scale: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X))
    dataset, plain = NumberArray(path, scale=scale), NumberArray(path, scale="none")
    x = dataset.split("train").x.double()
    eps = 2.0**-24  # of float32, in which the rows are
    assert ("column" in dataset.unit, plain.unit) == (True, "")
    if scale == "standard":
        assert float(x.mean(0).abs().max()) <= 8 * eps
        assert float((x.std(0, correction=0) - 1.0).abs().max()) <= 8 * eps
    else:
        every = rows_of(dataset)  # held-out rows too, because bins refuse what lies outside
        assert every.min(0).tolist() == [-1.0] * 3
        assert every.max(0).tolist() == [1.0] * 3
    assert abs(float(x.square().mean()) - float(str(dataset.metadata["data_variance"]))) <= 1e-12
    for name in ("train", "valid", "test"):
        found, expected = dataset.codec.decode(dataset.split(name).x), plain.split(name).x.double()
        assert float((found - expected).abs().max()) <= 4 * eps * 200.0  # the numbers are below 200


def test_scaling_before_rounding_keeps_what_float32_would_lose(tmp_path: Path) -> None:
    times = 1.7e9 + np.linspace(0.0, 1.0, 101)[:, None]
    x = NumberArray(put(tmp_path, "x.npy", npy_of(times)), scale="range").split("all").x
    assert len(x.unique()) == len(x) == 91


@pytest.mark.parametrize("scale", ["standard", "range", "none"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_constant_columns_are_scaled_by_one(value: float, scale: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(np.column_stack([X[:, 0], np.full(100, value)])))
    dataset = NumberArray(path, scale=scale)
    with pytest.warns(UserWarning, match="constant in the training rows, so scaled by 1: column 'x2'"):
        x = dataset.split("all").x[:, 1]
    assert (x == (np.float32(value) if scale == "none" else 0.0)).all()


def test_data_are_float32_and_int64(tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(np.arange(99).reshape(33, 3) % 4))
    with pytest.warns(UserWarning, match="duplicates"):
        assert NumberArray(path).split("valid").x.dtype == torch.float32
    assert ClassArray(path).split("valid").x.dtype == torch.int64
    assert ClassArray(path).metadata == {"site_shape": (3,), "classes": 4}


def test_tables_obey_the_laws_of_data_sets(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).permutation(96).reshape(24, 4)
    path = put(tmp_path, "x.npz", npz_of(numbers=numbers, classes=numbers % 5, y=np.arange(24) % 2))
    check_dataset(NumberArray(path, columns=("numbers",), label="y"))
    check_dataset(NumberArray(path, columns=["numbers"], scale="range", seed=3, valid_fraction=0.4, test_fraction=0.5))
    check_dataset(ClassArray(path, columns=("classes",), label="y"))
    check_dataset(ClassArray(path, columns=("classes",), classes=5, on_nan="drop"))


def test_a_value_survives_pickle_with_its_fingerprint(tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X))
    dataset = pickle.loads(pickle.dumps(NumberArray(path)))
    assert dataset == NumberArray(path)
    assert hash(dataset) == hash(NumberArray(path))
    put(tmp_path, "x.npy", npy_of(X[:50]))
    with pytest.raises(DataError, match="fingerprint differs"):
        dataset.split("train")


def test_a_relative_path_is_that_of_the_folder_in_which_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "x.npy", npy_of(X))
    monkeypatch.chdir(tmp_path)
    dataset = NumberArray("x.npy")
    monkeypatch.chdir("/")
    assert len(dataset.split("test")) == 10
    assert dataset == NumberArray(tmp_path / "x.npy")


# Faults that the table of bad input (tests/robustness/bad_input) does not have


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
    assert main(["train", "--dataset", "array", "--dataset.path", str(path)]) == 3
    assert time.monotonic() - start < 10.0  # milliseconds on an idle machine; a pipe would never answer
    said = "cannot be read" if what in ("missing", "loop", "below-a-file") else "not a regular file"
    assert said in capsys.readouterr().err


def test_a_path_with_a_nul_is_a_wrong_option() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        NumberArray("a\0.csv")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_missing_permission(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of(X))
    path.chmod(0)
    with pytest.raises(ResourceError, match="may not be read"):
        NumberArray(path).split("train")


def test_what_does_not_fit_into_memory_is_a_missing_resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    path = put(tmp_path, "x.npy", npy_of(X))
    monkeypatch.setattr("bfn_files.columns._array", full)
    with pytest.raises(ResourceError, match="more than fits into memory"):
        NumberArray(path).split("train")


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
        "import resource, sys; from bfn_toolkit.cli import main; import torch, bfn_arrays;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "status = main(['train', '--dataset', 'array', '--dataset.path', sys.argv[1]]);"
        "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    status, kilobytes = map(int, done.stdout.split())
    assert status == 3
    assert "size limit" in done.stderr
    # Half a gigabyte is dumps into 3 MB.  Linux counts in KB.
    assert sys.platform != "linux" or kilobytes < 50_000


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "x.npy", npy_of(X))
    dataset = NumberArray(path)
    dataset.split("train")
    put(tmp_path, "x.npy", npy_of(X[::-1]))
    os.utime(path, (1.0, 1.0))
    with pytest.raises(DataError, match="changed while it was in use: its fingerprint differs"):
        dataset.split("train")
    assert np.array_equal(rows_of(NumberArray(path, scale="none")), X[::-1].astype(np.float32))  # a new one reads it


# Scale


def said_of(x: Any, folder: Path, **options: object) -> list[str]:
    """Warnings of a training of one step."""
    path = put(folder, "x.npy", npy_of(x))
    training = {"steps": 1, "batch_size": 8, "device": "cpu"}
    head = {"family": {"head": options.pop("head")}} if "head" in options else {}
    table = {"dataset": {"name": "array", "path": str(path), **options}, "network": {"width": 4}, "training": training}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(Experiment.from_mapping({**table, **head}, base="default"))
    return [str(one.message) for one in caught]


NORMAL = np.random.default_rng(0).normal(size=(60, 2))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (NORMAL * 10, "the mean square of the data is .*--dataset.scale standard"),
        (NORMAL * 1e-4, "the mean square of the data is .*--dataset.scale standard"),
        (NORMAL + 30, "the mean square of the data is .*--dataset.scale standard"),
        (NORMAL * 0.005 + 2, "the data are 2 with a standard deviation of .*--dataset.scale standard"),
        (NORMAL * [1, 1e-3], "standard deviations below .*--dataset.scale standard: column 'x2'"),
    ],
)
def test_data_far_from_unit_size_are_said_with_the_line_to_write(x: Any, words: str, tmp_path: Path) -> None:
    (message,) = said_of(x, tmp_path, scale="none")
    assert re.search(words, message)
    assert said_of(x, tmp_path) == []


@pytest.mark.parametrize("size", [1e6, 1e20])
def test_data_that_float32_does_not_resolve_are_refused_with_the_line_to_write(size: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"finer than the rounding .*--dataset\.scale standard"):
        said_of(NORMAL + size, tmp_path, scale="none")


def test_data_beyond_the_clip_of_a_head_are_said(tmp_path: Path) -> None:
    (message,) = said_of(NORMAL, tmp_path, head="noise")
    assert re.search(r"the data reach 2\.\d+, and samples are clipped to \[-1, 1\]; write --family.head skip", message)
    assert said_of(NORMAL, tmp_path, head={"name": "noise", "clip": 3.0}) == []
    assert said_of(NORMAL, tmp_path, head="noise", scale="range") == []
    assert said_of(NORMAL, tmp_path, head="discretised", scale="range") == []
    with pytest.raises(DataError, match=r"data in \[-1, 1\], .*--dataset.scale range"):
        said_of(NORMAL, tmp_path, head="discretised")


def test_options_and_files_of_other_data_sets_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, "x.csv", csv_of(X))
    for option, words in (
        (
            "family.head",
            "unknown key of family 'columns', though one of gaussian; --dataset array reads",
        ),
        (
            "dataset.scale",
            "unknown key of dataset 'table', though one of array; --dataset array reads",
        ),
        ("dataset.path", "its name must end in .csv, .csv.gz, .tsv, .tsv.gz, .parquet; --dataset array reads this one"),
    ):
        value = str(tmp_path / "x.npy") if option == "dataset.path" else "noise"
        given = [] if option == "dataset.path" else ["--dataset.path", str(path)]
        assert main(["train", "--dataset", "table", *given, f"--{option}", value]) == 2
        assert words in capsys.readouterr().err


# Training


def test_a_table_trains_by_name_and_its_samples_are_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of([[*row[:2], i % 2] for i, row in enumerate(X)]))
    table = {"dataset": {"name": "array", "path": str(path), "label": "c"}, "training": {"steps": 3}}
    experiment = Experiment.from_mapping(table, base="default")
    assert (experiment.network.labels, experiment.family.site_shape) == (2, (2,))
    assert experiment.family.head.data_variance == experiment.dataset.metadata["data_variance"]
    run = train(experiment)
    assert isinstance(run.model, BFN)
    label = torch.zeros(500, dtype=torch.int64)
    samples = experiment.dataset.codec.decode(run.model.sample(500, n_steps=5, condition={"label": label}))
    # An untrained network is the best linear estimate, which knows the scale of the columns: within half of it.
    assert torch.allclose(samples.mean(0), torch.tensor([3.0, -1.0]).double(), rtol=0, atol=0.5)
    assert Experiment.from_mapping(experiment.to_mapping()) == experiment


def test_classes_train_by_name(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", csv_of((np.arange(300).reshape(100, 3) % 7).tolist()))
    table = {"dataset": {"name": "classes-array", "path": str(path)}, "training": {"steps": 3}}
    experiment = Experiment.from_mapping(table, base="default")
    assert (type(experiment.family).__name__, experiment.family.classes) == ("Categorical", 7)
    assert train(experiment).metrics[-1]["step"] == 3


def test_a_million_rows_are_read_in_seconds(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 10**4, (10**5, 2)) / 1024
    block = "\n".join(f"{a},{b}" for a, b in numbers.tolist())
    path = put(tmp_path, "x.csv", "a,b\n" + "\n".join([block] * 10) + "\n")
    start = time.process_time()
    with pytest.warns(UserWarning, match="duplicates"):
        x = rows_of(NumberArray(path, scale="none"))
    assert np.array_equal(x[: 10**5], numbers.astype(np.float32))
    assert len(x) == 10**6
    assert time.process_time() - start < 20.0  # about 1 s on one core
