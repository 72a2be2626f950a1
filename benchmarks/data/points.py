"""Points: polygons, polygons with types in space, and small molecules, through files and the reader ``points``.

Polygons are a test with a known answer: shares of the sizes, edges, diagonals, and types that alternate around squares.
Molecules are the saturated chains and stars of up to four atoms of carbon, nitrogen and oxygen, with their hydrogens,
of which rdkit, in an environment of its own, embeds some conformers.  A sample is valid if its bonds, pairs nearer than
1.25 times the sum of their covalent radii, give each atom its valence and connect all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bfn_points import Points
from bfn_polygons import Polygons, distances
from bfn_toolkit import Run, w1
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan

from .common import CACHE, Result, environment_of, run_of, spread, steps_for, trained, with_steps

SECONDS = {"polygons": 120.0, "typed polygons": 240.0, "molecules": 900.0}
SEEDS = {"polygons": 3, "typed polygons": 3, "molecules": 1}
SAMPLES, STEPS = 1000, 100
RADII = {"H": 0.31, "C": 0.76, "N": 0.71, "O": 0.66}  # covalent radii in Angstrom, Cordero et al. 2008
VALENCE = {"H": 1, "C": 4, "N": 3, "O": 2}
CONFORMERS = 40

Sets = list[tuple[Sequence[str], np.ndarray[Any, Any]]]  # names and positions of each set


def sets_of(raw: Any, dataset: Points) -> Sets:
    """Raw data as sets."""
    codec = dataset.codec
    positions = raw["positions"] if isinstance(raw, Mapping) else raw
    names = codec.named(raw, "types")
    return [
        (["X"] * n if names is None else names[row, :n].tolist(), positions[row, :n].numpy())
        for row, n in enumerate(codec.counts(raw).tolist())
    ]


def rows_of(dataset: Points, split: Any) -> Sets:
    """The rows of a split as sets in the units of the file."""
    rows = dataset.split(split)
    return sets_of(dataset.codec.decode(rows.x, rows.mask), dataset)


# Polygons


def write_polygons(path: Path, typed: bool, seed: int) -> None:
    """Writes 4,000 polygons of edge 3 and jitter 0.05: in the plane, or turned in space with types as .xyz."""
    rows = Polygons(count=4000, edge=3.0, jitter=0.05, seed=seed).split("all")
    assert isinstance(rows.mask, Tensor)
    x, mask = rows.x.numpy().astype(np.float64), rows.mask.numpy()
    if not typed:
        np.savez(path, positions=x + 7.0, mask=mask)
        return
    generator, lines = np.random.default_rng(seed), []
    for points, there in zip(x, mask, strict=True):
        place = points[there]
        turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        # The corner that is furthest from the first lies across, and has its type.
        across = np.argmax(np.linalg.norm(place - place[0], axis=1))
        alike = (np.arange(len(place)) == 0) | (np.arange(len(place)) == across) | (len(place) == 3)
        swap = generator.integers(2) and len(place) == 4
        names = np.where(alike ^ bool(swap), "A", "B")
        lines += [str(len(place)), "a polygon"]
        lines += [
            " ".join([name, *map(repr, point)])
            for name, point in zip(names, (place @ turn[:2] + 7.0).tolist(), strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")


def scores_of_polygons(sets: Sets, data: Sets) -> dict[str, float]:
    """Distances W1 of edges and diagonals to those of the data, share of triangles, and share of right types."""
    found = {}
    for n, name in ((3, "triangles"), (4, "squares")):
        lengths, known = (
            distances(torch.from_numpy(np.stack([x for _, x in part if len(x) == n])), n) for part in (sets, data)
        )
        found[f"edges of {name}"] = float(w1(lengths[:, :n].flatten(), known[:, :n].flatten()))
        if n == 4:
            found["diagonals"] = float(w1(lengths[:, n:].flatten(), known[:, n:].flatten()))
    found["share of triangles"] = sum(len(x) == 3 for _, x in sets) / len(sets)
    if "B" in {name for names, _ in data for name in names}:
        found["right types"] = sum(map(_right_types, sets)) / len(sets)
    return found


def _right_types(example: tuple[Sequence[str], Any]) -> bool:
    """Whether a triangle has the type A, or the types of a square alternate around it."""
    names, x = example
    if len(x) == 3:
        return set(names) == {"A"}
    across = [int(np.argmax(np.linalg.norm(x - point, axis=1))) for point in x]
    return sorted(names) == ["A", "A", "B", "B"] and all(names[i] == names[j] for i, j in enumerate(across))


# Molecules


def scores_of_molecules(sets: Sets, data: Sets) -> dict[str, float]:
    """Shares of atoms with their valence, of valid molecules, and among these of different and of new ones."""
    graphs = [graph_of(*example) for example in sets]
    known = {graph for example in data if (graph := graph_of(*example)[0])}
    valid = [graph for graph, _ in graphs if graph]
    right = sum(count for _, count in graphs)
    return {
        "atoms with their valence": right / sum(len(x) for _, x in sets),
        "valid": len(valid) / len(sets),
        "different": len(set(valid)) / max(1, len(valid)),
        "new": sum(graph not in known for graph in valid) / max(1, len(valid)),
    }


def graph_of(names: Sequence[str], x: np.ndarray[Any, Any]) -> tuple[str, int]:
    """A text that is equal for equal graphs of bonds, "" if they are not valid, and the number of right atoms.

    The text is the sorted neighbourhoods of the atoms after as many rounds as there are atoms (Weisfeiler and Lehman).
    """
    radii = np.array([RADII[name] for name in names])
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
    bonds = (apart < 1.25 * (radii[:, None] + radii)) & ~np.eye(len(x), dtype=bool)
    right = bonds.sum(1) == [VALENCE[name] for name in names]
    reached = np.linalg.matrix_power(bonds + np.eye(len(x)), max(1, len(x))) > 0
    if not (right.all() and reached.all()):
        return "", int(right.sum())
    colours = list(names)
    for _ in range(4):
        colours = [
            f"{colour}({','.join(sorted(np.array(colours, dtype=object)[row]))})"
            for colour, row in zip(colours, bonds, strict=True)
        ]
    return ";".join(sorted(colours)), int(right.sum())


def molecules_file() -> Path:
    """The .xyz file of molecules, made once by rdkit in its own environment."""
    path = CACHE / "molecules.xyz"
    if not path.exists():
        run_of(environment_of("rdkit", "rdkit==2026.9.1"), "benchmarks.data.molecules", str(path), str(CONFORMERS))
    return path


# Runs


def measured(kind: str, quick: bool) -> Result:
    """Trains through the reader, and scores samples beside the held-out rows."""
    seconds, seeds = (SECONDS[kind], SEEDS[kind]) if not quick else (20.0, 1)
    scores: list[dict[str, float]] = []
    floors: list[dict[str, float]] = []
    costs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            path = Path(folder) / f"{seed}{'.npz' if kind == 'polygons' else '.xyz'}"
            if kind == "molecules":
                path = molecules_file()
            else:
                write_polygons(path, kind == "typed polygons", seed)
            run, cost = trained_on(path, seconds, seed)
            dataset = run.experiment.dataset
            plan = ResolvedPlan.of(run, SamplePlan(n=200 if quick else SAMPLES, steps=STEPS, seed=seed))
            samples = sets_of(plan.raw(plan.draw()), dataset)
            train, test = rows_of(dataset, "train"), rows_of(dataset, "test")
            score = scores_of_molecules if kind == "molecules" else scores_of_polygons
            scores.append(score(samples, train))
            floors.append(score(test, train))
            costs.append(cost)
    return {
        "budget": seconds,
        "seeds": seeds,
        "samples": SAMPLES,
        "messages": STEPS,
        "cost": {name: spread([cost[name] for cost in costs]) for name in costs[0]},
        "scores": {name: spread([found[name] for found in scores]) for name in scores[0]},
        "held out": {name: spread([found[name] for found in floors]) for name in floors[0]},
    }


def trained_on(path: Path, seconds: float, seed: int) -> tuple[Run, dict[str, float]]:
    """A run of the defaults, for so many CPU seconds."""
    dataset = {"name": "points", "path": str(path)}
    experiment = Experiment.from_mapping({"dataset": dataset, "seed": seed}, base="default")
    return trained(with_steps(experiment, steps_for(experiment, seconds)))


def section(results: Mapping[str, Result]) -> str:
    """Tables of the saved results."""
    lines = ["## Points", ""]
    for kind in SECONDS:
        result = results.get(f"points-{kind.replace(' ', '-')}")
        if result is None:
            continue
        lines += [f"### {kind.capitalize()}, {result['budget']:.0f} s, {result['seeds']} seeds", ""]
        lines += ["| | samples | held-out rows |", "|---|---|---|"]
        for name, found in result["scores"].items():
            lines.append(f"| {name} | {_cell(found)} | {_cell(result['held out'][name])} |")
        lines.append("")
    return "\n".join(lines) if len(lines) > 2 else ""


def _cell(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3f} ± {found['std']:.3f}" if found["n"] > 1 else f"{found['mean']:.3f}"


RUNS = {f"points-{kind.replace(' ', '-')}": (lambda quick, kind=kind: measured(kind, quick)) for kind in SECONDS}
