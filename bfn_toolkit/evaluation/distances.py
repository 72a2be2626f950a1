"""Distances between samples and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data


def w1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance of two samples of single numbers, in the unit of the data; sizes may differ."""
    from scipy.stats import wasserstein_distance  # takes half a second to import, and training does not need it

    return float(wasserstein_distance(a.flatten().double().cpu().numpy(), b.flatten().double().cpu().numpy()))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double().cpu()


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
    rows, index = torch.unique(torch.cat([a, b]), dim=0, return_inverse=True)
    of_a, of_b = (torch.bincount(part, minlength=len(rows)) / len(part) for part in index.split([len(a), len(b)]))
    return 0.5 * float((of_a.double() - of_b.double()).abs().sum())


def distances(samples: Data, data: Data) -> dict[str, Any]:
    """Distances between samples and data, chosen by the kind of data; for a mapping, part by part."""
    if isinstance(data, Mapping):
        return {"parts": {name: distances(samples[name], part) for name, part in data.items()}}
    samples, data = (x.reshape(len(x), -1).cpu() for x in (samples, data))
    if data.is_floating_point():
        if data.shape[1] == 1:
            return {"w1": w1(samples, data)}
        return {"sliced_w1": sliced_w1(samples, data), "mmd": mmd(samples, data)}
    pairs = list(zip(range(data.shape[1]), range(1, data.shape[1]), strict=False))
    sites = [total_variation(samples[:, [i]], data[:, [i]]) for i in range(data.shape[1])]
    scores = {"tv_site": sum(sites) / len(sites)}
    if pairs:
        scores["tv_pair"] = sum(total_variation(samples[:, pair], data[:, pair]) for pair in pairs) / len(pairs)
    return scores
