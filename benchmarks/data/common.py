"""Common to all subjects: results and a cache in files, CPU time, training for a budget, environments of peers.

The cache keeps what is dear, such as trained models, under a digest of the source code of the toolkit.  So a run that
was interrupted goes on with what is missing, and nothing of another version is taken for that of this one.  A file
that another process is making is waited for, so that several processes can measure side by side.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch

from bfn_toolkit import BFN, Run as TrainedRun
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.storage.files import to_json
from bfn_toolkit.training.trainer import train

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results")
CACHE = Path(os.environ.get("BFN_BENCH_CACHE") or Path(tempfile.gettempdir()) / "bfn-bench-data")
Result = dict[str, Any]


@attrs.frozen
class Run:
    """One measurement.

    Arguments:
        measure: Called with whether to be quick; returns the result, for ``results/NAME.json``.
        minutes: About how many CPU minutes it takes, those of its peers included.
    """

    measure: Callable[[bool], Result]
    minutes: float


def machine() -> str:
    """Processor, torch and threads."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread"


@cache
def version() -> dict[str, str]:
    """Commit of the repository, and a digest of the source code of the toolkit and its plugins as it is."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--exclude=*"]
    has_git = (ROOT / ".git").exists()
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() if has_git else ""
    digest, folders = hashlib.sha256(), ("bfn_toolkit", "plugins")
    for path in sorted(path for name in folders for end in ("py", "toml") for path in ROOT.glob(f"{name}/**/*.{end}")):
        digest.update(path.read_bytes())
    return {"commit": commit, "sources": digest.hexdigest()[:12]}


def result_file(name: str) -> Path:
    """The file of a saved result."""
    return RESULTS / f"{name}.json"


def save(name: str, result: Mapping[str, Any]) -> None:
    """Writes results/NAME.json, with the machine and the version."""
    RESULTS.mkdir(exist_ok=True)
    made = {"machine": machine(), "version": version()}
    text = json.dumps(json.loads(to_json({**made, **result})), indent=1, sort_keys=True)
    result_file(name).write_text(text + "\n")


def saved() -> dict[str, Result]:
    """All results by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


class Cache:
    """The files that measurements share."""

    since = 0.0  # what is older is made again

    @classmethod
    def made(cls, path: Path, make: Callable[[Path], object]) -> Path:
        """A file of the cache, made once by a function of its path; another process that needs it waits meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            if not path.exists() or path.stat().st_mtime < cls.since:
                part = path.with_name(f"part-{path.name}")
                make(part)
                part.replace(path)
        return path


@contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[bool]:
    """Scope that one process alone enters for a path; yields False if another one is in it and this does not wait."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            flock(file, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def remembered(key: str, make: Callable[[], Result]) -> Result:
    """A result that is dear, kept in the cache of this version."""
    path = Cache.made(_of_version(f"{key}.json"), lambda path: path.write_text(to_json(make())))
    result: Result = json.loads(path.read_text())
    return result


def _of_version(name: str) -> Path:
    """A path in the cache of this version."""
    return CACHE / "versions" / version()["sources"] / name


def minutes() -> float:
    """CPU minutes of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) / 60.0


@contextmanager
def cpu_time(result: dict[str, float], name: str) -> Iterator[None]:
    """Adds the CPU seconds of a block to ``result[name]``: on a loaded machine, wall time says little."""
    start = time.process_time()
    yield
    result[name] = round(result.get(name, 0.0) + time.process_time() - start, 2)


class Seeds:
    """Seeds of a measurement that is repeated."""

    most: ClassVar[int | None] = None

    @classmethod
    def of(cls, n: int, quick: bool = False) -> range:
        """The first n, or fewer if fewer are wanted."""
        return range(1 if quick else min(n, cls.most or n))


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
    for steps in (5, 5, 45):  # the first training also reads the data
        start = time.process_time()
        train(with_steps(experiment, steps))
        pace[steps] = time.process_time() - start
    return max(10, round(seconds * 40 / (pace[45] - pace[5])))


def trained(experiment: Experiment) -> tuple[TrainedRun, dict[str, float]]:
    """A run in memory, with its steps and its CPU seconds."""
    cost: dict[str, float] = {"steps": experiment.training.steps}
    with cpu_time(cost, "seconds"):
        run = train(experiment)
    return run, cost


def kept(key: str, make: Callable[[], Experiment]) -> tuple[BFN, Result]:
    """The trained model of an experiment and the cost of its training, which the cache of this version keeps."""
    experiment = make()

    def trained_into(path: Path) -> None:
        run, cost = trained(experiment)
        torch.save({"weights": run.model.network.state_dict(), "cost": cost}, path)

    state = torch.load(Cache.made(_of_version(f"{key}.pt"), trained_into), weights_only=True)
    model = BFN(experiment.family, experiment.network)
    model.network.load_state_dict(state["weights"])
    return model.eval(), state["cost"]


def environment_of(peer: str, *requirements: str) -> Path:
    """The Python of an environment of a peer's own, made once, which also sees the packages of this one.

    So a peer has the same torch, and is never a dependency of the toolkit.  Requirements are installed without what
    they in turn require, unless that is listed too.
    """
    folder, wanted = CACHE / "environments" / peer, "\n".join(requirements) + "\n"
    python, ready = folder / "bin" / "python", folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if not ready.exists() or ready.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *requirements]
            subprocess.run(command, check=True)
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "toolkit.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
            ready.write_text(wanted)
    return python


def run_of(python: Path, module: str, *arguments: str) -> Result:
    """Runs a module of the benchmark in the environment of a peer; its last line of output is JSON."""
    # The environment may have been made from another checkout, whose sources are not to be measured.
    sources = [path for path in sys.path if Path(path).is_relative_to(ROOT) and "site-packages" not in path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sources])}
    command = [str(python), "-m", module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result
