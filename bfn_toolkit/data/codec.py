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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit.data.formats import ArrayFormat, Cells, Format, Raw, TensorsFormat, readable, writable
from bfn_toolkit.data.typed_columns import TypedTable
from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.shapes import Data, Mask
from bfn_toolkit.validators import invalid

if TYPE_CHECKING:
    from bfn_toolkit.model import Model


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


def comparison(condition: str, names: Collection[str]) -> tuple[str, str, str]:
    """Splits a condition on a column, such as "age >= 18", into a name, an operator and a value.

    Arguments:
        condition: The text, with =, !=, <, <=, > or >=, and spaces around the operator or not.
        names: Names of the columns, which may contain operators themselves.
    Raises:
        ConfigError: If there is no name or no operator.

    >>> comparison("body_mass_g>=4000", ["body_mass_g"])
    ('body_mass_g', '>=', '4000')
    """
    begun = [name for name in sorted(names, key=len, reverse=True) if condition.strip().startswith(name)]
    for name in [*map(re.escape, begun), r".+?"]:
        found = re.fullmatch(rf"\s*({name})\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*", condition, re.DOTALL)
        if found:
            return found[1], "=" if found[2] == "==" else found[2], found[3]
    raise ConfigError(
        f"a condition on a column is NAME=VALUE, or with !=, <, <=, > or >= as in 'age>=18', got '{condition}'"
    )


def strings(value: Any) -> tuple[str, ...]:
    """attrs converter: names as a tuple; a string is one name."""
    return (value,) if isinstance(value, str) else tuple(value)


def _categories(value: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {name: strings(names) for name, names in value.items()}


def different(codec: object, attribute: attrs.Attribute[Any], names: Sequence[str]) -> None:
    """attrs validator: no name stands twice."""
    if len(set(names)) < len(names):
        raise invalid(codec, attribute, f"expected different names, got {list(names)}")


def _different_each(codec: object, attribute: attrs.Attribute[Any], table: Mapping[str, Sequence[str]]) -> None:
    for names in table.values():
        different(codec, attribute, names)


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

    def read_rows(self, path: Path) -> Raw:
        """Rows of a file whose prices are asked for; by default as known values are read.

        Raises:
            ConfigError: If the codec does not read such files.
            DataError: If a value in it is not as expected.
        """
        if path.suffix not in self.formats:
            raise ConfigError(f"rows are read from {', '.join(readable(self))}, found '{path.name}'")
        return self.formats[path.suffix].read(path)

    def priced(self, raw: Raw) -> tuple[Data, Mapping[str, Tensor]]:
        """Data x of raw rows whose price is asked for, and nats (B,) to add to the prices of columns, by name.

        A gap in x is left out of the price.  Nats are added where several values of the user are one of the model, or
        where the model has none.

        Raises:
            DataError: If a row cannot be encoded.
        """
        return self.encode(raw), {}

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

    def with_known(self, raw: Raw, known: Raw) -> Raw:
        """Raw data with those of others wherever these are known, so that they come back as they were given.

        Arguments:
            raw: Decoded rows.
            known: Rows with gaps, by part where raw data are; a part that is missing in it is unknown.
        """
        if isinstance(raw, Mapping):
            return {name: self.with_known(part, known[name]) if name in known else part for name, part in raw.items()}
        if isinstance(raw, Tensor) and raw.is_floating_point():
            known = known.to(raw.dtype)
            return torch.where(known.isnan(), raw, known)
        return raw

    def filling(self, model: Model) -> Model:
        """The model for filling in gaps, whose samples have none themselves; by default the same."""
        return model

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
        raise ConfigError(f"these data are not a table; write {', '.join(writable(self))}")

    def from_cells(self, cells: Cells, part: str = "x") -> Raw:
        """The inverse of :meth:`cells`, with gaps where a cell is empty or a column is missing.

        Raises:
            ConfigError: If the data are not a table.
            DataError: If a cell or a column is not as expected.
        """
        raise ConfigError(f"these data are not a table; use {', '.join(writable(self))}")

    def region(self, condition: str) -> tuple[str, Tensor, Tensor]:
        """Name of a column, and the beginnings and ends (n,) of the intervals of its line that satisfy a condition.

        The intervals [low, high) are in increasing order; every point of them is decoded to a cell that satisfies the
        condition.

        Arguments:
            condition: A text that :func:`comparison` splits.
        Raises:
            ConfigError: If there is no such column, no cell can satisfy the condition, or the data have no columns.
        """
        raise ConfigError(
            f"'{condition}' is a condition on a column, and the columns of these data take none; a condition that the "
            "network reads is NAME=VALUE, and known values are given in a file by --known"
        )

    @property
    def is_table(self) -> bool:
        """Whether raw data are rows of a table, whose samples are judged column by column (:meth:`typed`)."""
        return False

    def typed(self, raw: Raw) -> TypedTable:
        """Raw rows of a table as columns of numbers and names.

        Raises:
            ConfigError: If the data are not a table.
        """
        raise ConfigError("these data are not a table")

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


def put_gaps(x: Tensor, mask: Mask | None) -> Tensor:
    """Data on the CPU with gaps outside the mask."""
    x = x.detach().cpu()
    if mask is None:
        return x
    mask = mask.cpu().reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    return torch.where(mask, x, torch.nan if x.is_floating_point() else -1)
