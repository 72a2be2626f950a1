"""The codec of sets of points, and their file formats."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_points.reading import read_points
from bfn_points.sets import Array, PointSets
from bfn_points.xyz import UNNAMED
from bfn_toolkit import Codec, DataError, FolderFormat, Format, expand, validators

PART = "positions"  # the part of coordinates
CLASSES = ("types", "charges")  # the parts of classes, if they differ from point to point


@attrs.frozen
class PointsCodec(Codec):
    r"""Positions in the units of the file, :math:`x = v / b`, and names of types and charges.

    Raw data are positions (B, N, D) in float64, or, where types or charges differ from point to point, a mapping from
    "positions", "types" and "charges" to positions and to classes (B, N) in int64.  Missing points are gaps: NaN, and
    -1 for classes.  The positions of a set are relative to its centre of mass, here as there: nothing is shifted.

    Arguments:
        points: Number N of places for points.
        dimensions: Number D of coordinates, 2 or 3.
        scale: Number b > 0, the root mean square of a coordinate.
        categories: Names of the classes of "types", "charges" and the condition "label"; of one name, all points have
            it.
    """

    points: int = field(validator=validators.integer(ge=1))
    dimensions: int = field(validator=validators.integer(ge=2, le=3))
    scale: float = field(default=1.0, converter=float, validator=validators.number(gt=0))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts; () if positions are all that differs."""
        classes = tuple(name for name in CLASSES if len(self.categories.get(name, ())) > 1)
        return (PART, *classes) if classes else ()

    @property
    def formats(self) -> Mapping[str, Format]:
        """Lines for points in space, arrays, and for points without types and charges a folder of .ply files."""
        text: dict[str, Format] = {".xyz": XYZFormat(self)} if self.dimensions == 3 else {}
        arrays = dict(super().formats)
        if self.parts:
            del arrays[".npy"]
        folder: dict[str, Format] = {} if set(CLASSES) & set(self.categories) else {"": PLYFolderFormat(self)}
        return {**text, ".npz": NPZFormat(self), **arrays, **folder}

    @property
    def decimals(self) -> int:
        """Decimals to which positions are decoded: a rounding below that of float32."""
        return min(300, max(0, 7 - math.floor(math.log10(self.scale))))

    @property
    def rounding(self) -> float:
        """Half a unit in the last place of float32, for |x| < 16."""
        return self.scale * 2.0**-20

    def encode(self, raw: Any) -> Any:
        """Scaled positions as float32, and classes.

        Raises:
            DataError: If a class has no name.
        """
        if isinstance(raw, Mapping):
            return {name: self._encoded(name, part) for name, part in raw.items()}
        return self._encoded(PART, raw)

    def _encoded(self, name: str, part: Tensor) -> Tensor:
        part = torch.as_tensor(part)
        if name == PART:
            x: Tensor = (part.double() / self.scale).float()
            return x
        names = self.categories.get(name, ())
        if bool((part >= len(names)).any()):
            raise DataError(f"{name}: expected classes below {len(names)}, got {int(part.max())}")
        return part

    def decode(self, x: Any, mask: Any = None) -> Any:
        """Positions in the units of the file, rounded to the digits of float32, and classes; gaps outside the mask."""
        if isinstance(x, Mapping):
            masks = mask if isinstance(mask, Mapping) else dict.fromkeys(x, mask)
            return {name: self._decoded(name, part, masks.get(name)) for name, part in x.items()}
        return self._decoded(PART, x, mask)

    def _decoded(self, name: str, part: Tensor, mask: Tensor | None) -> Tensor:
        part = part.detach().cpu()
        gap: float = -1
        if name == PART:
            power, gap = 10.0**self.decimals, torch.nan
            part = (part.double() * self.scale * power).round() / power + 0.0
        return part if mask is None else torch.where(expand(mask.cpu(), part), part, gap)

    def raw_of(self, sets: PointSets) -> Any:
        """Raw data of sets in a file.

        Raises:
            DataError: If they do not fit the codec, or a name is unknown.
        """
        most, dimensions = int(sets.sizes.max()), sets.positions.shape[1]
        if most > self.points or dimensions != self.dimensions:
            row = int(sets.sizes.argmax())
            raise DataError(
                f"{sets.place(row, 0)}: found {most} points in {dimensions} dimensions; expected {self.points} or "
                f"fewer in {self.dimensions}"
            )
        rows = np.repeat(np.arange(len(sets.sizes)), sets.sizes)
        places = np.arange(len(rows)) - np.repeat(sets.starts, sets.sizes)
        raw = {PART: _filled(sets, self.points, rows, places, sets.positions, np.nan)}
        for name in self.parts[1:]:
            if name in sets.classes:
                index = classes_of(sets, name, self.categories[name])
                raw[name] = _filled(sets, self.points, rows, places, index, -1)
        return raw if self.parts else raw[PART]

    def counts(self, raw: Tensor | Mapping[str, Any]) -> Array:
        """Number of points of each row, (B,): up to the last that is not missing."""
        there: Array = (~self.positions(raw).isnan()).any(-1).numpy()
        return np.where(there.any(1), there.shape[1] - there[:, ::-1].argmax(1), 0)

    def positions(self, raw: Any) -> Tensor:
        """The positions of raw data."""
        positions: Tensor = raw[PART] if isinstance(raw, Mapping) else raw
        return positions

    def named(self, raw: Any, name: str) -> Array | None:
        """Names of the classes of all places, (B, N), or the one that all points have; None if there are none."""
        names = self.categories.get(name)
        if not names:
            return None
        values = _values(names)
        if isinstance(raw, Mapping) and name in raw:
            gap = np.zeros(1, values.dtype)
            index: Array = raw[name].numpy()
            named: Array = np.concatenate([values, gap])[index]  # a gap, -1, is the last
            return named
        return np.full(self.positions(raw).shape[:2], values[0])


