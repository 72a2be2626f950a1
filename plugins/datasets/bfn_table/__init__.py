"""Tables (plugin): mixed columns of a file as they stand, numbers, categories, dates and gaps."""

from __future__ import annotations

from bfn_table.codec import RowsCodec
from bfn_table.columns import Column
from bfn_table.dataset import Table

__all__ = ["Column", "RowsCodec", "Table"]
