"""Laws of draws and outputs, of the price of a message, and of its gradients, with rows of different times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit.families import Family
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Delta, Finite, Output, SiteNormalMixture
from bfn_toolkit.shapes import Data, batch_size, by_row, leaves, map_data
from bfn_toolkit.testing.cases import accuracy_near, data, is_stepped
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.family_laws import check_mass
from bfn_toolkit.testing.law import NAN, Judge, Z, law
from bfn_toolkit.testing.probes import (
    EXACT,
    MANY,
    bridge,
    columns,
    divergence,
    fold,
    fold_one,
    probe,
    raw_numbers,
    repeat,
    repeats,
    rows_of,
    scale,
    some_times,
    steps_of,
    tensors,
    together,
)

ACCURACIES = (0.05, 0.4, 1.5, 8.0)  # from messages that tell little to those that tell nearly all


def some_accuracies(family: Family[Any], *accuracies: float) -> Any:
    """Accuracies (B,) that the family has, one for each row."""
    rows = [accuracy_near(family, 1, accuracy) for accuracy in accuracies]
    whole = rows[0]
    for row in rows[1:]:
        whole = together(whole, row)
    return whole


def beliefs_at(family: Family[Any], params: Any, points: list[Data]) -> Tensor:
    """Log-densities (B, K) of K points in each row."""
    belief = family.input(params)
    return torch.stack([belief.log_prob(point) for point in points], -1)


def whole_accuracy(family: Family[Any], rows: int) -> Any:
    """The accuracy of all messages in one, or the largest of a table; for all rows."""
    if is_stepped(family) and family.has_parts:
        return {name: whole_accuracy(part, rows) for name, part in family.parts.items()}
    if is_stepped(family):
        return accuracy_near(family, rows, math.inf)
    start = torch.zeros(rows, dtype=torch.float64)
    return family.accuracy(start, torch.ones_like(start))


def one_for_all(alpha: Any) -> Any:
    """The first accuracy, with shape ()."""
    return map_data(lambda leaf: leaf[0], alpha)


def described(family: Family[Any], output: Output, x: Data) -> Tensor:
    """Numbers (B, D) that tell outputs apart: points, and log-probabilities of the data."""
    numbers = []
    for part in family.walk(output, x):
        p_o, values = part.values
        numbers.append(columns(p_o.value) if isinstance(p_o, Delta) else p_o.log_prob(values).double().unsqueeze(-1))
    return torch.cat(numbers, 1)


def own_loss(family: Family[Any], x: Data, output: Output, t: Tensor) -> Tensor:
    """The loss rate at time t, or the price of the first message of a table."""
    if not is_stepped(family):
        return family.loss_rate(x, output, t)
    return family.step_loss(x, output, accuracy_near(family, batch_size(x), 1.0))


# Rows


@law("family", "row i of a result is that of its own t, alpha and params")
def check_rows_keep_their_own_time(family: Family[Any]) -> float:
    """A batch in which times and accuracies differ gives what its rows give alone: exactly, and in law for draws.

    An accuracy of shape () counts for all rows.
    """
    judge, rows = Judge(check_rows_keep_their_own_time, family), len(ACCURACIES)
    x, alpha = data(family, rows), some_accuracies(family, *ACCURACIES)
    t, raw = some_times(family, 0.2, 0.5, 0.8, 1.0), raw_numbers(family, rows)
    with seeded(0, "own"):
        params = fold(family, x, [alpha])
        y = family.sender(x, alpha).sample()

    points = [x, *(data(family, rows, seed) for seed in (101, 102))]

    def verbs(index: Tensor, alpha: Any) -> Iterator[tuple[str, Tensor]]:
        x_, y_, params_, t_, raw_ = (rows_of(value, index) for value in (x, y, params, t, raw))
        output = family.output(raw_, params_)
        at = [rows_of(point, index) for point in points]
        yield "update", beliefs_at(family, family.update(params_, y_, alpha), at)
        yield "input", family.input(params_).log_prob(x_)
        yield "sender", family.sender(x_, alpha).log_prob(y_)
        yield "receiver", family.receiver(output, alpha).log_prob(y_)
        yield "features", family.features(params_)
        yield "output", described(family, output, x_)
        yield "loss_weight", family.loss_weight(t_)
        if not is_stepped(family):
            yield "loss_rate", family.loss_rate(x_, output, t_)
            for name, accuracy in tensors(family.accuracy(0.5 * t_, t_)).items():
                yield f"accuracy {name}".strip(), accuracy

    def compare(
        whole: Iterator[tuple[str, Tensor]], some: Iterator[tuple[str, Tensor]], index: Tensor, words: str
    ) -> None:
        for (verb, all_rows), (_, row) in zip(whole, some, strict=True):
            expected = all_rows[index]
            judge.true(row.shape == expected.shape, f"{verb} of shape {tuple(row.shape)}", f"{tuple(expected.shape)}")
            judge.true(not bool((row + expected).isnan().any() & (row != expected).any()), NAN, "finite numbers")
            size = 1.0 + torch.where(expected.isinf(), 0.0, expected.abs()).amax()
            same = bool(((row - expected).abs() <= 1e3 * EXACT * size).logical_or(row == expected).all())
            judge.true(same, f"{verb} {words}", "the same numbers")

    every = torch.arange(rows)
    for i in range(rows):
        one = every[i : i + 1]
        compare(
            verbs(every, alpha), verbs(one, rows_of(alpha, one)), one, "of one row differs from that of the row alone"
        )
    words = "differs where the accuracy has shape ()"
    compare(verbs(every, rows_of(alpha, 0 * every)), verbs(every, one_for_all(alpha)), every, words)
    _check_draws_of_rows(judge)
    return judge.figure


def _check_draws_of_rows(judge: Judge) -> None:
    """Draws for every second row of a batch, against those of a batch of such rows alone."""
    family, n = judge.subject, MANY // 8
    two = data(family, 2)
    x_of, t_of, alpha_of = two, some_times(family, 0.3, 0.9), some_accuracies(family, ACCURACIES[1], ACCURACIES[3])
    with seeded(0, "own rows"):
        params_of, raw_of = fold(family, two, [some_accuracies(family, 0.1, 1.0)]), raw_numbers(family, 2)
    points_of = [two, *(data(family, 2, seed) for seed in (101, 102))]

    def draw(index: Tensor) -> dict[str, Tensor]:
        x, t, alpha, params, raw = (rows_of(v, index) for v in (x_of, t_of, alpha_of, params_of, raw_of))
        output, at = family.output(raw, params), [rows_of(point, index) for point in points_of]
        return {
            "flow": beliefs_at(family, family.flow(x, t), at),
            "draw_update": beliefs_at(family, family.draw_update(params, x, alpha), at),
            "sender": columns(family.sender(x, alpha).sample()),
            "receiver": columns(family.receiver(output, alpha).sample()),
            "step_loss": family.step_loss(x, output, alpha).unsqueeze(-1),
        }

    with seeded(0, "own draws"):
        both = draw(torch.arange(2 * n) % 2)
        for i in (0, 1):
            alone = draw(torch.full((n,), i))
            for name, drawn in both.items():
                judge.named(name).same_law(drawn[i::2], alone[name])


@law("family", "one seed gives one draw, another seed another, and so does a second call")
def check_draws_are_a_function_of_the_seed(family: Family[Any]) -> float:
    """All noise comes from torch's generator, and none is kept for the next call."""
    judge = Judge(check_draws_are_a_function_of_the_seed, family)
    n = 64
    x, params = repeat(data(family, 1), n), family.prior(n, dtype=torch.float64)
    alpha, t = accuracy_near(family, n, 0.7), some_times(family, 0.5).expand(n)
    output = family.output(repeat(raw_numbers(family, 1), n), params)
    points = all(isinstance(part.values[0], Delta) for part in family.walk(output))
    draws: dict[str, Callable[[], Tensor]] = {
        "flow": lambda: probe(family, family.flow(x, t), x),
        "draw_update": lambda: probe(family, family.draw_update(params, x, alpha), x),
        "input": lambda: columns(family.input(params).sample()),
        "sender": lambda: columns(family.sender(x, alpha).sample()),
        "receiver": lambda: columns(family.receiver(output, alpha).sample()),
        "output": lambda: columns(output.sample()),
        "step_loss": lambda: family.step_loss(x, output, alpha),
    }
    for name, draw in draws.items():
        drawn = []
        for seed in (0, 0, 1):
            with seeded("function", seed):
                drawn.append(draw())
                again = draw()
        judge.true(not any(bool(numbers.isnan().any()) for numbers in drawn), NAN, "finite numbers")
        judge.true(torch.equal(drawn[0], drawn[1]), f"two draws of {name} from one seed differ", "the same numbers")
        closed = name == "step_loss" and bool((drawn[0] == drawn[0][0]).all())  # equal rows have one price
        if not (closed or (name == "output" and points)):
            judge.true(not torch.equal(drawn[0], drawn[2]), f"two seeds give one draw of {name}", "other numbers")
            judge.true(not torch.equal(again, drawn[2]), f"{name} gives one draw twice", "other numbers")
    return judge.figure


