"""Hypothesis strategies from which the laws draw: accuracies, times, data, beliefs, in both dtypes."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from bfn_gaussian import GaussianParams

B, SITE = 2, (2,)  # small, so that a failing example can be read; B == D also shows where an axis is mistaken

dtypes = st.sampled_from((torch.float32, torch.float64))


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(low), math.log10(high)).map(lambda e: min(high, max(low, 10.0**e)))


accuracies = log_uniform(1e-6, 1e6)
sigmas = log_uniform(1e-8, 0.999)
EDGES = (0.0, 2.0**-24, 1e-6, 0.5, 1.0 - 2.0**-24, 1.0)  # of time: both ends, and their neighbours in float32
times = st.sampled_from(EDGES) | st.floats(2.0**-60, 1.0)  # below, products leave the normal numbers of float32
values = st.floats(-10.0, 10.0, allow_subnormal=False)


@st.composite
def tensors(draw: st.DrawFn, elements: st.SearchStrategy[float], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape)
    return torch.tensor(draw(st.lists(elements, min_size=size, max_size=size)), dtype=dtype).reshape(shape)


def data(dtype: torch.dtype) -> st.SearchStrategy[Tensor]:
    """Data or messages, with shape (B, *SITE)."""
    return tensors(values, (B, *SITE), dtype)


def alphas(dtype: torch.dtype) -> st.SearchStrategy[Tensor]:
    """Accuracies, with shape (B,)."""
    return tensors(accuracies, (B,), dtype)


def beliefs(dtype: torch.dtype) -> st.SearchStrategy[GaussianParams]:
    """Gaussian beliefs that have received messages of any accuracy."""
    return st.builds(GaussianParams, data(dtype), tensors(accuracies, (B,), dtype).map(lambda a: 1.0 + a))
