"""Quality of the samples of a run by the number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.rows import spread
from bfn_toolkit.data.typed_columns import TypedTable
from bfn_toolkit.evaluation import tables
from bfn_toolkit.evaluation.distances import one_distance
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.tables import Sides
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan
from bfn_toolkit.shapes import Data, batch_size, map_data

LADDER = (5, 10, 20, 50, 100)  # numbers of steps, beside that of the plan
MOST, ENOUGH, FEWEST = 1_000, 256, 64  # samples of each number of steps: at most, if there is time, and at least
COMPARED = 5_000  # largest number of rows of the data that they are compared with
COLUMNS = 24  # largest number of columns of a table whose pairs are compared
SCORES = {  # words for the names of the scores
    "w1": "W1",
    "sliced_w1": "sliced W1",
    "w1_lengths": "W1 of the distances in a set",
    "tv_site": "total variation",
    "tv_pair": "total variation of neighbours",
    "mean": "mean distance of the parts",
    "pairs": "error of the associations",
    "column": "mean distance of the columns",
}


def by_steps(plan: ResolvedPlan, samples: Data, seconds: float = math.inf, pace: float = 0.0) -> dict[str, list[Any]]:
    """Scores of the first samples of a plan, drawn in several numbers of steps from the same noise.

    Arguments:
        plan: The plan.
        samples: Its first samples.
        seconds: Time for the draws.
        pace: Seconds for a sample of the plan.
    Returns:
        ``by_steps``, for each number of ``steps`` the ``sampler``, its ``evaluations`` of the network, the number ``n``
        of samples, the ``name`` of the score, the ``score``, and its ``floor``, that of real rows in the place of the
        samples; and ``by_steps_left_out``, the numbers of steps for which there was no time.
    """
    if batch_size(samples) < FEWEST:
        return {"by_steps": [], "by_steps_left_out": numbers_of_steps(plan)}
    plans = [plan if steps == plan.plan.steps else plan.with_steps(steps) for steps in numbers_of_steps(plan)]
    per_step = pace / plan.draws.sampler.nfe(plan.plan.steps)
    costs = [0.0 if other is plan else per_step * other.draws.sampler.nfe(other.plan.steps) for other in plans]
    n, kept = affordable(costs, min(MOST, batch_size(samples)), seconds)
    name, score, floor = _table_score(plan, n) if plan.run.codec.is_table else _score(plan, n)
    found = []
    for other in (plans[i] for i in kept):
        drawn = map_data(lambda part: part[:n], samples) if other is plan else other.draw(range(n))
        found.append(
            {
                "steps": other.plan.steps,
                "sampler": other.sampler,
                "evaluations": other.draws.sampler.nfe(other.plan.steps),
                "n": n,
                "name": name,
                "score": score(drawn),
                "floor": floor,
            }
        )
    left_out = [other.plan.steps for i, other in enumerate(plans) if i not in kept]
    return {"by_steps": found, **({"by_steps_left_out": left_out} if left_out else {})}


def numbers_of_steps(plan: ResolvedPlan) -> list[int]:
    """Numbers of steps to compare: one if the family has a fixed one; at most that of the sites drawn one by one."""
    family, own = plan.run.model.family, plan.plan.steps
    if family.n_steps is not None:
        return [own]
    if family.one_by_one:
        sites = math.prod(family.network_io.site_shape)
        return sorted({own, *(-(-sites // block) for block in (1, 2, 4, sites))})
    return sorted({own, *LADDER})


def affordable(costs: list[float], most: int, seconds: float) -> tuple[int, list[int]]:
    """Number of samples of each, and the numbers of steps that are kept: as many as 256 samples of each allow.

    Arguments:
        costs: Seconds for a sample, by the number of steps in increasing order; 0 if they are there.
        most: Largest number of samples.
        seconds: Time.
    """
    n = min(most, ENOUGH)
    kept, total = [], 0.0
    for i, cost in enumerate(costs):
        if not cost or (total + cost) * n <= seconds:
            kept.append(i)
            total += cost
    if total == 0.0 and any(costs):  # not even the fewest steps: with fewer samples
        i = next(i for i, cost in enumerate(costs) if cost)
        if (fewer := int(seconds / costs[i])) >= min(n, FEWEST):
            return min(n, fewer), sorted([*kept, i])
    more = int(seconds / total) if total and seconds < math.inf else most
    return max(n, min(most, more)), kept


def _score(plan: ResolvedPlan, n: int) -> tuple[str, Callable[[Data], float], float]:
    """Name of the score, the function of n samples, and its floor: the score of as many test rows, or all."""
    run, mask = plan.run, plan.mask(range(n))
    data = _some(run, "all", COMPARED)
    name, floor = one_distance(run.model.family, _some(run, "test", n), data)

    def score(samples: Data) -> float:
        return one_distance(run.model.family, Batch(samples, mask=mask).to(torch.device("cpu")), data)[1]

    return name, score, floor


def _some(run: Run, split: Any, most: int) -> Batch:
    rows = run.rows(split)
    with seeded(0, "rows"):
        return rows[spread(len(rows), most)].to(torch.device("cpu"))


def _table_score(plan: ResolvedPlan, n: int) -> tuple[str, Callable[[Data], float], float]:
    """The same of a table: the error of the associations of its columns, against held-out rows."""
    codec = plan.run.codec
    sides = Sides.of(plan, plan.draw(range(1)))
    names = list(sides.train)[:COLUMNS]
    size = min(n, *map(len, tables.cells(sides.train, sides.held_out)))  # associations depend on it

    def score_of(rows: TypedTable) -> float:
        sets = tables.cells(*({name: side[name] for name in names} for side in (rows, sides.held_out)))
        drawn, real = (side.some(size) for side in sets)
        if len(names) == 1:
            return float(tables.columns(real, drawn, tables.deviations(real))[0].mean())
        off = np.abs(tables.association(drawn) - tables.association(real))
        return float(off[np.triu_indices(len(names), 1)].mean())

    def score(samples: Data) -> float:
        return score_of(codec.typed(plan.raw(samples, range(n))))

    return ("column" if len(names) == 1 else "pairs"), score, score_of(sides.train)
