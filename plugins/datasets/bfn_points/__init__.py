r"""Points (plugin): sets of points of several sizes, with types and charges, from files of the user.

A set is moved to its centre of mass, and all are scaled by one number, the root mean square of a coordinate in the
training rows:

.. math:: x_i = \frac{1}{b} \Big(v_i - \frac{1}{n} \sum_j v_j\Big)

The mask says which of the places for the largest set have a point.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_files.reading import Content, FileDataset, Fingerprint
from bfn_points.codec import (
    CLASSES,
    PART,
    NPZFormat,
    PLYFolderFormat,
    PointsCodec,
    XYZFormat,
    classes_of,
    gaps_of,
    names_in,
)
from bfn_points.reading import READERS, folder_fingerprint, folder_sha256, holds_points, read_points
from bfn_points.sets import Array, PointSets
from bfn_toolkit import Batch, BFNWarning, DataError, Entry, Recognised, hookimpl, open_regular, validators

__all__ = ["NPZFormat", "PLYFolderFormat", "Points", "PointsCodec", "XYZFormat", "read_points"]

MOST_CLASSES = 1000  # more count as a mistake
SHOWN = 5  # largest number of names in a message
BATCH = 256  # rows of a step, for sets of up to 8 points ...
FEWEST = 16  # ... and for larger ones, whose pairs are as many in all, at least so many, ...
PAIRS = 2**18  # ... unless these have more pairs of points, 2 GB of memory
PAIR_BYTES = 8000  # memory of a pair in a step of the default network, measured
LARGE = 4 * 10**9  # smallest memory of a step with one set that is warned of, in bytes


@attrs.frozen(eq=False)
class PointsContent(Content):
    """Content of a file, and its codec."""

    codec: PointsCodec


@attrs.frozen
class Points(FileDataset):
    """Sets of points with their centre of mass at 0, as float32, and types and charges where they differ.

    The remaining arguments are those of a file: ``path``, ``valid_fraction``, ``test_fraction`` and ``seed``.

    Arguments:
        path: An .npz file with positions (sets, points, D), of which mask or sizes say what is there, or (all points,
            D) with sizes; D is 2 or 3.  It may have types (integers or names), charges (integers) and label.  Or an
            .xyz file, or a folder of .xyz and .ply files, whose sub-folders are labels.
        labels: Whether the label of a set, if there is one, is the condition "label".
    """

    labels: bool = field(default=True, kw_only=True, validator=validators.instance_of(bool))

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """Sets of points, by the ending of the name; an .npz file by the names of its arrays."""
        ending = path.suffix.lower()
        if ending == ".npz":
            try:
                with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                    names = archive.namelist()
            except (OSError, zipfile.BadZipFile):
                return None
            return Recognised("sets of points", 3) if "positions.npy" in names else None
        if path.is_dir():
            return Recognised("sets of points, a file each", 3) if holds_points(path) else None
        return Recognised("sets of points", 3) if ending in READERS and path.is_file() else None

    @property
    def default_config(self) -> Mapping[str, object]:
        """An equivariant network for positions, or for positions, types and charges together."""
        positions = {"sigma_1": 0.02, "head": "data"}
        parts = self.codec.parts
        family = {"name": "product", "parts": {PART: positions}} if parts else {"name": "gaussian", **positions}
        pairs = self.codec.points**2
        rows = max(1, min(BATCH, max(FEWEST, BATCH * 64 // pairs), PAIRS // pairs))
        return {"preset": "points", "family": family, "training": {"batch_size": rows}}

    @property
    def content(self) -> PointsContent:
        """The sets, read once per process.

        Raises:
            DataError: If the file is malformed, has too few sets, or was written since.
        """
        return _points(self, self.unchanged())

    def fingerprint(self) -> Fingerprint:
        """The present fingerprint of the file, or that of the folder and its sub-folders.

        Raises:
            DataError: If it is neither.
        """
        return folder_fingerprint(self.path) if self.path.is_dir() else super().fingerprint()

    @property
    def source(self) -> Mapping[str, object]:
        """Rows and SHA-256 of the file, or of the names and sizes of all files and the content of some."""
        if not self.path.is_dir():
            return super().source
        self.unchanged()
        return {"rows": len(self.content.rows), "sha256": folder_sha256(self.path)}

    @property
    def codec(self) -> PointsCodec:
        """The scale, and the names of types, charges and labels."""
        return self.content.codec

    @property
    def site_shape(self) -> Any:
        """Shape of the positions (N, D), or the shapes of the parts."""
        codec = self.codec
        shapes = {PART: (codec.points, codec.dimensions), **dict.fromkeys(codec.parts[1:], (codec.points,))}
        return shapes if codec.parts else shapes[PART]

    @property
    def metadata(self) -> Mapping[str, object]:
        """Shapes, axes, classes and the mean square of the positions."""
        return self.content.metadata

    @property
    def unit(self) -> str:
        """Unit of the scaled positions."""
        return "root mean squares of a coordinate"


@lru_cache(maxsize=2)
def _points(dataset: Points, _: Fingerprint) -> PointsContent:
    path = dataset.path
    sets = read_points(path)
    _check(path, sets)
    splits = dataset.partition(len(sets.sizes))
    centred = _centred(sets)
    train = np.zeros(len(sets.sizes), np.bool_)
    train[splits["train"].numpy()] = True
    in_train = np.repeat(train, sets.sizes)
    scale = _scale(path, centred.positions, in_train)
    categories = {name: _names(path, sets, name) for name in CLASSES if name in sets.classes}
    condition, labels = {}, {}
    if dataset.labels and sets.label is not None:
        categories["label"], condition["label"] = _labels(path, sets.label)
        labels = {"labels": len(categories["label"])}
        _warn_of_missing(path, "label", condition["label"][splits["train"]], categories["label"])
    most, dimensions = int(sets.sizes.max()), sets.positions.shape[1]
    codec = PointsCodec(most, dimensions, scale, categories=categories)
    for name in codec.parts[1:]:
        index = torch.from_numpy(classes_of(sets, name, categories[name])[in_train])
        _warn_of_missing(path, name, index, categories[name])
    _warn_of_size(path, most)
    raw = codec.raw_of(centred)
    mask = torch.arange(most) < torch.from_numpy(sets.sizes).unsqueeze(1)
    x = codec.encode(raw)
    whole = bool(mask.all())
    present = mask.unsqueeze(-1)
    if isinstance(x, Mapping):
        x = {name: part.where(present if name == PART else mask, 0) for name, part in x.items()}
    else:
        x = x.where(present, 0)
    return PointsContent(
        Batch(x, condition, None if whole else mask), splits, {**_metadata(codec, centred, in_train), **labels}, codec
    )


def _check(path: Path, sets: PointSets) -> None:
    """Refuses numbers that are not finite, and gaps."""
    wrong = ~np.isfinite(sets.positions)
    if wrong.any():
        point, axis = np.argwhere(wrong)[0].tolist()
        value = sets.positions[point, axis]
        raise DataError(
            f"{sets.place_of(point)}: the coordinate {'xyz'[axis]} is {value:g}; expected a finite number: mend it, or "
            "take the set out"
        )
    for name, values in sets.classes.items():
        gaps = gaps_of(values)
        if gaps.any():
            raise DataError(f"{sets.place_of(int(gaps.argmax()))}: {name}: has no value; each point needs one")
    gaps = np.zeros(1) if sets.label is None else gaps_of(sets.label)
    if gaps.any():
        raise DataError(f"{path}: set {int(gaps.argmax())} has no label; each set needs one")


def _centred(sets: PointSets) -> PointSets:
    """The sets with their centres of mass at 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.add.reduceat(sets.positions, sets.starts) / sets.sizes[:, None]
        positions = sets.positions - np.repeat(means, sets.sizes, 0)
    # Points at one place differ from their mean by rounding, which is not a spread.
    rounding = 8.0 * np.finfo(np.float64).eps * np.abs(np.repeat(means, sets.sizes, 0))
    return attrs.evolve(sets, positions=np.where(np.abs(positions) <= rounding, 0.0, positions))


