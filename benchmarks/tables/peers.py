"""``python -m benchmarks.tables.peers NAME TRAIN SAMPLES``: a peer learns the rows of a file and draws as many.

It is run in the environment of the peer.  No peer but the copula takes gaps of numbers, so they get the median there
and a column that says where the gaps were.  A number is rounded to the decimals of its column, unless it is exactly
one of the training rows.  CPU seconds are those of learning and drawing alone: imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ..data.common import cpu_time
from .data import Texts, read, written
from .score import are_numbers

GAP, FLAG = "<gap>", "gap of "


@attrs.frozen
class Task:
    """Task of a peer: as many rows like those of a table, within a budget of CPU seconds; and their cost."""

    table: Texts
    target: str
    seed: int
    budget: float
    cost: dict[str, float] = attrs.field(factory=dict)

    @property
    def rows(self) -> int:
        return len(self.table[self.target])


def independent(task: Task) -> Texts:
    """Each column drawn on its own."""
    generator, n = np.random.default_rng(task.seed), task.rows
    with cpu_time(task.cost, "sample"):
        return {name: [cells[i] for i in generator.integers(0, n, n)] for name, cells in task.table.items()}


def copula(task: Task) -> Texts:
    """The correlation of normal scores, and the quantiles of each column; a gap is the first of the quantiles.

    A name, and a gap, has an interval of quantiles as long as its share, in which its rows are spread.
    """
    from scipy.stats import norm

    generator, n = np.random.default_rng(task.seed), task.rows
    with cpu_time(task.cost, "train"):
        scores, orders = [], []
        for cells in task.table.values():
            keys = [float(c) if c else -np.inf for c in cells] if are_numbers(cells) else cells
            order = np.lexsort((generator.uniform(size=n), np.unique(keys, return_inverse=True)[1]))  # ties are spread
            ranks = np.empty(n)
            ranks[order] = np.arange(n)
            scores.append(norm.ppf((ranks + 0.5) / n))
            orders.append([cells[i] for i in order])
        correlation = np.corrcoef(scores)
    with cpu_time(task.cost, "sample"):
        drawn = generator.multivariate_normal(np.zeros(len(scores)), correlation, n, method="eigh")
        places = np.minimum((norm.cdf(drawn) * n).astype(int), n - 1)
        return {name: [orders[i][p] for p in places[:, i]] for i, name in enumerate(task.table)}


def whole(table: Texts) -> tuple[Any, list[str]]:
    """A data frame without gaps, and the columns that are names."""
    import pandas as pd  # type: ignore[import-untyped]

    frame, names = {}, []
    for name, cells in table.items():
        if are_numbers(cells):
            values = np.array([float(cell) if cell else np.nan for cell in cells])
            frame[name] = np.where(np.isnan(values), np.nanmedian(values), values)
            if np.isnan(values).any():
                frame[FLAG + name] = np.where(np.isnan(values), "yes", "no").astype(object)
                names.append(FLAG + name)
        else:
            frame[name] = np.array([cell or GAP for cell in cells], object)
            names.append(name)
    return pd.DataFrame(frame), names


def texts(frame: Any, table: Texts) -> Texts:
    """The cells of a data frame as the training rows spell them."""
    found = {}
    for name, cells in table.items():
        if are_numbers(cells):
            spelled = {float(cell): cell for cell in cells if cell}
            decimals = max(len(cell.partition(".")[2]) for cell in cells)
            values = [float(value) for value in frame[name]]
            found[name] = [spelled.get(value) or f"{value:.{decimals}f}" for value in values]
            if FLAG + name in frame:
                flags = frame[FLAG + name]
                found[name] = ["" if f == "yes" else cell for cell, f in zip(found[name], flags, strict=True)]
        else:
            found[name] = ["" if cell == GAP else str(cell) for cell in frame[name]]
    return found


def synthyverse(kind: str, module: str, **options: Any) -> Callable[[Task], Texts]:
    """A generator of synthyverse; an option with the value ``target`` or ``seconds`` gets that of the task."""

    def peer(task: Task) -> Texts:
        from importlib import import_module

        given = {"target": task.target, "seconds": 0.8 * task.budget}
        chosen = {key: given.get(value, value) if isinstance(value, str) else value for key, value in options.items()}
        model = getattr(import_module(f"synthyverse.generators.{module}"), kind)(random_state=task.seed, **chosen)
        frame, names = whole(task.table)
        with cpu_time(task.cost, "train"):
            model.fit(frame, names)
        with cpu_time(task.cost, "sample"):
            drawn = model.generate(task.rows, random_state=task.seed)
        return texts(drawn, task.table)

    return peer


def arf(task: Task) -> Texts:
    """Adversarial random forests."""
    from arfpy.arf import arf as Arf  # type: ignore[import-not-found]

    frame, _ = whole(task.table)
    np.random.seed(task.seed)
    with cpu_time(task.cost, "train"):
        model = Arf(frame, verbose=False, random_state=task.seed, n_jobs=1)
        model.forde()
    with cpu_time(task.cost, "sample"):
        drawn = model.forge(task.rows)
    return texts(drawn, task.table)


def ctgan(kind: str) -> Callable[[Task], Texts]:
    """CTGAN or TVAE, with their number of epochs, or with those that the budget affords."""

    def peer(task: Task) -> Texts:
        import ctgan as package  # type: ignore[import-not-found]
        import torch

        frame, names = whole(task.table)
        pace: dict[str, float] = {}
        for epochs in (1, 2, 22):  # the first also loads code
            with cpu_time(pace, str(epochs)):
                getattr(package, kind)(epochs=epochs, cuda=False).fit(frame, names)
        afforded = 20 * (0.9 * task.budget - pace["2"]) / (pace["22"] - pace["2"])
        torch.manual_seed(task.seed)
        np.random.seed(task.seed)
        with cpu_time(task.cost, "train"):
            model = getattr(package, kind)(epochs=max(1, min(EPOCHS, round(afforded))), cuda=False)
            model.fit(frame, names)
        with cpu_time(task.cost, "sample"):
            drawn = model.sample(task.rows)
        return texts(drawn, task.table)

    return peer


EPOCHS = 300  # the default of CTGAN and TVAE
CPU = {"cap_train_time": "seconds", "epochs": 100_000}
SYNTHYVERSE = (
    "synthyverse==0.2.7",
    "pandas==3.1.1",
    "imbalanced-learn==0.14.2",
    "sklearn-compat==0.1.6",
    "torch-ema==0.3",
    "einops==0.8.2",
    "seaborn==0.13.2",
    "xgboost-cpu==3.2.0",
    "numba==0.68.1",
    "llvmlite==0.50.0",
)
ENVIRONMENTS = {
    "synthyverse": SYNTHYVERSE,
    "ctgan": ("ctgan==0.12.1", "rdt==1.20.0", "Faker==40.63.0", "pandas==2.3.3", "pytz==2026.6"),
    "arfpy": ("arfpy==0.1.1", "numpy==1.26.4", "pandas==2.3.3", "pytz==2026.6"),
}


@attrs.frozen
class Peer:
    """A generator of tables: what draws, in which environment (here if None), and its name in words."""

    draw: Callable[[Task], Texts]
    environment: str | None
    words: str


PEERS = {
    "independent": Peer(independent, None, "independent columns"),
    "copula": Peer(copula, None, "Gaussian copula"),
    "cart": Peer(
        synthyverse("SynthpopGenerator", "synthpop_generator.synthpop", subsample=1.0, honest_trees=False, n_jobs=1),
        "synthyverse",
        "sequential CART (synthpop)",
    ),
    "synthpop": Peer(
        synthyverse("SynthpopGenerator", "synthpop_generator.synthpop", n_jobs=1),
        "synthyverse",
        "synthpop, honest trees",
    ),
    "smote": Peer(
        synthyverse("SMOTEGenerator", "smote_generator", target_column="target", n_jobs=1), "synthyverse", "SMOTE"
    ),
    "arf": Peer(arf, "arfpy", "adversarial random forests"),
    "tvae": Peer(ctgan("TVAE"), "ctgan", "TVAE"),
    "ctgan": Peer(ctgan("CTGAN"), "ctgan", "CTGAN"),
    "tabddpm": Peer(synthyverse("TabDDPMGenerator", "tabddpm_generator", **CPU), "synthyverse", "TabDDPM"),
    "tabsyn": Peer(
        synthyverse("TabSynGenerator", "tabsyn_generator", cap_train_time="seconds"), "synthyverse", "TabSyn"
    ),
}


def main() -> None:
    import warnings

    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables.peers", description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("train", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60.0)
    options = parser.parse_args()
    time.time = time.perf_counter = time.process_time  # type: ignore[assignment]  # a budget is CPU time
    task = Task(read(options.train), options.target, options.seed, options.budget)
    written(options.samples, PEERS[options.peer].draw(task))
    print(json.dumps(task.cost))


if __name__ == "__main__":
    main()
