"""Laws of datasets."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch

from bfn_toolkit.data.dataset import Dataset
from bfn_toolkit.data.loader import minibatches
from bfn_toolkit.shapes import Data, leaves, map_data
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law, round_trip
from bfn_toolkit.testing.probes import columns


@law("dataset", "every split has examples of shape site_shape, finite, and conditions with as many rows")
def check_splits_have_the_declared_shape(dataset: Dataset) -> float:
    """The declared shape, which the family relies on, is true."""
    judge = Judge(check_splits_have_the_declared_shape, dataset)
    shapes = dataset.site_shape
    if not isinstance(shapes, Mapping):
        judge.true(
            dataset.metadata["site_shape"] == shapes, f"metadata {dataset.metadata}", "metadata with the site_shape"
        )
    dtypes = set()
    for name in ("train", "valid", "test", "all"):
        rows = dataset.split(name)
        actual = map_data(lambda part: tuple(part.shape[1:]), rows.x)
        judge.true(actual == shapes, f"{name}: (B, *{actual})", f"(B, *{shapes})")
        judge.true(len(rows) > 0, f"{name} is empty", "examples")
        for part in leaves(rows.x):
            judge.true(len(part) == len(rows), f"{name}: parts of {len(part)} and {len(rows)} rows", "equal numbers")
            judge.true(bool(torch.isfinite(part).all()), f"{name} has values that are not finite", "finite values")
        for key, value in rows.condition.items():
            judge.true(len(value) == len(rows), f"{name}: {len(value)} rows of {key}", f"{len(rows)} rows")
        dtypes.add(tuple(part.dtype for part in leaves(rows.x)))
    judge.true(len(dtypes) == 1, f"dtypes {dtypes}", "one dtype")
    return judge.figure


def _rows(x: Data) -> list[tuple[float, ...]]:
    return [tuple(row) for row in columns(x).tolist()]


@law("dataset", "training and validation rows are disjoint, and are all of the rows")
def check_splits_partition_the_data(dataset: Dataset) -> float:
    """No example is used for both training and validation; repeated examples are counted."""
    judge = Judge(check_splits_partition_the_data, dataset)
    train, valid, everything = (sorted(_rows(dataset.split(name).x)) for name in ("train", "valid", "all"))
    counts = f"{len(train)} + {len(valid)} rows of {len(everything)}"
    judge.true(sorted(train + valid) == everything, counts, "each row once")
    return judge.figure


@law("dataset", "a split is a function of the configuration, and leaves torch's generator alone")
def check_splits_are_fixed(dataset: Dataset) -> float:
    """The data are the same each time, whatever was drawn before."""
    judge = Judge(check_splits_are_fixed, dataset)
    for name in ("train", "valid", "test"):
        with seeded(0, "before"):
            first = dataset.split(name)
            after = torch.rand(1)
        with seeded(0, "before"):
            untouched = torch.rand(1)
        with seeded(1, "before"):
            second = copy.deepcopy(dataset).split(name)
        judge.true(torch.equal(columns(first.x), columns(second.x)), f"{name} changes", "the same rows")
        judge.true(torch.equal(after, untouched), f"{name} draws from torch's generator", "its own seeded scope")
        for part in leaves(first.x):
            part.zero_()
        kept = torch.equal(columns(dataset.split(name).x), columns(second.x))
        judge.true(kept, f"{name} can be changed from outside", "a copy")
    return judge.figure


@law("dataset", "the batches of an epoch are different rows of the split")
def check_batches_cover_the_data(dataset: Dataset) -> float:
    """An epoch uses each row at most once, and leaves out less than one batch."""
    judge = Judge(check_batches_cover_the_data, dataset)
    rows = dataset.split("train")
    size = max(1, len(rows) // 3)
    used = [row for batch in minibatches(rows, size, seed=0, epoch=0) for row in _rows(batch.x)]
    judge.true(len(rows) - len(used) < size, f"{len(used)} of {len(rows)} rows", "less than a batch left out")
    extra = Counter(used) - Counter(_rows(rows.x))
    judge.true(not extra, f"{extra.total()} rows that are not in the split, or come twice", "none")
    return judge.figure


@law("dataset", "repr, pickle and TOML give back an equal data set")
def check_dataset_round_trips(dataset: Dataset) -> float:
    """A data set is a value."""
    return round_trip(Judge(check_dataset_round_trips, dataset))
