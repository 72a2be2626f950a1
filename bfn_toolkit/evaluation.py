r"""Evaluation: the likelihood bound, and how far samples are from data.

The bound :math:`L(x) = L^n(x) + L^r(x) \ge -\ln p(x)` is estimated by many draws of the time and of the beliefs for
each example; its standard error is that of the mean over examples, so it counts both the draws and the finite data.

Distances between a sample and the data: the Wasserstein-1 distance for one number per example, its average over random
directions otherwise (sliced W1), and the maximum mean discrepancy (MMD, the square, with a Gaussian kernel whose width
is the median distance; Gretton et al. 2012, eq. 3).  None is zero for finite samples: compare with the distance of
fresh data.
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from bfn_toolkit.datasets import Batch
from bfn_toolkit.losses import ReconstructionLoss
from bfn_toolkit.model import FlowModel
from bfn_toolkit.randomness import seeded

EVALUATIONS = 2**20  # of the loss, unless the number of draws is given: about a second of a small network
CHUNK = 8192  # rows in one evaluation


@attrs.frozen
class Estimate:
    """A mean and its standard error."""

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Mean and standard error of independent values, with shape (N,)."""
        values = values.double()
        return cls(float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan)


@attrs.frozen
class LikelihoodBound:
    """Upper bound of -ln p(x), the mean over examples in nats.

    Arguments:
        n_steps: Number of messages; None for continuous time.
        messages: L^n, or L^inf.
        reconstruction: L^r.
        total: Their sum.
        dimensions: Numbers in one example.
        examples: Number of examples.
        draws: Draws of the time for each example.
    """

    n_steps: int | None
    messages: Estimate
    reconstruction: Estimate
    total: Estimate
    dimensions: int
    examples: int
    draws: int

    @property
    def bits_per_dimension(self) -> Estimate:
        """The total in bits, divided by the dimensions."""
        scale = 1.0 / (self.dimensions * math.log(2.0))
        return Estimate(self.total.value * scale, self.total.stderr * scale)


@torch.inference_mode()
def likelihood_bound(
    model: FlowModel, data: Batch, *, n_steps: int | None = None, draws: int | None = None, seed: int = 0
) -> LikelihoodBound:
    """Estimates the likelihood bound of a model on data that are on the model's device.

    Arguments:
        model: The model.
        data: Examples.
        n_steps: Number of messages; None for continuous time.
        draws: Draws for each example; by default as many as make about a million evaluations, at most 4096.
        seed: Seed of the draws.
    """
    n = len(data)
    draws = draws or min(4096, max(1, round(EVALUATIONS / n)))
    rows = torch.arange(n, device=data.x.device)
    messages = torch.zeros(n, dtype=torch.float64, device=data.x.device)
    reconstruction = torch.zeros_like(messages)
    reconstruct = ReconstructionLoss()
    with seeded(seed, "likelihood", device=data.x.device):
        # Every draw of every example, in chunks of a bounded size.
        for index in torch.split(rows.repeat(draws), CHUNK):
            batch = data.rows(index)
            messages.index_add_(0, index, model.loss(batch.x, n_steps=n_steps, **batch.condition).double())
            price = reconstruct(model, batch.x, **batch.condition)
            reconstruction.index_add_(0, index, price.double())
    messages, reconstruction = messages / draws, reconstruction / draws
    return LikelihoodBound(
        n_steps=n_steps,
        messages=Estimate.of(messages),
        reconstruction=Estimate.of(reconstruction),
        total=Estimate.of(messages + reconstruction),
        dimensions=data.x[0].numel(),
        examples=n,
        draws=draws,
    )


def w1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance of two samples of one number each, in the unit of the data; any sizes."""
    from scipy.stats import wasserstein_distance  # half a second to import, and not needed to train

    return float(wasserstein_distance(a.flatten().double().cpu().numpy(), b.flatten().double().cpu().numpy()))


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).double().cpu()


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
