"""File formats of raw data: arrays, tensors by name, tables and lines of text, written some rows at a time.

A format belongs to a :class:`~bfn_toolkit.Codec`, which gives it numbers, cells or lines.  The bytes are those of
:func:`numpy.save`, :func:`safetensors.torch.save` and :class:`csv.writer`, whatever the number of rows at a time.
"""

from __future__ import annotations

import abc
import csv
import io
import itertools
import json
import math
import os
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeAlias

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors, save as save_tensors
from torch import Tensor

from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.shapes import Data
from bfn_toolkit.untrusted import open_regular, tensors_header

if TYPE_CHECKING:
    from bfn_toolkit.data.codec import Codec

# Rows in the user's form: a tensor (B, ...), a list of B values, or a mapping of such.  The classes are for the border.
Raw: TypeAlias = Annotated[Any, Tensor, np.ndarray, Sequence, Mapping]
TILE = 32  # smallest height, in pixels, of an image on a sheet
FRAME = 128  # level of the lines between them
MOST_TILES = 10_000  # largest number of images on a sheet
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")  # endings of the names of pictures that are read
GAPS = {"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "?"}  # words for a missing number


@attrs.frozen
class Format(abc.ABC):
    """A file format: a header, then the rows.

    Arguments:
        codec: The codec whose raw data it holds.
    """

    codec: Codec
    whole = False  # whether all rows are written together
    text = False  # whether rows are text, one after another

    @abc.abstractmethod
    def header(self, raw: Raw, n: int) -> bytes:
        """Bytes before the rows; ``raw`` are some of the n rows.

        Raises:
            ConfigError: If the format cannot hold such rows.
        """

    @abc.abstractmethod
    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Places and bytes of rows from number ``first`` on, in a file that has ``end`` bytes so far."""

    def read(self, path: Path) -> Raw:
        """All rows of a file, which may have gaps.

        Raises:
            ConfigError: If the format is only written.
            DataError: If the file is not of this format.
        """
        found, known = path.suffix or "a folder", ", ".join(readable(self.codec))
        raise ConfigError(f"{path.name}: values are not read from {found}; use {known}")


def readable(codec: Codec) -> list[str]:
    """Endings of the files that a codec reads, in words."""
    return [ending or "a folder" for ending, format_ in codec.formats.items() if type(format_).read is not Format.read]


def writable(codec: Codec) -> list[str]:
    """Endings of the files that a codec writes, in words."""
    return [ending or "a folder, without an ending" for ending in codec.formats]


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"cannot read values from {path}: {' '.join(str(error).split())[:200]}")


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """At most ``size`` bytes."""
        ...


def array_header(stream: Readable) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape of the array in a .npy stream, whether its order is Fortran's, and its dtype.

    Raises:
        ValueError: If the stream does not begin with such a header, or that is too long.
    """
    short: Any = SimpleNamespace(read=lambda n: stream.read(min(n, _HEADER)))
    try:
        version = np.lib.format.read_magic(short)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(short)
    except (KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {shape}")
    return shape, fortran, dtype


_HEADER = 2**17  # largest number of bytes of the header of a .npy file that are read together


class ArrayFormat(Format):
    """A .npy file of raw data that are one tensor.

    ``open_memmap`` is not used: if the disk fills up, a memory map ends the process by SIGBUS, without a message.
    """

    def header(self, raw: Raw, n: int) -> bytes:
        """Shape and type of the array."""
        numbers = self.codec.numbers(raw)
        if isinstance(numbers, Mapping):
            raise ConfigError(f"samples of the parts {', '.join(numbers)} are not a single array; write .safetensors")
        facts = np.lib.format.header_data_from_array_1_0(numbers[:0].numpy())
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {**facts, "shape": (n, *numbers.shape[1:])})
        return buffer.getvalue()

    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        yield end, _bytes(self.codec.numbers(raw))

    def read(self, path: Path) -> Raw:
        """The array, mapped into memory."""
        try:
            with open_regular(path) as file:
                shape, fortran, dtype = array_header(file)
                start = file.tell()
            if dtype.hasobject:
                raise ValueError("it has the dtype object, which would be unpickled; save it as numbers")
            empty = not math.prod(shape)  # which cannot be mapped
            order: Any = "F" if fortran else "C"
            array: Any = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "c", start, shape, order)
            numbers = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        except (OSError, ValueError, TypeError, OverflowError) as error:
            raise _unreadable(path, error) from error
        return self.codec.from_numbers(numbers)