@law("family", "results have the shapes of the interface, and all rows of the prior are alike")
def check_results_have_their_shapes(family: Family[Any]) -> float:
    """Losses and log-densities are (B,), features (B, *site, F), draws and means of an output (B, *site)."""
    judge, n = Judge(check_results_have_their_shapes, family), 5
    io, x, alpha = family.network_io, data(family, n), accuracy_near(family, n, 0.7)
    with seeded(0, "shapes"):
        prior, params = family.prior(n, dtype=torch.float64), family.flow(x, some_times(family, 0.5).expand(n))
        output, sender = family.output(raw_numbers(family, n), params), family.sender(x, alpha)
        y = sender.sample()
        receiver = family.receiver(output, alpha)
        found: dict[str, Tensor] = {
            "input.log_prob": family.input(params).log_prob(x),
            "sender.log_prob": sender.log_prob(y),
            "receiver.log_prob": receiver.log_prob(y),
            "loss_weight": family.loss_weight(some_times(family, 0.5).expand(n)),
            "step_loss": family.step_loss(x, output, alpha),
        }
        if not is_stepped(family):
            found["loss_rate"] = family.loss_rate(x, output, some_times(family, 0.5).expand(n))
        shapes: dict[str, tuple[Tensor, tuple[int, ...]]] = {name: (value, (n,)) for name, value in found.items()}
        shapes["features"] = (family.features(params), (n, *io.site_shape, io.in_features))
        for a, b, c, d in zip(*map(leaves, (x, output.sample(), output.mode, y)), strict=True):
            shapes["output.sample"], shapes["output.mode"] = (b, tuple(a.shape)), (c, tuple(a.shape))
            shapes["sender.sample"] = (d, (n, *d.shape[1:]))
            for name, (value, shape) in shapes.items():
                judge.true(tuple(value.shape) == shape, f"{name} of shape {tuple(value.shape)}", f"{shape}")
        for drawn, sent in zip(leaves(receiver.sample()), leaves(y), strict=True):
            judge.true(
                drawn.shape == sent.shape, f"receiver.sample of shape {tuple(drawn.shape)}", f"{tuple(sent.shape)}"
            )
        again = family.prior(1, dtype=torch.float64)
        belief = probe(family, prior, x)
        judge.close(belief, probe(family, repeat(again, n), x), EXACT * scale(belief))
    return judge.figure


