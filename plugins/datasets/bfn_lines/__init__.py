"""Lines (plugin): strings of a file, such as SMILES, proteins, names and passwords, as classes of their characters.

Strings of several lengths are padded to that of the longest, and a mask says where there are characters.  Sampled
strings have the lengths of the training rows.  Each character is a class, so the two of an atom such as Cl are two.

Further columns of a table are conditions: names become labels, numbers stay in the units of the file.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor, nn

from bfn_files.reading import Content, FileDataset, Fingerprint
from bfn_lines.codec import LinesCodec
from bfn_lines.reading import (
    Strings,
    beginning,
    form_of,
    has_strings,
    looks_like_strings,
    read_strings,
    shown,
)
from bfn_toolkit import (
    Batch,
    BFNWarning,
    ConfigError,
    DataError,
    Entry,
    Recognised,
    Rows,
    Split,
    hookimpl,
    validators,
)

BEGINNING = 2**16  # bytes by which the kind of a file is told
OUTLIER = 4  # times the length that 99 % of the strings do not exceed
SHOWN = 5  # largest number of characters in a message


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _conditions(_: object, __: attrs.Attribute[Any], names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ConfigError(f"conditions: expected different names, got {list(names)}")
    for name in names:
        # A network keeps a layer for each condition under its name.
        if not name or "." in name or name == "mask" or hasattr(nn.ModuleDict, name):
            raise ConfigError(f"conditions: '{name}' cannot be the name of a condition; rename the column")


def _alphabet(_: object, __: attrs.Attribute[Any], alphabet: str | None) -> None:
    if alphabet is not None and (len(alphabet) < 2 or len(set(alphabet)) < len(alphabet) or "\n" in alphabet):
        raise ConfigError(f"alphabet: expected two or more different characters, no line end, got {alphabet!r}")


class LineRows(Rows):
    """Strings by number, padded when they are read.

    Arguments:
        strings: The strings.
        length: Number of places of a row.
        condition: Conditions of all strings.
        index: Numbers of the strings of the split, (n,).
    """

    def __init__(self, strings: Strings, length: int, condition: Mapping[str, Tensor], index: Tensor) -> None:
        self.codes, self.offsets = strings.codes, strings.offsets
        self.length, self.condition, self.index = length, condition, index
        self.padded = bool((strings.lengths < length).any())

    def of(self, index: Tensor) -> LineRows:
        """Those of these strings that have the numbers ``index``."""
        rows = copy.copy(self)
        rows.index = self.index[index]
        return rows

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Batch:
        chosen = self.index[index]
        start, end = (self.offsets[places][:, None] for places in (chosen.numpy(), chosen.numpy() + 1))
        place = start + np.arange(self.length)
        mask = place < end
        codes = np.where(mask, self.codes.take(place, mode="clip"), 0).astype(self.codes.dtype)
        condition = {name: values[chosen] for name, values in self.condition.items()}
        return Batch(torch.from_numpy(codes), condition, torch.from_numpy(mask) if self.padded else None)


@attrs.frozen(eq=False)
class LinesContent(Content):
    """Content of a file: rows as they are stored, and their codec."""

    rows: LineRows
    codec: LinesCodec


@attrs.frozen
class Lines(FileDataset):
    """Strings of a file, as int64 classes of their characters with a mask.

    Arguments:
        path: A file in UTF-8, compressed if its name ends in .gz: .smi, .csv, .tsv, .fasta (.fa, .faa, .fna), or with
            any other name one string a line.
        length: Largest number L of characters; by default that of the longest string.
        column: Column of the strings in a .csv or .tsv file; by default the only one that is not of numbers.
        conditions: Names of further columns.  A column of names becomes the condition "label"; numbers are a condition
            with the name of the column.  A .smi file has the column "name".
        alphabet: The characters, in the order of their classes; by default those of the file, line by line, the new
            ones of each line sorted, so that lines at the end of the file change no class.
        too_long: "error" to refuse strings longer than ``length`` (by default, longer than 4 times the length that
            99 % do not exceed), "drop" to leave them out.
        on_empty: "error" to refuse empty strings, "drop" to leave them out.
        valid_fraction: Fraction held out for validation, of the strings outside the test set.
        test_fraction: Fraction of the strings held out for the test set.
        seed: Seed of the splits.
    """

    length: int | None = field(default=None, kw_only=True, validator=validators.optional(validators.integer(ge=1)))
    column: str | None = field(default=None, kw_only=True)
    conditions: tuple[str, ...] = field(default=(), kw_only=True, converter=_names, validator=_conditions)
    alphabet: str | None = field(default=None, kw_only=True, validator=_alphabet)
    too_long: Literal["error", "drop"] = field(
        default="error", kw_only=True, validator=validators.one_of("error", "drop")
    )
    on_empty: Literal["error", "drop"] = field(
        default="error", kw_only=True, validator=validators.one_of("error", "drop")
    )

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """SMILES and FASTA by their names, tables with a column of strings, and short lines without blanks."""
        form = form_of(path)
        if form in ("smi", "fasta"):
            return Recognised({"smi": "SMILES, one a line", "fasta": "sequences in FASTA"}[form], 3)
        text = beginning(path, BEGINNING)
        if text is None:
            return None
        if form == "table":
            return Recognised("strings in a table", 1) if has_strings(path, text) else None
        return Recognised("strings, one a line", 2) if looks_like_strings(text) else None

    @property
    def default_config(self) -> Mapping[str, object]:
        """The preset "lines", with a batch that is not larger than the training rows."""
        rows = len(self.content.splits["train"])
        return {"preset": "lines", **({"training": {"batch_size": rows}} if rows < 32 else {})}

    @property
    def content(self) -> LinesContent:
        """The strings.

        Raises:
            ConfigError: If there are no columns with these names.
            DataError: If the file is malformed, has too few strings, or was written since.
        """
        return _lines(self, self.unchanged())

    @property
    def codec(self) -> LinesCodec:
        """The alphabet."""
        return self.content.codec

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(L,)."""
        return (self.content.rows.length,)

    def rows(self, name: Split) -> Rows:
        """The strings of a split, in the smallest dtype."""
        content = self.content
        return content.rows.of(content.splits[name])

    def prepare(self, batch: Batch) -> Batch:
        """Classes as int64."""
        return attrs.evolve(batch, x=batch.x.long())

    def split(self, name: Split) -> Batch:
        """All strings of a split."""
        rows = self.rows(name)
        return self.prepare(rows[torch.arange(len(rows))])


