"""File formats of rows: .csv in the dialect of the data, and Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bfn_files.tables import read_table
from bfn_table.columns import Column, distinct
from bfn_table.kinds import numbers_of
from bfn_toolkit import ConfigError, Format, TableFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from bfn_table.codec import Rows, RowsCodec


@attrs.frozen
class RowsFormat(TableFormat):
    """A text file with a header; any separator and encoding is read."""

    def read(self, path: Path) -> Rows:
        """The columns by name, in any order; those that the file lacks, and empty cells, are unknown."""
        codec: Any = self.codec
        known: Rows = codec.known_rows(read_table(path, names=codec.known_names))
        return known


@attrs.frozen
class ParquetFormat(Format):
    """A Parquet file with numbers, dates, times, truth values and texts; gaps are null."""

    codec: RowsCodec
    whole = True

    def header(self, raw: Rows, n: int) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, raw: Rows, n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The file."""
        import pyarrow as pa
        from pyarrow import parquet

        columns = {column.name: column for column in self.codec.columns}
        arrays = [
            _typed(columns[name], cells) if name in columns else pa.array(cells, pa.string())
            for name, cells in raw.items()
        ]
        table = pa.table(arrays, list(raw))
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        yield end, buffer.getvalue()

    def read(self, path: Path) -> Rows:
        """The columns by name, in any order; those that the file lacks, and null, are unknown."""
        return self.codec.known_rows(read_table(path), typed=True)


def _typed(column: Column, cells: Sequence[str | None]) -> pa.Array:
    """Cells as an Arrow array of the type of their column."""
    import pyarrow as pa

    different, index = distinct(cells)
    try:
        return pa.array(values_of(column, different), arrow_type(column)).take(pa.array(index))
    except (pa.ArrowException, OverflowError) as error:
        raise ConfigError(f"column '{column.name}' does not fit into Parquet: {error}; write .csv") from error


def arrow_type(column: Column) -> pa.DataType:
    """Arrow's type for the cells of a column."""
    import pyarrow as pa

    types = {
        "number": pa.float64(),
        "integer": pa.int64(),
        "date": pa.date32(),
        "datetime": pa.timestamp("us"),
        "time": pa.time64("us"),
        "boolean": pa.bool_() if _is_truth(column) else pa.string(),
    }
    return types.get(column.kind, pa.string())


def _is_truth(column: Column) -> bool:
    return {text.lower() for text in column.texts} <= {"true", "false"}


def values_of(column: Column, texts: Sequence[str | None]) -> list[Any]:
    """Values of different texts as Arrow takes them for the type of their column, None for a gap."""
    known = ["" if text is None or text in column.gaps else text for text in texts]
    if column.is_ordered:
        scale = 1_000_000 if column.kind in ("datetime", "time") else 1
        numbers = (numbers_of(known, column.kind, column.form) * scale).tolist()
        exact = [number if column.kind == "number" or number != number else round(number) for number in numbers]
        return [None if number != number else number for number in exact]
    if column.kind == "boolean" and _is_truth(column):
        return [text.lower() == "true" if text else None for text in known]
    return [text or None for text in known]
