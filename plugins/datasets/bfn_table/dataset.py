"""The data set of a table."""

from __future__ import annotations

import attrs

from bfn_files.reading import Content, FileDataset


@attrs.frozen
class Table(FileDataset):
    """Rows of a table: numbers, integers, categories, booleans, dates, times and gaps."""

    @property
    def content(self) -> Content:
        """The rows."""
        raise NotImplementedError
