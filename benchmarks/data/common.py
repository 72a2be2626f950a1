"""Common to all subjects: results in files, CPU time, training for a budget, environments of peers."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch

from bfn_toolkit import BFN, Run
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.storage.files import to_json
from bfn_toolkit.training.trainer import train

RESULTS = Path(__file__).with_name("results")
CACHE = Path(os.environ.get("BFN_BENCH_CACHE") or Path(tempfile.gettempdir()) / "bfn-bench-data")
Result = dict[str, Any]


def machine() -> str:
    """Processor, torch and threads."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread"


def save(name: str, result: Mapping[str, Any]) -> None:
    """Writes results/NAME.json, with the machine."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(json.loads(to_json({"machine": machine(), **result})), indent=1, sort_keys=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def saved() -> dict[str, Result]:
    """All results by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


@contextmanager
def cpu_time(result: dict[str, float], name: str) -> Iterator[None]:
    """Adds the CPU seconds of a block to ``result[name]``: on a loaded machine, wall time says little."""
    start = time.process_time()
    yield
    result[name] = round(result.get(name, 0.0) + time.process_time() - start, 2)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation and number of values."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "n": len(values)}


def with_steps(experiment: Experiment, steps: int, **training: Any) -> Experiment:
    """The experiment with another number of steps, and other options of the training."""
    warmup = min(experiment.training.warmup, steps)
    changed = attrs.evolve(experiment.training, steps=steps, **{"warmup": warmup, **training})
    return attrs.evolve(experiment, training=changed)


def steps_for(experiment: Experiment, seconds: float) -> int:
    """Number of steps that take so many CPU seconds, from two short trainings."""
    pace = {}
    for steps in (5, 5, 25):  # the first training also reads the data
        start = time.process_time()
        train(with_steps(experiment, steps))
        pace[steps] = time.process_time() - start
    return max(10, round(seconds * 20 / (pace[25] - pace[5])))


def trained(experiment: Experiment) -> tuple[Run, dict[str, float]]:
    """A run in memory, with its steps and its CPU seconds."""
    cost: dict[str, float] = {"steps": experiment.training.steps}
    with cpu_time(cost, "seconds"):
        run = train(experiment)
    return run, cost


def kept(key: str, make: Callable[[], Experiment]) -> tuple[BFN, Result]:
    """The trained model of an experiment and the cost of its training, which are kept under a key."""
    path, experiment = CACHE / "models" / f"{key}.pt", make()
    if path.exists():
        state = torch.load(path, weights_only=True)
        model = BFN(experiment.family, experiment.network)
        model.network.load_state_dict(state["weights"])
        return model.eval(), state["cost"]
    run, cost = trained(experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": run.model.network.state_dict(), "cost": cost}, path)
    return run.model, cost


def environment_of(peer: str, *requirements: str) -> Path:
    """The Python of an environment of a peer's own, made once, which also sees the packages of this one.

    So a peer has the same torch, and is never a dependency of the toolkit.  Requirements are installed without what
    they in turn require, unless that is listed too.
    """
    folder = CACHE / "environments" / peer
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "toolkit.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *requirements]
        subprocess.run(command, check=True)
        (folder / "ready").write_text("\n".join(requirements) + "\n")
    return python


def run_of(python: Path, module: str, *arguments: str) -> Result:
    """Runs a module of the benchmark in the environment of a peer; its last line of output is JSON."""
    command = [str(python), "-m", module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result
