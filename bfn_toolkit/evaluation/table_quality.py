"""Quality of the samples of a table as one object, with the floor of each measure, and what the model's prices show.

In each measure ``samples`` is that of the samples, and ``real`` its floor: as many training rows in their place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bfn_toolkit.data.typed_columns import Array, TypedTable
from bfn_toolkit.evaluation import tables
from bfn_toolkit.evaluation.tables import Cells

WIDE = 64  # largest number of columns whose pairs are compared and that classifiers see: those that differ most
BLOCKS = 4  # largest number of times that samples, in other rows, are compared
FEWEST, MOST = 300, 5_000  # rows that classifiers see, where there are so many
NEAREST, TRAIN = 1_000, 10_000  # rows whose closest training row is sought, and training rows among which it is
PAIRS = 20  # largest number of pairs that are listed
EFFORT = 2**15  # cells that classifiers see: about 2 s of one thread
INSTALL = "the two-sample test and the target score need scikit-learn: pip install scikit-learn"


def table_quality(
    samples: TypedTable,
    train: TypedTable,
    held_out: TypedTable,
    *,
    target: str | None = None,
    effort: int = EFFORT,
) -> dict[str, Any]:
    """Measures of :mod:`~bfn_toolkit.evaluation.tables` of samples, each beside its floor.

    Arguments:
        samples: The samples.
        train: Training rows.
        held_out: Rows that the model was not trained on.
        target: Column of the target score; None for :func:`~bfn_toolkit.evaluation.tables.default_target`.
        effort: Cells that classifiers see.
    """
    sampled, known, real = tables.cells(samples, train, held_out)
    m = min(len(sampled), len(known))
    others = known.some(m)  # in the place of the samples
    unit = tables.deviations(known)
    found = {"samples": tables.columns(real, sampled.some(m), unit), "real": tables.columns(real, others, unit)}
    by_column = {
        name: _of_column(bool(number), {who: (d[i], gaps[i]) for who, (d, gaps) in found.items()})
        for i, (name, number) in enumerate(zip(known.names, known.is_number, strict=True))
    }
    kept = [] if target is None else [known.names.index(target)]
    excess = found["samples"][0] - found["real"][0]
    worst = sorted(list(dict.fromkeys([*kept, *_order(excess)]))[:WIDE])
    sampled_wide, known_wide, real_wide = (rows.columns(worst) for rows in (sampled, known, real))
    everything = real.joined(known)
    scores: dict[str, Any] = {
        "rows": {"samples": len(sampled), "train": len(known), "held_out": len(real)},
        "w1": {who: _mean(d[known.is_number]) for who, (d, _) in found.items()},
        "tv": {who: _mean(d[~known.is_number]) for who, (d, _) in found.items()},
        "gaps": {who: _mean(gaps[tables.has_gaps(everything)]) for who, (_, gaps) in found.items()},
        "columns": by_column,
        "pairs": _pairs(sampled_wide, known_wide, real_wide),
    }
    n = min(MOST, max(FEWEST, effort // len(worst)))
    try:
        scores["two_samples"] = _two_samples(sampled_wide, real_wide, n, BLOCKS if effort > EFFORT else 2)
        scores["target"] = _target(sampled_wide, known_wide, real_wide, n, target)
    except ImportError:
        scores["left_out"] = INSTALL
    fits = tables.valid(sampled, everything)
    invalid = {name: float(1.0 - share) for name, share in zip(known.names, fits.mean(0), strict=True) if share < 1.0}
    scores["valid"] = {"samples": float(fits.all(1).mean()), "invalid": invalid}
    some = known_wide.some(TRAIN)
    closest = {
        who: float(np.median(tables.nearest(rows.some(NEAREST), some)))
        for who, rows in (("samples", sampled_wide), ("real", real_wide))
    }
    scores["nearest"] = {**closest, "ratio": closest["samples"] / closest["real"] if closest["real"] else math.nan}
    originals = tables.keys(known.values)
    scores["copies"] = {
        who: float(np.isin(tables.keys(rows.values), originals).mean())
        for who, rows in (("samples", sampled), ("real", real))
    }
    return scores


def _of_column(number: bool, found: dict[str, tuple[float, float]]) -> dict[str, Any]:
    distances = {who: float(distance) for who, (distance, _) in found.items()}
    if not number:
        return {"tv": distances}
    return {"w1": distances, "gaps": {who: float(gaps) for who, (_, gaps) in found.items()}}


def _mean(values: Array) -> float | None:
    """Mean of those that are known; None if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def worst_columns(sampled: Cells, known: Cells, real: Cells) -> list[int]:
    """Numbers of the columns, those first whose samples are farthest above the floor."""
    m, unit = min(len(sampled), len(known)), tables.deviations(known)
    found = [tables.columns(real, rows.some(m), unit)[0] for rows in (sampled, known)]
    return _order(found[0] - found[1])


def _order(excess: Array) -> list[int]:
    order: list[int] = np.argsort(-np.nan_to_num(excess, nan=np.inf), kind="stable").tolist()
    return order


