"""Codecs of columns of numbers: as they are, or shifted and scaled as in a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit.data.codec import Codec, different, put_gaps, strings
from bfn_toolkit.data.formats import Cells, Format, Raw, TableFormat
from bfn_toolkit.errors import ConfigError, DataError, did_you_mean
from bfn_toolkit.shapes import Data, Mask, as_shape, in_float64
from bfn_toolkit.validators import finite, invalid


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

    names: tuple[str, ...] = field(default=(), converter=strings, validator=different)

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
            return {name: put_gaps(part, None if mask is None else mask.get(name)) for name, part in x.items()}
        return put_gaps(x, mask)

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
            check_columns(cells, self.names)
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


def check_columns(cells: Cells, names: Sequence[str]) -> None:
    """Refuses a column that is not among the names.

    Raises:
        DataError: If there is one.
    """
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
    names: tuple[str, ...] = field(default=(), converter=strings, validator=different)

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
        x = in_float64(put_gaps(x, mask))
        shift, scale = self._sites(x)
        values: Tensor = x * scale + shift
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
        check_columns(cells, self.names)
        return _stacked(cells, self.names, {})
