r"""Evaluation: the likelihood bound, and distances between samples and data.

The bound :math:`L(x) = L^n(x) + L^r(x) \ge -\ln p(x)` is estimated by many draws of the time and of the beliefs for
each example; its standard error is that of the mean over examples, so it counts both the draws and the finite data.

Distances between a sample and the data: the Wasserstein-1 distance for one number per example, its average over random
directions otherwise (sliced W1), and the maximum mean discrepancy (MMD, the square, with a Gaussian kernel whose width
is the median distance; Gretton et al. 2012, eq. 3).  For classes: the total variation distance between the frequencies
of the classes at each site, and of pairs at neighbouring sites.  None is zero for finite samples: compare with the
distance between fresh data and the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, NatsLoss, ReconstructionLoss
from bfn_toolkit.masks import mask_of, told
from bfn_toolkit.model import Model, readable
from bfn_toolkit.randomness import seeded
from bfn_toolkit.sampling.chunks import Deal, deal_here, map_chunks
from bfn_toolkit.shapes import by_row, device_of, leaves

EVALUATIONS = 2**20  # of the loss, by default: about a second for a small network
CHUNK = 256  # examples whose draws share one seed
ROWS = 8192  # rows in one evaluation
PRESENT = ":present"  # stands for the number of numbers among the sums of losses by part


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

    def times(self, factor: float) -> Estimate:
        """The mean in another unit."""
        return Estimate(self.value * factor, self.stderr * factor)

    def bits_per(self, dimensions: float) -> Estimate:
        """Nats as bits, divided by a number of dimensions."""
        return self.times(1.0 / (dimensions * math.log(2.0)))


@attrs.frozen
class CodeLength:
    """Code length of one part of the data: the mean over examples, in nats.

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
        """Estimates from the two losses of each example."""
        return cls(*map(Estimate.of, (messages, reconstruction, messages + reconstruction)))


@attrs.frozen
class LikelihoodBound(CodeLength):
    """Upper bound of -ln p(x): the mean over examples, in nats.

    Arguments:
        messages: L^n, or L^inf.
        reconstruction: L^r.
        total: Their sum.
        n_steps: Number of messages; None for continuous time.
        dimensions: Numbers in one example; where some are missing, the mean number that is present.
        examples: Number of examples.
        draws: Number of draws of the time per example.
        parts: Code length of each part of a product; empty for other families, and for dependent parts.
    """

    n_steps: int | None
    dimensions: float
    examples: int
    draws: int
    parts: Mapping[str, CodeLength]

    @property
    def nats_per_dimension(self) -> Estimate:
        """The total, divided by the dimensions."""
        return self.total.times(1.0 / self.dimensions)

    @property
    def bits_per_dimension(self) -> Estimate:
        """The total in bits, divided by the dimensions."""
        return self.total.bits_per(self.dimensions)


def first_row(data: Rows, seed: int) -> Batch:
    """The first example, by which an evaluation knows the device and the size of the others."""
    with seeded(seed, "first row"):
        return data[torch.arange(1)]


def present_numbers(rows: Batch) -> Tensor:
    """Number of the numbers of each row that are present, with shape (B,), in float64."""
    counts = [by_row(leaf).sum(1, dtype=torch.float64) for leaf in leaves(mask_of(rows.x, rows.mask))]
    return torch.stack(counts).sum(0)


def dimensions_of(first: Batch, present: Tensor | None) -> float:
    """Numbers in one example; with the numbers that are present in each example, their mean."""
    return float(present.mean()) if present is not None else sum(leaf[0].numel() for leaf in leaves(first.x))


@torch.inference_mode()
def likelihood_bound(
    model: Model,
    data: Rows,
    *,
    n_steps: int | None = None,
    draws: int | None = None,
    seed: int = 0,
    deal: Deal = deal_here,
) -> LikelihoodBound:
    """Estimates the likelihood bound of a model on data that are on the model's device.

    The draws are made in chunks of examples, each with its own key; the rows of a chunk are read together.

    Arguments:
        model: The model.
        data: Examples: a batch, or prepared rows.
        n_steps: Number of messages; None for continuous time.
        draws: Number of draws per example; by default at most 4096, with about a million evaluations in all.
        seed: Seed of the draws.
        deal: Function that draws the chunks; :func:`~bfn_toolkit.parallel.chunks.deal_chunks` divides them among
            processes.
    """
    n, first = len(data), first_row(data, seed)
    device = device_of(first.x)
    draws = draws or min(4096, max(1, round(EVALUATIONS / n)))
    losses: tuple[NatsLoss, NatsLoss] = (
        ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps),
        ReconstructionLoss(),
    )

    def chunk_losses(chunk: int) -> dict[str, Tensor]:
        """Sums over the draws for the rows of a chunk, by part: (CHUNK, 2)."""
        rows = data[torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK).remainder_(n)]
        index, condition = torch.arange(CHUNK, device=device), readable(model, rows.condition)
        zeros = torch.zeros(CHUNK, 2, dtype=torch.float64, device=device)
        sums: dict[str, Tensor] = {} if rows.mask is None else {PRESENT: present_numbers(rows)}
        for together in torch.split(torch.arange(draws), ROWS // CHUNK):
            batch = attrs.evolve(rows, condition=condition).rows(index.repeat(len(together)))
            for i, loss in enumerate(losses):
                for name, nats in told(loss.part_losses, model, batch.x, batch.condition, mask=batch.mask).items():
                    sums.setdefault(name, zeros.clone())[:, i] += nats.double().reshape(len(together), CHUNK).sum(0)
        return sums

    sums = map_chunks(
        range(n), CHUNK, chunk_losses, (seed, "likelihood"), device=device, deal=deal, halve=model.halve_micro_batch
    )
    present = sums.pop(PRESENT, None)
    messages, reconstruction = torch.stack(list(sums.values())).sum(0).T / draws
    parts = {} if "" in sums else {name: CodeLength.of(*(part.T / draws)) for name, part in sums.items()}
    whole = CodeLength.of(messages, reconstruction)
    return LikelihoodBound(
        whole.messages,
        whole.reconstruction,
        whole.total,
        n_steps=n_steps,
        dimensions=dimensions_of(first, present),
        examples=n,
        draws=draws,
        parts=parts,
    )
