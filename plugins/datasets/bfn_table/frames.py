"""Tables of Python: data frames, arrays and mappings of columns, as cells of text and back.

A frame comes in by Arrow's interface for C, ``__arrow_c_stream__``, which pandas, polars and pyarrow have, so that none
of these libraries has to be installed.  What goes out is of the library and of the types that came in: integers,
categories with all their names, truth values, dates and times.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import numpy as np

from bfn_files.tables import TextTable, read_table, table_of_frame
from bfn_table.codec import Rows
from bfn_table.columns import Column, distinct
from bfn_table.formats import arrow_type, values_of
from bfn_toolkit import DataError, RunDirectoryError

if TYPE_CHECKING:
    import pyarrow as pa

Array: TypeAlias = "np.ndarray[Any, Any]"

LIBRARIES = ("pandas", "polars", "pyarrow")  # of data frames


@attrs.frozen(eq=False)
class FrameType:
    """Library of a table, and types of its columns.

    Arguments:
        library: "pandas", "polars" or "pyarrow"; "numpy" for an array (N, C), "mapping" for columns by name.
        like: A table of one row without values, whose types and categories are those of the columns.
        dtype: Type of the numbers of an array.
    """

    library: str
    like: pa.Table
    dtype: str = ""

    @classmethod
    def of_columns(cls, columns: Sequence[Column]) -> FrameType:
        """The type of the table of a file: columns of NumPy by name, with texts where they are no numbers."""
        import pyarrow as pa

        arrays = {column.name: pa.nulls(1, arrow_type(column)) for column in columns}
        return cls("mapping", pa.table(arrays))

    def of_cells(self, cells: Rows, columns: Sequence[Column]) -> Any:
        """Rows with these cells, of some of the columns."""
        import pyarrow as pa

        names = [column.name for column in columns]
        schema = pa.schema([self.like.schema.field(name) for name in names], self.like.schema.metadata)
        arrays = [typed(cells[column.name], self.like.column(column.name).chunk(0), column) for column in columns]
        return self.of_arrow(pa.table(arrays, schema=schema))

    def of_arrow(self, table: pa.Table) -> Any:
        """A table of Arrow as one of this library."""
        if self.library == "pyarrow":
            return table
        if self.library == "polars":
            return importlib.import_module("polars").DataFrame(table)
        if self.library == "pandas":
            return table.to_pandas()
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        if self.library == "mapping":
            return columns
        array = np.empty((table.num_rows, len(columns)), self.dtype)
        for i, column in enumerate(columns.values()):
            array[:, i] = column
        return array

    def to_bytes(self) -> bytes:
        """This type as Arrow's stream format."""
        import pyarrow as pa

        facts = {b"bfn_library": self.library.encode(), b"bfn_dtype": self.dtype.encode()}
        table = self.like.replace_schema_metadata({**(self.like.schema.metadata or {}), **facts})
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as file:
            file.write_table(table)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> FrameType:
        """The inverse of :meth:`to_bytes`.

        Raises:
            RunDirectoryError: If the bytes of this file are damaged.
        """
        import pyarrow as pa

        try:
            with pa.ipc.open_stream(data) as file:
                table = file.read_all()
            facts = dict(table.schema.metadata)
            library, dtype = (facts.pop(name).decode() for name in (b"bfn_library", b"bfn_dtype"))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(f"{path} is damaged: {error}") from error
        return cls(library, table.replace_schema_metadata(facts or None), dtype)