# Densities


@law("family", "E_p[q / (p + q)] = E_q[p / (p + q)], with draws and densities of p and q: p_I or p_S")
def check_densities_are_those_of_the_draws(family: Family[Any]) -> float:
    """Draws of beliefs and senders follow their densities."""
    judge = Judge(check_densities_are_those_of_the_draws, family)
    n = MANY // 4
    x, z = repeat(data(family, 1), n), repeat(data(family, 1, 1), n)
    for accuracy in ACCURACIES[::3]:
        alpha = accuracy_near(family, n, accuracy)
        with seeded(0, "densities", str(accuracy)):
            told = repeat(fold(family, rows_of(x, torch.tensor([0])), [accuracy_near(family, 1, accuracy)]), n)
            prior = family.prior(n, dtype=torch.float64)
            output = family.output(repeat(raw_numbers(family, 1), n), repeat(fold_one(family), n))
            sender = family.sender(x, alpha)
            for name, p, q in (
                ("input", family.input(told), family.input(prior)),
                ("sender", sender, family.sender(z, alpha)),
                ("receiver", family.receiver(output, alpha), sender),
            ):
                # A value of a probability below Z^2 / n may not be among the draws.
                rare = Z * Z / n if repeats(p.sample()) else 0.0
                judge.named(name).mean(bridge(p, q), 0.0, slack=rare)
    for part in family.walk(told):
        with seeded(0, "mass"):
            check_mass(judge.named("input"), part.family.input(*part.values), n)
    return judge.figure


