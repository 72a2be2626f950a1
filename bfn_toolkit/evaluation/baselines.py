"""Baselines of the likelihood: the same test rows, priced by simple laws that are counted in training rows.

A bound means little without them.  They are in nats per example, in the unit of the model's bound, and sum over the
sites that are present.

=============== ===================================================================================================
``independent`` each site by itself: a histogram of classes or bins, a normal distribution of other numbers
``pairs``       each class of a sequence, given the one before
``neighbours``  each pixel, given its left and its upper neighbour, in at most 16 levels each
=============== ===================================================================================================

The sites along a sequence or a set share one law.  One is added to each count, and to each variance that of one more
example with the mean variance of all sites; a law of K values given others starts from K examples of that of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.binned_outputs import Binned
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.families import Family
from bfn_toolkit.masks import mask_of
from bfn_toolkit.network_io import PartIO
from bfn_toolkit.outputs import Finite
from bfn_toolkit.shapes import by_row

LEVELS = 16  # of each neighbour of a pixel
CELLS = 2**24  # largest number of counts


def baselines(
    family: Family[Any], train: Batch, test: Batch, bins: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Nats of each test row under each baseline, (N,) in float64, by the names in the module's description.

    In data of several parts, a part without a baseline of a name has that of independent sites.  There is none for
    directions.

    Arguments:
        family: Family of the data.
        train: Rows to count, on the CPU.
        test: Rows to price, on the CPU.
        bins: Number of bins of [-1, 1] in whose centres the data are, by part ("" for data without parts).
    """
    values = train.x, mask_of(train.x, train.mask), test.x, mask_of(test.x, test.mask)
    prices = [
        _of_part(part.family, [by_row(value) for value in part.values], (bins or {}).get(part.name))
        for part in family.walk(*values)
    ]
    if not all(prices):
        return {}
    names = dict.fromkeys(name for price in prices for name in price)
    return {name: torch.stack([price.get(name, price["independent"]) for price in prices]).sum(0) for name in names}


def _of_part(family: Family[Any], values: Sequence[Tensor], bins: int | None) -> dict[str, Tensor]:
    """Prices of test rows; the values are training rows (M, D) and their mask, then test rows (N, D) and theirs."""
    x, x_there, y, y_there = values
    io = family.network_io.parts[""]
    if io.kind == "direction":
        return {}
    priced = bins_of(family)
    classes = io.classes if io.kind == "classes" else priced or bins
    if classes is None:
        return {"independent": _normal(io, x, x_there, y, y_there)}
    x, y = (_levels(v, there, classes, io) for v, there in ((x, x_there), (y, y_there)))
    found = {"independent": _histogram(io, x, y, classes)}
    if io.axes == ("sequence",) and (classes + 1) * classes <= CELLS:
        found["pairs"] = _given(x, y, _before(x, classes), _before(y, classes), classes)
    if (axes := io.picture_axes) is not None and (min(classes, LEVELS) + 1) ** 2 * classes <= CELLS:
        x_context, y_context = (_around(v.reshape(-1, *io.shape), axes, classes) for v in (x, y))
        found["neighbours"] = _given(x, y, x_context, y_context, classes)
    if io.kind == "real" and priced is None:  # the model's price is a density: uniform within a bin
        found = {name: nats + math.log(2.0 / classes) * y_there.sum(1) for name, nats in found.items()}
    return found


def bins_of(family: Family[Any]) -> int | None:
    """Number of bins whose probabilities a family of real numbers prices; None if it prices densities."""
    io = family.network_io.parts[""]
    output = family.output(torch.zeros(1, *io.shape, io.out_features), family.prior(1))
    if isinstance(output, Binned):
        return output.bins
    return len(output.values) if isinstance(output, Finite) else None


