"""D: data, most of them in files of the user's own."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from faults.parts import OwnRows
from faults.tiny import experiment

from bad_input.cases import Case, Content, Word, case
from bad_input.contents import X, csv_of, header_of, npy_of, npz_of, with_value
from bfn_arrays import NumberArray
from bfn_toolkit import Batch, ImageCodec, train
from bfn_toolkit.data.formats import ImageFolderFormat
from bfn_toolkit.data.loader import fetched_batches

SMALL = "--training.steps 1 --training.batch_size 8 --network.width 8 --no-report --out run"


def table(
    id: str, name: str, content: Content, status: int, *words: Word, options: str = "", dataset: str = "array"
) -> Case:
    """Training on a file."""
    call = f"train --dataset {dataset} --dataset.path {name} {options} {SMALL}"
    return case(id, call, status, *words, files={name: content})


def images(id: str, name: str, content: Content, status: int, *words: Word) -> Case:
    """Training on a folder with one file, or on that file."""
    call = f"train --dataset images --dataset.path {name.partition('/')[0]} {SMALL}"
    return case(id, call, status, *words, files={name: content})


PNG = next(ImageFolderFormat(ImageCodec()).contents(torch.arange(324).reshape(1, 18, 18).square() % 251))
DROP = "--dataset.on_nan drop"
LABEL = "--dataset.label c"
ROWS_OF_CLASSES = np.arange(60).reshape(20, 3) % 5


def class_csv(value: object) -> str:
    rows = ROWS_OF_CLASSES.astype(object)
    rows[11, 1] = value
    return csv_of(rows.tolist())


CASES: list[Case] = [
    # D1: nothing
    table("D1-empty-file", "x.csv", "", 3, "x.csv: no rows"),
    table("D1-header-only", "x.csv", "a,b\n", 3, "x.csv: no rows below the header"),
    table("D1-blank-lines", "x.csv", "\n\n\n", 3, "x.csv: no rows"),
    table("D1-array-of-no-rows", "x.npy", npy_of(np.zeros((0, 3))), 3, "no rows", "(0, 3)"),
    table("D1-array-of-no-columns", "x.npy", npy_of(np.zeros((2**40, 0))), 3, "no rows"),
    table("D1-archive-of-nothing", "x.npz", npz_of(), 3, "no rows"),
    table("D1-empty-gzip", "x.csv.gz", gzip.compress(b""), 3, "no rows"),
    table("D1-one-missing-row", "x.csv", csv_of(with_value(0, 0, "nan")[:1]), 3, "column 'a' has no number"),
    images("D1-folder-without-pictures", "x/a.txt", "", 3, "x: no pictures; expected files that end in"),
    images("D1-empty-idx", "x-images-idx3-ubyte", "", 3, "not an IDX file: it begins with the bytes of an empty file"),
    # D2: too few
    images("D2-one-picture", "x/a.png", PNG, 3, "x: cannot split 1 row;", "3 or more"),
    table("D2-one-row", "x.csv", csv_of(X[:1]), 3, "x.csv: cannot split 1 row;", "3 or more"),
    table("D2-two-rows", "x.csv", csv_of(X[:2]), 3, "cannot split 2 rows"),
    # D3: missing numbers
    table(
        "D3-nan",
        "x.csv",
        csv_of(with_value(16, 2, "nan")),
        3,
        "x.csv:18: column 'c': expected a number, got nan",
        "on_nan",
    ),
    table(
        "D3-empty-field", "x.csv", csv_of(with_value(16, 2, "")), 3, "x.csv:18: column 'c': expected a number, got nan"
    ),
    table(
        "D3-nan-in-array",
        "x.npy",
        npy_of(with_value(16, 2, np.nan).astype(float)),
        3,
        "row 16 of 0...99: column 'x3'",
        "nan",
    ),
    table("D3-dropped", "x.csv", csv_of(with_value(16, 2, "")), 0, "run:", options=DROP),
    table(
        "D3-nothing-left",
        "x.csv",
        csv_of(np.where(np.eye(3), np.nan, np.arange(9).reshape(3, 3))),
        3,
        "no rows",
        options=DROP,
    ),
    # D4: beyond float32
    *(
        table(
            f"D4-{value}-{options[-4:] or 'error'}",
            "x.csv",
            csv_of(with_value(4, 1, value)),
            3,
            "x.csv:6: column 'b'",
            "overflows float32",
            options=options,
        )
        for value in ("inf", "-inf", "1e39", "-1e999")
        for options in ("", DROP)
    ),
    table(
        "D4-1e39-in-array",
        "x.npy",
        npy_of(with_value(4, 1, 1e39).astype(float)),
        3,
        "row 4 of 0...99: column 'x2': 1e+39 overflows",
    ),
    # D5: a column without numbers
    table(
        "D5-nan-column",
        "x.csv",
        csv_of([[*row[:2], "nan"] for row in X]),
        3,
        "column 'c' has no number in all 100 rows",
    ),
    table(
        "D5-empty-column", "x.csv", csv_of([[*row[:2], ""] for row in X]), 3, "column 'c' has no number", options=DROP
    ),
    # D6, D7: nothing to learn
    table(
        "D6-constant-column", "x.csv", csv_of([[*row[:2], 7] for row in X]), 0, "warning: ", "constant", "column 'c'"
    ),
    table("D7-equal-rows", "x.csv", csv_of([[1.5, 2.5, 0.1]] * 10), 0, "scaled by 1", "9 of 10 rows are duplicates"),
    # D8, D9: other than a table of numbers
    table(
        "D8-long-rows", "x.csv", csv_of(X).replace("\n", "\n1,2,3,4,5\n", 4), 3, "x.csv:2: found 5 fields, expected 3"
    ),
    table("D8-short-row", "x.csv", csv_of([*X[:5], [1, 2], *X[5:]]), 3, "x.csv:7: found 2 fields, expected 3"),
    table(
        "D9-long-text",
        "x.csv",
        csv_of(with_value(7, 1, "x" * 99)),
        3,
        f"x.csv:9: column 'b': expected a number, got '{'x' * 40}'...",
    ),
    table(
        "D9-underscore",
        "x.csv",
        csv_of(with_value(7, 1, "1_000")),
        3,
        "x.csv:9: column 'b': expected a number, got '1_000'",
    ),
    table(
        "D9-full-width-digits", "x.csv", csv_of(with_value(7, 1, "１２")), 3, "x.csv:9: column 'b'"
    ),  # full-width digits
    table("D9-nul", "x.csv", csv_of(with_value(7, 1, "a\0b")), 3, "x.csv:9: a NUL byte"),
    table("D9-quotes", "x.csv", csv_of(with_value(7, 1, '"1"2"')), 3, "x.csv:9: a record with a wrong quote"),
    table("D9-open-quote", "x.csv", csv_of(with_value(7, 1, '"1')), 3, "x.csv:9: a record with a wrong quote"),
    table("D9-blanks-between", "x.csv", csv_of(X).replace(",", " "), 3, "no column of numbers among a b c"),
    table("D9-title", "x.csv", "My data\n" + csv_of(X), 3, "x.csv:2: found 3 fields, expected 1", "begin it with #"),
    table(
        "D9-comma-below", "x.csv", csv_of(X).replace("\n", ",\n").replace("c,", "c"), 3, "x.csv:2: found 4", "',' too"
    ),
    table("D9-years-as-names", "x.csv", csv_of(X, "1990,1991,1992"), 0, "x.csv:1: the first record", "header false"),
    table("D9-units-below-names", "x.csv", csv_of(X, "a,b,c\nkg,m,s"), 3, "x.csv:2: column 'a'", "got 'kg'"),
    table("D9-no-numbers", "x.csv", "a,b\nu,v\nw,x\ny,z\n", 3, "no column of numbers among a, b"),
    table("D9-same-names", "x.csv", csv_of(X, "a,b,a"), 3, "x.csv:1: columns 1 and 3 are both named 'a'"),
    table("D9-not-utf-8", "x.csv", csv_of(X).encode() + b"1,\xff,2\n", 3, "x.csv:102: ", "got '\xff'"),
    table("D9-endless-line", "x.csv", "a,b\n" + "1" * 2_000_000, 3, "x.csv:2: a record with a wrong quote or field"),
    # D10: other than classes
    *(
        table(
            f"D10-{value}",
            "x.csv",
            class_csv(value),
            3,
            "x.csv:13: column 'b': expected a class, an integer in 0...4, got",
            found,
            dataset="classes-array",
        )
        for value, found in ((-1, "-1"), (1.9, "1.9"), (1e30, "1e+30"), ("inf", "inf"))
    ),
    table("D10-nan", "x.csv", class_csv("nan"), 3, "x.csv:13: column 'b'", "got nan", dataset="classes-array"),
    table(
        "D10-class-K",
        "x.csv",
        class_csv(5),
        3,
        "x.csv:13: column 'b'",
        "0...4, got 5",
        options="--dataset.classes 5",
        dataset="classes-array",
    ),
    table(
        "D10-negative-in-array",
        "x.npy",
        npy_of(ROWS_OF_CLASSES - 1),
        3,
        "row 0 of 0...19: column 'x1'",
        "got -1",
        dataset="classes-array",
    ),
    table("D10-labels", "x.csv", csv_of([[*row[:2], i % 3] for i, row in enumerate(X)]), 0, "run:", options=LABEL),
    table(
        "D10-negative-label",
        "x.csv",
        csv_of([[*row[:2], i % 3 - 1] for i, row in enumerate(X)]),
        3,
        "x.csv:2: column 'c': expected a class",
        options=LABEL,
    ),
    table(
        "D10-label-text",
        "x.csv",
        csv_of([[*row[:2], "cat"] for row in X]),
        3,
        "x.csv:2: column 'c': expected a number, got 'cat'",
        options=LABEL,
    ),
    # D11: an unseen class
    table(
        "D11-class-not-trained",
        "x.csv",
        class_csv(6),
        0,
        "warning: ",
        "no training row has the class 5",
        dataset="classes-array",
    ),
    table(
        "D11-label-not-trained",
        "x.csv",
        csv_of([[*row[:2], 2] for row in X]),
        0,
        "no training row has the label 0, 1",
        options=LABEL,
    ),
    # D12: outside of the range of bins
    table(
        "D12-outside-of-bins",
        "x.npy",
        npy_of(np.arange(256)[:, None]),
        3,
        "expects data in [-1, 1]",
        options="--family.head discretised --dataset.scale none",
    ),
    # D13: another shape
    table(
        "D13-site-shape",
        "x.npy",
        npy_of(X.reshape(25, 4, 3)),
        3,
        "(B, 4, 4)",
        "4, 3)",
        options="--family.site_shape [4,4]",
    ),
    # D14: dtypes
    table("D14-complex", "x.npy", npy_of(X.astype(complex)), 3, "dtype complex128", "integers, floats or booleans"),
    table("D14-text", "x.npy", npy_of(np.array([["a", "b"]])), 3, "dtype <U1"),
    table("D14-fields", "x.npy", npy_of(np.zeros(3, [("a", int)])), 3, "dtype [('a'"),
    # D16, D17: pickle
    images("D17-pickled-images", "data_batch_1", pickle.dumps({}), 3, "is a pickle, which is never loaded"),
    table("D17-objects", "x.npy", npy_of(np.array([None, {}], object)), 3, "dtype object", "unpickled"),
    table("D17-objects-in-archive", "x.npz", npz_of(x=np.array([None, {}], object)), 3, "dtype object"),
    table("D17-pickle", "x.npy", pickle.dumps(X), 3, "truncated or not .npy"),
    # D19: claims
    images(
        "D19-idx-larger-than-its-file",
        "x-images-idx3-ubyte",
        b"\0\0\x08\3" + b"\x7f" * 12,
        3,
        "its header claims the shape",
    ),
    table("D19-2**60-rows", "x.npy", header_of((2**60,)), 3, "larger than the file"),
    table("D19-2**80-numbers", "x.npy", header_of((2**40, 2**40)), 3, "larger than the file"),
    table("D19-negative-shape", "x.npy", header_of((-1, 8)), 3, "claims the shape (-1, 8)"),
    table("D19-nine-rows-of-eight", "x.npy", header_of((9,)), 3, "truncated"),
    # D20: cut
    images("D20-truncated-picture", "x/a.png", PNG[:150], 3, "x/a.png: truncated or damaged"),
    table("D20-array-cut", "x.npy", npy_of(X)[:-1], 3, "the array is truncated"),
    table("D20-header-cut", "x.npy", npy_of(X)[:50], 3, "truncated"),
    table("D20-header-damaged", "x.npy", npy_of(X).replace(b"}", b" "), 3, "truncated or not .npy"),
    table("D20-array-empty", "x.npy", b"", 3, "truncated"),
    table("D20-gzip-cut", "x.csv.gz", gzip.compress(csv_of(X).encode())[:-20], 3, "truncated"),
    table("D20-no-gzip", "x.csv.gz", csv_of(X).encode(), 3, "cannot be read", "gzip"),
    table("D20-archive-cut", "x.npz", npz_of(x=X)[:-30], 3, "truncated"),
    table("D20-archive-damaged", "x.npz", npz_of(x=X).replace(X.tobytes()[80:96], bytes(16)), 3, "damaged", "CRC"),
    table("D20-archive-empty", "x.npz", b"", 3, "truncated"),
    table("D20-safetensors-damaged", "x.safetensors", b"\xff" * 64, 3, "truncated or not .safetensors"),
    table("D20-safetensors-empty", "x.safetensors", b"", 3, "truncated or not .safetensors"),
    # D25: differing lengths
    table(
        "D25-lengths-differ",
        "x.npz",
        npz_of(x=X, c=np.arange(99)),
        3,
        "differing lengths: 'x' has 100 rows, 'c' 99",
        options=LABEL,
    ),
    table(
        "D25-label-of-two-numbers",
        "x.npz",
        npz_of(x=X, c=np.zeros((100, 2))),
        3,
        "column 'c'",
        "(100,)",
        "(100, 2)",
        options=LABEL,
    ),
    table("D25-a-single-number", "x.npz", npz_of(x=np.float64(3.0)), 3, "a single number"),
    # Options
    table("C12-file-format", "x.tsv", csv_of(X), 2, "cannot tell the format of 'x.tsv'", ".csv.gz"),
    table(
        "C12-column-name",
        "x.csv",
        csv_of(X),
        2,
        "no column named 'd'",
        "a, b, c",
        options="--dataset.columns '[\"d\"]'",
    ),
    table("C12-label-name", "x.csv", csv_of(X), 2, "no column named 'd'", options="--dataset.label d"),
    table(
        "C12-label-is-a-column",
        "x.csv",
        csv_of(X),
        2,
        "take it out of columns",
        options=LABEL + ' --dataset.columns \'["a","c"]\'',
    ),
    table("C12-column-twice", "x.csv", csv_of(X), 2, "different names", options='--dataset.columns \'["a","a"]\''),
    table("C12-no-columns", "x.csv", csv_of(X), 2, "different names", options="--dataset.columns []"),
    table(
        "C37-whole-table-for-validation",
        "x.csv",
        csv_of(X),
        2,
        "valid_fraction",
        options="--dataset.valid_fraction 1.0",
    ),
    table("C8-test-fraction-nan", "x.csv", csv_of(X), 2, "test_fraction", options="--dataset.test_fraction nan"),
    table(
        "D2-no-training-rows", "x.csv", csv_of(X), 3, "leaves no training rows", options="--dataset.test_fraction 0.999"
    ),
    table("C12-scale", "x.csv", csv_of(X), 2, "standard", options="--dataset.scale standart"),
    table(
        "C16-classes-of-a-table",
        "x.csv",
        csv_of(X),
        2,
        "classes",
        options="--dataset.classes 1",
        dataset="classes-array",
    ),
    table("C12-which-array", "x.npz", npz_of(a=X, b=X), 2, "holds the arrays a, b; choose: columns"),
    table(
        "C12-column-of-a-vector",
        "x.npy",
        npy_of(X[:, 0]),
        2,
        "only an array (B, D) has columns",
        options="--dataset.columns '[\"x1\"]'",
    ),
]


TEXT = "the quick brown fox jumps over the lazy dog\n" * 40


def text(id: str, content: str | bytes, status: int, *words: Word, options: str = "") -> Case:
    """Training on a text."""
    return table(id, "x.txt", content, status, *words, options=options, dataset="text")


CASES += [
    text("D1-empty-text", "", 3, "no rows: the file is empty"),
    text("D2-two-windows", "abcde" * 5, 3, "cannot split 2 rows", options="--dataset.length 10"),
    text("D2-one-character", "aaaaaaaaaa", 3, "U+0061 'a' only", options="--dataset.length 2"),
    text("D11-character-not-trained", "ab" * 50, 0, "warning: ", options="--dataset.length 2 --dataset.alphabet abc"),
    text(
        "D24-emoji",
        "ab\n" * 50 + "a\N{GRINNING FACE}b",
        3,
        "x.txt:51: the character U+1F600 '\\U0001f600' at offset 151 is not in",
        options="--dataset.alphabet 'ab\n'",
    ),
    text("D24-nul", "ab" * 50 + "\0", 3, "control character U+0000 '\\x00' at offset 100"),
    text("D24-not-utf-8", b"ab" * 50 + b"\xff", 3, "not UTF-8 at byte 100"),
    text("D24-utf-16", TEXT.encode("utf-16"), 3, "not UTF-8 at byte 0"),
    text("D24-alphabet-with-a-double", TEXT, 2, "alphabet", "'a' twice", options="--dataset.alphabet aba"),
    text("D24-alphabet-of-one", TEXT, 2, "alphabet", options="--dataset.alphabet a"),
    text(
        "D25-shorter-than-a-window",
        "abcde" * 5,
        3,
        "25 characters are shorter than one window of length = 26",
        options="--dataset.length 26",
    ),
    text("D25-window-of-nothing", TEXT, 2, "length", options="--dataset.length 0"),
]


def bomb(path: Path) -> None:
    """300 MB of zeros, dumps into 2 MB or less."""
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(18):
                file.write(b"0\n" * 2**23)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("x.npy", header_of((18 * 2**21,))[:-64] + bytes(18 * 2**24))


def link_to(place: str) -> Any:
    """What makes a link."""
    return lambda path: path.symlink_to(place)


def changed_between_epochs() -> None:
    dataset, path = NumberArray("x.npy"), Path("x.npy")
    dataset.split("train")
    content, times = path.read_bytes(), path.stat()
    try:
        path.write_bytes(npy_of(X[::-1]))
        os.utime(path, (1.0, 1.0))
        dataset.split("train")
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@attrs.frozen(eq=False)
class RaisesAt(Batch):
    """Rows of which one cannot be read."""

    row: int = 20

    def rows(self, index: torch.Tensor) -> Batch:
        if self.row in index.tolist():
            raise ValueError("a broken image")
        return super().rows(index)


def worker_raises() -> None:
    rows = RaisesAt(torch.zeros(40, 1))
    for _ in zip(range(10), fetched_batches(rows, 10, seed=0, workers=1, timeout=60.0), strict=False):
        pass


CASES += [
    table("D15-fortran-order", "x.npy", npy_of(np.asfortranarray(X)), 0, "run:"),
    table("D15-negative-strides", "x.npy", npy_of(X[::-1, ::-1]), 0, "run:"),
    table("D16-big-endian", "x.npy", npy_of(X.astype(">f8")), 0, "run:"),
    table("D14-float64", "x.npy", npy_of(X), 0, "run:"),
    table("D14-integers", "x.npy", npy_of(np.arange(300).reshape(100, 3)), 0, "run:"),
    table("D14-booleans", "x.npy", npy_of(X > 0), 0, "run:"),
    table("D18-zip-bomb", "x.npz", bomb, 3, "above the size limit"),
    table("D18-gzip-bomb", "x.csv.gz", bomb, 3, "above the size limit"),
    case("D21-file-changes", changed_between_epochs, 3, "fingerprint differs", files={"x.npy": npy_of(X)}),
    table("D22-link-to-itself", "x.csv", link_to("x.csv"), 3, "cannot be read: Too many levels"),
    table("D22-endless-device", "x.csv", link_to("/dev/zero"), 3, "not a regular file"),
    table("D22-pipe", "x.csv", os.mkfifo, 3, "not a regular file"),
    table("D22-folder", "x.csv", lambda path: path.mkdir(), 3, "not a regular file", "a folder"),
    case(
        "D22-missing", f"train --dataset array --dataset.path x.csv {SMALL}", 3, "x.csv: cannot be read: No such file"
    ),
    case("D22-nul-in-path", ["train", "--dataset", "array", "--dataset.path", "a\0.csv"], 2, "dataset.path", "NUL"),
    case("D26-worker-raises", worker_raises, 3, "row 20 cannot be read: ValueError: a broken image"),
    case(
        "D27-yields-nothing",
        lambda: train(attrs.evolve(experiment(steps=1), dataset=OwnRows(0))),
        3,
        "OwnRows has no training rows",
        "no batches",
    ),
]
