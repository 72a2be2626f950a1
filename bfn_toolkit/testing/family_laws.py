r"""The laws of distribution families.

Exact laws are compared in float64, with a tolerance of 1e-9 of the largest number that enters: far above rounding
errors, and far below a fault in a formula.  Statistical laws have fixed seeds; :data:`~bfn_toolkit.testing.law.Z` and
:data:`~bfn_toolkit.testing.law.P` set their false-alarm rate.  Beliefs are compared by the log-densities that they give
to test points, so a law does not depend on a family's params.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit.distributions import kl
from bfn_toolkit.families import Family, Part
from bfn_toolkit.losses import DiscreteTimeLoss, ReconstructionLoss
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Delta, Finite, Output
from bfn_toolkit.shapes import Data, by_row, map_data
from bfn_toolkit.testing.cases import Case, accuracy_near, cases, data, is_stepped, times
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import NAN, Judge, Z, law, round_trip, search
from bfn_toolkit.testing.probes import (
    EXACT,
    MANY,
    DrawnDtypes,
    bridge,
    cast,
    columns,
    fold,
    fold_one,
    probe,
    raw_numbers,
    reads_values,
    repeat,
    rows_of,
    scale,
    some_times,
    steps_of,
    tame,
    tensors,
)
from bfn_toolkit.testing.toys import Toy

EXAMPLES = 16  # number of examples that a law tries


@law("family", "ln p_I(x|h(theta,y,alpha)) - ln p_I(x|theta) - ln p_S(y|x;alpha) is the same for every x")
def check_bayes_rule(family: Family[Any], *, case: Case | None = None, examples: int = EXAMPLES) -> float:
    """The update is Bayes' rule: posterior odds are prior odds times the sender's likelihood ratio."""

    def body(judge: Judge, case: Case) -> None:
        x, params, alpha = case.data(family), case.beliefs(family), case.alpha(family, 1.5)
        y = case.message(family, x, 1.5, 99)
        after, before = family.input(family.update(params, y, alpha)), family.input(params)
        points = [x, *(data(family, case.rows, seed) for seed in (101, 102, 103))]
        terms = [(before.log_prob(p), family.sender(p, alpha).log_prob(y), after.log_prob(p)) for p in points]
        prior, told, posterior = (torch.stack(t, -1) for t in zip(*terms, strict=True))
        # x itself, in the first column, has a positive probability before and after; another point may have none.
        odds = posterior[:, :1] - prior[:, :1] - told[:, :1] + prior + told
        judge.close(posterior, odds, EXACT * scale(prior, told, posterior))

    return search(check_bayes_rule, family, cases(), body, case, examples)


@law("family", "h(h(theta,y,a),z,b) = h(h(theta,z,b),y,a)")
def check_updates_are_exchangeable(family: Family[Any], *, case: Case | None = None, examples: int = EXAMPLES) -> float:
    """The order in which two messages arrive does not matter."""

    def body(judge: Judge, case: Case) -> None:
        x, params, a, b = case.data(family), case.beliefs(family), case.alpha(family, 0.7), case.alpha(family, 2.0)
        y, z = case.message(family, x, 0.7, 98), case.message(family, x, 2.0, 99)
        first = probe(family, family.update(family.update(params, y, a), z, b), x)
        second = probe(family, family.update(family.update(params, z, b), y, a), x)
        judge.close(first, second, EXACT * scale(first))

    return search(check_updates_are_exchangeable, family, cases(), body, case, examples)


@law(
    "family",
    "a message of accuracy 1e-12 changes ln p_I(x|theta) by less than 1e-4 of its scale",
    lambda family: not is_stepped(family),
)
def check_zero_accuracy_changes_nothing(
    family: Family[Any], *, case: Case | None = None, examples: int = EXAMPLES
) -> float:
    """A message without information does not change the beliefs."""

    def body(judge: Judge, case: Case) -> None:
        x, params, alpha = case.data(family), case.beliefs(family), case.alpha(family, 1e-12)
        before = probe(family, params, x)
        with seeded(case.seed, "zero"):
            drawn = probe(family, family.draw_update(params, x, alpha), x)
        updated = probe(family, family.update(params, case.message(family, x, 1e-12, 99), alpha), x)
        # The noise of the message is of order sqrt(alpha) = 1e-6.
        judge.close(drawn, before, 1e-4 * scale(before))
        judge.close(updated, before, 1e-4 * scale(before))

    return search(check_zero_accuracy_changes_nothing, family, cases(), body, case, examples)


@law("family", "theta ~ p_F(. | x; 0) is theta_0")
def check_flow_starts_at_the_prior(family: Family[Any], *, case: Case | None = None, examples: int = EXAMPLES) -> float:
    """At t = 0 no message has been received."""

    def body(judge: Judge, case: Case) -> None:
        x = case.data(family)
        with seeded(case.seed, "flow"):
            started = probe(family, family.flow(x, torch.zeros(case.rows, dtype=torch.float64)), x)
        prior = probe(family, family.prior(case.rows, dtype=torch.float64), x)
        judge.close(started, prior, EXACT * scale(prior))

    return search(check_flow_starts_at_the_prior, family, cases(0), body, case, examples)


@law("family", "p_F(. | x; t) is the law of the messages up to t, received one after the other")
def check_flow_is_the_chain_of_updates(family: Family[Any]) -> float:
    """The one-shot flow and the chain of updates give beliefs with the same distribution (two-sample test)."""
    judge = Judge(check_flow_is_the_chain_of_updates, family)
    grid = family.times(steps_of(family))
    n = MANY // 4
    x = repeat(data(family, 1), n)
    for last in {1, len(grid) - 1}:
        with seeded(0, "chain", last):
            messages = [
                map_data(lambda alpha: alpha.expand(n), family.accuracy(s, t)) for s, t in pairwise(grid[: last + 1])
            ]
            chain = probe(family, fold(family, x, messages), x)
            flow = probe(family, family.flow(x, grid[last].expand(n)), x)
        judge.same_law(flow, chain)
    return judge.figure


@law("family", "p_U(. | theta, x; alpha) is the law of h(theta, y, alpha) with y ~ p_S(. | x; alpha)")
def check_draw_update_is_the_update_of_a_message(family: Family[Any]) -> float:
    """The fused draw of an update and its definition give beliefs with the same distribution (two-sample test)."""
    judge = Judge(check_draw_update_is_the_update_of_a_message, family)
    n = MANY // 4
    x = repeat(data(family, 1), n)
    for accuracy in (0.3, 3.0):
        alpha = accuracy_near(family, n, accuracy)
        with seeded(0, "update", str(accuracy)):
            params = fold(family, x, [accuracy_near(family, n, 0.5)])
            fused = probe(family, family.draw_update(params, x, alpha), x)
            defined = probe(family, Family.draw_update(family, params, x, alpha), x)
        judge.same_law(fused, defined)
    return judge.figure


@law("family", "E[p_I(x0 | theta')] = p_I(x0 | theta), over x ~ p_I(. | theta) and y ~ p_S(. | x; alpha)")
def check_beliefs_are_a_martingale(family: Family[Any]) -> float:
    """The tower property: on average a message does not change the beliefs.

    So x and a draw of the later beliefs have one law (two-sample test), and the mean of the later probabilities of
    three points is the present one.  A family with a table has no accuracy small enough for the second comparison.
    """
    judge = Judge(check_beliefs_are_a_martingale, family)
    n, one = MANY // 2, fold_one(family)
    points = [data(family, 1, seed) for seed in (101, 102, 103)]
    before = torch.cat([family.input(one).log_prob(point) for point in points])

    def told(rows: int, accuracy: float) -> tuple[Data, Distribution]:
        alpha, some = accuracy_near(family, rows, accuracy), repeat(one, rows)
        with seeded(0, "martingale"):
            x = family.input(some).sample()
            return x, family.input(family.update(some, family.sender(x, alpha).sample(), alpha))

    def log_ratio(accuracy: float) -> Tensor:
        _, after = told(n, accuracy)
        later = torch.stack([after.log_prob(repeat(point, n)) for point in points], -1)
        # What is impossible stays so: a ratio of 1.
        return torch.where(later.isneginf() & before.isneginf(), 0.0, later - before)

    x, after = told(MANY // 4, 1.3)
    judge.same_law(columns(x), columns(after.sample()))
    if not is_stepped(family):
        for ratio in tame(log_ratio, 1.3).exp().unbind(-1):
            judge.mean(ratio, 1.0)
    return judge.figure


@law("family", "the integral of p_I(x | theta') over x is 1")
def check_beliefs_are_normalised(family: Family[Any]) -> float:
    """Beliefs p and, after a message, q have one mass: E_p[q / (p + q)] = E_q[p / (p + q)]."""
    judge = Judge(check_beliefs_are_normalised, family)
    one, n = fold_one(family), MANY // 2
    with seeded(0, "normalised"):
        later = family.draw_update(one, data(family, 1), accuracy_near(family, 1, 0.5))
        judge.mean(bridge(family.input(repeat(one, n)), family.input(repeat(later, n))), 0.0)
    return judge.figure


@law("family", "p_R(y | theta; t, alpha) = E[p_S(y | x'; alpha)] over x' ~ p_O(. | theta; t)")
def check_receiver_is_the_mixture_of_senders(family: Family[Any]) -> float:
    """The receiver averages the sender over the output distribution (importance ratio, Monte Carlo)."""
    judge = Judge(check_receiver_is_the_mixture_of_senders, family)
    n = MANY // 4
    params = repeat(fold_one(family), n)
    raw = repeat(raw_numbers(family, 1), n)
    output = family.output(raw, params)
    # Where the definition is exact, it is the receiver.
    some, points = accuracy_near(family, n, 0.7), (isinstance(p.values[0], Delta | Finite) for p in family.walk(output))
    if all(points):
        with seeded(0, "definition"):
            y = family.receiver(output, some).sample()
        expected = Family.receiver(family, output, some).log_prob(y)
        judge.close(family.receiver(output, some).log_prob(y), expected, 1e-6 * (1.0 + expected.abs()))
    # Ancestral draws and draws of the receiver have the same distribution.
    alpha = accuracy_near(family, n, 1.5)
    with seeded(0, "receiver"):
        ancestral = family.sender(output.sample(), alpha).sample()
        judge.same_law(columns(ancestral), columns(family.receiver(output, alpha).sample()))

    # And its density is the mean of the sender's: E over x' of p_S(y | x') / p_R(y) is 1 at any y.
    n = MANY // 8
    output = family.output(repeat(raw_numbers(family, 1), n), rows_of(params, torch.arange(n)))

    def log_ratio(row: int, accuracy: float) -> Tensor:
        alpha = accuracy_near(family, n, accuracy)
        with seeded(0, "receiver"):
            y = family.sender(output.sample(), alpha).sample()
            same = rows_of(y, torch.full((n,), row))
            return family.sender(output.sample(), alpha).log_prob(same) - family.receiver(output, alpha).log_prob(same)

    for row in range(0 if is_stepped(family) else 3):
        judge.mean(tame(partial(log_ratio, row), 1.5).exp(), 1.0)
    return judge.figure


@law("family", "a value is drawn as often as p_O says; E[p_O(x) / p_O'(x)] = 1 over x ~ p_O'")
def check_output_density_is_that_of_its_draws(family: Family[Any]) -> float:
    """The output's density sums to one and matches its draws.

    It is compared with the draws (:func:`check_mass`), and with a neighbour; of classes, the mean is tried too.
    A :class:`~bfn_toolkit.Delta` has no density and is not tested.
    """
    judge = Judge(check_output_density_is_that_of_its_draws, family)
    n = MANY // 4
    params = repeat(fold_one(family), n)
    raw, other = (repeat(raw_numbers(family, 1, seed=seed), n) for seed in (0, 1))
    output, neighbour = family.output(raw, params), family.output(raw + 0.05 * other, params)
    for part in family.walk(output, neighbour):
        _check_density(judge, part.values[0], part.values[1], n)
    for part in family.walk(family.output(2.0 * other, params)):
        if part.family.is_discrete:
            (p_o,) = part.values
            with seeded(0, "mean"):
                drawn = columns(p_o.sample())
            for column, mean in zip(drawn.unbind(1), columns(p_o.mean)[0].tolist(), strict=True):
                judge.named("mean").mean(column, mean, slack=Z * Z / n)
    return judge.figure


def _check_density(judge: Judge, output: Output, neighbour: Output, n: int) -> None:
    if isinstance(output, Delta):
        judge.true(bool(torch.isfinite(output.value).all()), "a point that is not finite", "finite numbers")
        return
    with seeded(0, "output"):
        check_mass(judge, output, n)
        near = neighbour.sample()
    judge.mean((output.log_prob(near) - neighbour.log_prob(near)).exp(), 1.0)


def check_mass(judge: Judge, p: Distribution | Output, rows: int) -> None:
    """Breaks the law unless a density is that of its draws, all rows being equal.

    If draws repeat, their frequencies are compared.  Otherwise E_p[q / p] = 1 for a narrow normal q, in up to six
    numbers.  That takes an open set of numbers: not unit vectors or rotations, whose numbers obey an equation.
    """
    x = p.sample()
    flat = by_row(x.double())
    values, counts = torch.unique(flat, dim=0, return_counts=True)
    if len(values) < rows // 2:
        for k in counts.argsort(descending=True)[:3].tolist():
            value = values[k].reshape(1, *x.shape[1:]).expand(x.shape).to(x.dtype)
            expected = p.log_prob(value)[0].exp()
            stderr = (expected * (1.0 - expected) / rows).clamp_min(0.0).sqrt()
            judge.error((counts[k] / rows - expected).abs(), Z * stderr + Z * Z / rows)
        return
    norms = flat.norm(dim=1)
    if flat.shape[1] > 6 or float(norms.std()) < 1e-3 * float(norms.mean()):
        return
    centre = flat.median(0).values
    turns = p.log_prob(x + 2.0 * math.pi) - p.log_prob(x)
    if bool((turns.abs() < 1e-6).all()):  # angles
        centre = torch.atan2(flat.sin().mean(0), flat.cos().mean(0))
        flat = torch.remainder(flat - centre + math.pi, 2.0 * math.pi) + centre - math.pi
    width = 0.3 * (flat.quantile(0.84, 0) - flat.quantile(0.16, 0))
    log_q = (-0.5 * ((flat - centre) / width).square() - width.log() - 0.5 * math.log(2.0 * math.pi)).sum(1)
    judge.mean((log_q - p.log_prob(x)).exp(), 1.0, slack=0.2)


@law("family", "KL(p_S || p_R) = E[ln p_S(y) - ln p_R(y)] >= 0, and 0 where the output is certain of the truth")
def check_step_loss_is_a_divergence(family: Family[Any]) -> float:
    """The n-step loss is a divergence: it agrees with Monte Carlo, is not negative, and is 0 for the true output."""
    judge = Judge(check_step_loss_is_a_divergence, family)
    n = MANY // 4
    params = repeat(fold_one(family), n)
    raw = repeat(raw_numbers(family, 1), n)
    x, alpha = repeat(data(family, 1), n), accuracy_near(family, n, 0.5)
    sender, receiver = family.sender(x, alpha), family.receiver(family.output(raw, params), alpha)
    with seeded(0, "price"):  # a key, kept so that the draws stay the same
        y = sender.sample()
        sampled = sender.log_prob(y) - receiver.log_prob(y)
        loss = family.step_loss(x, family.output(raw, params), alpha)
    stderr = float((sampled.std() ** 2 + loss.std() ** 2).sqrt()) / n**0.5
    judge.mean(sampled - loss, 0.0)
    judge.error(-float(loss.mean()), 6.0 * stderr + 1e-9)
    certain = family.receiver(Delta(x), alpha)
    judge.error((sender.log_prob(y) - certain.log_prob(y)).abs(), EXACT * (1.0 + sender.log_prob(y).abs()))
    return judge.figure


@law("family", "E[L^n + L^r] = H(X) for every n, when the output is the exact posterior")
def check_information_is_conserved(family: Family[Any]) -> float:
    """With an oracle as the network, message loss and reconstruction loss add up to the entropy.

    A lost factor 1/2, a missing n, bits for nats, a norm for its square, an update that is not Bayes' rule: all fail
    here.  The family's own receiver expects its own outputs, so the definition is used for the oracle's.
    """
    judge = Judge(check_information_is_conserved, family)
    toy = Toy.of(family)
    for n_steps in [steps_of(family)] if is_stepped(family) else (1, 3, 10):
        with seeded(0, "conserved", n_steps):
            x = toy.sample(MANY)
            loss = DiscreteTimeLoss(n_steps)(_Plain(toy), x) + ReconstructionLoss()(_Plain(toy), x)
        judge.mean(loss, toy.entropy)
    return judge.figure


class _Plain(Model):
    """Oracle whose family uses the definition of the receiver."""

    def __init__(self, toy: Toy) -> None:
        self.family: Any = _Receiving(toy.family)
        self._oracle = toy.oracle

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        return self._oracle.output(params, t, condition, **told)


class _Receiving:
    def __init__(self, family: Family[Any]) -> None:
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def factors(self, *values: Any) -> Iterator[Part]:
        yield Part("", self, values)  # type: ignore[arg-type]

    def step_loss(self, x: Any, output: Output, alpha: Any, samples: int = 1) -> Tensor:
        return kl(self._family.sender(x, alpha), Family.receiver(self._family, output, alpha), samples)


@law("family", "row i of a result depends on row i of the arguments alone")
def check_rows_are_independent(family: Family[Any]) -> float:
    """Updating some rows equals taking those rows of the update, and each row has its own noise."""
    judge = Judge(check_rows_are_independent, family)
    case = Case(rows=4, accuracies=(0.5,))
    x, params, alpha = case.data(family), case.beliefs(family), case.alpha(family, 1.0)
    y, index = case.message(family, x, 1.0, 99), torch.tensor([2, 0])
    some = family.update(rows_of(params, index), rows_of(y, index), rows_of(alpha, index))
    whole = probe(family, rows_of(family.update(params, y, alpha), index), rows_of(x, index))
    judge.close(probe(family, some, rows_of(x, index)), whole, EXACT * scale(whole))
    features = family.features(params)[index]
    judge.close(family.features(rows_of(params, index)), features, EXACT * (1.0 + features.abs().max()))
    # Noise: rows with the same data receive different, uncorrelated messages.
    n = MANY // 4
    same, alpha = repeat(data(family, 1), n), accuracy_near(family, n, 0.5)
    with seeded(0, "rows"):
        flows = {
            "flow": family.flow(same, some_times(family, 0.3).expand(n)),
            "draw_update": family.draw_update(family.prior(n, dtype=torch.float64), same, alpha),
        }
        senders = family.sender(same, alpha).sample()
    for name, drawn in [*((name, family.features(params)) for name, params in flows.items()), ("sender", senders)]:
        numbers = columns(drawn)
        varied = numbers[:, numbers.std(0) > EXACT * numbers.abs().amax(0)]  # more than rounding
        judge.true(varied.shape[1] > 0, f"{name} gives all rows the same noise", "separate noise for each row")
        centred = (varied - varied.mean(0)) / varied.std(0)
        for lag in (1, len(centred) // 2):  # neighbours, and the halves of a batch of mirror images
            judge.mean((centred[lag:] * centred[:-lag]).mean(1), 0.0)
    return judge.figure


@law("family", "no verb changes its arguments")
def check_arguments_are_not_changed(family: Family[Any]) -> float:
    """No verb changes a tensor that it receives."""
    judge = Judge(check_arguments_are_not_changed, family)
    case = Case(rows=3, accuracies=(0.5,))
    x, params, alpha = case.data(family), case.beliefs(family), case.alpha(family, 1.0)
    raw, t, y = raw_numbers(family, 3), torch.full((3,), 0.5, dtype=torch.float64), case.message(family, x, 1.0, 99)
    arguments = {"raw": raw, "t": t, **tensors({"x": x, "y": y, "alpha": alpha}), **tensors(params)}
    before = {name: value.clone() for name, value in arguments.items()}
    with seeded(0, "changes"):
        output = family.output(raw, params)
        verbs: dict[str, Callable[[], object]] = {
            "features": lambda: family.features(params),
            "output": lambda: (family.output(raw, params).mode, output.sample()),
            "update": lambda: family.update(params, y, alpha),
            "draw_update": lambda: family.draw_update(params, x, alpha),
            "flow": lambda: family.flow(x, t),
            "sender": lambda: family.sender(x, alpha).sample(),
            "receiver": lambda: family.receiver(output, alpha).sample(),
            "input": lambda: family.input(params).log_prob(x),
            "step_loss": lambda: family.step_loss(x, output, alpha),
            "loss_weight": lambda: family.loss_weight(t),
        }
        if not is_stepped(family):
            verbs["loss_rate"] = lambda: family.loss_rate(x, output, t)
        for verb, run in verbs.items():
            run()
            for name, value in arguments.items():
                judge.true(not bool(value.isnan().any()), NAN, "finite numbers")
                judge.true(torch.equal(value, before[name]), f"{verb} changed {name}", "nothing changed")
    return judge.figure


@law("family", "floating results have the dtype and the device of the data, which is_discrete tells apart")
def check_dtype_and_device_are_kept(family: Family[Any]) -> float:
    """Float32 in, float32 out; float64 noise is drawn in float64; no verb leaves the device or reads a value.

    Data are int64 if ``is_discrete`` is true, and floating otherwise.  A sender that draws by rejection must read
    values, so its family is not drawn from on the meta device.
    """
    judge = Judge(check_dtype_and_device_are_kept, family)
    for part in family.walk(data(family, 1)):
        (x,), claim = part.values, f"is_discrete = {part.family.is_discrete}"
        dtype_of_x = f"data {part.prefix}x in {x.dtype} where {claim}"
        judge.true((x.dtype == torch.int64) == part.family.is_discrete, dtype_of_x, "torch.int64 exactly if it is True")
    for dtype, device in ((torch.float32, "cpu"), (torch.float64, "cpu"), (torch.float32, "meta")):
        with seeded(0, "dtype"):
            x = cast(data(family, 64), dtype, device)
            t = family.times(steps_of(family))[steps_of(family) // 2].expand(64).to(device, dtype)
            alpha = cast(accuracy_near(family, 64, 0.7), dtype, device)
            params = family.prior(64, device=device, dtype=dtype)
            flow = updated = params
            if device == "cpu" or not reads_values(family.sender(x, alpha)):
                with DrawnDtypes() as drawn:
                    flow, updated = family.flow(x, t), family.draw_update(params, x, alpha)
                if dtype == torch.float64:
                    judge.true(drawn.dtypes <= {dtype}, f"noise in {drawn.dtypes}", f"in {dtype}")
            raw = raw_numbers(family, 64, dtype).to(device)
            results = {
                **{f"prior.{name}": value for name, value in tensors(params).items()},
                **{f"flow.{name}": value for name, value in tensors(flow).items()},
                **{f"draw_update.{name}": value for name, value in tensors(updated).items()},
                "features": family.features(flow),
            }
            if device == "cpu" and not is_stepped(family):
                results["loss_rate"] = family.loss_rate(x, family.output(raw, flow), t)
        for name, value in results.items():
            judge.true(value.device.type == device, f"{name} on {value.device}", f"on {device}")
            if value.is_floating_point():
                judge.true(value.dtype == dtype, f"{name} in {value.dtype}", f"in {dtype}")
                if device == "cpu":
                    # Beliefs may rule out a value: a logarithm of -inf.
                    bad = value.isnan() if name.startswith(("prior.", "flow.", "draw_update.")) else ~value.isfinite()
                    judge.true(not bool(bad.any()), f"{value[bad][:1].tolist()} in {name}", "finite numbers")
    return judge.figure


@law("family", "loss rate and its gradient are finite at every t, both ends among them")
def check_gradients_are_finite(family: Family[Any], *, case: float | None = None, examples: int = EXAMPLES) -> float:
    """In float32, no division by zero at t = 0 and no overflow at t = 1."""

    def body(judge: Judge, t: float) -> None:
        x = cast(data(family, 8), torch.float32)
        raw = raw_numbers(family, 8, torch.float32).requires_grad_()
        batch_times = torch.full((8,), t)
        if is_stepped(family):
            grid = family.times(steps_of(family)).float()
            batch_times = grid[(batch_times * (len(grid) - 1)).long()]
        with seeded(0, "finite"):
            params = family.flow(x, batch_times)
            output = family.output(raw, params)
            if is_stepped(family):
                first, second = (time.expand(8) for time in grid[:2])
                loss = family.step_loss(x, output, family.accuracy(first, second))
            else:
                loss = family.loss_rate(x, output, batch_times) * family.loss_weight(batch_times)
        judge.true(loss.shape == (8,), f"shape {tuple(loss.shape)}", "shape (8,)")
        loss.sum().backward()  # type: ignore[no-untyped-call]
        results = {"features": family.features(params), "loss": loss, "gradient": torch.as_tensor(raw.grad)}
        for name, value in results.items():
            judge.true(bool(torch.isfinite(value).all()), f"{name} is not finite at t = {t!r}", "finite numbers")

    return search(check_gradients_are_finite, family, times(), body, case, examples)


@law("family", "repr, pickle and TOML give back an equal configuration, and equal ones have one hash")
def check_configuration_round_trips(family: Family[Any]) -> float:
    """A family is a value: its written form determines it completely."""
    return round_trip(Judge(check_configuration_round_trips, family))
