"""Run directories: everything about one training run, in files that people can read.

====================== ===========================================================
``experiment.toml``    complete: ``bfn train --config`` repeats the run from it
``metrics.jsonl``      one object a step: step, loss, grad_norm, lr (and valid_loss)
``model.safetensors``  weights to sample from
``model.json``         what they are: format, versions, step, SHA-256
``checkpoints/``       weights at earlier steps, where asked for
``evaluation.json``    the last evaluation
``samples.npy``        samples
``figures/``           pictures
====================== ===========================================================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.checkpoint import (
    DESCRIPTION,
    WEIGHTS,
    load_description,
    load_weights,
    resource_error,
    write_atomically,
)
from bfn_toolkit.errors import ConfigError, RunDirectoryError
from bfn_toolkit.experiment import Experiment
from bfn_toolkit.model import BFN

EXPERIMENT, METRICS, EVALUATION, SAMPLES, FIGURES = (
    "experiment.toml",
    "metrics.jsonl",
    "evaluation.json",
    "samples.npy",
    "figures",
)
_OURS = (EXPERIMENT, METRICS, EVALUATION, SAMPLES, WEIGHTS, DESCRIPTION, FIGURES, "checkpoints")


@attrs.frozen(eq=False)
class Run:
    """A trained model and where it came from.

    Arguments:
        experiment: What was trained, on what, and how.
        model: The model, ready to sample.
        metrics: One mapping a logged step.
        path: The run directory, or None for a run that was kept in memory.
    """

    experiment: Experiment
    model: BFN
    metrics: Sequence[Mapping[str, float]]
    path: Path | None = None

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Reads a run directory.

        Raises:
            RunDirectoryError: If it is not one, or a file of it is damaged.
        """
        folder = Path(path)
        if not folder.is_dir():
            found = "there is nothing" if not folder.exists() else "it is not a directory"
            raise RunDirectoryError(f"{folder} is not a run directory: {found}. 'bfn train --out {folder}' makes one")
        if not (folder / EXPERIMENT).is_file():
            raise RunDirectoryError(f"{folder} is not a run directory: it holds no {EXPERIMENT}")
        load_description(folder)
        try:
            experiment = Experiment.from_toml(folder / EXPERIMENT, base=None)
        except ConfigError as error:
            raise RunDirectoryError(str(error)) from error
        model = BFN(experiment.family, experiment.network)
        load_weights(folder, model.network)
        return cls(experiment, model.eval(), read_metrics(folder), folder)


def load_run(path: str | Path) -> BFN:
    """The model of a run directory, ready to sample, on the CPU.

    Raises:
        RunDirectoryError: If it is not a run directory, or a file of it is damaged.
    """
    return Run.open(path).model


def check_out(folder: Path, *, force: bool = False) -> None:
    """Checks that a run may be written to a folder.

    Raises:
        ConfigError: If there is something already, unless it is a run and ``force`` is given.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} exists and is not a directory; choose another --out")
    if any(folder.iterdir()):
        if not (folder / EXPERIMENT).exists():
            raise ConfigError(f"{folder} exists and is not a run directory, so it is left alone; choose another --out")
        if not force:
            raise ConfigError(f"{folder} holds a run already; choose another --out, or replace it with --force")


def start_run(folder: Path, experiment: Experiment, *, force: bool = False) -> Path:
    """Makes a run directory with its ``experiment.toml``; with ``force`` the files of an earlier run go first.

    Raises:
        ConfigError: If there is something already, unless it is a run and ``force`` is given.
        ResourceError: If the folder cannot be written.
    """
    check_out(folder, force=force)
    text = experiment.to_toml()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _OURS:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise resource_error(error, folder) from error
    write_atomically(folder / EXPERIMENT, text)
    return folder


def append_metrics(folder: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Appends lines to ``metrics.jsonl``."""
    path = folder / METRICS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in metrics))
    except OSError as error:
        raise resource_error(error, path) from error


def read_metrics(folder: Path) -> tuple[Mapping[str, float], ...]:
    """The lines of ``metrics.jsonl``; none if there is no such file."""
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(json.loads(line) for line in lines)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None


def describe(experiment: Experiment, step: int) -> dict[str, Any]:
    """What ``model.json`` says of the weights."""
    return {
        "bfn-toolkit": version("bfn-toolkit"),
        "step": step,
        "weights": "ema" if experiment.training.ema_decay > 0.0 else "last",
        "seed": experiment.seed,
    }
