"""Laws that a family claims by its base class: additive, channel or stepped."""

from __future__ import annotations

import math
from typing import Any

import torch

from bfn_toolkit.errors import BFNError, StepCountError
from bfn_toolkit.families import AdditiveFamily, ChannelFamily, SteppedFamily
from bfn_toolkit.outputs import Delta
from bfn_toolkit.shapes import by_row, expand, per_example
from bfn_toolkit.testing.cases import Case, accuracy_near, cases, data
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.family_laws import EXAMPLES
from bfn_toolkit.testing.law import Judge, Z, law, search
from bfn_toolkit.testing.probes import (
    EXACT,
    MANY,
    divergence,
    fold,
    fold_one,
    probe,
    raw_numbers,
    repeat,
    repeats,
    scale,
)


def is_additive(family: Any) -> bool:
    """Whether the family claims that accuracies add."""
    return isinstance(family, AdditiveFamily)


def is_channel(family: Any) -> bool:
    """Whether the family claims to be a Gaussian channel."""
    return isinstance(family, ChannelFamily)


def has_table(family: Any) -> bool:
    """Whether the family claims a table of messages."""
    return isinstance(family, SteppedFamily)


# Additive families


@law("family", "a message of a, then one of b, is worth one of a + b", is_additive)
def check_accuracies_add(family: AdditiveFamily[Any]) -> float:
    """Two messages, and one of their total accuracy, give beliefs with the same distribution (two-sample test)."""
    judge = Judge(check_accuracies_add, family)
    x = repeat(data(family, 1), MANY // 4)
    for a, b in ((0.5, 0.5), (0.2, 4.0)):
        with seeded(0, "add", str(a)):
            two = probe(family, fold(family, x, [accuracy_near(family, len(x), part) for part in (a, b)]), x)
            one = probe(family, fold(family, x, [accuracy_near(family, len(x), a + b)]), x)
        judge.same_law(one, two)
    return judge.figure


@law("family", "the accuracies of n steps add up to beta(1)", is_additive)
def check_steps_telescope(family: AdditiveFamily[Any]) -> float:
    """The total accuracy does not depend on the number of steps."""
    judge = Judge(check_steps_telescope, family)
    for n in (1, 2, 10, 1000):
        grid = family.times(n)
        judge.true(grid.shape == (n + 1,), f"times({n}) of shape {tuple(grid.shape)}", f"({n + 1},)")
        judge.true(grid.dtype == torch.float64, f"times in {grid.dtype}", "torch.float64")
        judge.true(bool((grid.diff() > 0.0).all()), f"times({n}) = {grid.tolist()[:9]}", "times that increase")
        judge.close(grid[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64), 0.0)
        total = family.schedule.beta(torch.ones((), dtype=torch.float64))
        judge.error((family.accuracy(grid[:-1], grid[1:]).sum() - total).abs(), 1e-12 * total)
    return judge.figure


@law("family", "loss rate = alpha(t) times the KL rate, summed over the sites, at every t", is_additive)
def check_loss_rate_is_alpha_times_the_kl_rate(family: AdditiveFamily[Any]) -> float:
    """The rate at times near both ends and between, in one batch of different data."""
    judge = Judge(check_loss_rate_is_alpha_times_the_kl_rate, family)
    t = torch.tensor([1e-4, 0.1, 0.5, 0.9, 0.999, 1.0], dtype=torch.float64)
    x = data(family, len(t), 4)
    with seeded(0, "rate"):
        output = family.output(raw_numbers(family, len(t)), family.flow(x, t))
    slopes = family.kl_rate(x, output)
    judge.true(slopes.shape == x.shape[: slopes.ndim], f"kl_rate of shape {tuple(slopes.shape)}", f"{tuple(x.shape)}")
    slope = per_example(slopes)
    rate, expected = family.loss_rate(x, output, t), family.schedule.alpha(t) * slope
    judge.close(rate, expected, EXACT * (1.0 + expected.abs()))
    judge.error(-slope, EXACT)
    return judge.figure


@law("family", "loss rate = alpha(t) lim KL(p_S || p_R) / alpha, for alpha to 0", is_additive)
def check_loss_rate_is_the_limit_of_the_step_loss(family: AdditiveFamily[Any]) -> float:
    """The continuous-time loss is the limit of many small messages.

    The limit is extrapolated from losses of 0.02 and 0.01 nats.  The accuracies are so small that a message resolves
    neither the data nor a draw of the output, even for the worst of three outputs.
    """
    judge = Judge(check_loss_rate_is_the_limit_of_the_step_loss, family)
    n, samples = MANY // 4, []
    worst = torch.full((), 1e-9, dtype=torch.float64)
    for seed in (0, 1, 2):
        raw = 2.0 ** (seed - 1) * raw_numbers(family, 1, seed=seed)
        x, params = repeat(data(family, 1, seed), n), repeat(fold_one(family, 0.1, seed), n)
        output = family.output(repeat(raw, n), params)
        slope = per_example(family.kl_rate(x, output))
        with seeded(0, "limit", seed):
            spread = per_example(family.kl_rate(output.sample(), output)).mean()
        samples.append((x, output, slope))
        worst = torch.maximum(worst, torch.maximum(slope.amax(), spread))
    for x, output, slope in samples:
        slopes = []
        for nats in (0.02, 0.01):
            alpha = (nats / worst).expand(n)
            with seeded(0, "limit"):
                slopes.append(divergence(family, x, output, alpha) / alpha)
        judge.mean(2.0 * slopes[1] - slopes[0] - slope, 0.0, slack=0.02 * float(slope.mean()))
    return judge.figure


# Channel families


@law(
    "family", "from_natural(natural_params(theta)) = theta, and natural_params(from_natural(v, B)) = (v, B)", is_channel
)
def check_channel_coordinates_round_trip(
    family: ChannelFamily[Any], *, case: Case | None = None, examples: int = EXAMPLES
) -> float:
    """The coordinates of the solvers lose no information."""

    def body(judge: Judge, case: Case) -> None:
        x, params = case.data(family), case.beliefs(family)
        v, accuracy = family.natural_params(params)
        again = family.from_natural(v, accuracy)
        before = probe(family, params, x)
        judge.close(probe(family, again, x), before, EXACT * scale(before))
        w, total = family.natural_params(again)
        judge.close(w, v, EXACT * expand(scale(v).squeeze(-1), v))
        judge.close(total, accuracy, EXACT * (1.0 + accuracy))
        judge.true(v.shape == (*x.shape, family.channels), f"v of shape {tuple(v.shape)}", "(B, *site, d)")
        q = math.sqrt(float(accuracy.max()))
        u, signal = family.natural_params(family.from_scaled(v, q))
        judge.close(u, q * v, EXACT * expand(scale(q * v).squeeze(-1), v))
        judge.close(signal, torch.full_like(accuracy, q * q), EXACT * (1.0 + q * q))

    return search(check_channel_coordinates_round_trip, family, cases(), body, case, examples)


@law("family", "v | x ~ N(B phi(x), B I)", is_channel)
def check_flow_is_a_gaussian_channel(family: ChannelFamily[Any]) -> float:
    """Mean and covariance of the natural parameters, with B the signal-to-noise ratio of the channel."""
    judge = Judge(check_flow_is_a_gaussian_channel, family)
    x = repeat(data(family, 1), MANY)
    with seeded(0, "channel"):
        v, accuracy = family.natural_params(family.flow(x, torch.full((MANY,), 0.5, dtype=torch.float64)))
        _, last = family.natural_params(family.flow(x[:1], torch.full((1,), 1.0, dtype=torch.float64)))
    total, whole = family.snr(family.schedule.beta(torch.tensor([0.5, 1.0], dtype=torch.float64)))
    judge.error((accuracy - total).abs(), EXACT * (1.0 + total))
    judge.error((last - whole).abs(), EXACT * (1.0 + whole))
    noise = by_row((v - total * family.embed(x)) / total.sqrt())
    for i, column in enumerate(noise.unbind(1)):
        judge.mean(column, 0.0)
        judge.mean(column.square(), 1.0)
        if i:
            judge.mean(column * noise[:, i - 1], 0.0)
    return judge.figure


@law("family", "mean_embedding(p_O) = E[phi(x)], x ~ p_O", is_channel)
def check_mean_embedding_is_that_of_the_draws(family: ChannelFamily[Any]) -> float:
    """The solvers follow the expectation of the embedding under the output distribution."""
    judge = Judge(check_mean_embedding_is_that_of_the_draws, family)
    one, n = fold_one(family), MANY // 4
    for seed in (0, 1):
        raw = raw_numbers(family, 1, seed=seed)
        output = family.output(raw, one)
        expected = family.mean_embedding(output)
        judge.close(expected, output.expect(family.embed), 1e-6 * scale(expected).max())
        with seeded(0, "embedding", seed):
            drawn = family.embed(family.output(repeat(raw, n), repeat(one, n)).sample())
        rare = Z * Z / n if repeats(drawn) else 0.0  # a value of a smaller probability may not be among the draws
        for column, mean in zip(by_row(drawn).double().unbind(1), expected[0].flatten().tolist(), strict=True):
            judge.mean(column, mean, slack=rare * float(column.abs().max()))
    return judge.figure


# Stepped families


@law("family", "only the number of steps of the table is allowed", has_table)
def check_other_step_counts_are_refused(family: SteppedFamily[Any]) -> float:
    """The number of steps is part of the model if accuracies do not add."""
    judge = Judge(check_other_step_counts_are_refused, family)
    n = family.schedule.n_steps
    judge.close(family.times(n), torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64), 1e-12)
    for wrong in (n - 1, n + 1, 2 * n):
        try:
            family.times(wrong)
        except StepCountError as error:
            judge.true(str(n) in str(error), str(error), f"an error that names {n}")
        else:
            judge.broken(f"n_steps = {wrong} is accepted", f"StepCountError, for a table of {n}")
    try:
        family.loss_rate(data(family, 1), Delta(data(family, 1)), torch.full((1,), 0.5, dtype=torch.float64))
    except BFNError:
        return judge.figure
    return judge.broken("a continuous-time loss", "an error: there is no such limit")


@law("family", "the message over the i-th step has the i-th accuracy of the table", has_table)
def check_steps_follow_the_table(family: SteppedFamily[Any]) -> float:
    """Sender, flow and sampler use one list of accuracies."""
    judge = Judge(check_steps_follow_the_table, family)
    grid = family.times(family.schedule.n_steps)
    table = torch.tensor(family.schedule.accuracies, dtype=torch.float64)
    judge.close(family.accuracy(grid[:-1], grid[1:]), table, 1e-12 * table)
    return judge.figure