@law("family", "ln p_O(mode) >= ln p_O(x) for x ~ p_O")
def check_no_draw_is_likelier_than_the_mode(family: Family[Any]) -> float:
    """The mode is the likeliest value; of overlapping continuous components, as likely as an ordinary draw."""
    judge, n = Judge(check_no_draw_is_likelier_than_the_mode, family), 200
    params = repeat(fold_one(family), n)
    for seed in (0, 1):
        output = family.output(repeat(raw_numbers(family, 1, seed=seed), n), params)
        for part in family.walk(output):
            (p_o,) = part.values
            if isinstance(p_o, Delta) and p_o.std is None:
                continue
            with seeded(0, "mode", seed):
                x = p_o.sample()
            best, drawn = p_o.log_prob(p_o.mode), p_o.log_prob(x)
            atoms = len(torch.unique(by_row(x), dim=0)) < n // 2
            worst = drawn.amax() if atoms else drawn.quantile(0.25)
            judge.error((worst - best).clamp_min(0.0), 1e-6 * (1.0 + best.abs()))
    return judge.figure


@law("family", "the std of a point is that of the last beliefs, within a factor of 1.6")
def check_a_point_is_as_sharp_as_the_last_beliefs(family: Family[Any]) -> float:
    """The reconstruction loss of a point is a code length at the resolution of the last beliefs."""
    judge, n = Judge(check_a_point_is_as_sharp_as_the_last_beliefs, family), MANY // 20
    x = data(family, n)
    with seeded(0, "sharp"):
        last = family.flow(x, torch.ones(n, dtype=torch.float64))
        output = family.output(raw_numbers(family, n), last)
    for part in family.walk(output, last):
        p_o, params = part.values
        if not isinstance(p_o, Delta) or p_o.std is None:
            continue
        with seeded(0, "sharp draws"):
            gap = (part.family.input(params).sample() - part.family.input(params).sample()).abs()
        spread = float(gap.flatten().median()) / (0.6745 * math.sqrt(2.0))
        words = f"std {p_o.std:.4g}", f"{spread:.4g}, the spread of the beliefs at t = 1"
        judge.true(abs(math.log(p_o.std / max(spread, 1e-300))) < math.log(1.6), *words)
    return judge.figure


# Prices


@law("family", "E[L^n] = E[L^inf] = E[ln p_I(x|theta_1) - ln p_I(x|theta_0)], x ~ p_I(.|theta_0), where p_O is p_I")
def check_messages_cost_what_they_tell(family: Family[Any]) -> float:
    """With the beliefs themselves for output, the messages cost what they tell of x, at the family's own prices.

    Data drawn from the prior have the beliefs for posterior.  The law holds for families whose outputs can be their
    beliefs: by raw numbers of 0, as weights on a finite support, or as a normal distribution; a point cannot.
    """
    judge = Judge(check_messages_cost_what_they_tell, family)
    n = MANY // 4
    x = data(family, n, 5)
    few = rows_of(x, torch.arange(8))
    with seeded(0, "told"):
        if believed(family, family.flow(few, some_times(family, 0.5).expand(8)), few) is None:
            return judge.figure
    counts = [steps_of(family)] if is_stepped(family) else [1, 5]
    losses: list[Any] = [DiscreteTimeLoss(n_steps) for n_steps in counts]
    if not is_stepped(family):
        losses.append(ContinuousTimeLoss())
    for loss in losses:
        with seeded(0, "told", repr(loss)):
            price = loss(_Believer(family, x), x)
            last = family.input(family.flow(x, torch.ones(n, dtype=torch.float64))).log_prob(x)
        told = last - family.input(family.prior(n, dtype=torch.float64)).log_prob(x)
        # Of messages that repeat, a rare one may not be among the draws.
        rare = (
            Z * Z / n * float(told.max()) if repeats(family.sender(x, some_accuracies(family, 1.0)).sample()) else 0.0
        )
        judge.mean(price - told, 0.0, slack=1e-4 + rare)
    return judge.figure


class _Believer(Model):
    """Model whose output is the belief, in the family's own class of outputs."""

    def __init__(self, family: Family[Any], x: Data) -> None:
        self.family, self.x = family, x

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        output = believed(self.family, params, self.x, verify=False)
        assert output is not None
        return output


def believed(family: Family[Any], params: Any, x: Data, verify: bool = True) -> Output | None:
    """The beliefs as an output of the family's own class; None if there is none.

    Arguments:
        family: The family.
        params: Beliefs.
        x: Data that the beliefs hold for possible.
        verify: Whether to compare the output with the beliefs.
    """
    rows = batch_size(x)
    output = family.output(torch.zeros_like(raw_numbers(family, rows)), params)
    joined = {}
    for part in family.walk(output, params, x):
        p_o, beliefs, values = part.values
        p_i = part.family.input(beliefs)
        for candidate in _candidates(p_o, p_i, values):
            z = p_i.sample() if verify else values
            if not verify or torch.allclose(candidate.log_prob(z), p_i.log_prob(z), rtol=1e-6, atol=1e-6):
                joined[part.name] = candidate
                break
        else:
            return None
    return family.join_outputs(joined)


