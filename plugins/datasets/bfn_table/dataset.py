"""The data set of a table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_files.headers import is_number
from bfn_files.reading import Content, FileDataset, Fingerprint, few, fraction
from bfn_files.tables import FORMATS, Texts, TextTable, describe, read_table
from bfn_table.codec import RowsCodec
from bfn_table.columns import Column, fit
from bfn_table.kinds import Told, tell
from bfn_toolkit import (
    Batch,
    BFNError,
    BFNWarning,
    ConfigError,
    DataError,
    Recognised,
    Split,
    did_you_mean,
    validators,
)

CLASSES = 8000  # largest number of classes of all columns together, unless bins say otherwise
FEW, MANY = 1000, 10_000  # training rows; with fewer, steps are smaller
WIDE = 64  # columns; with more, a linear map of all pairs has too many weights
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with random bits: hash of a row is a polynomial in it
RARE = 5  # smallest mean number of rows of a category that can be learned
LINES = 15  # largest number of lines that describe the columns
WIDTH = 60  # characters of the names in such a line


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _different(_: object, __: attrs.Attribute[Any], names: Sequence[str] | None) -> None:
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ConfigError(f"columns: expected different names, at least one, got {list(names)}")


@attrs.frozen(eq=False)
class TableContent(Content):
    """Content of a file.

    Arguments:
        codec: The columns.
        summary: Lines that describe them.
        place: Function from the number of a row to its place in the file.
    """

    codec: RowsCodec
    summary: Sequence[str]
    place: Callable[[int], str]


@attrs.frozen
class Table(FileDataset):
    """Rows of a table: numbers, integers, categories, booleans, dates, times and gaps.

    Arguments:
        path: A file with a header, which ends in .csv, .tsv (.gz) or .parquet.
        columns: Names of the columns to learn; by default all.
        types: Kinds of columns by name, where their content does not tell: "number", "integer", "category", "boolean",
            "date", "datetime", "time", with its form as in "date:%d/%m/%Y"; "identifier" or "text" to leave it out.
        gaps: Further texts that stand for a gap, in any column.
        header: Whether the first line has the names of the columns; by default told by the content.
        bins: Largest number of classes of a column of numbers; by default a twelfth of the rows, from 12 to 100.
        valid_fraction: Fraction held out for validation, of the rows outside the test set.
        test_fraction: Fraction of the rows held out for the test set.
        seed: Seed of the splits.
    """

    endings: ClassVar[tuple[str, ...]] = FORMATS
    instead: ClassVar[str] = "--dataset array reads numbers alone, --dataset classes-array classes alone"

    columns: tuple[str, ...] | None = field(
        default=None,
        kw_only=True,
        converter=attrs.converters.optional(_names),
        validator=_different,
    )
    types: Mapping[str, str] = field(factory=dict, kw_only=True, hash=False)
    gaps: tuple[str, ...] = field(default=(), kw_only=True, converter=_names)
    header: bool | None = field(default=None, kw_only=True)
    bins: int | None = field(default=None, kw_only=True, validator=validators.optional(validators.integer(ge=2)))
    valid_fraction: float = fraction(0.1)
    test_fraction: float = fraction(0.05)

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """Tables by their names, except for a single column of texts."""
        if not (path.name.lower().endswith(FORMATS) and path.is_file()):
            return None
        try:
            names, rows, first = describe(path)
        except BFNError:
            names = []
        if not names:
            return Recognised("a table", 3)
        if len(names) == 1 and first and not any(is_number(row[0]) for row in first):
            return None
        count = f"{rows:,} row{'s' * (rows != 1)}, " if rows is not None else ""
        return Recognised(f"{count}{len(names):,} column{'s' * (len(names) != 1)}", 3)

    @property
    def default_config(self) -> Mapping[str, object]:
        """The preset "table", for the number of training rows and of columns."""
        content = self.content
        rows, columns = len(content.splits["train"]), len(content.codec.names)
        lr = 5e-4 if rows < FEW else 1e-3 if rows < MANY else 2e-3
        # With more columns there are more ways to know a row by heart; measured on five tables of 8 to 31 columns.
        decay = min(4.0, (columns / 20) ** 3) * min(1.0, 3000 / rows)
        return {
            "preset": "table",
            "training": {
                "steps": max(500, min(3000, 45_000 // columns)),  # about a minute on a CPU
                "lr": lr,
                "batch_size": 64 if rows < FEW else 128,
                "validation_draws": max(1, min(32, 1000 // len(content.splits["valid"]))),
                "optimizer_options": {"betas": [0.9, 0.99], "weight_decay": round(decay, 3)},
            },
            "network": {"linear": columns <= WIDE},
        }

    @property
    def content(self) -> TableContent:
        """The rows.

        Raises:
            ConfigError: If there are no columns with these names, or a kind is unknown.
            DataError: If the file is malformed, a cell is not of the kind of its column, or the file was written since.
        """
        return _content(self, self.unchanged())

    @property
    def codec(self) -> RowsCodec:
        """The columns."""
        return self.content.codec

    def places(self, name: Split, index: torch.Tensor) -> list[str]:
        """File and line of rows of a split."""
        content = self.content
        return [content.place(row) for row in content.splits[name][index].tolist()]

    @property
    def summary(self) -> Sequence[str]:
        """Names and kinds of the columns."""
        return self.content.summary


@lru_cache(maxsize=2)
def _content(dataset: Table, _: Fingerprint) -> TableContent:
    table = read_table(dataset.path, dataset.header)
    names = _chosen(dataset, table)
    splits = dataset.partition(table.rows)
    train = splits["train"].numpy()
    bins = dataset.bins or min(100, max(12, table.rows // 12), max(2, CLASSES // len(names)))
    columns: list[Column] = []
    found: list[_Found] = []
    places, hashes = [], np.zeros(table.rows, np.uint64)
    for name in names:
        texts = table.columns[name]
        told = tell(name, texts, table.place, dataset.types.get(name), dataset.gaps, comma=table.comma)
        found.append(_Found.of(told, texts))
        if told.left_out:
            continue
        column = fit(told, texts, train, bins)
        columns.append(column)
        if column.kind != "constant":
            places.append(column.places(told, texts)[texts.index])
            hashes = hashes * FACTOR + texts.index.astype(np.uint64)
    left_out = {one.told.name: one.told.left_out for one in found if one.told.left_out}
    if not places:
        why = "; ".join(f"'{name}': {reason}" for name, reason in [*left_out.items()][:3]) or "each column is constant"
        raise DataError(f"{dataset.path}: no column to learn: {why}")
    x = torch.from_numpy(np.stack(places, 1))
    _warn(dataset, found, table.rows - len(np.unique(hashes)))
    learned = [column for column in columns if column.kind != "constant"]
    metadata = {
        "site_shape": (len(learned),),
        "sizes": tuple(column.classes for column in learned),
        "ordered": tuple(column.is_ordered for column in learned),
        "shares": [_shares(x[train, d], column.classes) for d, column in enumerate(learned)],
    }
    codec = RowsCodec(columns, left_out, table.separator, len(train))
    return TableContent(Batch(x), splits, metadata, codec, _summary(found), table.place)


def _shares(x: Tensor, classes: int) -> list[float]:
    """Shares of the classes among training rows, with half a row more in each."""
    counts = x.long().bincount(minlength=classes) + 0.5
    return [round(share, 6) for share in (counts / counts.sum()).tolist()]


def _chosen(dataset: Table, table: TextTable) -> list[str]:
    for option, names in (("columns", dataset.columns or ()), ("types", dataset.types)):
        for name in names:
            if name not in table.columns:
                hint = did_you_mean(name, table.columns)
                raise ConfigError(
                    f"{dataset.path}: {option}: no column is named '{name}'; it has {few(list(table.columns))}.{hint}"
                )
    return list(dataset.columns or table.columns)


@attrs.frozen(eq=False)
class _Found:
    """Findings about a column, for the summary and the warnings.

    Arguments:
        told: Its kind, without the numbers.
        names: Number of different texts that are no gaps.
        missing: Number of gaps.
        rows: Number of other rows.
    """

    told: Told
    names: int
    missing: int
    rows: int

    @classmethod
    def of(cls, told: Told, texts: Texts) -> _Found:
        """The same of a column of a table."""
        missing = sum(int(texts.counts[texts.distinct.index(gap)]) for gap in told.gaps)
        names = len(texts.distinct) - len(told.gaps)
        return cls(attrs.evolve(told, numbers=told.numbers[:0]), names, missing, len(texts.index) - missing)

    @property
    def words(self) -> str:
        """The kind and the form, by which columns are grouped."""
        if self.told.left_out:
            return f"left out: {self.told.left_out}"
        words = {"category": "categories", "constant": "constant"}.get(self.told.kind, f"{self.told.kind}s")
        if self.told.kind == "number":
            digits = self.told.decimals
            least = "up to " if "#" in self.told.form.partition("0")[2] else ""
            words += f", {least}{digits} decimal{'s' * (digits != 1)}" if digits >= 0 else ", all digits"
        return f"{words} as {self.told.form}" if self.told.form.strip("0.#") else words


def _warn(dataset: Table, found: Sequence[_Found], copies: int) -> None:
    """Warns of copies, constants, and categories with few rows."""

    def warn(message: str) -> None:
        warnings.warn(f"{dataset.path}: {message}", BFNWarning, stacklevel=3)

    if copies:
        rows = found[0].missing + found[0].rows
        warn(f"{copies:,} of {rows:,} rows are duplicates; copies may be in both training and validation rows")
    constant = [one.told.name for one in found if one.told.kind == "constant" and not one.told.left_out]
    if constant:
        warn(f"constant, so written as they are and not learned: {few(constant)}")
    for one in found:
        if one.told.kind == "category" and not one.told.left_out and one.rows < RARE * one.names:
            warn(
                f"column '{one.told.name}' has {one.names:,} categories in {one.rows:,} rows, too few to learn them; "
                f'--types "{one.told.name}=text" leaves it out'
            )


def _summary(found: Sequence[_Found]) -> list[str]:
    """Lines with the names of the columns of a kind, and what was found."""
    groups: dict[str, list[_Found]] = {}
    for one in found:
        groups.setdefault(one.words, []).append(one)
    lines = []
    for words, members in groups.items():
        names = _few_names([one.told.name or "(no name)" for one in members])
        if words == "categories":
            words += f": {_few_names([f'{one.names:,}' for one in members])}"
        gaps = [f"{one.told.name} {one.missing:,}" for one in members if one.missing]
        if len(members) == 1:
            gaps = [f"{one.missing:,}" for one in members if one.missing]
        lines.append((names, words + (f"; gaps: {_few_names(gaps)}" if gaps else "")))
    width = max(len(names) for names, _ in lines)
    shown = [f"{names:<{width}}  {words}" for names, words in lines[:LINES]]
    return [*shown, *([f"and {len(lines) - LINES} more kinds of columns"] if len(lines) > LINES else [])]


def _few_names(names: Sequence[str]) -> str:
    """The first names in a line, and the number of the others."""
    shown, length = 0, 0
    while shown < len(names) and (not shown or length + len(names[shown]) <= WIDTH):
        length += len(names[shown]) + 2
        shown += 1
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest:,} more" if rest else "")
