r"""Evaluation: the likelihood bound, and how far samples are from data.

The bound :math:`L(x) = L^n(x) + L^r(x) \ge -\ln p(x)` is estimated by many draws of the time and of the beliefs for
each example; its standard error is that of the mean over examples, so it counts both the draws and the finite data.

Distances between a sample and the data: the Wasserstein-1 distance for one number per example, its average over random
directions otherwise (sliced W1), and the maximum mean discrepancy (MMD, the square, with a Gaussian kernel whose width
is the median distance; Gretton et al. 2012, eq. 3).  Of classes: the total variation distance between the frequencies
of the classes at each site, and of pairs of neighbours.  None is zero for finite samples: compare with the distance of
fresh data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.blocks import in_blocks
from bfn_toolkit.datasets import Batch
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, Price, ReconstructionLoss
from bfn_toolkit.model import FlowModel
from bfn_toolkit.randomness import seeded
from bfn_toolkit.shapes import Data, device_of, leaves

EVALUATIONS = 2**20  # of the loss, unless the number of draws is given: about a second of a small network
BLOCK = 256  # examples whose draws have one seed
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
class CodeLength:
    """What one part of the data costs, the mean over examples in nats.

    Arguments:
        messages: L^n, or L^inf.
        reconstruction: L^r.
        total: Their sum.
    """

    messages: Estimate
    reconstruction: Estimate
    total: Estimate

    @classmethod
    def of(cls, messages: Tensor, reconstruction: Tensor) -> CodeLength:
        """Estimates from one number per example of each."""
        return cls(*map(Estimate.of, (messages, reconstruction, messages + reconstruction)))


@attrs.frozen
class LikelihoodBound(CodeLength):
    """Upper bound of -ln p(x), the mean over examples in nats.

    Arguments:
        messages: L^n, or L^inf.
        reconstruction: L^r.
        total: Their sum.
        n_steps: Number of messages; None for continuous time.
        dimensions: Numbers in one example.
        examples: Number of examples.
        draws: Draws of the time for each example.
        parts: The same for each part of a product; empty for other families.
    """

    n_steps: int | None
    dimensions: int
    examples: int
    draws: int
    parts: Mapping[str, CodeLength]

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

    The draws are made in blocks of examples, which several processes share among themselves.

    Arguments:
        model: The model.
        data: Examples.
        n_steps: Number of messages; None for continuous time.
        draws: Draws for each example; by default as many as make about a million evaluations, at most 4096.
        seed: Seed of the draws.
    """
    n, device = len(data), device_of(data.x)
    draws = draws or min(4096, max(1, round(EVALUATIONS / n)))
    losses: tuple[Price, Price] = (
        ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps),
        ReconstructionLoss(),
    )

    def price(block: int) -> dict[str, Tensor]:
        """Sums over the draws for the rows of a block, by part: (BLOCK, 2)."""
        index = torch.arange(block * BLOCK, (block + 1) * BLOCK, device=device).remainder_(n)
        sums = {name: torch.zeros(BLOCK, 2, dtype=torch.float64, device=device) for name in model.family.parts}
        for together in torch.split(torch.arange(draws), CHUNK // BLOCK):
            batch = data.rows(index.repeat(len(together)))
            for i, loss in enumerate(losses):
                for name, nats in loss.terms(model, batch.x, **batch.condition).items():
                    sums[name][:, i] += nats.double().reshape(len(together), BLOCK).sum(0)
        return sums

    sums = in_blocks(n, BLOCK, price, (seed, "likelihood"), device, shrink=model.shrink)
    messages, reconstruction = torch.stack(list(sums.values())).sum(0).T / draws
    parts = {name: CodeLength.of(*(part.T / draws)) for name, part in sums.items() if name}
    whole = CodeLength.of(messages, reconstruction)
    return LikelihoodBound(
        whole.messages,
        whole.reconstruction,
        whole.total,
        n_steps=n_steps,
        dimensions=sum(leaf[0].numel() for leaf in leaves(data.x)),
        examples=n,
        draws=draws,
        parts=parts,
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


def total_variation(a: Tensor, b: Tensor) -> float:
    """Total variation distance in [0, 1] between the frequencies of the rows of two samples of integers, (N, D)."""
    rows, index = torch.unique(torch.cat([a, b]), dim=0, return_inverse=True)
    of_a, of_b = (torch.bincount(part, minlength=len(rows)) / len(part) for part in index.split([len(a), len(b)]))
    return 0.5 * float((of_a.double() - of_b.double()).abs().sum())


def distances(samples: Data, data: Data) -> dict[str, Any]:
    """How far samples are from data, by the distances that suit them; for a mapping, part by part."""
    if isinstance(data, Mapping):
        return {"parts": {name: distances(samples[name], part) for name, part in data.items()}}
    samples, data = samples.flatten(1).cpu(), data.flatten(1).cpu()
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
