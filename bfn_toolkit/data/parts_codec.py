"""Codec of data of several parts, and what figures and scores ask of any codec."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import field
from torch import Tensor

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.column_codecs import check_columns
from bfn_toolkit.data.formats import Cells, Format, Raw, TableFormat, TensorsFormat
from bfn_toolkit.errors import DataError
from bfn_toolkit.shapes import Data, Mask, leaves, map_data


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

    def with_known(self, raw: Raw, known: Raw) -> Raw:
        """Each part by its codec."""
        return {
            name: self._part(name).with_known(part, known[name]) if name in known else part
            for name, part in raw.items()
        }

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
        check_columns(Cells(left, cells.path, cells.lines), self.names)
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
