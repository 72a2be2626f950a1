"""The data set that reads a file or folder: each class is asked whether it recognises the path.

``bfn train PATH`` takes the class of the highest :attr:`certainty <bfn_toolkit.Recognised.certainty>`; ``--as NAME``
names another.
"""

from __future__ import annotations

import inspect
import os
import stat
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bfn_toolkit.errors import BFNWarning, ConfigError, DataError, did_you_mean
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.untrusted import open_regular

if TYPE_CHECKING:
    from bfn_toolkit.data.dataset import Recognised

EXPERIMENT = "experiment.toml"  # file of a run directory
MOST = 512  # bytes of a file by which it is told why no data set reads it
_UNPACK = "unpack it, and give what it holds"
_PICKLE = "a pickle, which is never loaded, because it can run code", "save its arrays by numpy.savez"
SIGNATURES = {  # first bytes of files that no data set reads: what they are, and what to do
    b"PK\x03\x04": ("a zip archive, as .docx, .xlsx and .pt are too", _UNPACK),
    b"\x1f\x8b": ("compressed by gzip", "unpack it, or end its name in .csv.gz or .txt.gz"),
    b"\xfd7zXZ": ("compressed by xz", _UNPACK),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"%PDF": ("a PDF", "save it as plain text"),
    b"\x89HDF": ("HDF5", "save its arrays by numpy.savez"),
    **dict.fromkeys((bytes([0x80, protocol]) for protocol in range(2, 6)), _PICKLE),
}


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
        if reason := _why_not(path):
            raise DataError(f"{path}: {reason}")
        kinds = "; ".join(f"--as {name}: {_summary(cls)}" for name, cls in readers(registry).items())
        raise DataError(f"{path}: no data set recognises it; name the one that reads it: {kinds}")
    name, *others = found
    equal = [name, *(other for other in others if found[other].certainty == found[name].certainty)]
    if len(equal) > 1:
        choices = ", or ".join(f"--as {other} ({found[other].description})" for other in equal)
        raise ConfigError(f"{path}: several data sets can read it; write {choices}")
    return name


def _why_not(path: Path) -> str:
    """Reason for which no data set reads a path, and what to do; "" if there is none but the content."""
    try:
        if path.is_dir():
            visible = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
            if not visible:
                return "an empty folder; give one with pictures, sets of points or a table"
            endings = Counter(os.path.splitext(entry.name)[1].lower() for entry in visible if entry.is_file())
            files = ", ".join(f"{n:,} {ending or 'without an ending'}" for ending, n in endings.most_common(3))
            kinds = "; ".join([*([f"files: {files}"] if files else []), f"folders: {len(visible) - endings.total():,}"])
            return f"a folder in which no data set finds its files ({kinds}); give one of pictures, or one of the files"
        with open_regular(path) as file:
            head = file.read(MOST)
    except OSError:
        return ""
    if not head:
        return "an empty file"
    known = (f"{what}; {cure}" for magic, (what, cure) in SIGNATURES.items() if head.startswith(magic))
    return next(known, "a tar archive; unpack it, and give what it holds" if head[257:262] == b"ustar" else "")


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
