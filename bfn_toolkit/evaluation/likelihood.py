r"""Evaluation: the likelihood bound, and distances between samples and data.

The bound :math:`L(x) = L^n(x) + L^r(x) \ge -\ln p(x)` is estimated by many draws of the time and of the beliefs for
each example; its standard error is that of the mean over examples, so it counts both the draws and the finite data.
A :class:`Budget` ends it early.

Distances between a sample and the data: the Wasserstein-1 distance for one number per example, its average over random
directions otherwise (sliced W1), and the maximum mean discrepancy (MMD, the square, with a Gaussian kernel whose width
is the median distance; Gretton et al. 2012, eq. 3).  For classes: the total variation distance between the frequencies
of the classes at each site, and of pairs at neighbouring sites.  For sets of points: the sliced W1 of all points, and
the W1 of the distances between the points of a set.  None is zero for finite samples: compare with the distance
between fresh data and the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from bfn_toolkit.arguments import rows_of
from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import check_n_steps
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, NatsLoss, ReconstructionLoss
from bfn_toolkit.masks import mask_of, told
from bfn_toolkit.model import Model, readable
from bfn_toolkit.randomness import seeded
from bfn_toolkit.sampling.chunks import Deal, RowsTogether, deal_here, map_chunks, rows_together
from bfn_toolkit.shapes import Data, by_row, device_of, in_float64, leaves
from bfn_toolkit.validators import whole_number

EVALUATIONS = 2**20  # of the loss, by default: about a second for a small network
CHUNK = 256  # examples whose draws share one seed, at most
ROWS = 8192  # rows in one evaluation, at most
PRESENT = ":present"  # stands for the number of numbers among the sums of losses by part
MAX_DRAWS = 4096  # per example
ROW_DRAWS, ROW_BATCH = 64, 256  # draws per row that has a price of its own, and rows in one evaluation, at most
ENOUGH = 8  # chunks within a budget, without which a standard error is not trusted
BUDGET_CHUNK = 32  # examples whose draws share one seed, within a budget: a slow network needs small pieces


@attrs.frozen
class Estimate:
    """A mean and its standard error."""

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Mean and standard error of independent values, with shape (N,)."""
        values = in_float64(values)
        return cls(float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan)

    def times(self, factor: float) -> Estimate:
        """The mean in another unit."""
        return Estimate(self.value * factor, self.stderr * factor)

    def bits_per(self, dimensions: float) -> Estimate:
        """Nats as bits, divided by a number of dimensions."""
        return self.times(1.0 / (dimensions * math.log(2.0)))


@attrs.frozen(eq=False)
class Budget:
    """Effort for an estimate, which ends when it is exact enough or has taken long enough, whichever is first.

    Arguments:
        seconds: Time; one chunk is computed even if it takes longer.
        relative_stderr: Standard error, as a share of the absolute value.
        clock: Seconds since any moment, the same in all processes that share the work.
    """

    seconds: float
    relative_stderr: float = 0.01
    clock: Callable[[], float] = time.monotonic


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
    counts = [in_float64(by_row(leaf).sum(1)) for leaf in leaves(mask_of(rows.x, rows.mask))]
    return torch.stack(counts).sum(0)


def dimensions_of(first: Batch, present: Tensor | None) -> float:
    """Numbers in one example; with the numbers that are present in each example, their mean."""
    return float(present.mean()) if present is not None else sum(leaf[0].numel() for leaf in leaves(first.x))


def budget_order(n: int, seed: int) -> Tensor:
    """Order in which a bound within a budget takes n examples."""
    with seeded(seed, "likelihood order"):
        return torch.randperm(n)