@attrs.frozen(eq=False)
class Frame:
    """A table of Python.

    Arguments:
        table: Its columns.
        library: See :class:`FrameType`.
        dtype: See :class:`FrameType`.
        index: Names of the rows, of pandas; None for their numbers.
        named: Whether the columns have names of the user.
    """

    table: pa.Table
    library: str
    dtype: str = ""
    index: Any = None
    named: bool = True

    @classmethod
    def of(cls, values: Any) -> Frame:
        """A data frame of pandas, polars or pyarrow, a mapping of columns, or an array (N, C).

        Raises:
            DataError: If it is none, or has values that no cell can hold.
        """
        if hasattr(values, "toarray"):
            raise DataError("a sparse matrix is not supported, because a table is dense; write X.toarray()")
        library = type(values).__module__.partition(".")[0]
        if hasattr(values, "__arrow_c_stream__") and hasattr(values, "columns"):
            library = library if library in LIBRARIES else "pyarrow"
            index = values.index if library == "pandas" else None
            plain = values.reset_index(drop=True) if library == "pandas" else values
            return cls(_arrow(plain), library, index=index)
        if isinstance(values, Mapping):
            return cls(_of_columns(dict(values)), "mapping")
        array = _array(values)
        columns = {f"x{i}": array[:, i] for i in range(array.shape[1])}
        return cls(_of_columns(columns), "numpy", array.dtype.str, named=False)

    @classmethod
    def read(cls, path: Path, columns: Sequence[Column]) -> Frame:
        """The table of a file, with the types of the columns of a model."""
        import pyarrow as pa

        known = {column.name: column for column in columns}
        arrays = {}
        for name, texts in read_table(path, names=known).columns.items():
            kind = arrow_type(known[name]) if name in known else pa.string()
            values = values_of(known[name], texts.distinct) if name in known else texts.distinct
            arrays[name] = pa.array(values, kind).take(pa.array(texts.index))
        return cls(pa.table(arrays), "mapping")

    def renamed(self, names: Sequence[str]) -> Frame:
        """The same table with other names of the columns."""
        return attrs.evolve(self, table=self.table.rename_columns(list(names)))

    def write(self, folder: Path) -> Path:
        """Writes the table into a folder, and returns its path."""
        from pyarrow import parquet

        path = folder / "table.parquet"
        parquet.write_table(_stored(self.table), path)
        return path

    @property
    def type(self) -> FrameType:
        """Library and types."""
        import pyarrow as pa

        nulls = {name: _nulls(self.table.column(name), 1) for name in self.table.column_names}
        fields = [field.with_nullable(True) for field in self.table.schema]
        return FrameType(self.library, pa.table(nulls, pa.schema(fields, self.table.schema.metadata)), self.dtype)

    @property
    def texts(self) -> TextTable:
        """Its cells as texts."""
        return table_of_frame(_stored(self.table))

    def with_cells(
        self, replaced: Mapping[str, tuple[Sequence[int], Sequence[str | None], Column]], learned: FrameType
    ) -> Any:
        """The same table with other cells in some places.

        Arguments:
            replaced: By column, the numbers of rows (m,), their texts, and the column of the model.
            learned: The type of the table that was learned, which columns of nothing but gaps take over.
        """
        import pyarrow as pa

        table = self.table
        for name, (rows, texts, column) in replaced.items():
            old, number = table.column(name).combine_chunks(), table.column_names.index(name)
            old = old.chunk(0) if isinstance(old, pa.ChunkedArray) else old
            like, field = old, table.schema.field(name)
            if len(old) == old.null_count and not _holds(field.type, column):
                like = learned.like.column(name).chunk(0)
                old, field = pa.nulls(len(old), like.type), field.with_type(like.type)
            index = np.arange(len(old))
            index[list(rows)] = len(old) + np.arange(len(rows))
            both = pa.chunked_array([old, typed(texts, like, column)]).unify_dictionaries()
            table = table.set_column(number, field, both.take(pa.array(index)))
        made = FrameType(self.library, table.slice(0, 0), self.dtype).of_arrow(table)
        if self.index is not None:
            made.index = self.index
        return made


