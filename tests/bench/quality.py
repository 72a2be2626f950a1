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
DRAWS = 5  # the i-th from the network of training seed i mod 2, where two are trained
FEW, SOME, ALL = 10, 20, 100  # evaluations up to which rows are measured: beside the default grid, on it, of interest
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


def rows(subject: Subject, networks: int) -> Iterator[tuple[str, int, Draw]]:
    """The rows of a table: what is sampled and how, up to how many evaluations, and the draws."""
    models: list[FlowModel] = [subject.model(seed) for seed in range(networks)]
    yield "ancestral", ALL, drawn(models, AncestralSampler())
    yield "default", ALL, drawn(models, None)
    for grid, make_grid in GRIDS.items():
        for name, solver in SOLVERS.items():
            most = FEW if grid != "log-snr" else ALL if name == "ode-2" else SOME
            yield f"{name}, {grid}", most, drawn(models, solver(make_grid()))
    for start in STARTS:
        yield f"ode-2, uniform from {start:g}", FEW, drawn(models, ODE2(UniformGrid(start)))
        yield f"ode-2, log-snr from {start:g}", FEW, drawn(models, ODE2(LogSnrGrid(start)))
        yield f"sde-2, log-snr from {start:g}", FEW, drawn(models, SDE2(LogSnrGrid(start)))
    oracle = subject.oracle(models[0].family)
    yield "oracle: ancestral", SOME, drawn([oracle], AncestralSampler())
    for name in OF_ORACLE:
        yield f"oracle: {name}, log-snr", SOME, drawn([oracle], SOLVERS[name](LogSnrGrid()))
    if subject.peer:
        peers = [subject.flow(seed) for seed in range(networks)]
        for name, midpoint in (("Euler", False), ("midpoint", True)):

            def flow(rows: int, evaluations: int, i: int, midpoint: bool = midpoint) -> Tensor:
                with seeded(i, "quality"):
                    return peers[i % len(peers)].draw(rows, evaluations, midpoint=midpoint)

            yield f"flow matching, {name}", ALL, flow


def measure(subject: Subject, *, networks: int, quick: bool) -> list[Row]:
    """All rows of a data set, that of fresh data first."""
    reference, distances = subject.reference, subject.distances
    draws = 2 if quick else DRAWS
    columns = [e for e in EVALUATIONS if not quick or e <= FEW]
    first = next(iter(distances))

    def scores(x: Tensor, every: bool) -> dict[str, float]:
        return {name: distance(x, reference) for name, distance in distances.items() if every or name == first}

    floor = [scores(subject.fresh(i + 1), True) for i in range(draws)]
    measured = [Row("fresh data", {"": _columns(floor)})]
    for name, most, draw in rows(subject, networks):
        cells = {}
        for evaluations in columns:
            whole = evaluations % 2 == 0 or not name.endswith("matching, midpoint")
            if evaluations <= most and whole:
                every = evaluations == 10
                found = [scores(draw(len(reference), evaluations, i), every) for i in range(draws)]
                cells[str(evaluations)] = _columns(found)
        measured.append(Row(name, cells))
        found_at = ", ".join(f"{column} {measured[-1].at(column):.3f}" for column in cells)
        print(f"{subject.name}: {name}: {found_at}", file=sys.stderr, flush=True)
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
    parser.add_argument("--networks", type=int, default=2, help="trained for each data set, from seeds of their own")
    parser.add_argument("--quick", action="store_true", help="two draws, 10 evaluations: for trying")
    parser.add_argument("--again", action="store_true", help="measure anew")
    parser.add_argument("names", nargs="*", help=f"data sets of {', '.join(subjects())}; all of them if none is given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = {}
    for key, subject in subjects().items():
        if not options.names or key in options.names:

            def rows_now(subject: Subject = subject) -> list[dict[str, Any]]:
                start = time.process_time()
                found = [attrs.asdict(row) for row in measure(subject, networks=options.networks, quick=options.quick)]
                print(f"{subject.name}: {time.process_time() - start:.0f} CPU seconds", file=sys.stderr)
                return found

            mark = hashlib.sha256(f"{key} {options.networks} {options.quick}".encode()).hexdigest()[:8]
            tables[subject.name] = [Row(**row) for row in remembered(f"{key}-{mark}", rows_now, options.again)]
    runs = remembered(f"default-{options.quick}", lambda: default_run(2 if options.quick else 5), options.again)
    command = f"python -m tests.bench.quality --networks {options.networks} --write docs/samplers.md"
    text = standings.page(tables, runs, command)
    print(text)
    if options.write:
        standings.write(options.write, text)
        standings.figure(tables).savefig(options.write.parent / "figures" / "samplers.png")


if __name__ == "__main__":
    main()
