"""Typed columns: the cells of a table as numbers or names, for calculation and for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.validators import shown

Array: TypeAlias = "np.ndarray[Any, Any]"


def _values(values: Sequence[float] | Sequence[str] | Array) -> Array:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ConfigError(f"TypedColumn.values: expected numbers or names of shape (N,), got {shown(values)}")
    return array.astype(object) if array.dtype.kind in "OU" else array.astype(np.float64)


@attrs.frozen(eq=False)
class TypedColumn:
    """One column: numbers, or names of categories.

    Arguments:
        values: Numbers, kept as float64 (N,) with NaN for gaps; or names, kept as objects (N,) with "" for gaps.
    """

    values: Array = attrs.field(converter=_values)

    @property
    def is_number(self) -> bool:
        """Whether the cells are numbers; dates and times are numbers too."""
        return bool(self.values.dtype.kind == "f")

    @property
    def gaps(self) -> Array:
        """True where there is a gap: booleans (N,)."""
        found: Array = np.isnan(self.values) if self.is_number else self.values == ""
        return found

    def rows(self, index: Array) -> TypedColumn:
        """The cells of these rows."""
        return TypedColumn(self.values[index])


TypedTable: TypeAlias = Mapping[str, TypedColumn]


def typed_rows(table: TypedTable, index: Array) -> TypedTable:
    """The rows of a table with these numbers."""
    return {name: column.rows(index) for name, column in table.items()}


def typed_size(table: TypedTable) -> int:
    """Number of rows of a table."""
    return len(next(iter(table.values())).values)


def typed_joined(tables: Sequence[TypedTable]) -> TypedTable:
    """Rows of tables with the same columns, one after another."""
    return {name: TypedColumn(np.concatenate([table[name].values for table in tables])) for name in tables[0]}