@lru_cache(maxsize=2)
def _lines(dataset: Lines, _: Fingerprint) -> LinesContent:
    path = dataset.path
    strings = read_strings(path, dataset.column, dataset.conditions, dataset.alphabet, dataset.on_empty)
    strings = _of_length(dataset, strings)
    splits = dataset.partition(len(strings))
    train = np.zeros(len(strings), np.bool_)
    train[splits["train"].numpy()] = True
    _warn_of_copies(dataset, strings, splits)
    seen = np.zeros(len(strings.alphabet), np.bool_)
    seen[strings.codes[np.repeat(train, strings.lengths)]] = True
    missing = [shown(strings.alphabet[i]) for i in np.flatnonzero(~seen)[: SHOWN + 1]]
    if missing:
        few = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        warnings.warn(f"{path}: no training row has the character {few}", BFNWarning, stacklevel=2)
    condition, facts, categories = _told(dataset, strings, train)
    length = dataset.length or int(strings.lengths.max())
    ending = {"smi": ".smi", "fasta": ".fasta", "table": ".csv"}.get(form_of(path), ".txt")
    codec = LinesCodec(strings.alphabet, length, strings.column, ending, categories=categories)
    metadata = {"site_shape": (length,), "classes": len(strings.alphabet), "axes": ("sequence",), **facts}
    rows = LineRows(strings, length, condition, torch.arange(len(strings)))
    return LinesContent(rows=rows, splits=splits, metadata=metadata, codec=codec)


def _of_length(dataset: Lines, strings: Strings) -> Strings:
    """The strings that are not too long."""
    lengths = strings.lengths
    usual = int(np.quantile(lengths, 0.99, method="lower"))  # of few strings, the second longest
    most = dataset.length or OUTLIER * usual
    long = lengths > most
    if not long.any():
        return strings
    first, longest = int(long.argmax()), int(lengths.max())
    limit = f"length = {most}" if dataset.length else f"{OUTLIER} times the {usual} that 99 % do not exceed"
    found = f"{int(long.sum()):,} of {len(strings):,} strings are longer than {limit}"
    if dataset.too_long == "error":
        raise DataError(
            f"{dataset.path}:{strings.lines[first]}: a string of {lengths[first]:,} characters; {found}; "
            f"--dataset.length {longest} keeps all, --dataset.too_long drop leaves such strings out"
        )
    warnings.warn(
        f"{dataset.path}: left out: {found}, the first in line {strings.lines[first]}", BFNWarning, stacklevel=2
    )
    if long.all():
        raise DataError(f"{dataset.path}: no rows: each string is longer than length = {most}")
    return strings.rows(~long)


def _warn_of_copies(dataset: Lines, strings: Strings, splits: Mapping[Split, Tensor]) -> None:
    copies = len(strings) - len(np.unique(strings.hashes))
    if copies:
        others, test = (strings.hashes[splits[name].numpy()] for name in ("all", "test"))
        shared = int(np.isin(test, others).sum())
        words = f"{copies:,} of {len(strings):,} strings are copies of others"
        warnings.warn(
            f"{dataset.path}: {words}; {shared:,} of {len(test):,} test strings are also in the other splits",
            BFNWarning,
            stacklevel=2,
        )


def _told(
    dataset: Lines, strings: Strings, train: Any
) -> tuple[dict[str, Tensor], dict[str, object], dict[str, Sequence[str]]]:
    """Conditions, their facts for a network, and the names of labels."""
    condition: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    scales: dict[str, tuple[float, float]] = {}
    facts: dict[str, object] = {}
    categories: dict[str, Sequence[str]] = {}
    labels = list(strings.classes)
    for name, values in strings.numbers.items():
        if name == "label" and (values == np.floor(values)).all() and values.min() >= 0:
            labels.append(name)
            condition["label"], facts["labels"] = torch.from_numpy(values.astype(np.int64)), int(values.max()) + 1
            continue
        numbers = torch.from_numpy(values).float()
        if not bool(numbers.isfinite().all()):
            raise DataError(f"{dataset.path}: column '{name}': a number overflows float32, whose largest is 3.4e38")
        mean, deviation = float(values[train].mean()), float(values[train].std())
        if deviation == 0.0:
            raise DataError(
                f"{dataset.path}: column '{name}' is constant in the training rows; leave it out of conditions"
            )
        condition[name], shapes[name], scales[name] = numbers, (), (mean, deviation)
    for classes, names in strings.classes.values():
        condition["label"], facts["labels"] = torch.from_numpy(classes), len(names)
        categories["label"] = names
    if len(labels) > 1:
        raise ConfigError(f"conditions: a network reads one label, found the columns {', '.join(labels)}; choose one")
    if shapes:
        facts |= {"condition_shapes": shapes, "condition_scales": scales}
    return condition, facts, categories


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need a file."""
    return [Entry("lines", Lines)]


@hookimpl
def bfn_codecs() -> Sequence[Entry]:
    """The codec of strings."""
    return [Entry("lines", LinesCodec)]
