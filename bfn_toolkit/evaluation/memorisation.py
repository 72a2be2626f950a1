r"""Memorisation: whether samples are closer to the training rows than new rows are.

Held-out rows are the yardstick: they come from the distribution of the training rows, and the model has not seen them.

* :func:`distance_scores` compares the distances of samples and of held-out rows to their nearest training rows: the
  share of samples that are nearer than all but 5 % of the held-out rows, and the probability that a held-out row is
  farther away than a sample (Meehan et al. 2020, arXiv 2004.05675, whose test is a standardised form of it).
  Samples that are blurred lie near to everything, so a high probability alone proves nothing.
* :func:`train_share` is evidence of copies.  Training and held-out rows are pooled, and each sample votes for the row
  nearest to it.  A model that does not copy treats the N training rows and the M held-out ones alike, so that the
  expected share of votes for training rows is

  .. math:: p = \frac{N}{N + M}, \qquad
      \mathrm{Var} = \frac{p (1 - p)\, n}{n - 1} \Big(\sum_i w_i^2 - \frac{1}{n}\Big), \qquad n = N + M,

  with the share :math:`w_i` of the votes that row i has: the mean and the variance over all ways to split the n rows,
  whatever the distribution of the samples.  The estimate (share - p) / (1 - p) is 1 for copies, and 0 without any.

Both presume that held-out rows have the distribution of the training rows, and do not repeat them more often than
these repeat each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.typed_columns import Array
from bfn_toolkit.evaluation.tables import auc, auc_error
from bfn_toolkit.families import ExampleKind, Family, Part
from bfn_toolkit.masks import mask_of
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import by_row, in_float64

CLOSE = 0.05  # share of the held-out rows that count as close to the training rows
QUANTILES = 21  # of the distances, from the smallest to the largest
PAIRS = 2**22  # distances that are computed together
DIGITS = 13  # decimals of a squared distance, in units of that of two random rows; closer ones are ties
SCALED = 1000  # rows whose random pairs give the unit of a distance
SET_POINTS, SET_QUANTILES = 64, 32  # points of a set whose distances are taken, and quantiles of these
PIECE = 2**24  # classes of the ends of texts that are compared together


@attrs.frozen(eq=False)
class Neighbours:
    """Distances of samples and held-out rows to their nearest training rows, and the votes of the samples.

    Arguments:
        samples: Distance of each sample to its nearest training row, (S,) in float64 on the CPU.
        held_out: The same of each held-out row, (M,).
        votes: Share of the samples whose nearest row of all is this one, (N + M,): training rows first; ties share.
        train: Number N of training rows.
    """

    samples: Tensor
    held_out: Tensor
    votes: Tensor
    train: int


def distance_scores(samples: Tensor, held_out: Tensor) -> dict[str, Any]:
    """Distances of samples and of held-out rows ("real") to their nearest training rows, compared.

    Arguments:
        samples: Distances of the samples, (S,).
        held_out: Distances of the held-out rows, (M,).
    Returns:
        ``nearest``, their medians; ``quantiles``, from 0 to 100 % in steps of 5 %; ``copies``, the shares at distance
        0; ``closer``, the shares that are nearer than the 5 % quantile of the held-out rows, with the standard error of
        their difference if both have the same distribution; ``auc``, the probability that a held-out row is farther
        away than a sample, 0.5 for equal distributions, and its standard error.
    """
    sides = {"samples": in_float64(samples).cpu(), "real": in_float64(held_out).cpu()}
    limit = sides["real"].quantile(CLOSE)
    counts = [len(side) for side in sides.values()]
    places = torch.linspace(0.0, 1.0, QUANTILES, dtype=torch.float64)
    return {
        "nearest": {who: float(side.median()) for who, side in sides.items()},
        "quantiles": {who: side.quantile(places).tolist() for who, side in sides.items()},
        "copies": {who: float((side <= 0.0).double().mean()) for who, side in sides.items()},
        "closer": {
            **{who: float((side < limit).double().mean()) for who, side in sides.items()},
            "stderr": math.sqrt(CLOSE * (1.0 - CLOSE) * sum(1.0 / count for count in counts)),
        },
        "auc": auc(sides["real"].numpy(), sides["samples"].numpy()),
        "auc_stderr": auc_error(*counts),
    }


def train_share(votes: Tensor, train: int) -> dict[str, float]:
    """Votes of the samples for training rows, beside those expected of a model that does not copy.

    Arguments:
        votes: Share of the votes that each of n rows has, (n,): training rows first.
        train: Number of training rows, between 1 and n - 1.
    Returns:
        ``train_votes``, ``expected``, and ``copied``, the share of samples that are copies by this count, with the
        standard error over all ways to split the rows.
    """
    n, p = len(votes), train / len(votes)
    votes = in_float64(votes)
    share = float(votes[:train].sum() / votes.sum())
    spread = float((votes / votes.sum()).square().sum()) - 1.0 / n
    error = math.sqrt(max(0.0, p * (1.0 - p) * n / (n - 1) * spread))
    return {
        "train_votes": share,
        "expected": p,
        "copied": (share - p) / (1.0 - p),
        "copied_stderr": error / (1.0 - p),
    }


def neighbours(samples: Iterable[Tensor], held_out: Iterable[Tensor], train: int) -> Neighbours:
    """Nearest rows, from distances that come some rows at a time.

    Arguments:
        samples: Distances of samples to all training and then all held-out rows, (some, N + M).
        held_out: Distances of held-out rows to the training rows, (some, N).
        train: Number N of training rows.
    """
    nearest, votes = [], torch.zeros(())
    for distance in samples:
        nearest.append(distance[:, :train].amin(1))
        tied = (distance == distance.amin(1, keepdim=True)).double()
        votes = votes.to(tied.device) + (tied / tied.sum(1, keepdim=True)).sum(0)
    others = torch.cat([distance.amin(1) for distance in held_out])
    return Neighbours(torch.cat(nearest).cpu(), others.cpu(), (votes / votes.sum()).cpu(), train)


def nearest_rows(
    family: Family[Any], samples: Batch, train: Batch, held_out: Batch, *, most: int | None = None
) -> Neighbours:
    """Nearest rows of data of a family, by a distance that suits it; the batches are on one device.

    Numbers have the root mean square of their differences, directions that of their embeddings, and classes the share
    of the sites that differ.  Sets have that of the quantiles of the distances between their points, which neither
    order nor rotation changes.  For several parts the mean squares are added, each in units of that of two random rows.

    Arguments:
        family: The family.
        samples: The samples.
        train: Training rows.
        held_out: Held-out rows, among which samples seek their nearest row too.
        most: Largest number of held-out rows whose own distance is sought; by default all.
    """
    sides = [[*family.walk(rows.x, mask_of(rows.x, rows.mask))] for rows in (samples, train, held_out)]
    parts = [_PartDistance.of(*parts) for parts in zip(*sides, strict=True)]
    n, everything = len(train), len(train) + len(held_out)

    def distances(who: int, count: int, reference: int) -> Iterator[Tensor]:
        size = max(1, PAIRS // reference)
        for start in range(0, count, size):
            few = slice(start, min(start + size, count))
            squares = torch.stack([part.squares(who, few, reference) for part in parts]).mean(0)
            squares = squares.round(decimals=DIGITS)
            if len(parts) > 1:
                yield squares.sqrt()
            elif parts[0].is_hamming:
                yield squares * parts[0].unit
            else:
                yield (squares * parts[0].unit).sqrt()

    own = len(held_out) if most is None else min(most, len(held_out))
    return neighbours(distances(0, len(samples), everything), distances(1, own, n), n)


@attrs.frozen(eq=False)
class _PartDistance:
    """Squared distances of one part.

    Arguments:
        queries: Coordinates of the samples and of the held-out rows, (S, d) and (M, d).
        rows: Coordinates of the training rows and then the held-out rows, (N + M, d).
        is_hamming: Whether coordinates are classes that differ or not.
        unit: Mean squared distance of two random training rows.
    """

    queries: tuple[Tensor, Tensor]
    rows: Tensor
    is_hamming: bool
    unit: float

    @classmethod
    def of(cls, samples: Part, train: Part, held_out: Part) -> _PartDistance:
        """The part of three batches, each with its data and their mask."""
        complete = all(bool(part.values[1].all()) for part in (samples, train, held_out))
        drawn, known, real = (_coordinates(part, complete) for part in (samples, train, held_out))
        is_hamming = not known.is_floating_point()
        rows = torch.cat([known, real]) if is_hamming else in_float64(torch.cat([known, real]))
        if not is_hamming:
            middle = rows.mean(0)  # nearer to 0, products round less
            drawn, real, rows = (in_float64(side) - middle for side in (drawn, real, rows))
        with seeded(0, "pairs"):
            few = rows[torch.randperm(len(known))[:SCALED].to(rows.device)]
        part = cls((drawn, real), rows, is_hamming, 1.0)
        apart = (few != few.roll(1, 0)).double() if is_hamming else (few - few.roll(1, 0)).square()
        return attrs.evolve(part, unit=float(apart.mean()) or 1.0)

    def squares(self, who: int, few: slice, reference: int) -> Tensor:
        """Squared distances of some queries of a side to the first ``reference`` rows, in units of those at random."""
        a, b = self.queries[who][few], self.rows[:reference]
        d = max(1, b.shape[1])
        if self.is_hamming:
            return torch.cdist(a.float(), b.float(), p=0.0).double() / (d * self.unit)
        square = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2.0 * (a @ b.T)
        return square.clamp_min(0.0) / (d * self.unit)


def _coordinates(part: Part, complete: bool) -> Tensor:
    """Numbers of each row (B, d) whose squared differences, or for integers whose inequality, make up the distance."""
    x, there = part.values
    io = part.family.network_io.parts[""]
    if part.family.example_kind is ExampleKind.SET:
        return _lengths(x, there.all(-1))
    if io.kind == "direction":
        x, there = _embedded(part, x, there)
    elif part.family.is_discrete and part.family.example_kind is not ExampleKind.IMAGE:
        classes = torch.where(there, x, -1)
        if io.axes != ("set",):
            return by_row(classes)
        shares = [(classes == k).double().mean(1) for k in range(io.classes or int(x.max()) + 1)]
        return torch.stack(shares, 1)  # the order of the points says nothing
    elif part.family.is_discrete:
        x = x.double() / max(1, (io.classes or 2) - 1)  # grey levels
    x = by_row(torch.where(there, x, torch.zeros((), dtype=x.dtype, device=x.device)))
    return x if complete else torch.cat([x, by_row(there).to(x.dtype)], 1)


def _embedded(part: Part, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Directions as points in space."""
    if part.family.network_io.parts[""].shape == part.family.sites:  # angles
        return torch.stack([x.cos(), x.sin()], -1), torch.stack([there, there], -1)
    return x, there


