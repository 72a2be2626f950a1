"""Folders of picture files: an index of names, then rows that are decoded at once or when they are read.

Sub-folders of the first level are labels; pictures may lie anywhere below them.  Sub-folders named train, valid (or
val) and test are splits.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from bfn_files.reading import reading
from bfn_images.arrays import SPLITS, Array, Place
from bfn_images.pictures import ENDINGS, Colour, Size, check_pixels, read_picture, sizes_differ
from bfn_toolkit import ArrayRows, Batch, BFNWarning, DataError, Rows

DECODED = 2**29  # bytes of levels, up to which a folder is decoded once
FOLDERS, NAMES = 100, 1000  # that say whether a folder has pictures
LOOKED_AT = 64  # pictures that say whether a larger folder is grey
WHOLE = 2**26  # bytes of a folder whose digest is that of all contents
CONTENTS = 256  # files whose content is part of the digest of a larger folder
SYSTEM = ("Thumbs.db", "desktop.ini", "__MACOSX")  # of operating systems, ignored like names that begin with a dot


@attrs.frozen(eq=False)
class Index:
    """Picture files of one split, in the order of their names.

    Arguments:
        folder: The folder.
        names: Paths in it, in the file system's encoding, (N,).
        labels: Number of the label of each, (N,) as int64, or None.
    """

    folder: Path
    names: Array
    labels: Array | None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def condition(self) -> Mapping[str, Tensor]:
        """The labels, if there are some."""
        return {} if self.labels is None else {"label": torch.from_numpy(self.labels)}

    def path(self, row: int) -> Path:
        """Path of a picture."""
        return self.folder / os.fsdecode(self.names[row])


@attrs.frozen(eq=False)
class Listing:
    """Picture files by split.

    Arguments:
        parts: The files.
        names: Names of the labels.
    """

    parts: Mapping[Place, Index]
    names: Sequence[str]


@attrs.define
class _Others:
    """Files that are not pictures."""

    count: int = 0
    first: str = ""


def list_folder(folder: Path, *, labels: bool) -> Listing:
    """Lists the pictures of a folder.

    Raises:
        DataError: If there are none, a link leaves the folder, or labels or splits are unclear.
    """
    others, root, folder = _Others(), os.path.realpath(folder), _innermost(folder)
    places = [name for name in _subfolders(folder) if name.lower() in SPLITS]
    if "train" in {SPLITS[name.lower()] for name in places}:
        groups: dict[Place, dict[str, list[bytes]]] = {}
        for name in places:
            place = SPLITS[name.lower()]
            if place in groups:
                raise DataError(f"{folder}: two sub-folders are for {place}; put their pictures into one")
            groups[place] = _groups(folder / name, root, others, f"{name}/")
        beside = [name for name in _subfolders(folder) if name not in places]
        if beside:
            raise DataError(
                f"{folder}: the sub-folder '{beside[0]}' is not a split, beside {', '.join(places)}; move it"
            )
    else:
        groups = {"": _groups(folder, root, others, "")}
    if others.count:
        what = (
            f"{others.count:,} files that are not pictures, such as"
            if others.count > 1
            else "a file that is not a picture:"
        )
        warnings.warn(f"{folder}: ignored {what} {others.first}", BFNWarning, stacklevel=2)
    names = _label_names(folder, groups) if labels else []
    return Listing({place: _index(folder, found, names) for place, found in groups.items()}, names)


def _innermost(folder: Path) -> Path:
    """The folder, or the first one below it that holds more than one folder, as an unpacked archive has it."""
    while True:
        with os.scandir(folder) as entries:
            visible = list(islice((entry for entry in entries if not _hidden(entry.name)), 2))
        if len(visible) != 1 or not visible[0].is_dir(follow_symlinks=False):
            return folder
        folder /= visible[0].name


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name))


def _groups(folder: Path, root: str, others: _Others, prefix: str) -> dict[str, list[bytes]]:
    """Names of the pictures by sub-folder of the first level, "" for those outside."""
    groups: dict[str, list[bytes]] = {"": [], **{name: [] for name in _subfolders(folder)}}
    for name in _walk(folder, root, others, ""):
        top, slash, _ = name.partition("/")
        groups[top if slash else ""].append(os.fsencode(f"{prefix}{name}"))
    return groups


def _walk(folder: Path, root: str, others: _Others, prefix: str) -> Iterator[str]:
    """Names of the pictures at any depth, in any order."""
    try:
        entries = os.scandir(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    inner = []
    with entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if os.path.commonpath([root, target]) != root:
                    raise DataError(f"{entry.path}: a link that leaves the folder; replace it by the file")
            if entry.is_dir():
                if entry.is_symlink():
                    raise DataError(f"{entry.path}: a link to a folder, which is not followed; remove it")
                inner.append(entry.name)
            elif not entry.name.lower().endswith(ENDINGS):
                others.count += 1
                others.first = others.first or f"{prefix}{entry.name}"
            elif entry.is_file():
                yield f"{prefix}{entry.name}"
            else:
                raise DataError(f"{entry.path}: not a regular file; remove it")
    for name in inner:
        yield from _walk(folder / name, root, others, f"{prefix}{name}/")


def _label_names(folder: Path, groups: Mapping[Place, Mapping[str, Sequence[bytes]]]) -> list[str]:
    """Names of the sub-folders with pictures, if they are labels: in all splits, and two or more."""
    named = sorted({name for group in groups.values() for name, files in group.items() if name and files})
    if len(named) < 2:
        return []
    outside = next((group[""][0] for group in groups.values() if group[""]), None)
    if outside is not None:
        raise DataError(
            f"{folder}: {os.fsdecode(outside)} lies outside of the sub-folders {', '.join(named[:3])}, so it has no "
            "label; move it, or write --dataset.labels false"
        )
    empty = sorted({name for group in groups.values() for name in group if name} - set(named))
    if empty:
        warnings.warn(f"{folder}: no picture in the sub-folder {', '.join(empty[:5])}", BFNWarning, stacklevel=2)
    learned = groups.get("train", groups.get("", {}))
    strange = next((name for name in named if not learned.get(name)), None)
    if strange is not None:
        raise DataError(f"{folder}: no training picture has the label '{strange}'; add some, or remove the sub-folder")
    return named


def _index(folder: Path, group: Mapping[str, list[bytes]], names: Sequence[str]) -> Index:
    labelled = [name for name in names if group.get(name)] if names else list(group)
    # The names are sorted: the order of a listing is not a property of the folder.
    files = [np.sort(np.array(group[name])) for name in labelled if group[name]]
    if not files:
        raise DataError(f"{folder}: no pictures; expected files that end in {', '.join(ENDINGS)}")
    if not names:
        return Index(folder, np.sort(np.concatenate(files)), None)
    sizes = [len(group[name]) for name in labelled]
    return Index(folder, np.concatenate(files), np.repeat([names.index(name) for name in labelled], sizes))


def digest(index: Index) -> str:
    """SHA-256 of the names, sizes and contents of all files; of a large folder, of the contents of some of them."""
    found, total = hashlib.sha256(), 0
    for name in index.names.tolist():
        size = os.stat(os.path.join(os.fsencode(index.folder), name)).st_size
        found.update(name + b"\0%d\0" % size)
        total += size
    for row in range(0, len(index), 1 if total <= WHOLE else max(1, len(index) // CONTENTS)):
        with reading(index.path(row)) as file:
            found.update(file.read())
    return found.hexdigest()


# Decoding


@attrs.frozen(eq=False)
class PictureRows(Rows):
    """Pictures that are decoded when they are read.

    Arguments:
        index: The files.
        shape: Shape of each, (H, W) or (H, W, 3).
        colour: The option ``colour``.
        size: The option ``size``.
    """

    index: Index
    shape: tuple[int, ...]
    colour: Colour
    size: Size | None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Batch:
        x = np.empty((len(index), *self.shape), np.uint8)
        for place, row in enumerate(index.tolist()):
            x[place] = self._levels(row)
        condition = {name: values[index] for name, values in self.index.condition.items()}
        return Batch(torch.from_numpy(x), condition)

    def _levels(self, row: int) -> Array:
        path = self.index.path(row)
        coloured = len(self.shape) == 3
        if self.colour == "auto":
            levels = read_picture(path, "RGB" if coloured else "auto", self.size)
        else:
            levels = read_picture(path, "RGB" if coloured else "L", self.size)
        if levels.shape[:2] != self.shape[:2]:
            raise sizes_differ(self.index.path(0), self.shape, path, levels.shape)
        if levels.ndim > len(self.shape):
            raise DataError(
                f"{self.index.path(0)} is grey, and {path} has colours; write --dataset.colour rgb, or "
                "--dataset.colour grey"
            )
        return levels

    @property
    def stamp(self) -> str:
        """Digest of the names."""
        return hashlib.sha256(self.index.names.tobytes()).hexdigest()


def folder_rows(listing: Listing, colour: Colour, size: Size | None) -> dict[Place, Rows]:
    """Levels of the pictures by split: decoded, if those of all splits fit into :data:`DECODED` bytes.

    Raises:
        DataError: If a picture is damaged, or differs from the first in size.
    """
    parts = listing.parts
    index = next(iter(parts.values()))
    shape = read_picture(index.path(0), size=size).shape[:2]
    check_pixels(index.path(0), shape, size)
    rows = range(0, len(index), max(1, len(index) // LOOKED_AT))
    coloured = colour == "rgb" or (
        colour == "auto" and any(read_picture(index.path(row), size=size).ndim == 3 for row in rows)
    )
    shape = (*shape, 3) if coloured else shape
    if sum(map(len, parts.values())) * math.prod(shape) > DECODED:
        return {place: PictureRows(part, shape, colour, size) for place, part in parts.items()}
    return _decoded(parts, shape, colour, size)


def _decoded(
    parts: Mapping[Place, Index], shape: tuple[int, ...], colour: Colour, size: Size | None
) -> dict[Place, Rows]:
    origin = next(iter(parts.values())).path(0)
    mode: Literal["auto", "L", "RGB"] = "RGB" if len(shape) == 3 else "L" if colour == "grey" else "auto"
    found: dict[Place, Rows] = {}
    for place, part in parts.items():
        levels = np.empty((len(part), *shape), np.uint8)
        for row in range(len(part)):
            picture = read_picture(part.path(row), mode, size)
            if picture.shape[:2] != shape[:2]:
                raise sizes_differ(origin, shape, part.path(row), picture.shape)
            if picture.ndim > len(shape):  # the first with colours: begin again, with room for them
                return _decoded(parts, (*shape, 3), colour, size)
            levels[row] = picture
        found[place] = ArrayRows(levels, part.condition)
    return found


def recognised_folder(path: Path) -> str | None:
    """A folder with pictures at any depth in words; None if the first names in its folders are none."""
    for folder, inner, names in islice(os.walk(path), FOLDERS):
        inner[:] = [name for name in inner if not _hidden(name)]
        if any(name.lower().endswith(ENDINGS) and not _hidden(name) for name in names[:NAMES]):
            return "pictures" if folder == str(path) else "pictures in sub-folders"
    return None