class TensorsFormat(Format):
    """A .safetensors file, with a tensor for each part; without parts, the tensor is named "samples"."""

    def header(self, raw: Raw, n: int) -> bytes:
        """Shapes, types and places of the tensors: those of a file of one row, scaled to n rows."""
        one = save_tensors({name: part[:1].contiguous() for name, part in self._named(raw).items()})
        size = int.from_bytes(one[:8], "little")
        table = json.loads(one[8 : 8 + size])
        for facts in table.values():
            facts["shape"][0] = n
            facts["data_offsets"] = [n * place for place in facts["data_offsets"]]
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows of each tensor where they belong."""
        header = self.header(raw, n)
        table = json.loads(header[8:])
        for name, part in self._named(raw).items():
            data, start = _bytes(part), table[name]["data_offsets"][0]
            yield len(header) + start + first * (len(data) // len(part)), data

    def read(self, path: Path) -> Raw:
        """The tensors by name, or the one named "samples"."""
        try:
            with open_regular(path) as file:
                tensors_header(file, os.fstat(file.fileno()).st_size)
                parts = load_tensors(path)
        except (OSError, ValueError, RecursionError, LookupError, TypeError, SafetensorError) as error:
            raise _unreadable(path, error) from error
        return self.codec.from_numbers(parts["samples"] if parts.keys() == {"samples"} else parts)

    def _named(self, raw: Raw) -> Mapping[str, Tensor]:
        numbers = self.codec.numbers(raw)
        return numbers if isinstance(numbers, Mapping) else {"samples": numbers}


def _bytes(part: Tensor) -> bytes:
    return part.contiguous().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16


@attrs.frozen(eq=False)
class Cells:
    """Columns of a .csv file as text, of which an empty cell is a gap.

    Arguments:
        columns: Texts by the name of their column.
        path: The file.
        lines: Number of the line of each row.
    """

    columns: Mapping[str, Sequence[str]]
    path: Path
    lines: Sequence[int]

    def parsed(self, name: str, parse: Callable[[str], Any], expected: str, gap: Any) -> list[Any]:
        """The values of a column.

        Arguments:
            name: Its name.
            parse: Function from a text to a value, which raises ValueError or KeyError.
            expected: Expected text, in words.
            gap: Value of an empty cell.
        Raises:
            DataError: If a text is not as expected; it names the place.
        """
        values = []
        for line, text in zip(self.lines, self.columns[name], strict=True):
            try:
                values.append(parse(text.strip()) if text.strip() else gap)
            except (ValueError, KeyError):
                raise DataError(
                    f"{self.path}:{line}: column '{name}': expected {expected}, got {text[:40]!r}"
                ) from None
        return values

    def numbers(self, name: str) -> Tensor:
        """Finite numbers, with NaN for gaps, which may be words such as NA too, as float64 (B,)."""
        return torch.tensor(self.parsed(name, _number, "a number", math.nan), dtype=torch.float64)


def _number(text: str) -> float:
    if text.lower() in GAPS:
        return math.nan
    value = float(text)
    if not (text.isascii() and "_" not in text and math.isfinite(value)):
        raise ValueError(text)
    return value


@attrs.frozen
class TableFormat(Format):
    """A .csv file with a column for each number or category of flat data, and a header.

    Arguments:
        codec: The codec, whose raw data can be cells.
        separator: Separator of the cells.
    """

    separator: str = ","
    text = True

    def header(self, raw: Raw, n: int) -> bytes:
        """Names of the columns."""
        return self._lines([tuple(self.codec.cells(raw))])

    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        yield end, self._lines(zip(*self.codec.cells(raw).values(), strict=True))

    def read(self, path: Path) -> Raw:
        """The columns by name, in any order; those that the file lacks are gaps."""
        try:
            with io.TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True, delimiter=self._separator(file.readline().strip()))
                file.seek(0)
                records = [(reader.line_num, record) for record in reader if record]
        except (OSError, ValueError, csv.Error) as error:
            raise _unreadable(path, error) from error
        if len(records) < 2:
            raise DataError(f"{path}: expected a header and a row below it, found {len(records)} lines")
        (_, names), *rows = records
        names = [name.strip() for name in names]
        if len(set(names)) < len(names):
            raise DataError(f"{path}:1: two columns have the same name; rename one")
        for line, record in rows:
            if len(record) != len(names):
                raise DataError(f"{path}:{line}: found {len(record)} fields, expected {len(names)}")
        columns = dict(zip(names, zip(*(record for _, record in rows), strict=True), strict=True))
        return self.codec.from_cells(Cells(columns, path, [line for line, _ in rows]))

    def _separator(self, header: str) -> str:
        """The separator of a file with this header."""
        others = (separator for separator in ";\t|" if separator in header)
        return (
            self.separator if self.separator in header or header in self.codec.names else next(others, self.separator)
        )

    def _lines(self, records: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> bytes:
        lines: list[str] = []
        # The writer puts quotes around a carriage return only if it ends lines with one.
        sink = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
        csv.writer(sink, delimiter=self.separator).writerows(records)
        return "".join(lines).encode()


@attrs.frozen
class LinesFormat(Format):
    r"""A .txt file with one text a line.

    Arguments:
        codec: The codec, whose raw data are a list of texts.
        escaped: Whether line ends within a text are written \\n and \\r, and a backslash twice.
        encoding: Name of the encoding.
    """

    escaped: bool = False
    encoding: str = "utf-8"
    text = True

    def header(self, raw: Raw, n: int) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        lines = (text.translate(_ESCAPES) if self.escaped else text for text in raw)
        yield end, "".join(f"{line}\n" for line in lines).encode(self.encoding, "surrogatepass")

    def read(self, path: Path) -> Raw:
        """The lines, without an empty last one."""
        try:
            encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
            with open_regular(path) as file:
                content = file.read()
            text = content.decode(encoding).replace("\r\n", "\n")
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        lines = text.removesuffix("\n").split("\n")
        return [_unescaped(line) for line in lines] if self.escaped else lines


_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\\": "\\\\"})
_UNESCAPES = {"n": "\n", "r": "\r", "\\": "\\"}


def _unescaped(line: str) -> str:
    def character(escape: re.Match[str]) -> str:
        if escape[1] not in _UNESCAPES:
            raise DataError(f"expected \\n, \\r or \\\\ in a text, found '{escape[0]}'; write a backslash twice")
        return _UNESCAPES[escape[1]]

    return re.sub(r"\\(.?)", character, line)


class FolderFormat(Format):
    """A folder with a file for each row, which is named by its number: 0001.png, 0002.png, ..."""

    ending: ClassVar[str]  # of the names of the files

    @abc.abstractmethod
    def contents(self, raw: Raw) -> Iterator[bytes]:
        """Content of the file of each row."""

    def name(self, row: int, n: int) -> str:
        """Name of the file of a row, of n rows in all."""
        return f"{row + 1:0{max(4, len(str(n)))}}{self.ending}"

    def is_name(self, name: str) -> bool:
        """Whether a file in such a folder may have this name."""
        return re.fullmatch(rf"\d{{4,}}{re.escape(self.ending)}", name) is not None

    def header(self, raw: Raw, n: int) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The contents of the files, one after another."""
        for data in self.contents(raw):
            yield end, data
            end += len(data)


