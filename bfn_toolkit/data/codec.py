r"""Codecs: from the user's data to the numbers of a model, and back.

A data set has a codec (:attr:`Dataset.codec <bfn_toolkit.Dataset.codec>`), and every model that is trained on it keeps
a copy.  So a model decodes its samples without the file that it was trained on.

*Raw* data are rows in the user's form: a tensor (B, ...), a list of B values such as texts, or a mapping of these by
part.  The data x of a model are a tensor (B, \*site), or a mapping by part.  A *gap* is a value that is missing or
unknown: NaN or -1 in raw data, a sign of its own in a text; in x it is NaN for numbers and -1 for classes.

A codec is an attrs class whose fields are plain values, so that it can be written as JSON.  A plugin returns its own
from the hook ``bfn_codecs``.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit.data.formats import (
    ArrayFormat,
    Cells,
    Format,
    ImageFolderFormat,
    LinesFormat,
    Raw,
    SheetFormat,
    TableFormat,
    TensorsFormat,
    writable,
)
from bfn_toolkit.errors import ConfigError, DataError, did_you_mean
from bfn_toolkit.shapes import Data, Mask, as_shape, leaves, map_data
from bfn_toolkit.validators import finite, integer, invalid, one_of


def raw_rows(raw: Raw, index: Tensor) -> Raw:
    """The rows of raw data with these numbers."""
    if isinstance(raw, Mapping):
        return {name: raw_rows(part, index) for name, part in raw.items()}
    return raw[index] if isinstance(raw, Tensor) else [raw[i] for i in index.tolist()]


def raw_size(raw: Raw) -> int:
    """Number of rows of raw data."""
    return raw_size(next(iter(raw.values()))) if isinstance(raw, Mapping) else len(raw)


def raw_joined(pieces: Sequence[Raw]) -> Raw:
    """Pieces of raw data, one after another."""
    first = pieces[0]
    if isinstance(first, Mapping):
        return {name: raw_joined([piece[name] for piece in pieces]) for name in first}
    return torch.cat(list(pieces)) if isinstance(first, Tensor) else [row for piece in pieces for row in piece]


def with_known(raw: Raw, known: Raw) -> Raw:
    """Raw data with the numbers of others wherever these are not NaN, so that they come back without rounding."""
    if isinstance(raw, Mapping):
        return {name: with_known(part, known[name]) if name in known else part for name, part in raw.items()}
    if isinstance(raw, Tensor) and raw.is_floating_point():
        known = known.to(raw.dtype)
        return torch.where(known.isnan(), raw, known)
    return raw


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _categories(value: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {name: _strings(names) for name, names in value.items()}


def _different(codec: object, attribute: attrs.Attribute[Any], names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise invalid(codec, attribute, f"expected different names, got {list(names)}")


def _different_each(codec: object, attribute: attrs.Attribute[Any], table: Mapping[str, Sequence[str]]) -> None:
    for names in table.values():
        _different(codec, attribute, names)


@attrs.frozen
class Codec(abc.ABC):
    """Encodes raw data as the numbers of a model, and decodes them.

    Arguments:
        categories: Names of the classes 0, 1, ... of a condition, or of a column of classes, by its name.
    """

    kind: ClassVar[str] = "codec"

    categories: Mapping[str, tuple[str, ...]] = field(
        factory=dict, kw_only=True, converter=_categories, validator=_different_each, hash=False
    )

    @abc.abstractmethod
    def encode(self, raw: Raw) -> Data:
        r"""Data x (B, \*site) of raw rows; a gap becomes NaN, or -1 for classes.

        Raises:
            DataError: If a row cannot be encoded.
        """

    @abc.abstractmethod
    def decode(self, x: Data, mask: Mask | None = None) -> Raw:
        r"""Raw rows of data or samples, on the CPU.

        Arguments:
            x: Data, with shape (B, \*site), or a mapping by part.
            mask: True where there is data, with the shape of x or its leading axes; gaps elsewhere.  By part where x
                is, and a part that is missing in it has no gaps.
        """

    @property
    def formats(self) -> Mapping[str, Format]:
        """File formats by the ending of the name; the first is that of a run's samples."""
        return {".npy": ArrayFormat(self), ".safetensors": TensorsFormat(self)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers of an example, in order; () if they have none."""
        return ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that all sites share, such as the characters of an alphabet; () if they have none."""
        return ()

    @property
    def rounding(self) -> float:
        """Largest error of decode(encode(raw)) in a number of raw data; 0 if it is exact."""
        return 0.0

    def numbers(self, raw: Raw) -> Data:
        """Raw data as a tensor, or tensors by part, for .npy and .safetensors."""
        return raw

    def from_numbers(self, numbers: Data) -> Raw:
        """The inverse of :meth:`numbers`."""
        return numbers

    def row_sizes(self, raw: Raw) -> Tensor | None:
        """Number of sites of each raw row (B,), of data whose rows have sizes; None if the rows do not say it.

        Raises:
            DataError: If a row is empty.
        """
        return None

    def cells(self, raw: Raw, part: str = "x") -> Mapping[str, Sequence[str]]:
        """Raw data as the columns of a table, by name.

        Arguments:
            raw: The rows.
            part: Name of the part, for columns without names.
        Raises:
            ConfigError: If the data are not a table.
        """
        raise ConfigError(f"these data are no table; write {', '.join(writable(self))}")

    def from_cells(self, cells: Cells, part: str = "x") -> Raw:
        """The inverse of :meth:`cells`, with gaps where a cell is empty or a column is missing.

        Raises:
            ConfigError: If the data are not a table.
            DataError: If a cell or a column is not as expected.
        """
        raise ConfigError(f"these data are no table; use {', '.join(writable(self))}")

    def condition(self, name: str, value: str) -> int:
        """Class of a condition by the name of the class.

        Raises:
            ConfigError: If there is no such name.
        """
        known = self.categories.get(name, ())
        if value not in known:
            hint = did_you_mean(value, known)
            expected = (
                f"one of {', '.join(known)}, or a number" if known else "a number, because its values have no names"
            )
            raise ConfigError(f"--condition {name}: expected {expected}, got '{value}'.{hint}")
        return known.index(value)


def _gaps(x: Tensor, mask: Mask | None) -> Tensor:
    """Data on the CPU with gaps outside the mask."""
    x = x.detach().cpu()
    if mask is None:
        return x
    mask = mask.cpu().reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    return torch.where(mask, x, torch.nan if x.is_floating_point() else -1)


def _cell(value: float | int, decimals: int = -1) -> str:
    """A number as text, NaN as an empty cell; with fixed decimals, unless that would round it."""
    if value != value:
        return ""
    fixed = f"{value:.{decimals}f}" if decimals >= 0 else ""
    return fixed if fixed and float(fixed) == value else repr(value)


@attrs.frozen
class IdentityCodec(Codec):
    """The codec of data that need none: raw data are the numbers of the model.

    Arguments:
        names: Names of the columns of flat data; by default x1, x2, ..., and with parts the name of the part before
            the number.
        categories: See :class:`Codec`; the classes of a column with this name are written by name.

    >>> IdentityCodec().decode(torch.tensor([[0.5, 1.0]]), mask=torch.tensor([[True, False]]))
    tensor([[0.5000,    nan]])
    """

    names: tuple[str, ...] = field(default=(), converter=_strings, validator=_different)

    @property
    def formats(self) -> Mapping[str, Format]:
        """Arrays, tensors and tables."""
        return {**super().formats, ".csv": TableFormat(self)}

    def encode(self, raw: Raw) -> Data:
        """The same."""
        return raw

    def decode(self, x: Data, mask: Mask | None = None) -> Raw:
        """The same, with gaps outside the mask."""
        if isinstance(x, Mapping):
            return {name: _gaps(part, None if mask is None else mask.get(name)) for name, part in x.items()}
        return _gaps(x, mask)

    def cells(self, raw: Raw, part: str = "x") -> Mapping[str, Sequence[str]]:
        """A column for each number of flat data, or of each part."""
        if isinstance(raw, Mapping):
            return {name: cell for key, inner in raw.items() for name, cell in self.cells(inner, key).items()}
        return {
            name: [_category(value, self.categories.get(name)) for value in column]
            for name, column in _columns(raw, self.names, part)
        }

    def from_cells(self, cells: Cells, part: str = "x") -> Raw:
        """A tensor, or tensors by part where the columns are named after parts."""
        if self.names:
            _check_columns(cells, self.names)
            return _stacked(cells, self.names, self.categories)
        sizes: dict[str, int] = {}
        for name in cells.columns:
            found = re.fullmatch(r"(.+?)([1-9]\d{0,4})", name)
            if found is None:
                raise DataError(f"{cells.path}:1: expected columns such as {part}1, {part}2, got '{name}'")
            sizes[found[1]] = max(sizes.get(found[1], 0), int(found[2]))
        columns = {key: [f"{key}{i + 1}" for i in range(size)] for key, size in sizes.items()}
        read = {key: _stacked(cells, names, self.categories) for key, names in columns.items()}
        return read[part] if read.keys() == {part} else read


def _columns(raw: Tensor, names: Sequence[str], part: str) -> Any:
    """Names and values of the columns of flat data."""
    if raw.ndim != 2:
        raise ConfigError(f"samples of shape {tuple(raw.shape[1:])} are not flat; write .npy or .safetensors")
    names = names or [f"{part}{i + 1}" for i in range(raw.shape[1])]
    if len(names) != raw.shape[1]:
        raise ConfigError(f"the codec has {len(names)} names ({', '.join(names)}) for {raw.shape[1]} numbers")
    return zip(names, raw.T.tolist(), strict=True)


def _category(value: float | int, names: Sequence[str] | None) -> str:
    if names is None:
        return "" if isinstance(value, int) and value < 0 else _cell(value)
    return "" if value < 0 else names[int(value)]


def _parsed(cells: Cells, name: str, names: Sequence[str] | None = None) -> Tensor:
    """The numbers of a column, or the classes of one with names; all gaps if the file lacks it."""
    if name not in cells.columns:
        return torch.full((len(cells.lines),), torch.nan, dtype=torch.float64)
    if names is None:
        return cells.numbers(name)
    values = cells.parsed(name, names.index, f"one of {', '.join(names)}", torch.nan)
    return torch.tensor(values, dtype=torch.float64)


def _stacked(cells: Cells, names: Sequence[str], categories: Mapping[str, Sequence[str]]) -> Tensor:
    return torch.stack([_parsed(cells, name, categories.get(name)) for name in names], 1)


def _check_columns(cells: Cells, names: Sequence[str]) -> None:
    for name in cells.columns:
        if name not in names:
            hint = did_you_mean(name, names)
            raise DataError(f"{cells.path}:1: no column is named '{name}'; the columns are {', '.join(names)}.{hint}")


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value))


