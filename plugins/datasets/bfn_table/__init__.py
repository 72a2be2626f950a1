"""Tables (plugin): mixed columns of a file as they stand, numbers, categories, dates and gaps."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_table.codec import RowsCodec
from bfn_table.columns import Column
from bfn_table.dataset import Table
from bfn_toolkit import Entry, hookimpl

__all__ = ["Column", "RowsCodec", "Table"]


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need a file."""
    return [Entry("table", Table)]


@hookimpl
def bfn_codecs() -> Sequence[Entry]:
    """The codec."""
    return [Entry("rows", RowsCodec)]