def _candidates(p_o: Any, p_i: Distribution, x: Tensor) -> Iterator[Any]:
    if isinstance(p_o, Delta):
        return
    if isinstance(p_o, Finite):
        logits = torch.zeros_like(p_o.logits)
        here, flat = p_i.log_prob(x), by_row(x)
        for site in range(flat.shape[1]):
            for k, value in enumerate(p_o.values):
                other = flat.clone()
                other[:, site] = value.to(x.dtype)
                logits.reshape(len(logits), -1, logits.shape[-1])[:, site, k] = (
                    p_i.log_prob(other.reshape(x.shape)) - here
                )
        yield attrs.evolve(p_o, logits=logits)
    elif isinstance(p_o, SiteNormalMixture):
        means, scales = p_i.mean.unsqueeze(-1), p_i.variance.sqrt().unsqueeze(-1)
        yield SiteNormalMixture(torch.zeros_like(p_o.logits), *(v.expand_as(p_o.logits) for v in (means, scales)))
    else:
        yield p_o


@law("family", "step_loss is KL(p_S || p_R) for any alpha and samples, with less variance for more samples")
def check_step_loss_is_right_at_every_accuracy(family: Family[Any]) -> float:
    """The price at small, middle and large accuracies, from 1, 2 and 5 draws, agrees with Monte Carlo in the mean."""
    judge = Judge(check_step_loss_is_right_at_every_accuracy, family)
    n = MANY // 8
    x, params = repeat(data(family, 1), n), repeat(fold_one(family), n)
    output = family.output(repeat(raw_numbers(family, 1, seed=1), n), params)
    for accuracy in (*ACCURACIES, math.inf):
        whole = math.isinf(accuracy)
        alpha = whole_accuracy(family, n) if whole else accuracy_near(family, n, accuracy)
        judge.named("at the accuracy of all messages" if whole else f"at an accuracy of {accuracy:g}")
        with seeded(0, "price of", str(accuracy)):
            sampled = divergence(family, x, output, alpha)
            some = (1, 2, 5) if accuracy == ACCURACIES[1] else (1,)
            losses = {samples: family.step_loss(x, output, alpha, samples) for samples in some}
            scalar = family.step_loss(x, output, one_for_all(alpha), some[-1])
        # Where messages repeat, the divergence is exact, and a loss may have drawn none of the rare ones.
        exact = bool((sampled == sampled[0]).all())
        for loss in (*losses.values(), scalar):
            judge.mean(sampled - loss, 0.0, slack=Z * Z / n * float(loss.abs().amax()) if exact else 0.0)
        spreads = [float(losses[samples].std()) for samples in (some[0], some[-1])]
        if len(some) > 1 and spreads[0] > 0.05 * float(losses[1].mean().abs()):
            words = f"a standard deviation of {spreads[1]:.3g} for 5 samples, {spreads[0]:.3g} for 1"
            judge.true(spreads[1] < 0.8 * spreads[0], words, "less for more samples")
    return judge.figure


@law("family", "the price moves with each raw number, at each site")
def check_every_raw_number_moves_the_price(family: Family[Any]) -> float:
    """No raw number is without effect on the loss rate, the step loss and the log-probability of the data alike.

    Those that a family declares unused (``Family.raw_in_use``) have none.
    """
    judge, n = Judge(check_every_raw_number_moves_the_price, family), 32
    moved: Tensor = torch.zeros(())
    for price in _prices(family, n, 0.5).values():
        raw = raw_numbers(family, n, seed=2).requires_grad_()
        with seeded(0, "moves"):
            moved = moved + _gradient(price, raw).abs().sum(0)
    used = family.raw_in_use
    still = (moved == 0.0).expand(raw.shape[1:])
    wrong = (still if used is None else still == used).nonzero().tolist()
    has = f"raw number {tuple(wrong[0]) if wrong else ''} has {'no' if still.any() else 'an'} effect"
    judge.true(not wrong, has, "a gradient other than 0 where raw_in_use is true")
    judge.true(bool(moved.isfinite().all()), NAN, "finite numbers")
    return judge.figure


