"""The codec of strings, and the files that they are written to."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_lines.reading import fasta
from bfn_toolkit import Cells, ConfigError, DataError, Format, LinesFormat, TableFormat, TextCodec, open_regular


class SmilesFormat(LinesFormat):
    """A .smi file: a SMILES a line, which ends at the first blank."""

    def read(self, path: Path) -> list[str]:
        """The SMILES."""
        return [next(iter(line.split()), "") for line in super().read(path)]


class FastaFormat(Format):
    """A .fasta file: a record for each string, named by its number."""

    def header(self, raw: Sequence[str], n: int) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, raw: Sequence[str], n: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The rows at the end."""
        yield end, "".join(f">sample{first + i}\n{text}\n" for i, text in enumerate(raw, 1)).encode()

    def read(self, path: Path) -> list[str]:
        """The sequences."""
        try:
            with io.TextIOWrapper(open_regular(path), "utf-8-sig") as file:
                return [text for _, text, _ in fasta(path, file)]
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read sequences from {path}: {error}") from error


@attrs.frozen
class LinesCodec(TextCodec):
    """Strings of several lengths as classes of their characters.

    Raw data are a list of strings.

    Arguments:
        alphabet: The characters, in the order of their classes.
        length: Number of characters of the longest string.
        column: Name of the strings in a table.
        ending: Ending of the file of a run's samples.
        categories: See :class:`~bfn_toolkit.Codec`.
    """

    column: str = "text"
    ending: str = field(default=".txt")

    @property
    def formats(self) -> Mapping[str, Format]:
        """Lines, FASTA, a table of one column, and classes as arrays and tensors; that of the data first."""
        text = super().formats
        formats = {
            **text,
            ".smi": SmilesFormat(self),
            ".fasta": FastaFormat(self),
            ".csv": TableFormat(self),
        }
        return {self.ending: formats[self.ending], **formats}

    def row_sizes(self, raw: Sequence[str]) -> Tensor:
        """Number of characters of each string, (B,).

        Raises:
            DataError: If one is empty.
        """
        if "" in raw:
            number = list(raw).index("") + 1
            raise DataError(f"text {number} is empty; write {self.gap!r} for each unknown character")
        return torch.tensor([len(text) for text in raw])

    def cells(self, raw: Sequence[str], part: str = "x") -> Mapping[str, Sequence[str]]:
        """One column."""
        return {self.column: raw}

    def from_cells(self, cells: Cells, part: str = "x") -> list[str]:
        """The column of the strings.

        Raises:
            DataError: If there is no such column.
        """
        if self.column not in cells.columns:
            raise DataError(f"{cells.path}:1: no column is named '{self.column}'; it has {', '.join(cells.columns)}")
        return list(cells.columns[self.column])
