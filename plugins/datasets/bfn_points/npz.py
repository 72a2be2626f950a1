"""Sets of points in .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bfn_files.columns import open_npz
from bfn_points.sets import Array, PointSets
from bfn_toolkit import DataError


def read_npz(path: Path) -> PointSets:
    """Reads the sets of an archive of arrays: positions, with mask or sizes, types, charges and label."""
    with open_npz(path, kinds="biufUS") as (names, load):
        known = ("positions", "mask", "sizes", "types", "charges", "label")
        arrays = {name: load(name) for name in known if name in names}
    if "positions" not in arrays:
        raise DataError(f"{path}: no array is named 'positions'; it has {', '.join(names) or 'none'}")
    positions = arrays["positions"]
    if positions.dtype.kind not in "iuf" or positions.ndim not in (2, 3) or positions.shape[-1] not in (2, 3):
        raise DataError(
            f"{path}: positions are {positions.dtype} of shape {positions.shape}; expected numbers (sets, points, 2 "
            "or 3), or (all points, 2 or 3) with sizes"
        )
    mask = _present(path, arrays)
    sizes, ragged = mask.sum(1), positions.ndim == 2
    if not (len(sizes) and sizes.all()):
        where = f"set {int(np.argmin(sizes))} of 0...{len(sizes) - 1} has" if len(sizes) else "no sets:"
        raise DataError(f"{path}: {where} 0 points; leave it out")
    classes: dict[str, Array] = {}
    for name in ("types", "charges"):
        if name in arrays:
            values, expected = arrays[name], positions.shape[:-1]
            if values.shape != expected:
                raise DataError(f"{path}: {name} have the shape {values.shape}; expected {expected}, as positions have")
            classes[name] = _classes(path, name, values if ragged else values[mask])
    label = arrays.get("label")
    if label is not None and label.shape != sizes.shape:
        raise DataError(f"{path}: label has the shape {label.shape}; expected ({len(sizes)},), one for each set")

    def place(row: int, point: int) -> str:
        point = point if ragged else int(np.flatnonzero(mask[row])[point])
        return f"{path}: set {row} of 0...{len(sizes) - 1}, point {point}"

    positions = (positions if ragged else positions[mask]).astype(np.float64)
    return PointSets(positions, sizes, place, classes, None if label is None else _classes(path, "label", label))


def _present(path: Path, arrays: Mapping[str, Array]) -> Array:
    """True where a set has a point, with shape (S, N); of ragged positions, the first places."""
    positions, mask, sizes = (arrays.get(name) for name in ("positions", "mask", "sizes"))
    assert positions is not None
    if sizes is not None:
        right = sizes.ndim == 1 and sizes.dtype.kind in "iu" and (positions.ndim == 2 or len(sizes) == len(positions))
        if not right:
            raise DataError(
                f"{path}: sizes are {sizes.dtype} of shape {sizes.shape}; expected integers, one for each set"
            )
        most = len(positions) if positions.ndim == 2 else positions.shape[1]
        wrong = (sizes < 0) | (sizes > most)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{path}: sizes: set {row} has {sizes[row]} points; expected 1 to {most}")
    if positions.ndim == 2:
        if sizes is None:
            raise DataError(
                f"{path}: positions have the shape {positions.shape}, all points one after another; add sizes, the "
                "number of points of each set, or write positions as (sets, points, 2 or 3)"
            )
        if (total := int(sizes.sum())) != len(positions):
            raise DataError(f"{path}: sizes add up to {total} points, and positions have {len(positions)}")
        return np.arange(sizes.max(initial=0)) < sizes[:, None]
    if mask is None:
        mask = np.ones(positions.shape[:2], np.bool_)
        return mask if sizes is None else np.arange(positions.shape[1]) < sizes[:, None]
    if mask.shape != positions.shape[:2] or mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
        raise DataError(
            f"{path}: mask is {mask.dtype} of shape {mask.shape}; expected booleans of shape {positions.shape[:2]}, "
            "true where there is a point"
        )
    if sizes is not None and not np.array_equal(mask.sum(1), sizes):
        row = int(np.argmax(mask.sum(1) != sizes))
        raise DataError(f"{path}: set {row} has {int(mask[row].sum())} points by the mask and {sizes[row]} by sizes")
    return mask.astype(np.bool_)


def _classes(path: Path, name: str, values: Array) -> Array:
    """Values of points or sets as names or integers; NaN and empty names stay, as gaps."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "f":
        wrong = ~np.isnan(values) & ((values != np.floor(values)) | (np.abs(values) > 2**53))
        if wrong.any():
            raise DataError(f"{path}: {name}: expected integers or names, got {values[wrong][0]:g}")
        return values
    return values.astype(np.int64) if values.dtype.kind in "biu" else values