def _gradient(price: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    """Gradient of the sum of the prices; zero if they are not connected to the raw numbers."""
    total = price(raw).sum()
    gradient = torch.autograd.grad(total, raw, allow_unused=True)[0] if total.requires_grad else None
    return torch.zeros_like(raw) if gradient is None else gradient


def _prices(family: Family[Any], n: int, time: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """The prices as functions of the raw numbers, for n rows of beliefs about different data."""
    x, t = data(family, n, 3), some_times(family, time).expand(n)
    alpha = accuracy_near(family, n, 0.4)
    with seeded(0, "prices"):
        params = family.flow(x, t)
    prices: dict[str, Callable[[Tensor], Tensor]] = {
        "step_loss": lambda raw: family.step_loss(x, family.output(raw, params), alpha),
    }
    if not is_stepped(family):
        prices["loss_rate"] = lambda raw: family.loss_rate(x, family.output(raw, params), t)
    for part in family.walk(family.output(raw_numbers(family, n), params), x):
        p_o, values = part.values
        if not (isinstance(p_o, Delta) and p_o.std is None):

            def log_prob(raw: Tensor, name: str = part.name, values: Any = values) -> Tensor:
                whole = family.output(raw, params)
                p_o: Any = next(part.values[0] for part in family.walk(whole) if part.name == name)
                return torch.as_tensor(p_o.log_prob(values))

            prices[f"log_prob {part.name}".strip()] = log_prob
    return prices


@law("family", "the gradient of a price is (price(r + h u) - price(r - h u)) / 2h along any u")
def check_gradients_are_derivatives(family: Family[Any]) -> float:
    """What training follows is the slope of the price: nothing is detached, and no gradient is written wrongly."""
    judge, n, h = Judge(check_gradients_are_derivatives, family), 8, 1e-5
    for time in (0.3, 0.9):
        for name, price in _prices(family, n, time).items():
            raw, u = raw_numbers(family, n, seed=2).requires_grad_(), raw_numbers(family, n, seed=4)
            with seeded(0, "slopes"):
                gradient = _gradient(price, raw)
            differences = []
            for step in (h, 0.5 * h):
                with torch.no_grad():
                    values = []
                    for sign in (step, -step):
                        with seeded(0, "slopes"):
                            values.append(price(raw + sign * u))
                    differences.append((values[0] - values[1]) / (2.0 * step))
            slope, (wide, narrow) = by_row(gradient * u).sum(1), differences
            # A price with a kink (a clipped point) has no derivative there: the two differences do not agree.
            smooth = (wide - narrow).abs() <= 1e-4 * (1.0 + narrow.abs())
            judge.true(not bool((slope + wide + narrow).isnan().any()), NAN, "finite numbers")
            size = 1.0 + narrow.abs() + by_row((gradient * u).abs()).sum(1)
            judge.named(name).error(((slope - narrow).abs() / size)[smooth], 1e-3)
    return judge.figure


@law("family", "loss_weight is positive, and the weighted rate of a fresh network within a factor of 50 of 1")
def check_loss_weight_brings_unit_scale(family: Family[Any]) -> float:
    """The unit weighting trains all times alike.  A weight that is 1 throughout is no claim; times are 0.3 to 1."""
    judge, n = Judge(check_loss_weight_brings_unit_scale, family), 256
    ends = torch.tensor([1e-3, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    weights = family.loss_weight(ends)
    good = bool((weights > 0.0).all()) and bool(weights.isfinite().all())
    judge.true(good, f"weights {weights.tolist()} at t = {ends.tolist()}", "positive, finite numbers")
    if is_stepped(family) or bool((weights == weights[0]).all()):
        return judge.figure
    with seeded(0, "fresh"):  # draws of an output are data of the head, too
        x = family.output(raw_numbers(family, n), family.prior(n, dtype=torch.float64)).sample()
    few = repeats(columns(x).reshape(-1, 1))  # of a few values a fresh network may be certain
    sites, least = columns(x).shape[1], 0.0 if few else 0.02
    for t in ends[1:].tolist():
        times = torch.full((n,), t, dtype=torch.float64)
        with seeded(0, "weight"):
            params = family.flow(x, times)
            output = family.output(torch.zeros_like(raw_numbers(family, n)), params)
        unit = float((family.loss_rate(x, output, times) * family.loss_weight(times)).mean()) / sites
        judge.true(not math.isnan(unit), NAN, "finite numbers")
        judge.true(
            least <= unit <= 50.0, f"a weighted rate of {unit:.3g} at each site at t = {t:g}", f"{least:g} to 50"
        )
    return judge.figure


# Features