@torch.inference_mode()
def likelihood_bound(
    model: Model,
    data: Rows | Data,
    *,
    n_steps: int | None = None,
    draws: int | None = None,
    seed: int = 0,
    deal: Deal = deal_here,
    budget: Budget | None = None,
) -> LikelihoodBound:
    """Estimates the likelihood bound of a model on data that are on the model's device.

    The draws are made in chunks of examples, each with its own key; the rows of a chunk are read together.

    Arguments:
        model: The model.
        data: Examples: a tensor or arrays of data, a batch, or prepared rows.
        n_steps: Number of messages; None for continuous time.
        draws: Number of draws per example; by default at most 4096, with about a million evaluations in all.
        seed: Seed of the draws.
        deal: Function that draws the chunks; :func:`~bfn_toolkit.parallel.chunks.deal_chunks` divides them among
            processes.
        budget: Effort, in place of ``draws``: examples in random order with one draw each, then more draws of all,
            until it is spent.  Each chunk has the same draws always; how many there are may depend on the machine, and
            the result states the examples and the draws.
    Raises:
        ConfigError: If both ``draws`` and ``budget`` are given, a number is not a positive integer, or data in memory
            or their conditions do not fit the model.
        DataError: If there are no data, or they do not fit the family.
    """
    if draws is not None and budget is not None:
        raise ConfigError("likelihood_bound: give draws or budget, not both")
    data, n_steps = rows_of(model, data), n_steps if n_steps is None else check_n_steps(n_steps)
    draws = draws if draws is None else whole_number("draws", draws)
    n, first = len(data), first_row(data, seed)
    device = device_of(first.x)
    losses: tuple[NatsLoss, NatsLoss] = (
        ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps),
        ReconstructionLoss(),
    )
    order, fit = torch.arange(n), RowsTogether()

    def sums(examples: range, draws: int, chunk_rows: int, *key: int) -> dict[str, Tensor]:
        """Sums over the draws for consecutive examples, by part: (examples, 2)."""

        def chunk_losses(chunk: int) -> dict[str, Tensor]:
            places = torch.arange(chunk * chunk_rows, (chunk + 1) * chunk_rows)
            rows = data[order[places.remainder_(n)]]
            index, condition = torch.arange(chunk_rows, device=device), readable(model, rows.condition)
            sums: dict[str, Tensor] = {} if rows.mask is None else {PRESENT: draws * present_numbers(rows)}
            for together in torch.split(torch.arange(draws), max(1, rows_together(model.family, ROWS) // chunk_rows)):
                batch = attrs.evolve(rows, condition=condition).rows(index.repeat(len(together)))
                for i, loss in enumerate(losses):

                    def part_losses(batch: Batch, loss: NatsLoss = loss) -> Mapping[str, Tensor]:
                        nats: Mapping[str, Tensor] = told(
                            loss.part_losses, model, batch.x, batch.condition, mask=batch.mask
                        )
                        return nats

                    for name, nats in fit.price(part_losses, batch, device).items():
                        added = in_float64(nats).reshape(len(together), chunk_rows).sum(0)
                        sums.setdefault(name, added.new_zeros(chunk_rows, 2))[:, i] += added
            return sums

        keys: tuple[int | str, ...] = (seed, "likelihood", *key)
        found: dict[str, Tensor] = map_chunks(examples, chunk_rows, chunk_losses, keys, device=device, deal=deal)
        return found

    if budget is None:
        draws = draws or min(MAX_DRAWS, max(1, round(EVALUATIONS / n)))
        total = sums(range(n), draws, rows_together(model.family, CHUNK))
    else:
        order = budget_order(n, seed)
        total, draws = _within(budget, n, lambda examples, draws, turn: sums(examples, draws, BUDGET_CHUNK, turn))
    present = total.pop(PRESENT, None)
    messages, reconstruction = torch.stack(list(total.values())).sum(0).T / draws
    parts = {} if "" in total else {name: CodeLength.of(*(part.T / draws)) for name, part in total.items()}
    whole = CodeLength.of(messages, reconstruction)
    return LikelihoodBound(
        whole.messages,
        whole.reconstruction,
        whole.total,
        n_steps=n_steps,
        dimensions=dimensions_of(first, None if present is None else present / draws),
        examples=len(messages),
        draws=draws,
        parts=parts,
    )


@torch.inference_mode()
def row_bounds(
    model: Model,
    data: Rows | Data,
    *,
    n_steps: int | None = None,
    draws: int = ROW_DRAWS,
    seed: int = 0,
    deal: Deal = deal_here,
) -> tuple[Tensor, Tensor]:
    """The likelihood bound of each row, and its standard error, which counts the draws: two tensors (N,) in float64.

    Arguments:
        model: The model.
        data: N examples, as in :func:`likelihood_bound`.
        n_steps: Number of messages; None for continuous time.
        draws: Number of draws per row, at least 2.
        seed: Seed of the draws.
        deal: Function that draws the chunks.
    """
    data, draws = rows_of(model, data), whole_number("draws", draws, least=2)
    n, device = len(data), device_of(first_row(data, seed).x)
    size = rows_together(model.family, BUDGET_CHUNK)
    losses = (ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps), ReconstructionLoss())
    fit = RowsTogether()

    def nats(batch: Batch) -> Tensor:
        costs = [in_float64(told(loss, model, batch.x, batch.condition, mask=batch.mask)) for loss in losses]
        return torch.stack(costs).sum(0)

    def chunk_bounds(chunk: int) -> Tensor:
        """Costs for the rows of a chunk: (size, draws)."""
        rows = data[torch.arange(chunk * size, (chunk + 1) * size).remainder_(n)]
        rows = attrs.evolve(rows, condition=readable(model, rows.condition))
        index, costs = torch.arange(size, device=device), []
        for together in torch.split(torch.arange(draws), max(1, rows_together(model.family, ROW_BATCH) // size)):
            batch = rows.rows(index.repeat(len(together)))
            costs.append(fit.price(nats, batch, device).reshape(len(together), size))
        return torch.cat(costs).T

    costs: Tensor = map_chunks(range(n), size, chunk_bounds, (seed, "row bounds"), device=device, deal=deal)
    return costs.mean(1), costs.std(1) / math.sqrt(draws)


def _within(
    budget: Budget, n: int, sums: Callable[[range, int, int], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], int]:
    """Sums over the draws of the examples that a budget pays for, by part, and the number of draws of each.

    Each job has at most the size of all before it, and as much as the time that is left pays for, at the speed of the
    last one.

    Arguments:
        budget: The budget.
        n: Number of examples.
        sums: Function of the examples, the number of draws of each, and the number of the round.
    Returns:
        The sums, and the number of draws of each example.
    """
    began = now = budget.clock()
    chunks, total = -(-n // BUDGET_CHUNK), dict[str, Tensor]()
    done, draws, turn, pace = 0, 1, 0, 0.0  # chunks of the first round, draws, rounds, seconds for a draw of a chunk
    while True:
        if done < chunks:
            most, cost = min(max(1, done), chunks - done, EVALUATIONS // BUDGET_CHUNK - done), pace
        else:
            most, cost = min(draws, MAX_DRAWS - draws, EVALUATIONS // n - draws), pace * chunks
        more = min(most, int((budget.seconds - (now - began)) / max(cost, 1e-9))) if done else 1
        if more < 1:
            return total, draws
        if done < chunks:
            new = sums(range(done * BUDGET_CHUNK, min((done + more) * BUDGET_CHUNK, n)), 1, turn)
            total = {name: torch.cat([total[name], part]) if total else part for name, part in new.items()}
            done, size = done + more, more
        else:
            turn += 1
            new = sums(range(n), more, turn)
            total = {name: total[name] + part for name, part in new.items()}
            draws, size = draws + more, more * chunks
        before, now = now, budget.clock()
        pace = (now - before) / size
        nats = [part for name, part in total.items() if name != PRESENT]
        whole = Estimate.of(torch.stack(nats).sum((0, 2)) / draws)
        if done >= min(chunks, ENOUGH) and whole.stderr <= budget.relative_stderr * abs(whole.value):
            return total, draws
