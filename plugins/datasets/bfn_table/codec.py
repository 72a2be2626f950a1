"""Codec of a table: cells as texts, and the points of a line for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from torch import Tensor

from bfn_table.columns import Column
from bfn_toolkit import Codec


def _columns(value: Any) -> tuple[Column, ...]:
    return tuple(column if isinstance(column, Column) else Column(**column) for column in value)


@attrs.frozen
class RowsCodec(Codec):
    """Rows of a table.

    Raw data are a mapping from the names of the columns to their cells, which are texts as in the file.  The data of
    the model are points (B, D) of the lines of the D columns that are not constant, as float32.

    Arguments:
        columns: The columns in the order of the file.
        left_out: Columns of the file that are not learned, with the reason.
        separator: Separator of the cells in a file.
    """

    columns: tuple[Column, ...] = attrs.field(default=(), converter=_columns)
    left_out: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    separator: str = ","

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D columns of the model's data."""
        return tuple(column.name for column in self.columns if column.kind != "constant")

    def encode(self, raw: Any) -> Tensor:
        """The middle of the interval of each cell's level; NaN for a text that is "" where the column has no gaps."""
        raise NotImplementedError

    def decode(self, x: Any, mask: Any = None) -> Mapping[str, Sequence[str]]:
        """The cells at points (B, D); "" outside the mask."""
        raise NotImplementedError

    def log_width(self, x: Tensor) -> Tensor:
        """Logarithm of the width of the interval that is decoded to the same cell as each point: (B, D), at most 0.

        The price of a cell is that of its class less this.
        """
        raise NotImplementedError

    def region(self, condition: str) -> tuple[str, Tensor, Tensor]:
        """Name of a column, and the beginnings and ends (n,) of the intervals of its line that satisfy a condition.

        Arguments:
            condition: "species=Adelie", "species!=Adelie", "body_mass_g>4000", "year>=2008", "date<2020-05-01",
                "sex=" for a gap.
        Raises:
            ConfigError: If there is no such column, or no cell can satisfy the condition.
        """
        raise NotImplementedError
