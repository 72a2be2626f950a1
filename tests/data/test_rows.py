"""Rows of arrays: memory maps that are read by row number and opened again by path."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from bfn_toolkit import ArrayRows, Batch, DataError, Dataset, PluginError
from bfn_toolkit.data import rows as module
from bfn_toolkit.data.rows import pieces, spread
from bfn_toolkit.runs import provenance
from bfn_toolkit.runs.provenance import fingerprint

N = 1000
X = np.arange(N * 6, dtype=np.uint16).reshape(N, 2, 3)
ORDER = torch.tensor([5, 0, 999, 5])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.copy())


VIEWS = {
    "whole": lambda x: x,
    "without the first rows": lambda x: x[7:],
    "every third row": lambda x: x[::3],
    "backwards": lambda x: x[::-1],
    "cropped": lambda x: x[:, 1:, ::2],
    "transposed": lambda x: x.transpose(0, 2, 1),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("fortran", [False, True])
def test_a_memory_map_is_pickled_as_its_place_in_the_file(view, fortran, path):
    if fortran:
        np.save(path, np.asfortranarray(X))
    rows = ArrayRows(view(np.load(path, mmap_mode="r")), {"label": view(X)[:, 0, 0]})
    expected, order = tensor(view(X)), torch.tensor([5, 0, len(rows) - 1, 5])
    for _ in range(3):
        assert torch.equal(rows[order].x, expected[order])
        assert rows[order].x.dtype == torch.uint16
        assert torch.equal(rows[order].condition["label"], expected[order][:, 0, 0])
        state = pickle.dumps(ArrayRows(view(np.load(path, mmap_mode="r"))))
        assert len(state) < 1500  # of 12,000 bytes
        rows = pickle.loads(pickle.dumps(rows))


def test_a_file_that_has_become_shorter_cannot_be_opened_again(path):
    state = pickle.dumps(ArrayRows(np.load(path, mmap_mode="r")))
    os.truncate(path, 5000)
    with pytest.raises(DataError, match=r"x\.npy cannot be opened again"):
        pickle.loads(state)


def test_rows_of_a_split_by_part_with_masks_and_weights(path):
    index = torch.tensor([9, 4, 7])
    parts = {"a": np.load(path, mmap_mode="r"), "b": torch.arange(N)}
    rows = ArrayRows(parts, {"c": X[:, 0]}, {"a": X[:, :, 0] % 4 == 0}, np.linspace(0, 1, N), index=index)
    batch = rows[torch.tensor([2, 0])]
    chosen = index[[2, 0]]
    assert len(rows) == 3
    assert torch.equal(batch.x["a"], tensor(X)[chosen])
    assert torch.equal(batch.x["b"], chosen)
    assert torch.equal(batch.condition["c"], tensor(X)[chosen][:, 0])
    assert torch.equal(batch.mask["a"], tensor(X[:, :, 0] % 4 == 0)[chosen])
    assert torch.equal(batch.weight, torch.linspace(0, 1, N, dtype=torch.float64)[chosen])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"condition": {"label": X[:9]}}, "label has 9 rows, and the data have 1000"),
        ({"x": X.astype(">f4")}, "x is stored as >f4, which torch does not have"),
        ({"x": np.array(["a"] * N)}, "x is stored as <U1"),
        ({"index": torch.tensor([0, N])}, "rows 0 to 1000, and the data have 1000"),
        ({"index": torch.tensor([-1])}, "rows -1 to -1"),
        ({"index": torch.ones(N).bool()}, "expected row numbers"),
        ({"weight": X[:, 0, 0].reshape(N, 1)}, r"expected \(1,\)"),
        ({"mask": X}, "torch.uint16"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(arguments, words):
    with pytest.raises(DataError, match=words):
        ArrayRows(**{"x": X, **arguments})[torch.tensor([0])]


def test_pages_that_were_read_are_given_back(path, monkeypatch):
    monkeypatch.setattr(module, "MAPPED", 2048)
    monkeypatch.setattr(module, "FAULT", 1024)
    rows, given_back = ArrayRows(np.load(path, mmap_mode="r")), []
    unmap = ArrayRows._unmap
    monkeypatch.setattr(ArrayRows, "_unmap", lambda self: given_back.append(unmap(self)))
    for _ in range(3):
        assert torch.equal(rows[ORDER].x, tensor(X)[ORDER])
    assert len(given_back) == 6  # after each pair of rows


def test_spread_rows_are_all_or_at_equal_distances():
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert spread(1000, 4).tolist() == [0, 250, 500, 750]
    assert spread(7, 3).tolist() == [0, 2, 4]
    rows = Batch(tensor(X))
    assert torch.equal(torch.cat([piece.x for _, piece in pieces(rows, 10**9)]), rows.x)
    assert [len(piece) for _, piece in pieces(rows, 120)] == [10]


def test_the_fingerprint_is_that_of_the_rows_wherever_they_are(path, monkeypatch):
    stored = ArrayRows(np.load(path, mmap_mode="r"), {"label": X[:, 0, 0]})
    batch = Batch(tensor(X), {"label": tensor(X[:, 0, 0])})
    assert fingerprint(stored) == fingerprint(batch)
    changed = X.copy()
    changed[500, 1, 1] += 1
    assert fingerprint(ArrayRows(changed, {"label": X[:, 0, 0]})) != fingerprint(batch)
    assert fingerprint(ArrayRows(X, {"label": X[:, 0, 1]})) != fingerprint(batch)
    assert fingerprint(ArrayRows(X)) != fingerprint(batch)
    monkeypatch.setattr(provenance, "HASHED", 100)  # few rows, and the time of the last change
    before = fingerprint(stored)
    assert fingerprint(ArrayRows(np.load(path, mmap_mode="r"), {"label": X[:, 0, 0]})) == before
    os.utime(path, (1.0, 1.0))
    assert fingerprint(stored) != before


@attrs.frozen
class Plain(Dataset):
    @property
    def site_shape(self):
        return (2, 3)


def test_a_data_set_defines_split_or_rows():
    with pytest.raises(PluginError, match=r"Plain has no data; write split\(self, name\), or rows\(self, name\)"):
        Plain()

    @attrs.frozen
    class Twice(Plain):
        def split(self, name):
            return Batch(tensor(X).float())

        def prepare(self, batch):
            return batch

    with pytest.raises(PluginError, match=r"Twice prepares rows, .* write rows\(self, name\) in its place"):
        Twice()


def test_a_split_follows_from_the_rows_and_rows_from_the_split(path):
    @attrs.frozen
    class Stored(Plain):
        def rows(self, name):
            return ArrayRows(np.load(path, mmap_mode="r"), index=torch.tensor([3, 1]))

        def prepare(self, batch):
            return attrs.evolve(batch, x=batch.x.float() + torch.rand(len(batch), 1, 1))

    torch.manual_seed(0)
    first, after = Stored().split("train").x, torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, Stored().split("train").x)
    assert torch.equal(first.floor(), tensor(X)[[3, 1]].float())

    @attrs.frozen
    class InMemory(Plain):
        def split(self, name):
            return Batch(tensor(X).float())

    assert torch.equal(InMemory().rows("train")[ORDER].x, tensor(X)[ORDER].float())
