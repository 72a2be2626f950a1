"""The files of a run directory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ConfigError, ResourceError, RunDirectoryError
from bfn_toolkit.runs.checkpoints import CHECKPOINTS
from bfn_toolkit.runs.metrics_log import DAMAGED, METRICS, NOTHING
from bfn_toolkit.runs.model_files import DESCRIPTION, WEIGHTS
from bfn_toolkit.runs.provenance import providers
from bfn_toolkit.runs.records import EVALUATION, EXPERIMENT
from bfn_toolkit.storage.files import (
    NEXT,
    SUMS,
    check_inside,
    discard,
    put_together,
    resource_error,
    sync_folder,
    write_atomically,
)
from bfn_toolkit.storage.folders import remove_folder, sweep
from bfn_toolkit.storage.locks import held

SAMPLES, FIGURES, REPORTS = "samples", "figures", "nonfinite"  # samples: and an ending
PAGE = "report.html"
LEFTOVERS = (".lock", ".tmp-", ".del-", NEXT)  # of a run that ended before its first file was there
# In the order of removal, so that a crash leaves the old run with a model, or one that has to be begun again.
_OURS = (PAGE, EVALUATION, FIGURES, REPORTS, METRICS, DAMAGED, CHECKPOINTS, DESCRIPTION)
_SAMPLES = re.compile(r"samples(-.*-n\d+-steps\d+-seed\d+.*)?\.\w+")  # names that the toolkit gives
_TRAINED = (EXPERIMENT, METRICS, DESCRIPTION, SUMS, WEIGHTS)  # files that training alone writes


class GoneError(ResourceError):
    """The run directory of a training is not there any more."""


@attrs.frozen
class Home:
    """The directory of a run in training, which may be removed or renamed meanwhile.

    Arguments:
        folder: Its path.
        number: Its number on the disk.
    """

    folder: Path
    number: tuple[int, int]

    @classmethod
    def of(cls, folder: Path) -> Home:
        """The directory that is there now."""
        status = folder.stat()
        return cls(folder, (status.st_dev, status.st_ino))

    def check(self) -> None:
        """Checks that the directory is still there.

        Raises:
            GoneError: If it is not.
        """
        try:
            there = Home.of(self.folder) == self
        except OSError:
            there = False
        if not there:
            raise GoneError(
                f"{self.folder} was removed or renamed while it was being trained, so the training stops and nothing "
                "is written; a renamed run continues with: bfn train --resume NEW_NAME"
            )


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
    if "\0" in str(folder) or len(os.fsencode(name)) > 255 or name.startswith("-"):
        raise ConfigError(f"{name[:40]!r} cannot be the name of a run directory; choose another --out")
    try:
        _check_apart(folder, dataset)
        if not folder.exists():
            return
        if not folder.is_dir():
            raise ConfigError(f"{folder} exists and is not a directory; choose another --out")
        if any(not path.name.startswith(LEFTOVERS) for path in folder.iterdir()):
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


def make_folder(folder: Path) -> list[Path]:
    """Makes a directory for a run; returns the directories that were not there before, the innermost first.

    Raises:
        RunDirectoryError: If a sub-folder of a run there is a link, through which files elsewhere would change.
        ResourceError: If it cannot be made.
    """
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINTS, FIGURES, REPORTS):
            check_inside(folder / name)
    except OSError as error:
        raise resource_error(error, folder) from error
    return made


def unmake_run(folder: Path, made: Sequence[Path]) -> None:
    """Removes a run that has not made a step, and the directories that were made for it; others stay."""
    with suppress(OSError, RunDirectoryError):
        if folder in made:
            discard(folder)
        else:
            _remove_ours(folder)
            for name in (EXPERIMENT, WEIGHTS, SUMS):
                discard(folder / name)
        for path in made:
            if path.exists():
                path.rmdir()


def _remove_ours(folder: Path) -> None:
    """Removes the files of a run, but for its experiment and what is of use with :data:`DESCRIPTION` alone."""
    samples = filter(_SAMPLES.fullmatch, sorted(os.listdir(folder)))
    for path in (folder / name for name in (*samples, *_OURS)):
        remove_folder(path) if path.is_dir() and not path.is_symlink() else discard(path)


def start_run(folder: Path, experiment: Experiment) -> None:
    """Writes ``experiment.toml`` into a directory, after removing the files of an earlier run.

    Raises:
        ResourceError: If it cannot be written.
        RunDirectoryError: If samples of that run are being written there.
    """
    for lock in sorted(folder.glob(".tmp-*.lock")):
        with held(lock, folder / lock.name[len(".tmp-") : -len(".lock")], RunDirectoryError):
            pass  # nobody is writing samples of the run that is replaced
    new = folder / f"{NEXT}{EXPERIMENT}"
    write_atomically(new, experiment.to_toml())
    try:
        _remove_ours(folder)
        os.replace(new, folder / EXPERIMENT)
        for path in (folder / WEIGHTS, folder / SUMS, *folder.glob(f"{NEXT}*")):
            discard(path)
        sync_folder(folder)
    except OSError as error:
        raise resource_error(error, folder) from error


def sweep_run(folder: Path) -> None:
    """Ends what crashes of a training have left, which no other program writes, in a locked run directory."""
    put_together(folder, (WEIGHTS, DESCRIPTION, SUMS))
    sweep(folder, *(f".tmp-{name}-" for name in _TRAINED))
    sweep(folder / CHECKPOINTS)


def describe(experiment: Experiment, step: int) -> dict[str, Any]:
    """Facts about the weights, for ``model.json``."""
    return {
        "bfn-toolkit": version("bfn-toolkit"),
        "step": step,
        "weights": "ema" if experiment.training.ema_decay > 0.0 else "raw",
        "seed": experiment.seed,
        "plugins": providers(experiment),
        "experiment": experiment.to_toml(),
        "inexact": [],
        "metrics": NOTHING,
    }