def _scale(path: Path, positions: Array, train: Array) -> float:
    """Root mean square of a coordinate in the training rows."""
    largest = float(np.abs(positions).max())
    if not np.isfinite(largest) or largest > 1e150:
        raise DataError(f"{path}: coordinates differ by {largest:g} from their centre of mass: give them another unit")
    most = float(np.abs(positions[train]).max())
    if not most:
        warnings.warn(
            f"{path}: the points of each training row are at one place, so that positions are scaled by 1",
            BFNWarning,
            stacklevel=2,
        )
        return 1.0
    return most * float(np.sqrt(np.mean(np.square(positions[train] / most))))


def _names(path: Path, sets: PointSets, name: str) -> tuple[str, ...]:
    names = names_in(sets.classes[name])
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{path}: {name}: found {len(names)} different values, {', '.join(names[:SHOWN])}, ...; "
            f"expected at most {MOST_CLASSES}"
        )
    return names


def _labels(path: Path, label: Array) -> tuple[tuple[str, ...], Tensor]:
    """Names of the labels, and the classes (S,) of the sets."""
    names = names_in(label)
    ones = np.ones(len(label), np.int64)
    row = PointSets(np.zeros((len(label), 1)), ones, lambda row, _: f"{path}: set {row}", {"label": label})
    index = classes_of(row, "label", names)
    return names, torch.from_numpy(index)


def _warn_of_missing(path: Path, what: str, train: Tensor, names: Sequence[str]) -> None:
    missing = (train.bincount(minlength=len(names)) == 0).nonzero().flatten().tolist()
    if missing:
        few = ", ".join(names[i] for i in missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        warnings.warn(f"{path}: no training row has, as {what}, {few}", BFNWarning, stacklevel=2)


def _warn_of_size(path: Path, most: int) -> None:
    memory = PAIR_BYTES * most**2
    if memory > LARGE:
        warnings.warn(
            f"{path}: the largest set has {most:,} points; the equivariant network keeps all pairs of them, about "
            f"{memory / 1e9:,.0f} GB for one set in a step: take fewer points of each set, or another network",
            BFNWarning,
            stacklevel=2,
        )


def _metadata(codec: PointsCodec, centred: PointSets, train: Array) -> Mapping[str, object]:
    square = float(np.square(centred.positions[train] / codec.scale).mean())
    positions: dict[str, object] = {"site_shape": (codec.points, codec.dimensions), "axes": ("set", "channel")}
    if square > 0.0:
        positions["data_variance"] = square
    if not codec.parts:
        return positions
    parts = {PART: {"name": "gaussian", **positions}}
    for name in codec.parts[1:]:
        classes = len(codec.categories[name])
        parts[name] = {"name": "categorical", "site_shape": (codec.points,), "axes": ("set",), "classes": classes}
    return {"parts": parts}


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need a file."""
    return [Entry("points", Points)]


@hookimpl
def bfn_codecs() -> Sequence[Entry]:
    """The codec of sets of points."""
    named = PointsCodec(9, 3, 1.5, categories={"types": ("C", "H")})
    return [Entry("points", PointsCodec, (PointsCodec(4, 2), named))]
