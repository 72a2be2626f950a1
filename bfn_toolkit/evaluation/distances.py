"""Distances between samples and data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.families import ExampleKind, Family
from bfn_toolkit.masks import mask_of
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import by_row

POINTS = 5_000  # largest number of points, or of distances between them, that are compared
CLOSE, PAIRS = 256, 2**22  # largest number of points of a set, and of pairs of points, whose distances are computed
NUMBERED = 2**20  # largest number of different rows of integers that are counted without sorting them


def w1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance of two samples of single numbers, in the unit of the data; sizes may differ."""
    from scipy.stats import wasserstein_distance  # takes half a second to import, and training does not need it

    return float(wasserstein_distance(a.flatten().cpu().double().numpy(), b.flatten().cpu().double().numpy()))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).cpu().double()


def sliced_w1(a: Tensor, b: Tensor, directions: int = 128, seed: int = 0) -> float:
    """Mean Wasserstein-1 distance of the projections of two samples on random unit vectors, in the unit of the data."""
    a, b = _flat(a), _flat(b)
    with seeded(seed, "directions"):
        vectors = torch.nn.functional.normalize(torch.randn(a.shape[1], directions, dtype=torch.float64), dim=0)
    return sum(w1(a @ v, b @ v) for v in vectors.unbind(1)) / directions


def mmd(a: Tensor, b: Tensor, most: int = 2000, seed: int = 0) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, from at most ``most`` rows of each sample."""
    a, b = _flat(a), _flat(b)
    with seeded(seed, "rows"):
        a, b = (x[torch.randperm(len(x))[:most]] for x in (a, b))
    aa, bb, ab = torch.cdist(a, a), torch.cdist(b, b), torch.cdist(a, b)
    width = ab.median().clamp_min(1e-12)
    kaa, kbb, kab = ((-0.5 * (d / width).square()).exp() for d in (aa, bb, ab))
    n, m = len(a), len(b)
    within = (kaa.sum() - n) / (n * (n - 1)) + (kbb.sum() - m) / (m * (m - 1))
    return float(within - 2.0 * kab.mean())


def total_variation(a: Tensor, b: Tensor) -> float:
    """Total variation distance in [0, 1] between the frequencies of the rows of two samples of integers, (N, D)."""
    both = torch.cat([a, b]).long()
    both = both - both.amin(0)
    sizes = (both.amax(0) + 1).tolist()
    if math.prod(sizes) < NUMBERED:  # one number for each row
        index = both[:, 0]
        for column, size in zip(both.unbind(1)[1:], sizes[1:], strict=True):
            index = index * size + column
    else:
        _, index = torch.unique(both, dim=0, return_inverse=True)
    values = int(index.max()) + 1
    of_a, of_b = (torch.bincount(part, minlength=values) / len(part) for part in (index[: len(a)], index[len(a) :]))
    return 0.5 * float((of_a.double() - of_b.double()).abs().sum())


def distances(family: Family[Any], samples: Batch, data: Batch) -> dict[str, Any]:
    """Distances between samples and data, chosen by the kind of data; for a product, part by part.

    Where numbers are missing, rows of samples and data are compared that lack the same numbers as a row of the other
    does.
    """
    found = {}
    values = samples.x, mask_of(samples.x, samples.mask), data.x, mask_of(data.x, data.mask)
    for part in family.walk(*values):
        a, a_there, b, b_there = (value.cpu() for value in part.values)
        rows = [there.reshape(len(there), -1) for there in (a_there, b_there)]
        if not all(bool(there.all()) for there in rows):
            (a, a_there), (b, b_there) = _alike((a, a_there, rows[0]), (b, b_there, rows[1]))
        by_kind = _of_sets if part.family.example_kind is ExampleKind.SET else _of_rows
        found[part.name] = by_kind(a, a_there, b, b_there)
    return {"parts": found} if family.has_parts else found[""]


def _alike(a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Values and masks of the rows whose mask a row of the other has too; of all rows if there are none."""
    _, index = torch.unique(torch.cat([a[2], b[2]]), dim=0, return_inverse=True)
    of_a, of_b = index[: len(a[0])], index[len(a[0]) :]
    pairs = ((a, torch.isin(of_a, of_b)), (b, torch.isin(of_b, of_a)))
    if not bool(pairs[0][1].any()):
        return [side[:2] for side, _ in pairs]
    return [(side[0][rows], side[1][rows]) for side, rows in pairs]


