"""The data set that reads a file or folder: each class is asked whether it recognises the path.

``bfn train PATH`` takes the class of the highest :attr:`certainty <bfn_toolkit.Recognised.certainty>`; ``--as NAME``
names another.
"""

from __future__ import annotations

import inspect
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bfn_toolkit.errors import BFNWarning, ConfigError, DataError, did_you_mean
from bfn_toolkit.registry.registry import Registry

if TYPE_CHECKING:
    from bfn_toolkit.data.dataset import Recognised

EXPERIMENT = "experiment.toml"  # file of a run directory


def check_path(path: Path) -> None:
    """Checks that a path is a file or a folder.

    Raises:
        DataError: If it is missing or special: a FIFO would block, and a device would never end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: {reason}; name a file or a folder, and write options as --network.width 256"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path}: a FIFO, device or socket; expected a file or a folder, so save its content to a file")


def readers(registry: Registry) -> dict[str, type[Any]]:
    """Classes of data sets that read files, by name."""
    classes = {registered.entry.build for registered in registry.entries() if registered.kind == "dataset"}
    return dict(sorted((registry.name_of("dataset", cls), cls) for cls in classes if _reads_files(cls)))


def _recognises_nothing(path: Path) -> None:
    """For a data set that is not a :class:`~bfn_toolkit.Dataset`."""


def _reads_files(cls: Any) -> bool:
    return attrs.has(cls) and any(field.init and field.name == "path" for field in attrs.fields(cls))


def recognitions(path: Path, registry: Registry) -> dict[str, Recognised]:
    """Answers of the data sets that recognise a path, by name, the most certain first.

    A class that fails to answer is left out with a warning.
    """
    found: dict[str, Recognised] = {}
    for name, cls in readers(registry).items():
        try:
            answer = getattr(cls, "recognise", _recognises_nothing)(path)
            if answer is not None and answer.certainty > 0:
                found[name] = answer
        except Exception as error:
            warnings.warn(f"data set '{name}' cannot tell whether it reads {path}: {error!r}", BFNWarning, stacklevel=2)
    return dict(sorted(found.items(), key=lambda item: -item[1].certainty))


def dataset_for(path: Path, registry: Registry) -> str:
    """Name of the data set that is most certain to read a path.

    Raises:
        DataError: If none recognises it.
        ConfigError: If two are equally certain, or the path is not data but a run or a configuration.
    """
    if (path / EXPERIMENT).is_file():
        raise ConfigError(f"{path}: a run, not data; continue it with bfn train --resume {path}")
    if path.suffix.lower() == ".toml":
        raise ConfigError(f"{path}: a configuration, not data; write --config {path}, or --as NAME if it is data")
    found = recognitions(path, registry)
    if not found:
        kinds = "; ".join(f"--as {name}: {_summary(cls)}" for name, cls in readers(registry).items())
        raise DataError(f"{path}: no data set recognises it; name the one that reads it: {kinds}")
    name, *others = found
    equal = [name, *(other for other in others if found[other].certainty == found[name].certainty)]
    if len(equal) > 1:
        choices = ", or ".join(f"--as {other} ({found[other].description})" for other in equal)
        raise ConfigError(f"{path}: several data sets can read it; write {choices}")
    return name


def check_reader(name: str, registry: Registry) -> None:
    """Checks that a data set of this name reads files.

    Raises:
        UnknownPlugin: If there is no such data set.
        ConfigError: If it has no field ``path``.
    """
    if not _reads_files(registry.get("dataset", name).entry.build):
        known = readers(registry)
        raise ConfigError(
            f"data set '{name}' reads no file; those that do: {', '.join(known)}.{did_you_mean(name, known)}"
        )


def description(path: Path, name: str, registry: Registry) -> str:
    """The content of a path as a data set reads it, and the names of others that recognise it too."""
    found = recognitions(path, registry)
    words = f"{found[name].description} " if name in found else ""
    others = "|".join(other for other in found if other != name)
    return f"{words}(as {name}{f'; --as {others} says otherwise' if others else ''})"


def _summary(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")
