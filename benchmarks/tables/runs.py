"""Measurements: samples of each method, gaps filled by those that can, and the toolkit on large tables.

Each result goes at once into a file of its method, ``results/METHOD.json``, in place of that of the same table and
seed.  The toolkit is used as a person would: ``bfn train TRAIN.csv``, ``bfn sample RUN``; its CPU seconds are those of
the commands from their start to their end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bfn_toolkit.storage.files import to_json

from ..data.common import CACHE, Result, environment_of, machine, run_of
from . import data, impute, score
from .peers import ENVIRONMENTS, PEERS, Task

FLOOR, OURS = "real", "bfn"
RESULTS = Path(__file__).with_name("results")
FOLDER = CACHE / "tables"
LARGE = (250_000, 500_000, 1_000_000)  # rows
METHODS = [FLOOR, *PEERS, OURS]


def table(name: str) -> tuple[Path, Path]:
    """Files of the training and the test rows."""
    return data.files(name, FOLDER, lambda: environment_of("tables-data", *data.PACKAGES))


def save(folder: Path, method: str, part: str, row: Result) -> None:
    """Puts a result into the file of a method, in place of that of the same table and seed."""
    path = folder / f"{method}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    same = [row.get(key) for key in ("table", "seed")]
    kept = [old for old in content.get(part, []) if [old.get(key) for key in ("table", "seed")] != same]
    content |= {"machine": machine(), part: sorted([*kept, row], key=lambda r: (r["table"], r.get("seed", 0)))}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json.loads(to_json(content)), indent=1, sort_keys=True) + "\n")


def saved(folder: Path) -> dict[str, Result]:
    """The files by method."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def cost_of(*command: str | Path) -> dict[str, float]:
    """CPU and wall seconds and the peak of memory in GB of a command, which must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {
        "seconds": round(used.ru_utime + used.ru_stime, 2),
        "wall": round(time.perf_counter() - start, 2),
        "memory": round(used.ru_maxrss * 1024 / 1e9, 3),
    }


def bfn(*arguments: str | Path) -> dict[str, float]:
    """Cost of a command of the toolkit."""
    return cost_of(sys.executable, "-m", "bfn_toolkit", *arguments)


def run_of_ours(name: str, seed: int) -> tuple[Path, dict[str, float]]:
    """The run of the toolkit on a table, made anew, and what it cost."""
    train, _ = table(name)
    run = FOLDER / "runs" / f"{name}-{seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    return run, bfn("train", train, "--out", run, "--seed", str(seed), "--no-report", "--force")


def drawn(method: str, name: str, seed: int, budget: float) -> tuple[data.Texts, dict[str, float]]:
    """As many samples as there are training rows, and the CPU seconds they took."""
    train, _ = table(name)
    path = FOLDER / "samples" / f"{name}-{method}-{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    if method == OURS:
        run, cost = run_of_ours(name, seed)
        rows = str(len(data.read(train)[data.TARGETS[name]]))
        sampling = bfn("sample", run, "-n", rows, "--seed", str(seed), "--out", path, "--force")
        return data.read(path), {"train": cost["seconds"], "sample": sampling["seconds"]}
    peer = PEERS[method]
    if peer.environment is None:
        task = Task(data.read(train), data.TARGETS[name], seed, budget)
        return peer.draw(task), task.cost
    python = environment_of(peer.environment, *ENVIRONMENTS[peer.environment])
    options = ["--target", data.TARGETS[name], "--seed", str(seed), "--budget", str(budget)]
    cost = run_of(python, f"{__package__}.peers", method, str(train), str(path), *options)
    return data.read(path), cost


def samples(method: str, name: str, seed: int, budget: float) -> Result:
    """Scores of the samples of a method, or of one half of the training rows beside the other."""
    train, test = map(data.read, table(name))
    cost: dict[str, float] = {}
    if method == FLOOR:
        order = np.random.default_rng(seed).permutation(len(train[data.TARGETS[name]]))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        train, rows = ({key: [cells[i] for i in half] for key, cells in train.items()} for half in halves)
    else:
        rows, cost = drawn(method, name, seed, budget)
    return {"table": name, "seed": seed, **cost, **score.score(train, test, rows, data.TARGETS[name])}


def filled(method: str, name: str, seed: int) -> Result:
    """Errors of filled gaps."""
    train, test = map(data.read, table(name))
    gapped, _ = impute.gapped(test)
    cost: dict[str, float] = {}
    if method == OURS:
        run = FOLDER / "runs" / f"{name}-{seed}"
        if not run.exists():
            run_of_ours(name, seed)
        gaps, out = (FOLDER / "samples" / f"{name}-{method}-{seed}-{word}.csv" for word in ("gaps", "filled"))
        data.written(gaps, {key: cells * impute.DRAWS for key, cells in gapped.items()})
        cost = bfn("sample", run, "--known", gaps, "--seed", str(seed), "--out", out, "--force")
        rows, n = data.read(out), len(gapped[data.TARGETS[name]])
        tables = [{key: cells[i * n : (i + 1) * n] for key, cells in rows.items()} for i in range(impute.DRAWS)]
    else:
        start = time.process_time()
        tables = [impute.IMPUTERS[method](train, gapped)]
        cost = {"seconds": round(time.process_time() - start, 2)}
    return {"table": name, "seed": seed, "seconds": cost["seconds"], **impute.errors(train, test, tables)}


def mixed(rows: int, path: Path) -> Path:
    """A file of ten columns: numbers, integers, names and gaps."""
    generator = np.random.default_rng(rows)
    kind = generator.integers(0, 8, rows)
    x = generator.normal(0, 1, (4, rows)) + kind
    table = {
        "kind": [f"kind {k}" for k in kind],
        "even": ["True" if k % 2 == 0 else "False" for k in kind],
        **{f"x{i}": [f"{v:.3f}" for v in values] for i, values in enumerate(x)},
        "count": [str(v) for v in generator.poisson(kind)],
        "place": [f"P{v}" for v in generator.integers(0, 100, rows)],
        "amount": [f"{max(0.0, v):.2f}" for v in 100 * x[0] * (x[1] > 4)],
        "age": ["" if g else str(v) for v, g in zip(generator.integers(18, 90, rows), x[2] > 8, strict=True)],
    }
    data.written(path, table)
    return path


def scale() -> Sequence[Result]:
    """Costs of larger tables, and whether one seed gives one file."""
    found, folder = [], FOLDER / "scale"
    run, out = folder / "run", [folder / f"samples-{i}.csv" for i in range(2)]
    path = mixed(10_000, folder / "10000.csv")
    for samples in out:
        cost = bfn("train", path, "--out", run, "--seed", "0", "--no-report", "--force")
        drawing = bfn("sample", run, "-n", "10000", "--seed", "0", "--out", samples, "--force")
    same = out[0].read_bytes() == out[1].read_bytes()
    found.append({"table": "10,000 rows: training", "rows": 10_000, **cost})
    found.append({"table": "10,000 rows: 10,000 samples", "rows": 10_000, **drawing, "same file twice": same})
    for rows in LARGE:
        path = mixed(rows, folder / f"{rows}.csv")
        options: list[Any] = ["--seed", "0", "--no-report", "--force", "--training.steps", "10"]
        found.append({"table": f"{rows:,} rows: 10 steps", "rows": rows, **bfn("train", path, "--out", run, *options)})
        path.unlink()
    return found
