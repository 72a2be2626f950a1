"""Reader of points (plugin)."""

from __future__ import annotations

from collections.abc import Sequence

from bfn_toolkit import Entry, hookimpl


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """No data set yet."""
    return []
