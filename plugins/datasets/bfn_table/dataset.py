"""The data set of a table."""

from __future__ import annotations

from bfn_files.reading import FileDataset


class Table(FileDataset):
    """Rows of a table: numbers, integers, categories, booleans, dates, times and gaps."""
