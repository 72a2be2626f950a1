"""Quality of the samples of a run whose data are a table, and what the model's prices tell about training rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Split
from bfn_toolkit.data.rows import spread
from bfn_toolkit.data.typed_columns import Array, TypedTable, typed_joined
from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.evaluation import tables
from bfn_toolkit.evaluation.raw_prices import raw_prices
from bfn_toolkit.evaluation.table_quality import EFFORT, exposed, membership, table_quality
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan
from bfn_toolkit.shapes import Data, batch_size

HELD_OUT: tuple[Split, ...] = ("valid", "test")
SOME, EVERY = 2**18, 2**22  # largest number of cells of a split that are compared, in a report and without a budget
PIECE = 10_000  # rows that are read together
EVALUATE = 2**18  # cells that classifiers see without a budget of time
PRICED = 2**14  # cells that are priced within a report, and without a budget 32 times as many
ENOUGH = 100  # rows without which a wide table is not priced
FEWEST = 30  # held-out rows without which the distance to the closest training row is chance
NAMED = 10  # largest number of rows that are named
BINS = 200  # more than the default of any table


NO_PRICES = {"auc": 0.5, "stderr": 0.0}


@attrs.frozen(eq=False)
class Sides:
    """Samples of a table and real rows, as typed columns.

    Arguments:
        plan: Plan of the samples.
        samples: The samples.
        train: Training rows; some of them, if there are many.
        held_out: Rows outside the training, likewise.
        keys: Keys of the samples (:func:`~bfn_toolkit.evaluation.tables.keys`).
    """

    plan: ResolvedPlan
    samples: TypedTable
    train: TypedTable
    held_out: TypedTable
    keys: Array

    @classmethod
    def of(cls, plan: ResolvedPlan, samples: Data, cells: int = SOME) -> Sides:
        """The first samples of a plan beside rows of its run.

        Arguments:
            plan: The plan.
            samples: The samples.
            cells: Largest number of cells of the rows of a split.
        Raises:
            ConfigError: If the data are not a table.
        """
        codec = plan.run.codec
        raw = plan.raw(samples, range(batch_size(samples)))
        drawn, x = codec.typed(raw), codec.encode(raw)  # equal cells have equal places again

        def rows(name: Split) -> TypedTable:
            index = spread(len(plan.run.rows(name)), cells // max(1, len(drawn)))
            return typed_joined([codec.typed(codec.decode(x)) for x in _pieces(plan.run, name, index)])

        return cls(plan, drawn, rows("train"), typed_joined([rows(name) for name in HELD_OUT]), tables.keys(x.numpy()))

    @property
    def typed(self) -> tuple[TypedTable, TypedTable, TypedTable]:
        """Samples, training rows and held-out rows."""
        return self.samples, self.train, self.held_out


def _pieces(run: Run, name: Split, index: Tensor) -> Iterator[Tensor]:
    """Data of rows of a split, some at a time."""
    rows = run.rows(name)
    for piece in torch.split(index, PIECE):
        x = rows[piece].x
        assert isinstance(x, Tensor)
        yield x


def check_target(run: Run, target: str | None) -> None:
    """Checks the name of the column that a target score predicts.

    Raises:
        ConfigError: If the run has no such column, or its data are not a table.
    """
    if target is None or target in run.codec.names:
        return
    if not run.codec.is_table:
        raise ConfigError(f"--target {target} goes with a table; leave it out")
    known, hint = ", ".join(run.codec.names), did_you_mean(target, run.codec.names)
    raise ConfigError(f"--target: no column is named '{target}'; the columns are {known}.{hint}")


def table_scores(sides: Sides, *, thorough: bool = False, target: str | None = None) -> dict[str, Any]:
    """The quality of the samples, what prices give away, and settings that would change what looks wrong.

    Arguments:
        sides: Samples and real rows.
        thorough: Whether to take more than the time of a report.
        target: Column of the target score.
    """
    run = sides.plan.run
    scores = table_quality(*sides.typed, target=target, effort=EVALUATE if thorough else EFFORT)
    originals, others = _keys(run, ("train",)), _keys(run, HELD_OUT)
    compared = {"samples": sides.keys, "real": others}
    scores["copies"] = {who: float(np.isin(keys, originals).mean()) for who, keys in compared.items()}
    scores["membership"] = _membership(run, originals, others, PRICED * 32 if thorough else PRICED)
    options = {key: value for key, _, value in run.experiment.options()}
    return {**scores, "advice": advice(scores, options, run.metrics)}


def _keys(run: Run, splits: Sequence[Split]) -> Array:
    """Keys of all rows of splits, one after another (:func:`~bfn_toolkit.evaluation.tables.keys`)."""
    every = [torch.arange(len(run.rows(name))) for name in splits]
    found = [
        tables.keys(x.numpy()) for name, index in zip(splits, every, strict=True) for x in _pieces(run, name, index)
    ]
    return np.concatenate(found)


def _membership(run: Run, keys: Array, others: Array, cells: int) -> dict[str, Any]:
    """Prices of training rows beside those of held-out rows, and the training rows that their prices give away.

    Some training rows at random are priced, and those that are repeated most often.  Nothing if the table is too wide.

    Arguments:
        run: The run.
        keys: Keys of the training rows.
        others: Keys of the held-out rows.
        cells: Number of cells to price.
    """
    most = cells // len(run.codec.names)
    if most < ENOUGH:
        return {}
    _, first, repeats = np.unique(keys, return_index=True, return_counts=True)
    some = np.random.default_rng(0).permutation(len(keys))[:most]
    often = first[np.argsort(-repeats, kind="stable")[: min(most, int((repeats > 1).sum()))]]
    outside = spread(len(others), most).numpy()
    priced = np.union1d(some, often)
    nats = np.full(len(keys), np.nan)
    nats[priced] = _prices(run, ("train",), priced)
    held_out = _prices(run, HELD_OUT, outside)
    first, repeats = (values[~np.isnan(nats[first])] for values in (first, repeats))
    _, different = np.unique(others[outside], return_index=True)
    common = np.isin(keys[first], others[outside])
    named, dearer = exposed(nats[first], repeats, common, held_out[different])
    few = named[:NAMED]
    return {
        "auc": membership(nats[some], held_out),
        "stderr": tables.auc_error(len(some), len(held_out)),
        "rows": {"train": len(some), "held_out": len(held_out), "repeated": len(often)},
        "nats": {"train": float(np.median(nats[some])), "held_out": float(np.median(held_out))},
        "exposed": len(named),
        "named": [
            {"row": place, "repeats": int(repeats[i]), "nats": float(nats[first[i]]), "cheaper_than": float(dearer[i])}
            for place, i in zip(run.experiment.dataset.places("train", torch.from_numpy(first[few])), few, strict=True)
        ],
    }


def _prices(run: Run, splits: Sequence[Split], rows: Array) -> Array:
    """Prices in nats, float64 (n,), of some rows, increasing numbers among those of the splits one after another."""
    found, start = [], 0
    for name in splits:
        n = len(run.rows(name))
        own = torch.from_numpy(rows[(rows >= start) & (rows < start + n)] - start)
        start += n
        found += [
            raw_prices(run.model, run.codec.decode(x), orders=1, deal=deal_chunks) for x in _pieces(run, name, own)
        ]
    return torch.cat([prices.total for prices in found]).numpy()


def advice(
    scores: Mapping[str, Any], options: Mapping[str, Any], metrics: Sequence[Mapping[str, float]] = ()
) -> list[str]:
    """Settings that would change what looks wrong in the scores of a table, each with its reason.

    Arguments:
        scores: The scores of :func:`table_scores`.
        options: Values of the options of the experiment.
        metrics: Metrics of the training, of which the step with the lowest validation loss counts.
    """
    found, steps = [], int(options.get("training.steps", 0))
    ends_at_best = options.get("training.final") == "best"  # then more steps, or fewer, change nothing
    private, copies, held_out = scores["membership"] or NO_PRICES, scores["copies"], scores["rows"]["held_out"]
    auc, ratio = private["auc"], scores["nearest"]["ratio"]
    reasons = [
        (f"training rows are cheaper than held-out rows (AUC {auc:.2f})", auc > 0.55 + 2.0 * private["stderr"]),
        (
            f"samples copy training rows ({copies['samples']:.1%}, of held-out rows {copies['real']:.1%})",
            copies["samples"] > copies["real"] + 0.01 + 2.0 / held_out,
        ),
        (
            f"samples lie close to training rows ({ratio:.2f} of the distance of held-out rows)",
            ratio < 0.9 and held_out >= FEWEST,
        ),
    ]
    if leaks := [reason for reason, holds in reasons if holds]:
        ways = _raised(options, "network.dropout", most=0.5)
        if not ends_at_best:
            valid = {int(line["step"]): line["valid_loss"] for line in metrics if line.get("valid_loss") is not None}
            best = min(valid, key=lambda step: valid[step], default=steps)
            ways.insert(0, f"--training.steps {best if best < steps else steps // 2}")
        found += [f"{', '.join(leaks)}: {' or '.join(ways)}"] if ways else []
    far = {name: column["w1"] for name, column in scores["columns"].items() if "w1" in column}
    far = {name: w1 for name, w1 in far.items() if _above(w1, 1.5, 0.02)}
    if far and (ways := _raised(options, "dataset.bins")):
        worst = max(far.values(), key=lambda w1: float(w1["samples"]))
        by = f"up to {worst['samples']:.2f} sd, training rows {worst['real']:.2f}"
        found.append(f"numbers of {_few(list(far))} are far from the data ({by}): {ways[0]}")
    pairs, test = scores["pairs"].get("mean"), scores.get("two_samples") or {"samples": 0.5, "stderr": 0.0}
    is_off = pairs is not None and _above(pairs, 1.3, 0.01)
    if (is_off or test["samples"] > 0.6 + 2.0 * test["stderr"]) and not leaks:
        ways = [] if ends_at_best else [f"--training.steps {2 * steps}"]
        ways += _raised(options, "network.width")
        by = f"a classifier tells them from real rows with an AUC of {test['samples']:.2f}"
        if pairs is not None and is_off:
            by = f"associations off by {pairs['samples']:.3f}, in training rows {pairs['real']:.3f}"
        found += [f"columns do not go together as in the data ({by}): {' or '.join(ways)}"] if ways else []
    return found


def _above(scores: Mapping[str, float], factor: float, more: float) -> bool:
    return scores["samples"] > factor * scores["real"] + more


def _raised(options: Mapping[str, Any], option: str, most: float = math.inf) -> list[str]:
    """The option with twice its value, or with a small value if it is 0; nothing if there is no room, or no option."""
    value = options.get(option)
    if option not in options or (value is not None and value >= most):
        return []
    return [f"--{option} {min(most, 2 * value or 0.1):g}" if value is not None else f"--{option} {BINS}"]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