def _levels(x: Tensor, there: Tensor, classes: int, io: PartIO) -> Tensor:
    """Classes or bins as int64, -1 where they are missing."""
    levels = x if io.kind == "classes" else ((x.double().nan_to_num() + 1.0) * (classes / 2)).floor()
    return torch.where(there, levels.long().clamp(0, classes - 1), -1)


def _laws(io: PartIO, most: int) -> tuple[Tensor, int]:
    """Number of the law of each site (D,), and how many there are: at most ``most``, else one for all."""
    axes = io.axes or ("",) * len(io.shape)
    sizes = [1 if axis in ("sequence", "set") else size for axis, size in zip(axes, io.shape, strict=True)]
    count = math.prod(sizes)
    if count > most:
        return torch.zeros(io.sites, dtype=torch.int64), 1
    return torch.arange(count).reshape(sizes).expand(io.shape).flatten(), count


def _histogram(io: PartIO, x: Tensor, y: Tensor, classes: int) -> Tensor:
    laws, count = _laws(io, max(1, CELLS // classes))
    counts = _counted(x, laws.expand(x.shape), count, classes) + 1.0
    law = counts / counts.sum(1, keepdim=True)
    return _nats(law[laws.expand(y.shape), y.clamp_min(0)], y)


def _given(x: Tensor, y: Tensor, x_context: Tensor, y_context: Tensor, classes: int) -> Tensor:
    """Prices by a histogram for each context."""
    counts = _counted(x, x_context, 1 + int(max(x_context.max(), y_context.max())), classes)
    law = counts.sum(0) + 1.0
    law *= classes / law.sum()
    chances = (counts + law) / (counts.sum(1, keepdim=True) + classes)
    return _nats(chances[y_context, y.clamp_min(0)], y)


def _counted(x: Tensor, context: Tensor, contexts: int, classes: int) -> Tensor:
    """Counts of each class in each context: (contexts, classes) in float64."""
    there = x >= 0
    cells = (context * classes + x)[there]
    return torch.bincount(cells, minlength=contexts * classes).reshape(contexts, classes).double()


def _nats(chances: Tensor, y: Tensor) -> Tensor:
    return torch.where(y >= 0, -chances.log(), 0.0).sum(1)


def _before(x: Tensor, classes: int) -> Tensor:
    """The class before each site; K if there is none."""
    before = torch.nn.functional.pad(x[:, :-1], (1, 0), value=-1)
    return torch.where(before < 0, classes, before)


def _around(x: Tensor, axes: tuple[str, ...], classes: int) -> Tensor:
    """Number of the pair of left and upper neighbours, in coarse levels, of each pixel of (N, *site): (N, D)."""
    coarse = min(classes, LEVELS)
    levels = torch.where(x < 0, coarse, x * coarse // classes)
    pair = torch.zeros_like(x)
    for axis in ("width", "height"):
        place = 1 + axes.index(axis)
        size = levels.shape[place]
        edge = torch.full_like(levels.narrow(place, 0, 1), coarse)
        pair = pair * (coarse + 1) + torch.cat([edge, levels.narrow(place, 0, size - 1)], place)
    return by_row(pair)


def _normal(io: PartIO, x: Tensor, x_there: Tensor, y: Tensor, y_there: Tensor) -> Tensor:
    """Prices by a normal distribution for each law."""
    laws, count = _laws(io, CELLS)
    x, y = (torch.where(there, v.double(), 0.0) for v, there in ((x, x_there), (y, y_there)))

    def sums(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, laws, values.sum(0))

    n = sums(x_there.double())
    mean = sums(x) / n.clamp_min(1.0)
    squares = sums(torch.where(x_there, (x - mean[laws]).square(), 0.0))
    variance = ((squares + squares.sum() / n.sum().clamp_min(1.0)) / (n + 1.0)).clamp_min(1e-30)[laws]
    nats = 0.5 * ((y - mean[laws]).square() / variance + variance.log() + math.log(2.0 * math.pi))
    return torch.where(y_there, nats, 0.0).sum(1)