@attrs.frozen
class ImageFolderFormat(FolderFormat):
    """A folder of .png files, one for each image.

    Arguments:
        codec: The codec, whose raw data are grey levels (B, H, W), or colours (B, H, W, 3).
        levels: Number of levels; the largest is white.
    """

    levels: int = 256
    ending: ClassVar[str] = ".png"

    def contents(self, raw: Raw) -> Iterator[bytes]:
        """The images."""
        return map(_png, _pictures(self.codec.numbers(raw), self.levels))

    def read(self, path: Path) -> Raw:
        """The pictures of a folder, in the order of their names; a transparent pixel is a gap."""
        try:
            names = sorted(name for name in os.listdir(path) if name.lower().endswith(PICTURES) and name[0] != ".")
        except OSError as error:
            raise _unreadable(path, error) from error
        if not names:
            raise DataError(f"{path}: no pictures in it; expected files that end in {', '.join(PICTURES)}")
        pictures = [_picture(path / name) for name in names]
        for name, picture in zip(names, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                (h, w), (height, width) = pictures[0].shape[:2], picture.shape[:2]
                raise DataError(
                    f"{path}: {names[0]} has {w} x {h} pixels, and {name} {width} x {height}; expected one size"
                )
        pixels = torch.from_numpy(np.stack(pictures))
        levels, seen = pixels[..., :3].int() * self.levels // 256, pixels[..., 3:] > 0
        if bool((levels == levels[..., :1]).all()):
            levels, seen = levels[..., 0], seen[..., 0]
        return self.codec.from_numbers(levels.where(seen, -1).long())


@attrs.frozen
class SheetFormat(Format):
    """A .png file with all images on one sheet, row by row, with grey lines around them.

    Arguments:
        codec: The codec, whose raw data are grey levels (B, H, W), or colours (B, H, W, 3).
        levels: Number of levels; the largest is white.
    """

    levels: int = 256
    whole = True

    def header(self, raw: Raw, n: int) -> bytes:
        """Nothing."""
        if n > MOST_TILES:
            raise ConfigError(
                f"a sheet has room for {MOST_TILES:,} images, not {n:,}; write .npy or a folder, or fewer with -n"
            )
        return b""

    def pieces(self, raw: Raw, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The sheet."""
        images = _pictures(self.codec.numbers(raw), self.levels)
        times = max(1, math.ceil(TILE / images.shape[1]))
        images = images.repeat(times, 1).repeat(times, 2)
        height, width = images.shape[1:3]
        columns = math.ceil(math.sqrt(len(images)))
        rows = math.ceil(len(images) / columns)
        sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, *images.shape[3:]), FRAME, np.uint8)
        for image, (i, j) in zip(images, itertools.product(range(rows), range(columns)), strict=False):
            sheet[i * (height + 1) + 1 :, j * (width + 1) + 1 :][:height, :width] = image
        yield end, _png(sheet)


def _picture(path: Path) -> np.ndarray[Any, Any]:
    """Red, green, blue and opacity of a picture as uint8, (H, W, 4)."""
    from PIL import Image

    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP")) as picture:
                if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                    raise ValueError(f"its mode is {picture.mode}; expected grey or colours of 8 bits")
                return np.asarray(picture.convert("RGBA"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds
        raise DataError(f"{path}: not a picture, or damaged: {' '.join(str(error).split())[:120]}") from error


def _pictures(levels: Data, most: int) -> np.ndarray[Any, Any]:
    """Levels as bytes, of which the largest is white and an unknown one black."""
    assert isinstance(levels, Tensor)
    grey = levels.double() * (255.0 / (most - 1))
    return grey.round().clamp(0, 255).to(torch.uint8).numpy()


def _png(picture: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()
