"""Rows of images from several places, as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bfn_toolkit import Batch, Rows


class JoinedRows(Rows):
    """Chosen rows of several sources, one after another.

    Arguments:
        parts: The sources, whose rows have one shape and the same conditions.
        index: Numbers of the rows, counted through all sources.
    """

    def __init__(self, parts: Sequence[Rows], index: Tensor) -> None:
        self._parts, self._index = list(parts), index
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Tensor) -> Batch:
        chosen = self._index[index.long()]
        if len(self._parts) == 1:
            return self._parts[0][chosen]
        source = torch.bucketize(chosen, self._ends, right=True)
        starts = self._ends - self._ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
        order = source.argsort(stable=True)
        pieces = [self._parts[i][chosen[source == i] - starts[i]] for i in sorted(set(source.tolist()))]
        if not pieces:
            return self._parts[0][chosen]
        together = Batch(
            torch.cat([piece.x for piece in pieces]),
            {name: torch.cat([piece.condition[name] for piece in pieces]) for name in pieces[0].condition},
        )
        return together.rows(order.argsort())

    @property
    def stamp(self) -> str:
        """The stamps of the sources."""
        return " ".join(part.stamp for part in self._parts)
