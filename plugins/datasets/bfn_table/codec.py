"""Codec of a table: cells as texts, and the points of a line for each column."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from bfn_files.reading import few
from bfn_files.tables import SEPARATORS, Texts, TextTable, read_table, shown
from bfn_table.columns import WRONG, Array, Column, distinct
from bfn_table.formats import ParquetFormat, RowsFormat
from bfn_toolkit import (
    ArrayFormat,
    BFNWarning,
    Cells,
    Codec,
    Condition,
    ConfigError,
    DataError,
    Format,
    Model,
    ModelWrapper,
    TypedColumn,
    comparison,
    did_you_mean,
    expand,
    validators,
)

Rows: TypeAlias = Mapping[str, Sequence["str | None"]]


class _WithoutGaps(ModelWrapper):
    """Model that gives a class of each column no probability; -1 for none."""

    def __init__(self, model: Model, gap: Tensor) -> None:
        super().__init__(model)
        self._gap = gap.unsqueeze(1)

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Any:
        output: Any = super().output(params, t, condition, **told)
        classes = torch.arange(output.logits.shape[-1], device=output.logits.device)
        gap = classes == self._gap.to(classes.device)
        return attrs.evolve(output, logits=output.logits.masked_fill(gap, -torch.inf))


def _columns(value: Any) -> tuple[Column, ...]:
    return tuple(column if isinstance(column, Column) else Column(**column) for column in value)


def _checked(_: object, __: attrs.Attribute[Any], columns: Sequence[Column]) -> None:
    for column in columns:
        column.check()
    if len({column.name for column in columns}) < len(columns):
        raise ConfigError("columns: two have the same name")


@attrs.frozen
class RowsCodec(Codec):
    """Rows of a table.

    Raw data are a mapping from the names of the columns to their cells, which are texts as in the file, or None where
    they are unknown.  The data of the model are points (B, D) of the lines of the D columns that are not constant, as
    float32, NaN where unknown.

    A gap is a text: "" or another spelling of the file.  In a file of known values an empty cell is unknown, and filled
    in; another spelling, such as NA, is a known gap.  A column without gaps in the training rows has no known gaps.

    Arguments:
        columns: The columns in the order of the file.
        left_out: Columns of the file that are not learned, with the reason.
        separator: Separator of the cells in a file.
        rows: Number of training rows.
        categories: See :class:`~bfn_toolkit.Codec`.
    """

    columns: tuple[Column, ...] = attrs.field(default=(), converter=_columns, validator=_checked)
    left_out: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    separator: str = attrs.field(default=",", validator=validators.one_of(*SEPARATORS))
    rows: int = attrs.field(default=1, validator=validators.integer(ge=1))

    @property
    def learned(self) -> tuple[Column, ...]:
        """The D columns of the model's data."""
        return tuple(column for column in self.columns if column.kind != "constant")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D columns of the model's data."""
        return tuple(column.name for column in self.learned)

    @property
    def known_names(self) -> tuple[str, ...]:
        """Names of all columns of the file."""
        return (*(column.name for column in self.columns), *self.left_out)

    @property
    def formats(self) -> Mapping[str, Format]:
        """Texts with the separator of the file or with tabs, and Parquet; for numbers alone also an array."""
        array = {".npy": ArrayFormat(self)} if all(c.kind in ("number", "integer") for c in self.columns) else {}
        return {
            ".csv": RowsFormat(self, self.separator),
            ".tsv": RowsFormat(self, "\t"),
            ".parquet": ParquetFormat(self),
            **array,
        }

    def numbers(self, raw: Rows) -> Tensor:
        """Rows of numbers, NaN where they are gaps or unknown: (B, C) in float64."""
        return torch.from_numpy(np.stack([column.typed(raw[column.name]).values for column in self.columns], 1))

    def from_numbers(self, numbers: Tensor) -> Rows:
        """Rows of the columns in their order, from an array (B, C) or (C,) in which NaN is unknown.

        Raises:
            DataError: If it has another number of columns.
        """
        rows = numbers.reshape(1, -1) if isinstance(numbers, Tensor) and numbers.ndim == 1 else numbers
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != len(self.columns):
            shape = tuple(rows.shape) if isinstance(rows, Tensor) else "arrays by name"
            raise DataError(f"expected an array (rows, {len(self.columns)}) with a column for each, found {shape}")
        return {column.name: column.of_numbers(rows[:, i].numpy()) for i, column in enumerate(self.columns)}

    def encode(self, raw: Rows) -> Tensor:
        """The middle of the interval of each cell; NaN where it is None, or a gap in a column without gaps.

        Columns that are not learned are skipped; those that are missing are unknown.

        Raises:
            DataError: If there is no such column, or a text is not one of its cells.
        """
        columns = {name: distinct(cells) for name, cells in raw.items()}
        rows = {len(index) for _, index in columns.values()}
        if len(rows) > 1:
            sizes = ", ".join(f"{name} {len(index)}" for name, (_, index) in columns.items())
            raise DataError(f"expected columns of one length, got {sizes}")
        site = {name: d for d, name in enumerate(self.names)}
        x = np.full((max(rows, default=0), len(site)), np.nan, np.float32)
        for column in self._of(columns):
            texts, index = columns[column.name]
            places = _places(column, texts, index, lambda row: f"row {row + 1}")
            if column.kind != "constant":
                x[:, site[column.name]] = places[index]
        return torch.from_numpy(x)

    def read_rows(self, path: Path) -> Rows:
        """Texts of the columns of a file, as they stand; an empty cell is ""."""
        return self.rows_of(read_table(path, names=self.known_names), typed=path.suffix.lower() == ".parquet")

    def rows_of(self, table: TextTable, *, typed: bool = False) -> Rows:
        """Texts of the columns of a table that are learned or constant.

        Arguments:
            table: Its cells.
            typed: Whether they are texts of numbers and dates of other types, which are respelled.
        Raises:
            DataError: If there is a column that the model does not know.
        """
        rows = {}
        for column in self._of(table.columns, f"{table.path}: "):
            texts, index = table.columns[column.name].distinct, table.columns[column.name].index
            rows[column.name] = np.array(column.respelled(texts) if typed else texts, object)[index].tolist()
        return rows

    def priced(self, raw: Rows) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Places of the cells, and minus the logarithm of the width of each.

        An empty cell is a gap.  Left out are gaps where the column has none, and columns that the rows lack.  So is a
        cell that is never drawn, which costs as much as a class that one row of twice the training rows has,
        :math:`\ln 2N`: a new name, a number out of the range or between levels that are drawn exactly, a new text in a
        constant column.  Warnings name it, and the columns that are missing.
        """
        rows, rare = max(map(len, raw.values()), default=0), math.log(2 * self.rows)
        places, nats, found = [], {}, []
        for column in self.columns:
            cells = raw.get(column.name, [""] * rows)
            texts, index = distinct(["" if cell is None else cell for cell in cells])
            never = column.never(texts)
            if never.any():
                row = int(never[index].argmax())
                found.append(f"{never[index].sum():,} in '{column.name}' (row {row + 1}: {shown(texts[index[row]])})")
            price = np.where(never, rare, 0.0)
            if column.kind != "constant" and column.name in raw:
                place = column.encode(texts)
                there = ~np.isnan(place) & (place != WRONG)
                price[there] -= column.log_width(place[there])
            else:
                place = np.full(len(texts), np.nan, np.float32)
            if column.kind != "constant":
                places.append(np.where(never, np.float32(np.nan), place)[index])
            nats[column.name] = torch.from_numpy(price[index])
        self._warn(found, [name for name in nats if name not in raw])
        return torch.from_numpy(np.stack(places, 1)), nats

    def _warn(self, never: Sequence[str], missing: Sequence[str]) -> None:
        if never:
            message = f"cells that the model never draws: {few(never)}; they are priced as rarer than one training row"
            warnings.warn(message, BFNWarning, stacklevel=3)
        if missing:
            message = f"the rows have no columns {few(missing)}, so their prices are those of the others alone"
            warnings.warn(message, BFNWarning, stacklevel=3)

    def known(self, x: Tensor) -> Tensor:
        """True at cells that are there and are no gap: (B, D)."""
        gap = torch.tensor([column.classes - 1.0 if column.gaps else math.inf for column in self.learned])
        return ~x.isnan() & (x < gap.to(x))

    def filling(self, model: Model) -> Model:
        """The same model, whose outputs have no gaps."""
        gap = [column.classes - 1 if column.gaps else -1 for column in self.learned]
        return _WithoutGaps(model, torch.tensor(gap))

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Rows:
        """The cells at points (B, D); None outside the mask."""
        points = x.detach().double().cpu().numpy()
        known = ~np.isnan(points)
        if mask is not None:
            known &= expand(mask.cpu(), x).numpy()
        places = dict(zip(self.names, zip(points.T, known.T, strict=True), strict=True))
        raw: dict[str, list[str | None]] = {}
        for column in self.columns:
            if column.kind == "constant":
                raw[column.name] = [column.texts[0]] * len(points)
                continue
            place, there = places[column.name]
            cells = np.full(len(points), None, object)
            cells[there] = column.decode(place[there])
            raw[column.name] = cells.tolist()
        return raw

    @property
    def is_table(self) -> bool:
        """True."""
        return True

    def typed(self, raw: Rows) -> Mapping[str, TypedColumn]:
        """The cells of the D columns as numbers or names."""
        return {column.name: column.typed(raw[column.name]) for column in self.learned}

    def log_width(self, x: Tensor) -> Tensor:
        """Logarithm of the width of the interval that is decoded to the same cell as each point: (B, D), at most 0.

        The price of a cell is that of its class less this.
        """
        points = x.detach().double().cpu().numpy()
        widths = [column.log_width(points[:, d]) for d, column in enumerate(self.learned)]
        return torch.from_numpy(np.stack(widths, 1)).to(x)

    def region(self, condition: str) -> tuple[str, Tensor, Tensor]:
        """Name of a column, and the beginnings and ends (n,) of the intervals of its line that satisfy a condition.

        Arguments:
            condition: "species=Adelie", "species!=Adelie", "body_mass_g>4000", "year>=2008", "date<2020-05-01",
                "sex=" for a gap.
        Returns:
            No interval for a number between two levels, which may be known nevertheless.
        Raises:
            ConfigError: If there is no such column, or no cell can satisfy the condition.
        """
        known = {column.name: column for column in self.columns}
        name, operator, text = comparison(condition, [*known, *self.left_out])
        if name in self.left_out:
            raise ConfigError(f"'{condition}': column '{name}' is not learned: {self.left_out[name]}")
        if name not in known:
            raise ConfigError(f"'{condition}': {self._unknown(name)}")
        column = known[name]
        if column.kind == "constant":
            raise ConfigError(f"'{condition}': column '{name}' is {column.texts[0]!r} in all rows; leave it out")
        try:
            intervals = column.region(operator, text)
        except ConfigError as error:
            raise ConfigError(f"'{condition}': {error}") from None
        if not intervals and not (operator == "=" and column.region("<", text) and column.region(">", text)):
            raise ConfigError(f"'{condition}': no cell of column '{name}' satisfies this{column.range_in_words}")
        ends = torch.tensor(intervals, dtype=torch.float64).reshape(-1, 2)
        return name, ends[:, 0], ends[:, 1]

    def with_known(self, raw: Rows, known: Rows) -> Rows:
        """Rows with the texts of others wherever these are known, in the order of their columns.

        Columns of others that were left out in training are carried through.
        """
        learned = {column.name: column for column in self._of(known)}
        rows: dict[str, Sequence[str | None]] = {}
        for name, cells in known.items():
            rows[name] = cells
            if name in learned:
                texts, index = distinct(cells)
                is_known = ~np.isnan(learned[name].encode(texts))[index]
                rows[name] = np.where(is_known, np.array(texts, object)[index], np.array(raw[name], object)).tolist()
        return {**rows, **{name: cells for name, cells in raw.items() if name not in rows}}

    def cells(self, raw: Rows, part: str = "x") -> Mapping[str, Sequence[str]]:
        """The rows, with empty cells where they are unknown."""
        return {name: ["" if cell is None else cell for cell in cells] for name, cells in raw.items()}

    def from_cells(self, cells: Cells, part: str = "x") -> Rows:
        """Known values; see :meth:`known_rows`."""
        columns = {name: Texts(*distinct(texts)) for name, texts in cells.columns.items()}
        return self.known_rows(
            TextTable(Path(cells.path), columns, len(cells.lines), lambda row: f"{cells.path}:{cells.lines[row]}")
        )

    def known_rows(self, table: TextTable, *, typed: bool = False) -> Rows:
        """Known values of a table: an empty cell is unknown, and so is a gap in a column without gaps.

        Columns that were left out in training are kept as they are.

        Arguments:
            table: Its cells.
            typed: Whether they are texts of numbers and dates of other types, which are respelled.
        Raises:
            DataError: If there is no such column, or a text is not one of its cells.
        """
        raw: dict[str, list[str | None]] = {}
        learned = {column.name: column for column in self._of(table.columns, f"{table.path}: ")}
        for name, found in table.columns.items():
            cells: Sequence[str | None] = found.distinct
            if name in learned:
                column = learned[name]
                texts = column.respelled(found.distinct) if typed else found.distinct
                places = _places(column, texts, found.index, table.place)
                cells = [None if np.isnan(p) or not t.strip() else t for t, p in zip(texts, places, strict=True)]
            raw[name] = np.array(cells, object)[found.index].tolist()
        return raw

    def _of(self, names: Collection[str], where: str = "") -> list[Column]:
        """The columns with these names, of which others than those that are left out are refused."""
        known = {column.name: column for column in self.columns}
        for name in names:
            if name not in known and name not in self.left_out:
                raise DataError(f"{where}{self._unknown(name)}")
        return [known[name] for name in names if name in known]

    def _unknown(self, name: str) -> str:
        known = [column.name for column in self.columns]
        return f"no column is named '{name}'; the columns are {', '.join(known)}.{did_you_mean(name, known)}"


def _places(column: Column, texts: Sequence[str | None], index: Array, place: Callable[[int], str]) -> Array:
    """Places of the different texts of a column.

    Arguments:
        column: The column.
        texts: Its different texts.
        index: Number of the text of each row.
        place: Place of a row, in words.
    Raises:
        DataError: If one is not a cell; it names the place.
    """
    places = column.encode(texts)
    if (places == WRONG).any():
        wrong = int((places == WRONG).argmax())
        raise DataError(f"{place(int((index == wrong).argmax()))}: {column.mistake(str(texts[wrong]))}")
    return places