def associations(sampled: Cells, known: Cells, real: Cells) -> dict[str, list[Array]]:
    """Associations in held-out rows, in blocks of as many samples and training rows, and without any dependence.

    They depend on the number of rows, so all have the same.  A number with gaps is followed by whether it is missing.
    """
    flagged = tables.has_gaps(known)
    n = min(map(len, (sampled, known, real)))

    def blocks(rows: Cells) -> list[Array]:
        shuffled = tables.with_gap_flags(rows.some(len(rows)), flagged)
        count = min(BLOCKS, len(rows) // n)
        return [tables.association(shuffled.rows(slice(i * n, (i + 1) * n))) for i in range(count)]

    alone = tables.with_gap_flags(known.shuffled(), flagged).some(n)
    return {
        "data": blocks(real)[:1],
        "samples": blocks(sampled),
        "real": blocks(known),
        "independent": [tables.association(alone)],
    }


def _pairs(sampled: Cells, known: Cells, real: Cells) -> dict[str, Any]:
    found = associations(sampled, known, real)
    names = tables.with_gap_flags(known.rows(slice(0)), tables.has_gaps(known)).names
    upper = np.triu_indices(len(names), 1)
    if not len(upper[0]):
        return {}
    (data,) = found.pop("data")
    values = {who: np.stack([block[upper] for block in blocks]) for who, blocks in found.items()}
    errors = {who: np.abs(of - data[upper]) for who, of in values.items()}
    scores: dict[str, Any] = {
        "mean": {who: float(of.mean()) for who, of in errors.items()},
        "largest": {who: float(of.max(1).mean()) for who, of in errors.items()},
    }
    worst = np.argsort(-errors["samples"].mean(0), kind="stable")[:PAIRS]
    scores["worst"] = [
        {
            "columns": [names[upper[0][i]], names[upper[1][i]]],
            "data": float(data[upper][i]),
            "samples": float(values["samples"][:, i].mean()),
            "error": {who: float(errors[who][:, i].mean()) for who in ("samples", "real")},
        }
        for i in worst
    ]
    return scores


def _two_samples(sampled: Cells, real: Cells, n: int, repeats: int) -> dict[str, Any]:
    """The two-sample test; of few rows the mean of several, each with samples and folds of its own."""
    n = min(n, len(sampled), len(real))
    if n < 2 * tables.FOLDS:
        return {}
    first, losses = tables.two_samples(real.some(n), sampled.some(n))
    more = range(1, repeats if n < tables.SMALL else 1)
    values = [first] + [
        tables.two_samples(real.some(n, i), sampled.some(n, i), importance=False, seed=i)[0] for i in more
    ]
    order = np.argsort(-losses, kind="stable")
    return {
        "samples": float(np.mean(values)),
        "real": 0.5,
        "stderr": tables.auc_error(n, n),
        "rows": n,
        "columns": {real.names[i]: float(losses[i]) for i in order if losses[i] > 0.0},
    }


def _target(sampled: Cells, known: Cells, real: Cells, n: int, target: str | None) -> dict[str, Any]:
    column = tables.default_target(known) if target is None else known.names.index(target)
    if column is None:
        return {}
    n, test = min(n, len(sampled), len(known)), real.some(MOST)
    metric, of_samples = tables.target(sampled.some(n), test, column)
    _, of_real = tables.target(known.some(n), test, column)
    return {"column": known.names[column], "metric": metric, "rows": n, "samples": of_samples, "real": of_real}


RARE = 0.01  # share of held-out rows that may be cheaper than a row that is named
OFTEN = 5  # smallest number of times that make a cheap row suspect: a pair may be chance
NATURAL = 0.05  # share of held-out rows with an equal training row, above which rows repeat by nature


def membership(train: Array, held_out: Array) -> float:
    """Probability that a held-out row costs more than a training row: 0.5 if prices do not tell them apart.

    Arguments:
        train: Prices of training rows, in nats.
        held_out: Prices of held-out rows.
    """
    return tables.auc(held_out, train)


def exposed(prices: Array, repeats: Array, common: Array, held_out: Array) -> tuple[Array, Array]:
    """Training rows that their price gives away, cheapest first.

    A row is named if it is twice as far below the median of held-out rows as their cheapest 1 %; or if it occurs
    :data:`OFTEN` times, 99 % of held-out rows cost more, and rows of the table do not repeat by nature.

    Arguments:
        prices: Prices (N,) of different training rows, in nats.
        repeats: How often each occurs among the training rows.
        common: Whether each also occurs among the held-out rows.
        held_out: Prices (M,) of different held-out rows.
    Returns:
        The numbers of these rows, and for all rows the share of other held-out rows that cost more: (N,).
    """
    m = len(held_out)
    dearer = (m - np.searchsorted(np.sort(held_out), prices, "right")) / np.maximum(1, m - common)
    low, middle = np.quantile(held_out, [RARE, 0.5])
    unique = (common.sum() - 1) / m <= NATURAL
    named = np.flatnonzero((prices < 2.0 * low - middle) | (unique & (repeats >= OFTEN) & (dearer >= 1.0 - RARE)))
    return named[np.argsort(prices[named], kind="stable")], dearer
