"""Statistics with a stated false-alarm rate.  Seeds are fixed, so a rate says how lucky a seed would have to be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Z = 5.0  # standard errors; a normal estimate exceeds them with probability 6e-7
RARE = 1e-6  # false-alarm rate of the Kolmogorov-Smirnov bounds


def z_of_mean(values: Tensor, expected: float | Tensor) -> float:
    """Distance of the mean of independent values (N, ...) from what is expected, in standard errors; the largest."""
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    return float(((values.mean(0) - expected).abs() / error).max())


def z_of_variance(values: Tensor, expected: float | Tensor) -> float:
    """The same for the variance around the mean."""
    values = values.double()
    return z_of_mean((values - values.mean(0)).square(), expected)


def ks_against(values: Tensor, cdf: Tensor) -> float:
    """Kolmogorov-Smirnov distance of N sorted values from a law with these cdf values, over its bound at RARE.

    The bound is that of Dvoretzky, Kiefer, Wolfowitz and Massart, which holds for every N.
    """
    n = len(values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    return float(distance) / math.sqrt(math.log(2 / RARE) / (2 * n))


def ks_two_sample(a: Tensor, b: Tensor) -> float:
    """Kolmogorov-Smirnov distance of two samples of one number each, over its asymptotic bound at RARE."""
    a, b = a.double().flatten().sort().values, b.double().flatten().sort().values
    both = torch.cat((a, b))
    cdf_a, cdf_b = (torch.searchsorted(x, both, right=True).double() / len(x) for x in (a, b))
    bound = math.sqrt(-0.5 * math.log(RARE / 2) * (1 / len(a) + 1 / len(b)))
    return float((cdf_a - cdf_b).abs().max()) / bound