def _few(codec: object, attribute: attrs.Attribute[Any], value: Sequence[int]) -> None:
    if not all(isinstance(number, int) and -1 <= number <= 18 for number in value):
        raise invalid(codec, attribute, f"expected integers in -1...18, got {list(value)}")


def _positive(codec: object, attribute: attrs.Attribute[Any], value: Sequence[float]) -> None:
    finite(codec, attribute, value)
    if not all(number > 0.0 for number in value):
        raise invalid(codec, attribute, f"expected numbers above 0, got {min(value)}")


@attrs.frozen
class TableCodec(Codec):
    r"""Numbers of a table, each column shifted and scaled: :math:`x = (v - a) / b`.

    Raw data are numbers v in the units of the file, (B, \*site) in float64.

    Arguments:
        shift: Number a for each site in order, or one for all.
        scale: Number b > 0, likewise.
        decimals: Number of decimals of the values of each site, to which they are decoded; -1 for all digits;
            one for all, or () for all digits.
        names: Names of the columns; () if the data are not a table.
        categories: See :class:`Codec`.

    >>> people = TableCodec(shift=[170.0, 70.0], scale=[10.0, 12.0], decimals=[1, 0], names=["height_cm", "weight_kg"])
    >>> people.decode(people.encode(torch.tensor([[181.5, 83.0]])))
    tensor([[181.5000,  83.0000]], dtype=torch.float64)
    """

    shift: tuple[float, ...] = field(default=(0.0,), converter=_floats, validator=finite)
    scale: tuple[float, ...] = field(default=(1.0,), converter=_floats, validator=_positive)
    decimals: tuple[int, ...] = field(default=(), converter=as_shape, validator=_few)
    names: tuple[str, ...] = field(default=(), converter=_strings, validator=_different)

    def __attrs_post_init__(self) -> None:
        lengths = [len(numbers) for numbers in (self.shift, self.scale, self.decimals, self.names)]
        if not (self.shift and self.scale) or len({length for length in lengths if length > 1}) > 1:
            raise ConfigError(
                f"shift, scale, decimals and names have the lengths {lengths}; expected one for each site"
            )

    @property
    def formats(self) -> Mapping[str, Format]:
        """A table where the columns have names, arrays and tensors."""
        return {".csv": TableFormat(self), **super().formats} if self.names else super().formats

    @property
    def rounding(self) -> float:
        """Half a unit in the last place of float32, for |x| < 16."""
        return max(self.scale) * 2.0**-20

    def encode(self, raw: Raw) -> Tensor:
        """Scaled numbers as float32."""
        shift, scale = self._sites(torch.as_tensor(raw))
        x: Tensor = ((torch.as_tensor(raw).double() - shift) / scale).float()
        return x

    def decode(self, x: Data, mask: Mask | None = None) -> Tensor:
        """Numbers in the units of the file, rounded to its decimals, as float64."""
        x = _gaps(x, mask)
        shift, scale = self._sites(x)
        values: Tensor = x.double() * scale + shift
        if not self.decimals:
            return values
        decimals = self._spread(self.decimals, x)
        power = 10.0 ** decimals.clamp_min(0).double()
        # Adding 0 turns -0.0 into 0.0.
        return torch.where(decimals < 0, values, (values * power).round() / power + 0.0)

    def _sites(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._spread(self.shift, x), self._spread(self.scale, x)

    def _spread(self, numbers: Sequence[float], x: Tensor) -> Tensor:
        """Numbers for each site in its shape, or one for all."""
        of_sites = torch.tensor(numbers, dtype=torch.float64 if isinstance(numbers[0], float) else torch.int64)
        if len(numbers) == 1:
            return of_sites
        if len(x) and x[0].numel() != len(numbers):
            raise ConfigError(f"expected {len(numbers)} numbers for each example, got the shape {tuple(x.shape)}")
        return of_sites.reshape(x.shape[1:])

    def cells(self, raw: Raw, part: str = "x") -> Mapping[str, Sequence[str]]:
        """A column for each number, with the decimals of the file; a number with more of them has all."""
        columns = list(_columns(raw, self.names, part))
        decimals = self.decimals or (-1,)
        decimals = decimals * len(columns) if len(decimals) == 1 else decimals
        return {name: [_cell(v, d) for v in column] for (name, column), d in zip(columns, decimals, strict=True)}

    def from_cells(self, cells: Cells, part: str = "x") -> Raw:
        """The columns in the order of the names."""
        _check_columns(cells, self.names)
        return _stacked(cells, self.names, {})


def _alphabet(codec: object, attribute: attrs.Attribute[Any], alphabet: str) -> None:
    if not alphabet or len(set(alphabet)) < len(alphabet):
        raise invalid(codec, attribute, f"expected different characters, at least one, got {alphabet!r}")


@attrs.frozen
class TextCodec(Codec):
    """Characters as classes: their places in an alphabet.

    Raw data are a list of texts.  :attr:`gap` stands for an unknown character; characters after the end of a text are
    unknown too, and gaps at the end are not decoded.

    Arguments:
        alphabet: The characters, in the order of their classes.
        length: Number of characters of an example.
        categories: See :class:`Codec`.

    >>> text = TextCodec("abc ", length=4)
    >>> text.encode(["a ca", "b_"])
    tensor([[ 0,  3,  2,  0],
            [ 1, -1, -1, -1]])
    >>> text.decode(torch.tensor([[0, 3, 2, 0]]))
    ['a ca']
    """

    alphabet: str = field(validator=_alphabet)
    length: int = field(validator=integer(ge=1))

    @property
    def formats(self) -> Mapping[str, Format]:
        """Lines of text, and classes as arrays and tensors."""
        escaped = bool({"\n", "\r"} & set(self.alphabet))
        return {".txt": LinesFormat(self, escaped), **super().formats}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The characters."""
        return tuple(self.alphabet)

    @property
    def gap(self) -> str:
        """Sign for an unknown character: the first of _, ? and others that is not in the alphabet."""
        signs = ("_", "?", "\N{REPLACEMENT CHARACTER}", *map(chr, range(0xE000, 0xF900)))
        return next(sign for sign in signs if sign not in self.alphabet)

    def classes(self, text: str) -> np.ndarray[Any, Any]:
        """Classes (N,) of the N characters of a text, as int64; -1 for those outside the alphabet."""
        known, points = _code_points(self.alphabet), _code_points(text)
        order = np.argsort(known)
        classes = order[np.searchsorted(known[order], points).clip(max=len(known) - 1)]
        return np.where(known[classes] == points, classes, -1).astype(np.int64)

    def encode(self, raw: Raw) -> Tensor:
        """Classes (B, L) of the characters; -1 for unknown ones.

        Raises:
            DataError: If a text is too long, or has a character outside the alphabet.
        """
        for number, text in enumerate(raw, 1):
            if len(text) > self.length:
                raise DataError(f"text {number} has {len(text)} characters, expected {self.length} or fewer")
        together = "".join(text.ljust(self.length, self.gap) for text in raw)
        classes = self.classes(together)
        strange = np.flatnonzero((classes < 0) & (_code_points(together) != ord(self.gap)))
        if len(strange):
            number, place = divmod(int(strange[0]), self.length)
            character = together[strange[0]]
            raise DataError(
                f"text {number + 1}: the character U+{ord(character):04X} {character!a} at offset {place} is not in "
                f"the alphabet of the model; write {self.gap!r} for an unknown character"
            )
        return torch.from_numpy(classes.reshape(len(raw), self.length))

    def decode(self, x: Data, mask: Mask | None = None) -> list[str]:
        """Texts of windows or samples (B, L)."""
        signs = (*self.alphabet, self.gap)
        x = _gaps(x, mask)
        texts = ["".join(map(signs.__getitem__, row)) for row in x.tolist()]
        return texts if bool((x >= 0).all()) else [text.rstrip(self.gap) for text in texts]

    def numbers(self, raw: Raw) -> Tensor:
        """Classes of the characters."""
        return self.encode(raw)

    def from_numbers(self, numbers: Data) -> list[str]:
        """Texts of classes, of which a negative one is a gap.

        Raises:
            DataError: If they are not classes of this alphabet.
        """
        fits = isinstance(numbers, Tensor) and numbers.ndim > 0 and not numbers.is_floating_point()
        if not fits or bool((numbers >= len(self.alphabet)).any()):
            raise DataError(f"expected integers below {len(self.alphabet)}, the classes of the alphabet")
        return self.decode(numbers.reshape(-1, numbers.shape[-1]).clamp_min(-1))


def _code_points(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@attrs.frozen
class ImageCodec(Codec):
    r"""Grey levels or colours 0 ... K - 1 of pixels.

    Raw data are levels (B, \*site) as uint8, or int64 where there are gaps or K is above 256.

    Arguments:
        levels: Number K of levels.
        pixels: "bins" for the centres of K bins of [-1, 1], :math:`x = (2 v + 1) / K - 1`, as float32; "classes" for
            the levels as int64.
        categories: See :class:`Codec`.

    >>> ImageCodec(17).decode(ImageCodec(17).encode(torch.tensor([[0, 8, 16]])))
    tensor([[ 0,  8, 16]], dtype=torch.uint8)
    """

    levels: int = field(default=256, validator=integer(ge=2))
    pixels: Literal["bins", "classes"] = field(default="bins", validator=one_of("bins", "classes"))

    @property
    def formats(self) -> Mapping[str, Format]:
        """Arrays, tensors, a sheet of pictures, and a folder of them."""
        return {
            **super().formats,
            ".png": SheetFormat(self, self.levels),
            "": ImageFolderFormat(self, self.levels),
        }

    def encode(self, raw: Raw) -> Tensor:
        """Bins or classes of levels.

        Raises:
            DataError: If a level is not one of 0 ... K - 1.
        """
        raw = torch.as_tensor(raw)
        unknown = raw.isnan() | (raw < 0) if raw.is_floating_point() else raw < 0
        levels = torch.where(unknown, 0, raw.long())
        wrong = (levels >= self.levels) | (~unknown & (levels != raw))
        if bool(wrong.any()):
            found = raw[wrong][0].item()
            raise DataError(f"expected levels, integers in 0...{self.levels - 1}, got {found:g}")
        if self.pixels == "classes":
            return torch.where(unknown, -1, levels)
        return torch.where(unknown, torch.nan, self.centres(levels))

    def centres(self, levels: Tensor) -> Tensor:
        """Centres of the bins of levels that are known to be in 0 ... K - 1, as float32."""
        return (2.0 * levels.float() + 1.0) / self.levels - 1.0

    def decode(self, x: Data, mask: Mask | None = None) -> Tensor:
        """The nearest levels."""
        x = _gaps(x, mask)
        unknown = x.isnan() if x.is_floating_point() else x < 0
        levels = x
        if self.pixels == "bins":
            levels = ((x.double().nan_to_num() + 1.0) * self.levels - 1.0).div(2.0).round().long()
        levels = torch.where(unknown, -1, levels.clamp(0, self.levels - 1))
        return levels if self.levels > 256 or bool(unknown.any()) else levels.to(torch.uint8)


def _codecs(value: Mapping[str, Codec]) -> dict[str, Codec]:
    return dict(value)


@attrs.frozen
class PartsCodec(Codec):
    """Data of several parts, each with a codec of its own.

    Raw data are a mapping by part.

    Arguments:
        parts: The codecs by part.
        categories: See :class:`Codec`.
    """

    parts: Mapping[str, Codec] = field(converter=_codecs, hash=False)

    @property
    def formats(self) -> Mapping[str, Format]:
        """Tensors by name, and a table if every part can be written as one."""
        tabular = all(".csv" in codec.formats for codec in self.parts.values())
        return {".safetensors": TensorsFormat(self), **({".csv": TableFormat(self)} if tabular else {})}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parts."""
        return tuple(name for codec in self.parts.values() for name in codec.names)

    @property
    def rounding(self) -> float:
        """The largest of the parts."""
        return max(codec.rounding for codec in self.parts.values())

    def encode(self, raw: Raw) -> Data:
        """Each part by its codec; parts that are missing stay so."""
        return {name: self._part(name).encode(part) for name, part in raw.items()}

    def decode(self, x: Data, mask: Mask | None = None) -> Raw:
        """Each part by its codec."""
        return {name: self._part(name).decode(part, (mask or {}).get(name)) for name, part in x.items()}

    def numbers(self, raw: Raw) -> Data:
        """Numbers of each part."""
        return {name: self._part(name).numbers(part) for name, part in raw.items()}

    def from_numbers(self, numbers: Data) -> Raw:
        """The inverse of :meth:`numbers`.

        Raises:
            DataError: If there are no parts.
        """
        if not isinstance(numbers, Mapping):
            raise DataError(f"expected tensors named {', '.join(self.parts)}, got one without a name")
        return {name: self._part(name).from_numbers(part) for name, part in numbers.items()}

    def cells(self, raw: Raw, part: str = "x") -> Mapping[str, Sequence[str]]:
        """The columns of each part."""
        return {name: cell for key, inner in raw.items() for name, cell in self._part(key).cells(inner, key).items()}

    def from_cells(self, cells: Cells, part: str = "x") -> Raw:
        """The parts of which the file has a column.

        Raises:
            DataError: If a column belongs to no part.
        """
        raw, left = {}, dict(cells.columns)
        for key, codec in self.parts.items():
            own = {
                name: left.pop(name)
                for name in list(left)
                if (name in codec.names if codec.names else re.fullmatch(rf"{re.escape(key)}[1-9]\d*", name))
            }
            if own:
                raw[key] = codec.from_cells(Cells(own, cells.path, cells.lines), key)
        _check_columns(Cells(left, cells.path, cells.lines), self.names)
        return raw

    def _part(self, name: str) -> Codec:
        if name not in self.parts:
            raise DataError(f"no part is named '{name}'; the parts are {', '.join(self.parts)}")
        return self.parts[name]


def raw_like(x: Data, codec: Codec) -> Data:
    """Data in the user's units where these are numbers in the form of x, else x, for figures."""

    def same(raw: Any, part: Any) -> Any:
        if isinstance(part, Mapping):
            return {
                name: same(raw.get(name) if isinstance(raw, Mapping) else None, inner) for name, inner in part.items()
            }
        return raw if isinstance(raw, Tensor) and raw.shape == part.shape else part

    x = map_data(lambda part: part.detach().cpu(), x)
    first = map_data(lambda part: part[:1], x)
    decoded = same(codec.decode(first), first)
    if all(new is old for new, old in zip(leaves(decoded), leaves(first), strict=True)):
        return x  # texts, of which decoding all would take long
    return same(codec.decode(x), x)


def texts_of(x: Data, mask: Mask | None, codec: Codec) -> Mapping[str, list[str]]:
    """Texts of data by part ("" for data without parts), for those parts whose raw data are texts."""
    raw = codec.decode(x, mask)
    parts = raw if isinstance(raw, Mapping) else {"": raw}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, list) and part and all(isinstance(text, str) for text in part)
    }


def codec_of_part(codec: Codec, name: str) -> Codec:
    """The codec of a part; that of all where the parts have none of their own."""
    return codec.parts.get(name, codec) if isinstance(codec, PartsCodec) else codec