def _lengths(x: Tensor, there: Tensor) -> Tensor:
    """Quantiles of the distances between the points of each set: (B, quantiles)."""
    x, there = in_float64(x[:, :SET_POINTS]), there[:, :SET_POINTS]
    first, second = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
    if not len(first):
        return torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
    lengths = torch.linalg.vector_norm(x[:, first] - x[:, second], dim=-1)
    lengths = torch.where(there[:, first] & there[:, second], lengths, torch.nan)
    places = torch.linspace(0.0, 1.0, SET_QUANTILES, dtype=torch.float64, device=x.device)
    return lengths.nanquantile(places, dim=1).T.nan_to_num()


def longest_matches(queries: Tensor, train: Tensor, there: Tensor, train_there: Tensor) -> Tensor:
    """Length of the longest run of each query that occurs in a training row, class for class: (Q,) of int64 on the CPU.

    The ends of all training rows are sorted; the run that begins at a place of a query is longest with one of the two
    ends between which the rest of the query belongs.

    Arguments:
        queries: Classes (Q, L).
        train: Classes (N, K).
        there: True where a query has a class, (Q, L); what is missing is at the end.
        train_there: The same of the training rows, (N, K).
    """
    length = queries.shape[1]
    code = np.min_scalar_type(2 + int(max(queries.max(), train.max()))).newbyteorder(">")
    ends = np.sort(_ends(train, train_there, length, code))
    longest = np.zeros(len(queries), np.int64)
    rows = max(1, PIECE // length**2)
    for start in range(0, len(queries), rows):
        few = slice(start, start + rows)
        own = _ends(queries[few], there[few], length, code)
        place = np.searchsorted(ends, own)
        for side in (place - 1, place):
            close = ends[side.clip(0, len(ends) - 1)]
            a, b = (x.view(code).reshape(len(x), -1) for x in (own, close))
            same = np.logical_and.accumulate((a == b) & (a > 0), axis=1).sum(1)
            np.maximum(longest[few], same.reshape(-1, length).max(1), out=longest[few])
    return torch.from_numpy(longest)


def _ends(x: Tensor, there: Tensor, length: int, code: np.dtype[Any]) -> Array:
    """The classes from each place to the end of its row, but at most ``length`` classes, as bytes: (B L,)."""
    codes = torch.where(there, x + 1, 0).cpu().numpy().astype(code)  # 0 is nothing; the first byte counts most
    padded = np.pad(codes, ((0, 0), (0, length - 1)))
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, length, axis=1))
    found: Array = windows.reshape(-1, length).view(f"S{length * code.itemsize}")[:, 0]
    return found
