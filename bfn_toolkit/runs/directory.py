"""The files of a run directory."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ConfigError, RunDirectoryError
from bfn_toolkit.runs.checkpoints import CHECKPOINTS
from bfn_toolkit.runs.model_files import DESCRIPTION, WEIGHTS
from bfn_toolkit.runs.provenance import providers
from bfn_toolkit.storage.files import SUMS, resource_error, sync_folder, write_atomically

EXPERIMENT, METRICS, EVALUATION, SAMPLES, FIGURES, REPORTS = (
    "experiment.toml",
    "metrics.jsonl",
    "evaluation.json",
    "samples",  # and an ending
    "figures",
    "nonfinite",
)
_OURS = (EXPERIMENT, METRICS, EVALUATION, WEIGHTS, SUMS, DESCRIPTION, FIGURES, REPORTS, CHECKPOINTS)


def check_out(folder: Path, *, force: bool = False, dataset: Any = None) -> None:
    """Checks that a run may be written to a folder.

    Arguments:
        folder: The folder.
        force: Whether it may replace another run.
        dataset: Dataset whose files must stay unchanged.
    Raises:
        ConfigError: If the folder is not empty (unless it is a run and ``force`` is true), or overlaps with files of
            the dataset.
    """
    name = folder.name
    if "\0" in str(folder) or len(name.encode()) > 255 or name.startswith("-"):
        raise ConfigError(f"{name[:40]!r} cannot be the name of a run directory; choose another --out")
    try:
        _check_apart(folder, dataset)
        if not folder.exists():
            return
        if not folder.is_dir():
            raise ConfigError(f"{folder} exists and is not a directory; choose another --out")
        if any(path.name != ".lock" for path in folder.iterdir()):
            if not (folder / EXPERIMENT).exists():
                raise ConfigError(
                    f"{folder} exists and is not a run directory, so it is left alone; choose another --out"
                )
            if not force:
                raise ConfigError(
                    f"{folder} holds a run already; choose another --out, continue it with --resume {folder}, "
                    "or replace it with --force"
                )
    except OSError as error:
        raise resource_error(error, folder) from error


def _check_apart(folder: Path, dataset: Any) -> None:
    """Checks that a run would neither be read as data nor replace them."""
    values = [getattr(dataset, field.name) for field in attrs.fields(type(dataset))] if attrs.has(type(dataset)) else []
    for path in (value for value in values if isinstance(value, Path)):
        run, data = folder.resolve(), path.resolve()
        if data.is_relative_to(run) or (path.is_dir() and run.is_relative_to(data)):
            raise ConfigError(f"{folder} and the data in {path} overlap; choose another --out")


def make_folder(folder: Path) -> None:
    """Makes a directory for a run.

    Raises:
        ResourceError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise resource_error(error, folder) from error


def start_run(folder: Path, experiment: Experiment) -> None:
    """Writes ``experiment.toml`` into a directory, after removing the files of an earlier run.

    Raises:
        ResourceError: If it cannot be written.
    """
    text = experiment.to_toml()
    try:
        for path in (*(folder / name for name in _OURS), *folder.glob(f"{SAMPLES}.*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise resource_error(error, folder) from error
    write_atomically(folder / EXPERIMENT, text)


def append_metrics(folder: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Appends lines to ``metrics.jsonl``, all of them or none.

    Raises:
        ResourceError: If they cannot be written.
    """
    path = folder / METRICS
    try:
        with path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                _write_all(file, "".join(json.dumps(line) + "\n" for line in metrics).encode())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise resource_error(error, path) from error


def _write_all(file: io.RawIOBase, data: bytes) -> None:
    while data:  # a write can be short, just before a disk is full
        data = data[file.write(data) or 0 :]


def read_metrics(folder: Path) -> tuple[Mapping[str, float], ...]:
    """The lines of ``metrics.jsonl``, except a last one that a crash cut short; none if there is no such file.

    Raises:
        RunDirectoryError: If it cannot be read.
    """
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return tuple(json.loads(line) for line in lines)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None


def cut_metrics(folder: Path, step: int, validated: int) -> tuple[Mapping[str, float], ...]:
    """Drops metrics after the step and the validation from which training continues; returns the others."""
    kept = tuple(m for m in read_metrics(folder) if m["step"] <= (validated if "valid_loss" in m else step))
    if (folder / METRICS).exists():
        write_atomically(folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def describe(experiment: Experiment, step: int) -> dict[str, Any]:
    """Facts about the weights, for ``model.json``."""
    return {
        "bfn-toolkit": version("bfn-toolkit"),
        "step": step,
        "weights": "ema" if experiment.training.ema_decay > 0.0 else "raw",
        "seed": experiment.seed,
        "plugins": providers(experiment),
    }
