"""Tables (plugin): mixed columns of a file as they stand, numbers, categories, dates and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bfn_table.codec import RowsCodec
from bfn_table.columns import Column
from bfn_table.dataset import Table
from bfn_toolkit import Entry, hookimpl

if TYPE_CHECKING:
    from bfn_table.table_model import TableModel

__all__ = ["Column", "RowsCodec", "Table", "TableModel"]


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need a file."""
    return [Entry("table", Table)]


@hookimpl
def bfn_codecs() -> Sequence[Entry]:
    """The codec of rows."""
    numbers = Column("age", "integer", 3, [0.0, 1.0, 1.75, 2.0], values=[0.0, 20.0, 30.0], gaps=["NA"], decimals=0)
    names = Column("species", "category", 2, [0.0, 1.0, 2.0], texts=["Adelie", "Gentoo"])
    return [Entry("rows", RowsCodec, (RowsCodec([numbers, names], {"id": "identifier"}, ";"),))]


def __getattr__(name: str) -> Any:
    """TableModel, which imports scikit-learn, and the command line does not wait for it."""
    if name == "TableModel":
        from bfn_table.table_model import TableModel

        return TableModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