def typed(texts: Sequence[str | None], like: pa.Array, column: Column) -> pa.Array:
    """Cells of a column as values of the type of an array, with its categories; null for an empty text."""
    import pyarrow as pa
    from pyarrow import compute

    kind = like.type
    different, index = distinct(["" if text is None else text for text in texts])
    if pa.types.is_dictionary(kind):
        names = table_of_frame(pa.table({"names": like.dictionary})).columns["names"]
        codes = {names.distinct[j]: i for i, j in enumerate(names.index)}
        values = pa.array([codes.get(text) for text in different], kind.index_type)
        return pa.DictionaryArray.from_arrays(values.take(pa.array(index)), like.dictionary, ordered=kind.ordered)
    known = pa.array([text or None for text in different], pa.string())
    if pa.types.is_boolean(kind):
        values = compute.equal(compute.utf8_lower(known), "true")
    elif column.is_ordered and not _is_text(kind):
        values = pa.array(values_of(column, different), arrow_type(column))
    else:
        values = known
    return values.cast(kind, safe=False).take(pa.array(index))


def _holds(kind: pa.DataType, column: Column) -> bool:
    """Whether values of a column have a type at all: one of nothing but gaps has none, or that of NaN."""
    import pyarrow as pa

    if pa.types.is_floating(kind):
        own = arrow_type(column)
        return bool(pa.types.is_floating(own) or pa.types.is_integer(own))
    return not pa.types.is_null(kind)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _arrow(frame: Any) -> pa.Table:
    import pyarrow as pa

    try:
        return _without_views(pa.table(frame))
    except (pa.ArrowException, TypeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"the data frame: expected columns of texts, numbers or dates: {message}") from error


def _of_columns(columns: Mapping[Any, Any]) -> pa.Table:
    """A table of sequences or arrays by name, in which NaN stands for a gap."""
    import pyarrow as pa

    arrays: dict[str, pa.Array] = {}
    for name, values in columns.items():
        try:
            arrays[str(name)] = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            message = " ".join(str(error).split())[:200]
            raise DataError(f"column '{name}': expected texts, numbers or dates, of one type: {message}") from error
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns have different numbers of rows: {lengths}")
    return pa.table(arrays)


def _stored(table: pa.Table) -> pa.Table:
    """The same table with times of UTC in place of times with a zone.

    Raises:
        DataError: If a column holds durations.
    """
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        column, kind = table.column(i), field.type
        if pa.types.is_duration(kind):
            raise DataError(
                f"column '{field.name}' holds durations; write them as numbers, such as seconds: "
                f"df['{field.name}'].dt.total_seconds()"
            )
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            table = table.set_column(i, field.name, column.cast(pa.timestamp(kind.unit)))
    return table


def _without_views(table: pa.Table) -> pa.Table:
    """The same table with plain texts in place of views of texts, which few functions of Arrow take."""
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        column, kind = table.column(i), field.type
        if pa.types.is_string_view(kind):
            table = table.set_column(i, field.with_type(pa.large_string()), column.cast(pa.large_string()))
        elif pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
            chunks = [
                pa.DictionaryArray.from_arrays(
                    chunk.indices, chunk.dictionary.cast(pa.large_string()), ordered=kind.ordered
                )
                for chunk in column.chunks
            ]
            plain = pa.dictionary(kind.index_type, pa.large_string(), kind.ordered)
            table = table.set_column(i, field.with_type(plain), pa.chunked_array(chunks, plain))
    return table


def _nulls(column: pa.ChunkedArray, n: int) -> pa.Array:
    """Rows without values, with the categories of a column."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return pa.nulls(n, column.type)
    unified = column.unify_dictionaries()
    categories = unified.chunk(0).dictionary if unified.num_chunks else pa.array([], column.type.value_type)
    codes = pa.nulls(n, column.type.index_type)
    return pa.DictionaryArray.from_arrays(codes, categories, ordered=column.type.ordered)


def _array(values: Any) -> Array:
    """Values as an array (N, C)."""
    array = np.asarray(values)
    if np.iscomplexobj(array):
        raise DataError("Complex data not supported: a cell holds one number; write the two parts as columns")
    if array.ndim != 2:
        raise DataError(
            f"expected a table of two dimensions, found an array of shape {array.shape}. Reshape your data: "
            "X.reshape(-1, 1) is one column, X.reshape(1, -1) one row"
        )
    return array
