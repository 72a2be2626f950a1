"""Points: polygons, polygons with types in space, and small molecules, through files and the reader ``points``.

Polygons are a test with a known answer: shares of the sizes, edges, diagonals, and types that alternate around squares.
Molecules are those of QM9 (Ramakrishnan et al. 2014) with up to seven atoms besides hydrogen, with the coordinates of
density functional theory that the package ``qm9pack`` ships; RDKit tells whether bonds and valences are right.
"""

from __future__ import annotations

import ast
import csv
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bfn_points import Points
from bfn_polygons import Polygons, distances
from bfn_toolkit import Run as TrainedRun, w1
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan

from .common import (
    CACHE,
    Cache,
    Result,
    Run,
    Seeds,
    cpu_time,
    environment_of,
    remembered,
    run_of,
    spread,
    steps_for,
    trained,
    with_steps,
)

SECONDS = {"polygons": 120.0, "typed polygons": 240.0, "molecules": 600.0}
SEEDS = {"polygons": 3, "typed polygons": 3, "molecules": 1}
SAMPLES = {"polygons": 1000, "typed polygons": 1000, "molecules": 500}
STEPS, EXAMPLES = 100, 8
PEER = ("molecules", "rdkit==2026.9.1", "qm9pack==1.0.3")
HEAVY, LAST = 7, 4000  # most atoms besides hydrogen of a molecule; number of the last molecule that may have so few

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


@cache
def molecules_file() -> Path:
    """The .xyz file of the 3,921 molecules."""

    def write(path: Path) -> None:
        folder, heavy = environment_of(*PEER).parents[1], HEAVY
        (source,) = folder.glob("lib/python*/site-packages/qm9pack/data/qm9_part1.csv")  # ordered by size
        blocks = []
        with source.open() as file:
            for row in csv.DictReader(file):
                elements, places = ast.literal_eval(row["Elements"]), ast.literal_eval(row["XYZ_Ang"])
                if sum(element != "H" for element in elements) <= heavy:
                    blocks.append(xyz(elements, np.array(places), row["SMILES"]))
                elif int(row["Index"]) > LAST:
                    break
        path.write_text("".join(blocks))

    return Cache.made(CACHE / "qm9.xyz", write)


def xyz(names: Sequence[str], places: np.ndarray[Any, Any], comment: str = "") -> str:
    """A set of atoms as a block of an .xyz file."""
    lines = (" ".join([name, *(f"{v:.5f}" for v in place)]) for name, place in zip(names, places.tolist(), strict=True))
    return "\n".join([str(len(names)), comment, *lines]) + "\n"


def scores_of_molecules(sets: Sets, data: Sets) -> dict[str, float]:
    """Shares of molecules with right bonds and valences, and of different and new ones among them, by RDKit."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("training.xyz", "samples.xyz")]
        for file, some in zip(files, (data, sets), strict=True):
            file.write_text("".join(xyz(*one) for one in some))
        found = run_of(environment_of(*PEER), f"{__package__}._molecules", *map(str, files))
    result: dict[str, float] = found[str(files[1])]
    return result


# Runs


def measured(kind: str, quick: bool) -> Result:
    """Trains through the reader, and scores samples beside the held-out rows."""
    seconds, seeds, n, steps = (SECONDS[kind], SEEDS[kind], SAMPLES[kind], STEPS) if not quick else (5.0, 1, 20, 10)
    found = [
        remembered(f"points/{kind}-{seconds:g}-{seed}", partial(of_seed, kind, seconds, seed, n, steps))
        for seed in Seeds.of(seeds)
    ]
    kinds = {
        part: {name: spread([one[part][name] for one in found]) for name in found[0][part]}
        for part in ("cost", "scores", "held out")
    }
    return {
        "budget": seconds,
        "seeds": len(Seeds.of(seeds)),
        "samples": n,
        "messages": steps,
        "examples": found[0]["examples"],
        **kinds,
    }


def of_seed(kind: str, seconds: float, seed: int, n: int, steps: int) -> Result:
    """Cost and scores of one training."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{seed}{'.npz' if kind == 'polygons' else '.xyz'}"
        if kind == "molecules":
            path = molecules_file()
        else:
            write_polygons(path, kind == "typed polygons", seed)
        run, cost = trained_on(path, seconds, seed)
        dataset = run.experiment.dataset
        plan = ResolvedPlan.of(run, SamplePlan(n=n, steps=steps, seed=seed))
        with cpu_time(cost, "sampling seconds"):
            samples = sets_of(plan.raw(plan.draw()), dataset)
        train, test = rows_of(dataset, "train"), rows_of(dataset, "test")
    score = scores_of_molecules if kind == "molecules" else scores_of_polygons
    result = {"cost": cost, "scores": score(samples, train), "held out": score(test, train)}
    print(json.dumps(result), file=sys.stderr, flush=True)
    return {**result, "examples": [[list(names), x.round(3).tolist()] for names, x in samples[:EXAMPLES]]}


def trained_on(path: Path, seconds: float, seed: int) -> tuple[TrainedRun, dict[str, float]]:
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
        seeds = f"{result['seeds']} seed{'s' * (result['seeds'] > 1)}"
        lines += [f"### {kind.capitalize()}, {result['budget']:.0f} s, {seeds}", ""]
        lines += [f"{WORDS[kind]} {result['samples']:,} samples of {result['messages']} messages.", ""]
        lines += ["| | samples | held-out rows |", "|---|---|---|"]
        for name, found in result["scores"].items():
            lines.append(f"| {name} | {_cell(found)} | {_cell(result['held out'][name])} |")
        lines.append("")
        if kind == "molecules":
            lines += ["![The first molecules that were drawn](../figures/results_molecules.png)", ""]
            lines += ["The first samples, none left out: hydrogen white, carbon grey, nitrogen blue, oxygen red.", ""]
    return "\n".join(lines) if len(lines) > 2 else ""


def _cell(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3f} ± {found['std']:.3f}" if found["n"] > 1 else f"{found['mean']:.3f}"


WORDS = {
    "polygons": "Triangles and squares in the plane, as .npz; distances W1 of the lengths, of which an edge has 3.",
    "typed polygons": "The same turned in space, with types that alternate around squares, as .xyz.",
    "molecules": "QM9 up to seven atoms besides hydrogen, 3,921 molecules as .xyz (the package `qm9pack`). Right is a "
    "molecule of one piece in which RDKit finds bonds that give each atom its valence, without charges or radicals; "
    "different is one of another SMILES than those before, new one that is in no training row.",
}
MINUTES = {"polygons": 7, "typed polygons": 14, "molecules": 20}
RUNS = {f"points-{kind.replace(' ', '-')}": Run(partial(measured, kind), minutes) for kind, minutes in MINUTES.items()}
