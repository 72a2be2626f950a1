"""``python -m benchmarks.quality``: how good samples are by the evaluations of the network, for each sampler and grid.

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
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfn_gaussian_mixture import GaussianMixture
from bfn_toolkit import (
    ODE1,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    BFNWarning,
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
from bfn_toolkit.sampling.default import default_sampler
from bfn_toolkit.storage.files import to_json

from . import standings
from .standings import Row
from .subjects import CACHE, Subject, subjects

DRAWS = 5  # the i-th from the network of training seed i mod 2, where two are trained
FEW, SOME, ALL = (5, 10), (3, 5, 10, 20), (3, 5, 10, 20, 50, 100)  # evaluations of a row
STARTS = (1e-2, 1e-3, 1e-4)  # in time

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


def drawn(
    model: Callable[[int], FlowModel], sampler: Sampler[Any], columns: Callable[[Any], Tensor] = lambda x: x
) -> Draw:
    """Samples of a model by number, in exactly that many evaluations, all rows at once."""

    def draw(rows: int, evaluations: int, i: int) -> Tensor:
        with seeded(i, "quality"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the flow sampler", BFNWarning)  # the table shows what it says
            return columns(sampler.sample(model(i), rows, n_steps=evaluations + 1 - sampler.nfe(1)))

    return draw


def samplers(grids: Sequence[str], *, starts: bool) -> Iterator[tuple[str, Sampler[Any], Sequence[int]]]:
    """Those of the network: name, sampler, and at how many evaluations."""
    yield "ancestral", AncestralSampler(), ALL
    for grid in grids:
        for name, solver in SOLVERS.items():
            if grid != "log-snr" and name not in ("ode-2", "sde-2"):
                continue
            main = ALL if name in ("ode-2", "ode-2 (signal)", "sde-2", "sde-2 (signal)") else SOME
            yield f"{name}, {grid}", solver(GRIDS[grid]()), main if grid == "log-snr" else FEW
        if grid == "log-snr" and starts:
            for start in STARTS:
                yield f"ode-2, log-snr from {start:g}", ODE2(LogSnrGrid(start)), FEW
            yield "ode-2, uniform from 0.001", ODE2(UniformGrid(1e-3)), SOME


def rows(subject: Subject, networks: int, grids: Sequence[str]) -> Iterator[tuple[str, Draw, Sequence[int]]]:
    """The rows of a table: what is sampled and how, the draws, and at how many evaluations."""

    def model(i: int) -> FlowModel:
        return subject.model(i % networks)

    oracle = subject.oracle(subject.experiment(0).family)
    if subject.peer:
        for name, midpoint in (("midpoint", True), ("Euler", False)):

            def flow(rows: int, evaluations: int, i: int, midpoint: bool = midpoint) -> Tensor:
                with seeded(i, "quality"):
                    return subject.flow(i % networks).draw(rows, evaluations, midpoint=midpoint)

            yield f"flow matching, {name}", flow, (10, 20) if midpoint else SOME
    for name, sampler, evaluations in samplers(grids, starts=subject.starts):
        yield name, drawn(model, sampler, subject.columns), evaluations
    yield "oracle: ancestral", drawn(lambda i: oracle, AncestralSampler(), subject.columns), SOME
    for name in OF_ORACLE:
        yield f"oracle: {name}, log-snr", drawn(lambda i: oracle, SOLVERS[name](LogSnrGrid()), subject.columns), SOME


def measure(subject: Subject, *, networks: int, draws: int, grids: Sequence[str], again: bool) -> list[Row]:
    """All rows of a data set: that of fresh data first, then that of the default, which has the others' figures."""
    reference, distances = subject.reference, subject.distances
    first = next(iter(distances))

    def scores(x: Tensor, every: bool) -> dict[str, float]:
        return {name: distance(x, reference) for name, distance in distances.items() if every or name == first}

    def cells(draw: Draw, evaluations: Sequence[int]) -> Any:
        found = {str(e): [scores(draw(len(reference), e, i), e == 10) for i in range(draws)] for e in evaluations}
        return {e: _columns(each) for e, each in found.items()}

    def floor() -> Any:
        return {"": _columns([scores(subject.fresh(i + 1), True) for i in range(draws)])}

    key = f"{subject.name} {subject.experiment(0)} {networks} {draws}"
    measured = [Row("fresh data", remembered(f"{key} fresh", floor, again))]
    for name, draw, evaluations in rows(subject, networks, grids):
        found = remembered(f"{key} {name} {evaluations}", partial(cells, draw, evaluations), again)
        measured.append(Row(name, found))
        means = ", ".join(f"{e} {measured[-1].at(e):.3f}" for e in evaluations)
        print(f"{subject.name}: {name}: {means}", file=sys.stderr, flush=True)
    return [measured[0], _default(subject, measured), *measured[1:]]


def _default(subject: Subject, measured: Sequence[Row]) -> Row:
    """The row of what ``default_sampler`` chooses at each number of evaluations."""
    family, by_name = subject.experiment(0).family, {row.name: row for row in measured}
    chosen = {str(e): default_sampler(family, e) for e in ALL}
    names = [(sampler, name) for name, sampler, _ in samplers(["log-snr"], starts=False)]
    return Row("default", {e: by_name[dict(names)[sampler]].cells[e] for e, sampler in chosen.items()})


def _columns(found: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [each[name] for each in found] for name in found[0]}


def default_run(seeds: int) -> dict[str, list[float]]:
    """W1 of 1,000 samples of the default run to its data, and the share furthest from 1/4, by the default sampler."""
    subject, data = subjects()["four"], GaussianMixture().split("all").x
    found = []
    for seed in range(seeds):
        model = subject.model(seed)
        with seeded(seed, "default run"):
            x = default_sampler(model.family, 10).sample(model, 1000, n_steps=10)
        shares = GaussianMixture().mode_shares(x).values()
        found.append({"W1": w1(x, data), "share": max(shares, key=lambda share: abs(share - 0.25))})
    return _columns(found)


def remembered(key: str, make: Callable[[], Any], again: bool) -> Any:
    """What was found before, or now."""
    path = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if again or not path.exists():
        CACHE.mkdir(exist_ok=True)
        path.write_text(to_json(make()))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="page to write into, such as docs/reference/sampler_tables.md"
    )
    parser.add_argument("--networks", type=int, default=2, help="trained for each data set, from seeds of their own")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS), help="of the solvers")
    parser.add_argument("--quick", action="store_true", help="one network, two draws, one grid: for trying")
    parser.add_argument("--again", action="store_true", help="measure anew")
    parser.add_argument("--only", nargs="+", choices=subjects(), default=list(subjects()), help="data sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks, draws, grids = (1, 2, ["log-snr"]) if options.quick else (options.networks, DRAWS, options.grids)
    tables = {
        subjects()[key].name: measure(subjects()[key], networks=networks, draws=draws, grids=grids, again=options.again)
        for key in options.only
    }
    runs = (
        remembered(f"default run {draws}", lambda: default_run(draws), options.again) if "four" in options.only else {}
    )
    command = "python -m benchmarks.quality --write docs/reference/sampler_tables.md"
    text = standings.page(tables, runs, command)
    print(text)
    if options.write:
        standings.write(options.write, text)
        standings.figure(tables).savefig(options.write.parents[1] / "figures" / "samplers.png")


if __name__ == "__main__":
    main()
