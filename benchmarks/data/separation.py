"""Which head, sigma_1, weighting and time distribution: one factor apart from the other, at equal budget."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from bfn_toolkit import (
    BFN,
    ODE2,
    SDE2,
    ContinuousTimeLoss,
    ImportanceTimes,
    LogNormalTimes,
    TimeDistribution,
    UniformTimes,
)
from bfn_toolkit.storage.files import to_json

from . import images
from .common import Result, Run, cpu_time, kept, remembered

QUARTER = 0.5 / images.BINS  # of a bin: sigma_1 for prices
STEPS, WIDTH, SAMPLES = 600, 16, 300
RECIPE = {"lr": 4e-3, "ema_decay": 0.98}
TIMES: Mapping[str, TimeDistribution] = {
    "uniform": UniformTimes(),
    "importance": ImportanceTimes(),
    "log-normal": LogNormalTimes(),
}
HEADS = ("skip", "noise", "data", "discretised")
# Uniform times: all heads, both resolutions, both weightings ("data" with one).  Then other times, and another point.
FIRST = [(h, s, w, "uniform") for w in ("unit", "paper") for s in (0.03, QUARTER) for h in HEADS]
FIRST = [cell for cell in FIRST if cell[0] != "data" or cell[2] == "unit"]
SECOND = [
    ("discretised skip", QUARTER, "paper", "uniform"),
    ("skip", 0.03, "unit", "log-normal"),
    ("discretised", QUARTER, "paper", "importance"),
    ("noise", 0.03, "unit", "log-normal"),
]
Cell = tuple[str, float, str, str]


def trained_cell(cell: Cell, *, steps: int = STEPS, width: int = WIDTH, seed: int = 0) -> tuple[BFN, Result]:
    """The model of a cell, and the cost of its training; it is kept in the cache."""
    name, sigma_1, weighting, times = cell
    loss = ContinuousTimeLoss(weighting=weighting, times=TIMES[times])  # type: ignore[arg-type]
    experiment = images.experiment(
        "bins", head_name=name, sigma_1=sigma_1, loss=loss, steps=steps, width=width, seed=seed, **RECIPE
    )
    key = f"separation/{name} {sigma_1:.4f} {weighting} {times} {steps} {width} {seed}".replace(" ", "-")
    return kept(key, lambda: experiment)


def measured(cell: Cell, **options: Any) -> Result:
    """Scores of a cell."""
    model, cost = trained_cell(cell, **options)
    keys = dict(zip(("head", "sigma_1", "weighting", "times"), cell, strict=True))
    result = {**keys, **options, "cost": cost, "price": images.price(model, "bins")}
    with cpu_time(cost, "scoring"):
        for sampler in (SDE2(), ODE2()):
            x = images.samples(model, SAMPLES, 20, sampler)
            result[type(sampler).__name__] = images.scores(x, images.asked(SAMPLES), "bins")
    print(to_json(result, indent=None), file=sys.stderr, flush=True)
    return result


def separate(quick: bool) -> Result:
    """All cells."""
    options = {"steps": 20} if quick else {}
    cells = FIRST[:2] if quick else [*FIRST, *SECOND]
    rows = [
        remembered(f"separation/{json.dumps([cell, options])}", partial(measured, cell, **options)) for cell in cells
    ]
    return {"steps": STEPS, "width": WIDTH, "samples": SAMPLES, "floor": images.floor(SAMPLES, "bins"), "rows": rows}


RUNS = {"images-separation": Run(separate, 32)}


def section(results: Mapping[str, Result]) -> str:
    """The table of all cells."""
    result = results.get("images-separation")
    if result is None:
        return ""
    floor, rows = result["floor"], sorted(result["rows"], key=lambda row: row["SDE2"]["distance"])
    lines = [
        "## Images: which head, resolution, weighting and times",
        "",
        f"Grey Fashion-MNIST, a U-Net of width {result['width']}, {result['steps']} steps of 32 (some 45 s), one seed.",
        "The distance is that of Frechet between features of a classifier, of",
        f"{result['samples']} samples and 5,000 held-out images; as many others are at {floor['distance']:.1f}.",
        "The accuracy is the share of samples that show the label asked for",
        f"({floor['accuracy']:.2f} of the held-out images). Samples are of 20 evaluations. The price is the bound of",
        "256 bins, given the label; a point head pays at the end for a normal distribution of deviation sigma_1.",
        "With one draw for each image its standard error is 0.03 at sigma_1 = 0.03, and 0.06 at a quarter of a bin.",
        "",
        "| head | sigma_1 | weighting | times | distance, `sde-2` | `ode-2` | accuracy, `sde-2` | `ode-2` | bits/dim |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sde, ode, bits = row["SDE2"], row["ODE2"], row["price"]["bits"]
        name = f"{row['head']} | {'0.03' if row['sigma_1'] == 0.03 else 'quarter of a bin'} | {row['weighting']}"
        price = f"{bits:.2f}" if bits < 100 else "above 100"
        lines.append(
            f"| {name} | {row['times']} | {sde['distance']:.0f} | {ode['distance']:.0f} | {sde['accuracy']:.2f} "
            f"| {ode['accuracy']:.2f} | {price} |"
        )
    return "\n".join(lines)