def _of_rows(a: Tensor, a_there: Tensor, b: Tensor, b_there: Tensor) -> dict[str, float]:
    """Distances of rows of numbers, of which missing ones are 0, or of classes, of which missing ones are one more."""
    discrete = not b.is_floating_point()
    a, b = (by_row(torch.where(there, v, -1 if discrete else 0)) for v, there in ((a, a_there), (b, b_there)))
    if not discrete:
        return {"w1": w1(a, b)} if b.shape[1] == 1 else {"sliced_w1": sliced_w1(a, b), "mmd": mmd(a, b)}
    weight = by_row(a_there).double().mean(0) + by_row(b_there).double().mean(0)  # share of rows that have a site
    sites = [total_variation(a[:, [i]], b[:, [i]]) for i in range(b.shape[1])]
    scores = {"tv_site": _mean(sites, weight)}
    if b.shape[1] > 1:
        pairs = [total_variation(a[:, i : i + 2], b[:, i : i + 2]) for i in range(b.shape[1] - 1)]
        scores["tv_pair"] = _mean(pairs, weight[1:])
    return scores


def _mean(values: list[float], weight: Tensor) -> float:
    return float((torch.tensor(values, dtype=torch.float64) * weight).sum() / weight.sum().clamp_min(1e-300))


def one_distance(family: Family[Any], samples: Batch, data: Batch) -> tuple[str, float]:
    """A single distance between samples and data, by which numbers of steps are compared, and its name.

    It is never negative and cheap, and falls to that of fresh data: "w1" of numbers, "sliced_w1" of points and images,
    "w1_lengths" of sets, "tv_site" of classes, and of sequences "tv_pair", of the pairs of neighbours at all places
    together, because few samples say little about one place.  Several parts have the mean of theirs, "mean".
    """
    found: dict[str, float] = {}
    values = samples.x, mask_of(samples.x, samples.mask), data.x, mask_of(data.x, data.mask)
    for part in family.walk(*values):
        a, a_there, b, b_there = (value.cpu() for value in part.values)
        kind, site = part.family.example_kind, part.family.network_io.site_shape
        if kind is ExampleKind.SEQUENCE and len(site) == 1:
            scores = {"tv_pair": total_variation(_neighbours(a, a_there), _neighbours(b, b_there))}
        elif kind is ExampleKind.SET:
            scores = dict(reversed(_of_sets(a, a_there, b, b_there).items()))
        else:
            scores = _of_rows(a, a_there, b, b_there)
        name = next(iter(scores))
        found[part.name] = scores[name]
    return ("mean", sum(found.values()) / len(found)) if family.has_parts else (name, found[""])


def _neighbours(x: Tensor, there: Tensor) -> Tensor:
    """Pairs of neighbouring classes of all rows (N, 2); the place after the last class of a row is one more."""
    x = torch.where(there, x, -1)
    pairs = torch.stack([x[:, :-1], x[:, 1:]], -1)[there[:, :-1]]
    return pairs if len(pairs) else torch.full((1, 2), -1)


def _of_sets(a: Tensor, a_there: Tensor, b: Tensor, b_there: Tensor) -> dict[str, float]:
    """Distances of sets (N, points, D): of their points, and of the distances between the points of a set."""
    points = [_some(x[there.all(-1)]) for x, there in ((a, a_there), (b, b_there))]
    lengths = [_some(_lengths(x, there.all(-1))) for x, there in ((a, a_there), (b, b_there))]
    between = {"w1_lengths": w1(*lengths)} if all(map(len, lengths)) else {}
    return {"sliced_w1": sliced_w1(points[0], points[1]), **between}


def _some(values: Tensor) -> Tensor:
    """At most :data:`POINTS` values, at equal distances."""
    return values[:: math.ceil(len(values) / POINTS) or 1]


def _lengths(x: Tensor, there: Tensor) -> Tensor:
    """Distances between the first points of each set."""
    size = min(x.shape[1], CLOSE)
    rows = max(1, PAIRS // size**2)
    x, there = x[:rows].double(), there[:rows]
    first, second = torch.triu_indices(size, size, 1)
    both = there[:, first] & there[:, second]
    lengths: Tensor = torch.linalg.vector_norm(x[:, first] - x[:, second], dim=-1)
    return lengths[both]
