"""Laws of the stored rows of a data set, and of their preparation for the model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch, Dataset, Split
from bfn_toolkit.randomness import Shard
from bfn_toolkit.shapes import leaves
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law, pickled

SPLITS: tuple[Split, ...] = ("train", "valid", "test", "all")
SOME = 64  # rows that are prepared


def _same(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same values, but for the rounding of a few operations."""
    sides = [[*leaves(v.x), *v.condition.values(), *leaves(v.mask), v.weight] for v in (a, b)]
    named = a.condition.keys() == b.condition.keys() and len(sides[0]) == len(sides[1])
    pairs = [(u, v) for u, v in zip(*sides, strict=False) if u is not None and v is not None]
    missing = [(u is None) != (v is None) for u, v in zip(*sides, strict=False)]
    return named and not any(missing) and all(_near(u, v) for u, v in pairs)


def _near(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6) if a.is_floating_point() else torch.equal(a, b)


def _order(n: int) -> Tensor:
    with seeded(0, "order"):
        return torch.randperm(n)


def _prepared(dataset: Dataset, batch: Batch, key: int = 0) -> Batch:
    with seeded(key, "prepare"):
        return dataset.prepare(batch)


@law("dataset", "rows(split)[i], prepared, are the rows i of split(split), in any order")
def check_rows_are_those_of_the_split(dataset: Dataset) -> float:
    """Rows by number come in the order of the numbers, as a copy, from a pickled copy too.

    The values are compared with those of ``split`` where the preparation draws nothing.
    """
    judge = Judge(check_rows_are_those_of_the_split, dataset)
    for name in SPLITS:
        rows, split = dataset.rows(name), dataset.split(name)
        n = len(rows)
        judge.true(n == len(split), f"rows('{name}') has {n} rows", f"{len(split)}, as split('{name}') has")
        order = _order(n)
        whole = rows[torch.arange(n)]
        judge.true(len(whole) == n, f"{len(whole)} rows of {name} for {n} numbers", f"{n}")
        twice = order[:2].repeat(2)
        for way, index, batch in (
            ("in another order", order, rows[order]),
            ("one by one", order[:1], rows[order[:1]]),
            ("twice", twice, rows[twice]),
            ("after pickle", order, pickled(rows)[order]),
        ):
            judge.true(_same(batch, whole.rows(index)), f"rows of {name}, {way}, differ", "the same rows")
        taken = rows[order]
        for tensor in (*leaves(taken.x), *taken.condition.values()):
            tensor.zero_()
        judge.true(_same(rows[order], whole.rows(order)), f"rows of {name} can be changed from outside", "a copy")
        some = order[: min(SOME, (n + 1) // 2)]
        first = _prepared(dataset, rows[some])
        if all(_same(first, _prepared(dataset, rows[some], key)) for key in range(1, 8)):  # nothing is drawn
            judge.true(_same(first, split.rows(some)), f"prepared rows of {name} differ from split", "the same rows")
    return judge.figure


@law("dataset", "prepare(batch) is a function of the batch and the key, row by row, and keeps the batch as it was")
def check_preparing_is_keyed(dataset: Dataset) -> float:
    """Each row is prepared by itself: its draws and values do not depend on the pieces in which a batch comes."""
    judge = Judge(check_preparing_is_keyed, dataset)
    rows = dataset.rows("train")
    batch = rows[_order(len(rows))[:SOME]]
    before, n = copy.deepcopy(batch), len(batch)
    whole = _prepared(dataset, batch)
    judge.true(len(whole) == n, f"prepare returns {len(whole)} rows of {n}", f"{n}")
    judge.true(_same(batch, before), "prepare changes its batch", "a new batch")
    judge.true(_same(whole, _prepared(dataset, batch)), "prepare differs under one key", "the same batch")
    for start, stop in ((0, (n + 1) // 2), ((n + 1) // 2, n)):
        if start < stop:
            with seeded(0, "prepare"), Shard(start, stop - start, n):
                part = dataset.prepare(batch.part(start, stop))
            judge.true(_same(part, whole.part(start, stop)), "rows depend on the others of their piece", "row by row")
    return judge.figure