def _values(names: Sequence[str]) -> Array:
    """Names as integers if all are integers, else as texts."""
    integers = all(str(number) == name for name in names if (number := _integer(name)) is not None)
    if integers and all(_integer(name) is not None for name in names):
        return np.array([int(name) for name in names])
    return np.array(names)


def _integer(name: str) -> int | None:
    digits = name.removeprefix("-")
    return int(name) if digits.isascii() and digits.isdigit() and len(digits) < 16 else None


def gaps_of(values: Array) -> Array:
    """True where there is no name, or NaN in place of an integer."""
    gaps: Array = values == "" if values.dtype.kind == "U" else np.isnan(values)
    return gaps


def names_in(values: Array) -> tuple[str, ...]:
    """Different names in order: integers by their value, others by the alphabet; gaps are left out."""
    if values.dtype.kind == "U":
        return tuple(name for name in np.unique(values).tolist() if name)
    return tuple(str(int(value)) for value in np.unique(values[~np.isnan(values)]))


def classes_of(sets: PointSets, name: str, names: Sequence[str]) -> Array:
    """Classes (P,) of the values of points; -1 for gaps.

    Raises:
        DataError: If a value is not one of the names.
    """
    values = sets.classes[name]
    gaps = gaps_of(values)
    texts = values if values.dtype.kind == "U" else np.where(gaps, 0, values).astype(np.int64).astype(np.str_)
    known, inverse = np.unique(texts, return_inverse=True)
    index = np.array([names.index(text) if text in names else len(names) for text in known.tolist()])[inverse]
    strange = ~gaps & (index == len(names))
    if strange.any():
        point = int(strange.argmax())
        few = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DataError(f"{sets.place_of(point)}: {name}: expected one of {few}, got '{texts[point]}'")
    return np.where(gaps, -1, index)


def _filled(sets: PointSets, points: int, rows: Array, places: Array, values: Array, gap: float) -> Tensor:
    """Values (P, ...) of all points in rows of the places, with gaps behind them."""
    filled = np.full((len(sets.sizes), points, *values.shape[1:]), gap, values.dtype)
    filled[rows, places] = values
    return torch.from_numpy(filled)


class XYZFormat(Format):
    """An .xyz file: for each set the number of points, a line with the columns, and a line for each point."""

    codec: PointsCodec
    text = True

    def header(self, raw: Any, n: int) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, raw: Any, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        types, charges = self.codec.named(raw, "types"), self.codec.named(raw, "charges")
        columns = "Properties=species:S:1:pos:R:3" + (":charge:I:1" if charges is not None else "")
        positions: list[Any] = self.codec.positions(raw).tolist()
        lines = []
        for row, size in enumerate(self.codec.counts(raw).tolist()):
            lines += [str(size), columns]
            for point, place in enumerate(positions[row][:size]):
                name = UNNAMED if types is None else types[row, point] or UNNAMED
                charge = [] if charges is None else [str(charges[row, point])]
                lines.append(" ".join([str(name), *map(repr, place), *charge]))
        yield end, "".join(f"{line}\n" for line in lines).encode()

    def read(self, path: Path) -> Any:
        """The sets, whose coordinates may be nan."""
        return self.codec.raw_of(read_points(path))


class NPZFormat(Format):
    """An .npz file: positions (sets, points, D), mask, sizes, and types and charges (sets, points) if there are any.

    Missing places have zeros, and a mask of false.
    """

    codec: PointsCodec
    whole = True

    def header(self, raw: Any, n: int) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, raw: Any, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The archive."""
        sizes = self.codec.counts(raw)
        mask = np.arange(self.codec.points) < sizes[:, None]
        positions = np.where(mask[:, :, None], self.codec.positions(raw).numpy(), 0.0)
        classes = {name: self.codec.named(raw, name) for name in CLASSES}
        filled: dict[str, Any] = {
            name: np.where(mask, values, np.zeros(1, values.dtype))
            for name, values in classes.items()
            if values is not None
        }
        buffer = io.BytesIO()
        np.savez(buffer, positions=positions, mask=mask, sizes=sizes, **filled)
        yield end, buffer.getvalue()

    def read(self, path: Path) -> Any:
        """The sets, whose coordinates may be NaN, and their types and charges empty or NaN."""
        return self.codec.raw_of(read_points(path))


class PLYFolderFormat(FolderFormat):
    """A folder of .ply files in binary, one for each set."""

    codec: PointsCodec
    ending = ".ply"

    def contents(self, raw: Any) -> Iterator[bytes]:
        """The points of each set, as vertices."""
        positions = self.codec.positions(raw).numpy()
        axes = "".join(f"property double {axis}\n" for axis in "xyz"[: self.codec.dimensions])
        for points, size in zip(positions, self.codec.counts(raw).tolist(), strict=True):
            header = f"ply\nformat binary_little_endian 1.0\nelement vertex {size}\n{axes}end_header\n"
            yield header.encode() + points[:size].astype("<f8").tobytes()
