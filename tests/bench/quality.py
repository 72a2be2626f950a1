"""``python -m tests.bench.quality``: how good samples are by the evaluations of the network, for each sampler and grid.

The rows of the oracle have no network in them, so that what they lack is the sampler's own error; the row of fresh
data is what finite samples cannot get below.  ``--write PAGE`` puts tables and verdicts between the marks "begin
quality" and "end quality" of a page, and the figure beside it.  What was measured is kept, with the trained networks,
until the folder for temporary files is cleared; ``--again`` measures anew with the networks that are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_gaussian_mixture import GaussianMixture
from bfn_toolkit import (
    ODE1,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    EulerMaruyama,
    FlowModel,
    FlowSampler,
    KarrasGrid,
    LogSnrGrid,
    ODEMidpoint,
    Sampler,
    Solver,
    TimeGrid,
    UniformGrid,
    seeded,
    w1,
)
from bfn_toolkit.solvers import default_sampler

from . import standings
from .standings import Row
from .subjects import CACHE, Subject, subjects

EVALUATIONS = (3, 5, 10, 20, 50, 100)
DRAWS = 6  # the i-th from the network of training seed i mod 2
SIDE = 20  # evaluations up to which the rows beside the main ones are measured
STARTS = (1e-2, 1e-3, 1e-4)  # of the published grid, in time

Draw = Callable[[int, int, int], Tensor]  # rows, evaluations, number of the draw

GRIDS: Mapping[str, Callable[[], TimeGrid]] = {"log-snr": LogSnrGrid, "karras": KarrasGrid, "uniform": UniformGrid}
SOLVERS: Mapping[str, Callable[[TimeGrid], Solver]] = {
    "ode-1": ODE1,
    "ode-2": ODE2,
    "ode-2 (signal)": lambda grid: ODE2(grid, slope="signal"),
    "ode-midpoint": ODEMidpoint,
    "sde-1": SDE1,
    "sde-2": SDE2,
    "sde-2 (signal)": lambda grid: SDE2(grid, slope="signal"),
    "euler-maruyama": EulerMaruyama,
    "flow": FlowSampler,
}
OF_ORACLE = ("ode-1", "ode-2", "ode-2 (signal)", "sde-2", "sde-2 (signal)")


def drawn(models: list[FlowModel], sampler: Sampler[Any] | None) -> Draw:
    """Samples of the models in turn, in exactly that many evaluations, all rows at once; by default as for solvers."""

    def draw(rows: int, evaluations: int, i: int) -> Tensor:
        model = models[i % len(models)]
        chosen = sampler or default_sampler(model.family, evaluations)[0]
        with seeded(i, "quality"):
            x = chosen.sample(model, rows, n_steps=evaluations + 1 - chosen.evaluations(1))
        assert isinstance(x, Tensor)
        return x

    return draw


def rows(subject: Subject, trained: int) -> Iterator[tuple[str, bool, Draw]]:
    """The rows of a table: what is sampled and how, whether it is a main row, and the draws."""
    models: list[FlowModel] = [subject.model(seed) for seed in range(trained)]
    yield "ancestral", True, drawn(models, AncestralSampler())
    yield "default", True, drawn(models, None)
    for grid, make_grid in GRIDS.items():
        for name, solver in SOLVERS.items():
            yield f"{name}, {grid}", grid == "log-snr", drawn(models, solver(make_grid()))
    for start in STARTS:
        yield f"ode-2, uniform from {start:g}", False, drawn(models, ODE2(UniformGrid(start)))
        yield f"ode-2, log-snr from {start:g}", False, drawn(models, ODE2(LogSnrGrid(start)))
        yield f"sde-2, log-snr from {start:g}", False, drawn(models, SDE2(LogSnrGrid(start)))
    oracle = subject.oracle(models[0].family)
    yield "oracle: ancestral", True, drawn([oracle], AncestralSampler())
    for name in OF_ORACLE:
        yield f"oracle: {name}, log-snr", True, drawn([oracle], SOLVERS[name](LogSnrGrid()))
    if subject.peer:
        peers = [subject.flow(seed) for seed in range(trained)]
        for name, midpoint in (("Euler", False), ("midpoint", True)):

            def flow(rows: int, evaluations: int, i: int, midpoint: bool = midpoint) -> Tensor:
                with seeded(i, "quality"):
                    return peers[i % len(peers)].draw(rows, evaluations, midpoint=midpoint)

            yield f"flow matching, {name}", True, flow


def possible(name: str, evaluations: int) -> bool:
    """Whether a row has this number of evaluations."""
    if name.startswith("oracle"):
        return evaluations <= SIDE
    return evaluations % 2 == 0 or name != "flow matching, midpoint"


def measure(subject: Subject, *, quick: bool) -> list[Row]:
    """All rows of a data set, that of fresh data first."""
    reference, distances = subject.reference, subject.distances
    draws, trained = (2, 1) if quick else (DRAWS, 2)
    columns = [e for e in EVALUATIONS if not quick or e <= SIDE]
    first = next(iter(distances))

    def scores(x: Tensor, every: bool) -> dict[str, float]:
        return {name: distance(x, reference) for name, distance in distances.items() if every or name == first}

    floor = [scores(subject.fresh(i + 1), True) for i in range(draws)]
    measured = [Row("fresh data", True, {"": _columns(floor)})]
    for name, main, draw in rows(subject, trained):
        cells = {}
        for evaluations in columns:
            if (main or evaluations <= SIDE) and possible(name, evaluations):
                every = evaluations == 10
                found = [scores(draw(len(reference), evaluations, i), every) for i in range(draws)]
                cells[str(evaluations)] = _columns(found)
        measured.append(Row(name, main, cells))
        print(f"{subject.name}: {measured[-1]}", file=sys.stderr, flush=True)
    return measured


def _columns(found: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [each[name] for each in found] for name in found[0]}


def default_run(seeds: int) -> dict[str, list[float]]:
    """W1 of 1,000 samples of the default run to its data, and the share furthest from 1/4, by the default sampler."""
    subject, data = subjects()["four"], GaussianMixture().split("all").x
    found = []
    for seed in range(seeds):
        model = subject.model(seed)
        with seeded(seed, "default run"):
            x = default_sampler(model.family, 10)[0].sample(model, 1000, n_steps=10)
        shares = GaussianMixture().mode_shares(x).values()
        found.append({"W1": w1(x, data), "share": max(shares, key=lambda share: abs(share - 0.25))})
    return _columns(found)


def remembered(key: str, make: Callable[[], Any], again: bool) -> Any:
    """What was found before, or now."""
    path = CACHE / f"{key}.json"
    if again or not path.exists():
        CACHE.mkdir(exist_ok=True)
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quality", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to write into, such as docs/samplers.md")
    parser.add_argument("--quick", action="store_true", help="one network, two draws, 20 evaluations: for trying")
    parser.add_argument("--again", action="store_true", help="measure anew")
    parser.add_argument("names", nargs="*", help=f"data sets of {', '.join(subjects())}; all of them if none is given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = {}
    for key, subject in subjects().items():
        if not options.names or key in options.names:

            def rows_now(subject: Subject = subject) -> list[dict[str, Any]]:
                start = time.process_time()
                found = [attrs.asdict(row) for row in measure(subject, quick=options.quick)]
                print(f"{subject.name}: {time.process_time() - start:.0f} CPU seconds", file=sys.stderr)
                return found

            mark = hashlib.sha256(f"{key} {options.quick} {EVALUATIONS} {DRAWS}".encode()).hexdigest()[:8]
            tables[subject.name] = [Row(**row) for row in remembered(f"{key}-{mark}", rows_now, options.again)]
    runs = remembered(f"default-{options.quick}", lambda: default_run(2 if options.quick else 5), options.again)
    text = standings.page(tables, runs)
    print(text)
    if options.write:
        standings.write(options.write, text)
        standings.figure(tables).savefig(options.write.parent / "figures" / "samplers.png")


if __name__ == "__main__":
    main()
