r"""Importance-weighted likelihood of the n-step model, whose samples the ancestral sampler draws.

That model draws messages from the receiver, then x from the last output (a point is blurred by its ``std``):
:math:`p(x) = E_{y_i \sim p_R(\cdot \mid \theta_{i-1}; t_{i-1}, \alpha_i)} \, p_O(x \mid \theta_n; 1)`.  A sender who
knows x proposes better messages.  With P independent series of them, the *particles*,

.. math::
    \ln w = \sum_{i=1}^n \ln \frac{p_R(y_i \mid \theta_{i-1}; t_{i-1}, \alpha_i)}{p_S(y_i \mid x; \alpha_i)}
            + \ln p_O(x \mid \theta_n; 1), \qquad
    -\ln p(x) \;\le\; -E \ln \frac{1}{P} \sum_{p=1}^P w_p \;\le\; L^n(x) + L^r(x) .

The mean of the weights is an unbiased estimate of p(x).  By Jensen's inequality the mean of its negative logarithm is a
bound, which equals :math:`L^n + L^r` for P = 1 and falls to :math:`-\ln p(x)` as P grows.  Unlike that loss it takes
the whole series, so P times n + 1 evaluations of the network for each example.

The particles are not resampled.  Resampling by the weights so far favours messages about other data, whose weights
collapse at the end; resampling by the weights times :math:`p_O(x \mid \theta_i; t_i)` also has more variance than none,
as measured on Markov chains of 8 and 64 sites and on trained networks.

Source: Burda et al. 2016 (arXiv 1509.00519), eq. 8, with the latent variables of the bound of Graves et al. 2023.
"""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import torch
from torch import Tensor

from bfn_toolkit.arguments import rows_of
from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.evaluation.likelihood import (
    EVALUATIONS,
    ROWS,
    Estimate,
    dimensions_of,
    first_row,
    present_numbers,
)
from bfn_toolkit.masks import marginal, present, told
from bfn_toolkit.model import Model, readable
from bfn_toolkit.sampling.chunks import Deal, RowsTogether, deal_here, map_chunks, rows_together
from bfn_toolkit.shapes import Data, batch_size, device_of, dtype_of, in_float64, map_data
from bfn_toolkit.validators import whole_number

CHUNK = 64  # examples whose particles share one seed


@attrs.frozen
class ImportanceBound:
    """Upper bound of -ln p(x) of the n-step model: the mean over examples, in nats.

    Arguments:
        total: The bound of P particles.
        gain: Its distance below the bound of one particle, which is L^n + L^r, from the same draws.
        effective_particles: Effective sample size of the P weights, the mean over examples; near 1, the bound is loose.
        n_steps: Number of messages.
        particles: Number P of particles per example.
        dimensions: Numbers in one example.
        examples: Number of examples.
    """

    total: Estimate
    gain: Estimate
    effective_particles: float
    n_steps: int
    particles: int
    dimensions: float
    examples: int

    @property
    def bits_per_dimension(self) -> Estimate:
        """The total in bits, divided by the dimensions."""
        return self.total.bits_per(self.dimensions)


def affordable_examples(n_steps: int, particles: int) -> int:
    """Number of examples, at least 16, that take about a million evaluations in all."""
    return max(16, EVALUATIONS // (particles * (n_steps + 1)))


@torch.inference_mode()
def importance_bound(
    model: Model, data: Rows | Data, *, n_steps: int, particles: int = 64, seed: int = 0, deal: Deal = deal_here
) -> ImportanceBound:
    """Estimates the importance-weighted bound of a model on data that are on the model's device.

    It works for every family and output with densities.  Of continuous data p(x) is a density.

    Arguments:
        model: The model.
        data: Examples: a tensor or arrays of data, a batch, or prepared rows.
        n_steps: Number of messages, which is part of the n-step model.
        particles: Number of particles per example.
        seed: Seed of the draws.
        deal: Function that draws the chunks of examples; :func:`~bfn_toolkit.parallel.chunks.deal_chunks` divides them
            among processes.
    Raises:
        ConfigError: If ``particles`` is not an integer of at least 1.
        StepCountError: If the family does not allow this number of steps.
    """
    particles, data = whole_number("particles", particles, write=64), rows_of(model, data)
    n, first = len(data), first_row(data, seed)
    device = device_of(first.x)
    times = model.family.times(n_steps)

    size, fit = rows_together(model.family, CHUNK), RowsTogether()

    def log_weights_of(batch: Batch) -> Tensor:
        return _log_weights(model, batch, times)

    def chunk_weights(chunk: int) -> Tensor:
        """Logarithms of the weights for the rows of a chunk, (size, particles), and perhaps present numbers."""
        rows = data[torch.arange(chunk * size, (chunk + 1) * size).remainder_(n)]
        rows = attrs.evolve(rows, condition=readable(model, rows.condition))
        index = torch.arange(size, device=device)
        groups = torch.split(torch.arange(particles), max(1, rows_together(model.family, ROWS) // size))
        columns = [fit.price(log_weights_of, rows.rows(index.repeat(len(group))), device) for group in groups]
        weights = torch.cat([column.reshape(-1, size) for column in columns]).T
        return weights if rows.mask is None else torch.cat([weights, present_numbers(rows).unsqueeze(1)], 1)

    found = map_chunks(range(n), size, chunk_weights, (seed, "importance"), device=device, deal=deal)
    log_weights, counts = found[:, :particles], found[:, particles:]
    bound = math.log(particles) - log_weights.logsumexp(1)
    return ImportanceBound(
        total=Estimate.of(bound),
        gain=Estimate.of(-log_weights.mean(1) - bound),
        effective_particles=float(log_weights.softmax(1).square().sum(1).reciprocal().mean()),
        n_steps=n_steps,
        particles=particles,
        dimensions=dimensions_of(first, counts if counts.numel() else None),
        examples=n,
    )


def _log_weights(model: Model, batch: Batch, times: Tensor) -> Tensor:
    """Logarithm of the weight of one series of messages for each row, with shape (rows,), in float64."""
    family, mask, rows = model.family, batch.mask, batch_size(batch.x)
    x = present(batch.x, mask)
    device, dtype = device_of(x), dtype_of(x)
    params = family.prior(rows, device=device, dtype=dtype)
    log_weights = in_float64(torch.zeros(rows, device=device))
    for s, t in pairwise(times.unbind()):
        alpha = map_data(lambda a: a.to(device, dtype).expand(rows), family.accuracy(s, t))
        sender = family.sender(x, alpha)
        receiver = family.receiver(told(model.output, params, s, batch.condition, mask=mask), alpha)
        y = sender.sample()
        priced, price = (sender, receiver) if mask is None else (marginal(sender, mask), marginal(receiver, mask))
        log_weights += in_float64(price.log_prob(y) - priced.log_prob(y))
        params = family.update(params, y, alpha)
    output = told(model.output, params, times[-1], batch.condition, mask=mask)
    return log_weights.add_(in_float64(told(output.log_prob, x, mask=mask)))
