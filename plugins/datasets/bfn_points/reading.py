"""Sets of points in files and folders: .npz, .xyz and .ply, without pickle and with places.

These formats are read here because the libraries that read them do not fit: ``plyfile`` is under the GPL, and ``ase``
brings a simulation package and names no line of a fault.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from bfn_files.reading import Fingerprint, reading
from bfn_points.npz import read_npz
from bfn_points.ply import read_ply
from bfn_points.sets import PointSets
from bfn_points.xyz import read_xyz
from bfn_toolkit import BFNWarning, DataError

READERS: Mapping[str, Callable[[Path], PointSets]] = {".npz": read_npz, ".xyz": read_xyz, ".ply": read_ply}
LOOKED_AT = 100  # entries of a folder that say whether it has files of points
WHOLE = 2**26  # bytes of a folder whose digest is that of all contents
CONTENTS = 256  # files whose content is part of the digest of a larger folder
JOINED = 1000  # files of a folder that are joined at a time


def read_points(path: Path) -> PointSets:
    """Reads the sets of a file that ends in .npz or .xyz, the one set of a .ply file, or those of a folder of files.

    Raises:
        DataError: If a file is damaged, or is not of the format that its name promises.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: cannot tell the format; its name must end in {', '.join(READERS)}")
    return READERS[path.suffix.lower()](path)


def list_files(folder: Path) -> list[tuple[str, Path]]:
    """The sub-folder, "" for none, and the path of each file of points, in the order of their names.

    Raises:
        DataError: If there are none, a link leaves the folder, or a folder is too deep.
    """
    root, found, others = os.path.realpath(folder), [], []
    for name in ("", *(entry.name for entry in _entries(folder, root) if entry.is_dir())):
        for entry in _entries(folder / name, root):
            path = Path(entry.path)
            if entry.is_dir():
                if name:
                    raise DataError(f"{path}: a folder in a sub-folder; expected files of points in {folder / name}")
            elif path.suffix.lower() in READERS:
                found.append((name, path))
            else:
                others.append(path)
    if not found:
        raise DataError(f"{folder}: no files of points; expected names that end in {', '.join(READERS)}")
    if others:
        warnings.warn(
            f"{folder}: ignored files that are not sets of points: {len(others):,}, such as {others[0].name}",
            BFNWarning,
            stacklevel=2,
        )
    return found


def _entries(folder: Path, root: str) -> list[os.DirEntry[str]]:
    """Visible entries in the order of their names."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    for entry in visible:
        if entry.is_symlink() and os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
            raise DataError(f"{entry.path}: a link that leaves the folder; put the file in its place")
    return visible


def holds_points(folder: Path) -> bool:
    """Whether a folder, or its first sub-folder, has a file of points among its first entries."""
    try:
        for place in (folder, *[Path(entry.path) for entry in _first_entries(folder) if entry.is_dir()][:1]):
            if any(entry.name.lower().endswith((".xyz", ".ply")) for entry in _first_entries(place)):
                return True
    except OSError:
        return False
    return False


def _first_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(itertools.islice(entries, LOOKED_AT))


def folder_fingerprint(folder: Path) -> Fingerprint:
    """Fingerprint of a folder, which changes when a file in it or in a sub-folder is added, removed or renamed."""
    status = folder.stat()
    inner = [entry.stat() for entry in _entries(folder, os.path.realpath(folder)) if entry.is_dir()]
    return status.st_dev, status.st_ino, len(inner), max(it.st_mtime_ns for it in (status, *inner))


def folder_sha256(folder: Path) -> str:
    """SHA-256 of the names, sizes and contents of all files; of a large folder, of the contents of some of them."""
    digest, files, total = hashlib.sha256(), list_files(folder), 0
    for _, path in files:
        size = path.stat().st_size
        digest.update(os.fsencode(path.relative_to(folder)) + b"\0%d\0" % size)
        total += size
    for _, path in files[:: 1 if total <= WHOLE else max(1, len(files) // CONTENTS)]:
        with reading(path) as file:
            digest.update(file.read())
    return digest.hexdigest()


def _read_folder(folder: Path) -> PointSets:
    files = list_files(folder)
    names = {name for name, _ in files}
    labelled = len(names) > 1 and "" not in names
    pieces = []
    for start in range(0, len(files), JOINED):
        read = [(name, read_points(path)) for name, path in files[start : start + JOINED]]
        if labelled:
            read = [(name, attrs.evolve(sets, label=np.full(len(sets.sizes), name))) for name, sets in read]
        pieces.append(_joined([sets for _, sets in read]))
    return _joined(pieces)


def _joined(pieces: Sequence[PointSets]) -> PointSets:
    """All sets of several files."""
    first = pieces[0]
    for piece in pieces:
        if piece.positions.shape[1] != first.positions.shape[1]:
            dimensions = [it.positions.shape[1] for it in (piece, first)]
            raise DataError(f"{piece.place(0, 0)}: {dimensions[0]} coordinates, and {dimensions[1]} in files before")
        if (piece.classes.keys(), piece.label is None) != (first.classes.keys(), first.label is None):
            raise DataError(
                f"{piece.place(0, 0)}: has {', '.join(piece.classes) or 'no types'}"
                f"{'' if piece.label is None else ' and a label'}, unlike the files before"
            )
    starts = np.cumsum([0, *(len(piece.sizes) for piece in pieces)])
    labels = [piece.label for piece in pieces if piece.label is not None]

    def place(row: int, point: int) -> str:
        number = int(np.searchsorted(starts, row, "right")) - 1
        return pieces[number].place(row - int(starts[number]), point)

    return PointSets(
        np.concatenate([piece.positions for piece in pieces]),
        np.concatenate([piece.sizes for piece in pieces]),
        place,
        {name: np.concatenate([piece.classes[name] for piece in pieces]) for name in first.classes},
        np.concatenate(labels) if labels else None,
    )
