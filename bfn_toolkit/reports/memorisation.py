"""Memorisation check of a run: samples and held-out rows beside the training rows, and the prices of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bfn_toolkit.data.dataset import Batch, Split
from bfn_toolkit.data.parts_codec import texts_of
from bfn_toolkit.data.rows import spread
from bfn_toolkit.evaluation import tables
from bfn_toolkit.evaluation.likelihood import ROW_DRAWS, row_bounds
from bfn_toolkit.evaluation.memorisation import (
    Neighbours,
    distance_scores,
    longest_matches,
    nearest_rows,
    neighbours,
    train_share,
)
from bfn_toolkit.evaluation.table_quality import WIDE, membership, worst_columns
from bfn_toolkit.masks import mask_by_part, mask_of, present
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.tables import HELD_OUT, Sides
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan
from bfn_toolkit.sampling.chunks import concatenated
from bfn_toolkit.shapes import Data, batch_size, leaves

MOST_ROWS, MOST_SAMPLES = 50_000, 2_000  # rows among which the nearest is sought, and samples that seek it
LEAST_ROWS, LEAST_SECONDS = 500, 0.3  # of either side, and of this check, if there is hardly any time
FEWEST = 2  # held-out rows without which there is nothing to compare with
PRODUCTS, OVERHEAD = 2**31, 32  # products of numbers in a second, roughly, and what a distance costs besides
CELLS = 2**26  # differences of cells of a table in a second
LETTERS, ENDS = 2**19, 2**28  # characters of training texts that are searched in a second, and of their ends in memory
QUERIED = 2**15  # characters of samples that are sought, and as many of held-out rows
FIRST, MOST_PRICED = 32, 512  # rows of each side that are priced at first, and at most
LONG = 60.0  # seconds without a budget


def memorisation(plan: ResolvedPlan, samples: Data, seconds: float = LONG) -> dict[str, Any]:
    """Distances of samples and of held-out rows to the training rows.

    Arguments:
        plan: Plan of the samples.
        samples: The first samples of the plan.
        seconds: Time, roughly; if it is short there are fewer rows, and the scores state how many.
    Returns:
        The scores of :func:`~bfn_toolkit.evaluation.memorisation.distance_scores`, and where every row has a distance
        to every other those of :func:`~bfn_toolkit.evaluation.memorisation.train_share`; ``measure`` says in words what
        a distance is.  Empty if too few rows are held out.
    """
    run = plan.run
    if sum(len(run.rows(name)) for name in HELD_OUT) < FEWEST:
        return {}
    seconds, device = max(seconds, LEAST_SECONDS), next(run.model.parameters()).device
    if run.codec.is_table:
        return _of_table(plan, samples, seconds)
    drawn = Batch(samples, mask=plan.mask(range(batch_size(samples)))).to(device).part(0, MOST_SAMPLES)
    return (_of_texts if _is_text(run, drawn) else _of_rows)(run, drawn, seconds)


def _rows(run: Run, splits: tuple[Split, ...], most: int) -> Batch:
    """Rows of splits, one after another, on the device of the model: at most so many, at equal distances."""
    device, found = next(run.model.parameters()).device, []
    total = sum(len(run.rows(name)) for name in splits)
    for name in splits:
        rows = run.rows(name, device)
        if len(rows):
            with seeded(0, "rows", name):
                found.append(rows[spread(len(rows), -(-most * len(rows) // total))])
    return Batch(
        concatenated([rows.x for rows in found]),
        {name: torch.cat([rows.condition[name] for rows in found]) for name in found[0].condition},
        None if found[0].mask is None else concatenated([mask_of(rows.x, rows.mask) for rows in found]),
    )


def _scores(run: Run, found: Neighbours, measure: str) -> dict[str, Any]:
    return {
        "measure": measure,
        "rows": _sizes(run, len(found.samples), found.train, len(found.votes) - found.train),
        **distance_scores(found.samples, found.held_out),
        **train_share(found.votes, found.train),
    }


def _sizes(run: Run, samples: int, train: int, held_out: int) -> dict[str, int]:
    return {"samples": samples, "train": train, "train_of": len(run.rows("train")), "held_out": held_out}


def _of_rows(run: Run, samples: Batch, seconds: float) -> dict[str, Any]:
    family, few = run.model.family, min(len(samples), 1000)
    numbers = sum(leaf[0].numel() for leaf in leaves(samples.x))
    most = min(MOST_ROWS, max(LEAST_ROWS, int(seconds * PRODUCTS) // (2 * few * (numbers + OVERHEAD))))
    train, held_out = _rows(run, ("train",), most), _rows(run, HELD_OUT, most)
    found = nearest_rows(family, samples.part(0, few if seconds < LONG else len(samples)), train, held_out, most=few)
    kinds = {part.family.is_discrete for part in family.walk()}
    if family.has_parts:
        measure = "root mean square, in units of that of two random rows"
    elif kinds == {True}:
        measure = "share of the sites that differ"
    else:
        measure = "root mean square of the differences"
    return _scores(run, found, measure)


def _of_table(plan: ResolvedPlan, samples: Data, seconds: float) -> dict[str, Any]:
    sides = tables.cells(*Sides.of(plan, samples).typed)
    chosen = sorted(worst_columns(*sides)[:WIDE])
    sampled, known, real = (rows.columns(chosen) for rows in sides)
    few = min(len(sampled), 1000)
    most = min(MOST_ROWS, max(LEAST_ROWS, int(seconds * CELLS) // (2 * few * len(chosen))))
    sampled, known, real = sampled.some(few), known.some(most), real.some(most)
    everything = known.joined(real)

    def distances(rows: tables.Cells, n: int) -> Any:
        return (torch.from_numpy(row[None, :n]) for row in tables.gower(rows, everything))

    own = real.some(few)
    found = neighbours(distances(sampled, len(everything)), distances(own, len(known)), len(known))
    return _scores(plan.run, found, "mean over the columns of the difference of ranks, or of 1 for different names")


def _is_text(run: Run, samples: Batch) -> bool:
    first = samples.part(0, 1)
    if run.model.family.has_parts:
        return False
    return bool(texts_of(present(first.x, first.mask), mask_by_part(first.x, first.mask), run.codec))


def _of_texts(run: Run, samples: Batch, seconds: float) -> dict[str, Any]:
    """Longest runs that stand in training texts, word for word; distances are 1 - run / length of the text."""
    length = leaves(samples.x)[0].shape[1]
    few = min(MOST_SAMPLES, max(FEWEST, QUERIED // length)) if seconds < LONG else MOST_SAMPLES
    letters = min(int(seconds * LETTERS), ENDS // length)
    train = _rows(run, ("train",), max(LEAST_ROWS, letters // length))
    sides = {"samples": samples.part(0, few), "real": _rows(run, HELD_OUT, few)}
    longest, distance = {}, {}
    theirs = mask_of(train.x, train.mask)
    for who, rows in sides.items():
        ours = mask_of(rows.x, rows.mask)
        longest[who] = longest_matches(rows.x, train.x, ours, theirs).double()
        distance[who] = 1.0 - longest[who] / ours.sum(1).clamp_min(1)
    return {
        "measure": "share of the text outside its longest run that stands in a training text",
        "rows": _sizes(run, len(sides["samples"]), len(train), len(sides["real"])),
        "longest": {who: float(runs.median()) for who, runs in longest.items()},
        **distance_scores(distance["samples"], distance["real"]),
    }


def priced_membership(
    run: Run, seconds: float = LONG, *, draws: int = ROW_DRAWS, elapsed: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Bounds of the price of training rows beside those of held-out rows: a gap shows that the model knows its rows.

    Arguments:
        run: The run.
        seconds: Time; 32 rows of each side are priced even if it takes longer.
        draws: Number of draws per row; fewer hide a small gap.
        elapsed: Seconds since any moment, the same in all processes.
    Returns:
        ``auc``, the probability that a held-out row costs more than a training row, and its ``stderr`` if there is no
        difference; the numbers of ``rows`` and of ``draws``, and the medians in ``nats``.
    """
    sides = {"train": _shuffled(run, ("train",)), "held_out": _shuffled(run, HELD_OUT)}
    nats: dict[str, list[torch.Tensor]] = {who: [] for who in sides}
    began, done, n = elapsed(), 0, FIRST
    while n > 0:
        for who, rows in sides.items():
            some = rows.part(done, done + n)
            if len(some):
                found = row_bounds(
                    run.model, some, n_steps=run.model.family.n_steps, draws=draws, seed=done, deal=deal_chunks
                )
                nats[who].append(found[0].cpu())
        done += n
        spent = elapsed() - began
        more = int((seconds - spent) / max(spent, 1e-9) * done) // FIRST * FIRST
        n = min(more, done, MOST_PRICED - done, max(map(len, sides.values())) - done)
    prices = {who: torch.cat(found).numpy() for who, found in nats.items()}
    return {
        "auc": membership(prices["train"], prices["held_out"]),
        "stderr": tables.auc_error(*map(len, prices.values())),
        "rows": {who: len(found) for who, found in prices.items()},
        "draws": draws,
        "nats": {who: float(np.median(found)) for who, found in prices.items()},
    }


def _shuffled(run: Run, splits: tuple[Split, ...]) -> Batch:
    """Some rows in random order."""
    rows = _rows(run, splits, MOST_PRICED)
    with seeded(0, "membership", *splits):
        return rows[torch.randperm(len(rows))]
