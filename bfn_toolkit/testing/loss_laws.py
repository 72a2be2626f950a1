r"""Laws of losses, tried on a real number with three values whose exact posterior is known.

A loss in nats is a part of the code length of the data: with the exact posterior for output, its mean is the entropy
H(X), or the share of it that the messages tell, :math:`H(X) - H(X \mid \theta_1)`, or the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bfn_toolkit.losses import Loss, NatsLoss
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import NormalMixture, Output
from bfn_toolkit.product_family import ProductFamily
from bfn_toolkit.schedules import QuadraticSchedule
from bfn_toolkit.testing.cases import data
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import NAN, Judge, Z, law, round_trip
from bfn_toolkit.testing.probes import EXACT
from bfn_toolkit.testing.toys import Atoms, Evidence, Line, Toy

DRAWS = 100_000  # a loss of many steps has a standard deviation of many nats
BETA_1 = 1.8  # so small that the last beliefs leave much of the entropy open


def _toy() -> Toy:
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6.0
    return Toy(Line(QuadraticSchedule(BETA_1)), torch.tensor([[-1.0], [0.2], [1.0]], dtype=torch.float64), weights)


class Learner(nn.Module, Model):
    """Model with two weights and a normal output, which keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.family: Any = _toy().family
        self.weights = nn.Parameter(torch.tensor([0.7, -0.3], dtype=torch.float64))
        self.calls: list[tuple[Evidence, Tensor, Condition | None]] = []

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        """A normal distribution around a share of the mean of the beliefs."""
        self.calls.append((params, t, condition))
        slope, log_scale = self.weights.to(params.v.dtype)
        mean = slope * params.v / (1.0 + params.accuracy).unsqueeze(-1)
        if condition is not None:
            mean = mean + condition["side"].to(mean.dtype).unsqueeze(-1)
        one = torch.zeros_like(mean)
        return NormalMixture(one, mean.unsqueeze(1), log_scale.exp().expand_as(one))


def in_nats(loss: Any) -> bool:
    """Whether the loss claims to be in nats."""
    return bool(getattr(loss, "in_nats", False))


def has_part_losses(loss: Any) -> bool:
    """Whether the loss is reported part by part."""
    return isinstance(loss, NatsLoss)


@law("loss", "loss(model, x) has shape (B,), is finite, and keeps the dtype of x")
def check_losses_are_one_per_example(loss: Loss) -> float:
    """A mean over the batch is left to training."""
    judge, toy = Judge(check_losses_are_one_per_example, loss), _toy()
    for n in (1, 7):
        for dtype in (torch.float32, torch.float64):
            with seeded(0, "shape"):
                values = loss(Learner(), toy.sample(n).to(dtype))
            judge.true(values.shape == (n,), f"shape {tuple(values.shape)}", f"({n},)")
            judge.true(values.dtype == dtype, f"{values.dtype}", f"{dtype}")
            judge.error(torch.where(values.isfinite(), 0.0, values), 0.0)
    return judge.figure


@law("loss", "row i of a loss depends on row i of the data alone, and one seed gives one loss")
def check_losses_of_rows_are_independent(loss: Loss) -> float:
    """Other data in the other rows change nothing, nor does another call from the same seed."""
    judge, toy = Judge(check_losses_of_rows_are_independent, loss), _toy()
    x = data(toy.family, 6)
    other = torch.cat([x[:3], 5.0 + 2.0 * x[3:]])
    values = []
    for rows in (x, x, other):
        with seeded(0, "rows"):
            values.append(loss(Learner(), rows).detach())
    judge.true(torch.equal(values[0].nan_to_num(), values[1].nan_to_num()), "two losses from one seed", "one")
    judge.true(values[0].shape == (6,), f"shape {tuple(values[0].shape)}", "(6,)")
    judge.close(values[2][:3], values[0][:3], EXACT * (1.0 + values[0][:3].abs()))
    judge.true(not torch.equal(values[2][3:], values[0][3:]), "other data have the same loss", "another loss")
    return judge.figure


@law("loss", "the model is asked with the condition, and at the time of the beliefs, in [0, 1]")
def check_the_model_hears_time_and_condition(loss: Loss) -> float:
    """Each evaluation gets the beliefs of a time, that time, and the rows of the condition."""
    judge, toy = Judge(check_the_model_hears_time_and_condition, loss), _toy()
    side, model = torch.arange(500) % 2, Learner()
    with seeded(0, "hears"):
        x = toy.sample(500)
        values = (loss(model, x, {"side": side}), loss(model, x))
    judge.true(not any(bool(value.isnan().any()) for value in values), NAN, "finite numbers")
    judge.true(bool(model.calls), "the model is not asked", "an evaluation")
    half = len(model.calls) // 2
    for number, (params, t, condition) in enumerate(model.calls):
        t = t.expand(len(params.v))
        judge.true(bool(((t >= 0.0) & (t <= 1.0)).all()), f"times from {float(t.min())} to {float(t.max())}", "[0, 1]")
        told = model.family.schedule.beta(t)
        judge.named("accuracy of the beliefs at t").close(params.accuracy, told, 1e-6 * (1.0 + told))
        judge.named("")
        heard = None if condition is None else condition.get("side")
        if number < half:
            judge.true(heard is not None and torch.equal(heard, side), f"condition {heard}", "that of the call")
        else:
            judge.true(condition is None or not condition, f"condition {condition}", "None")
    return judge.figure


@law("loss", "the gradient of the loss is finite, and its mean is the slope of the loss")
def check_losses_have_gradients(loss: Loss) -> float:
    """What the weights do to the loss reaches them, in each row."""
    judge, toy, h = Judge(check_losses_have_gradients, loss), _toy(), 1e-5
    with seeded(0, "gradients"):
        x = toy.sample(64)
    model = Learner()

    def total() -> Tensor:
        with seeded(0, "slope"):
            return loss(model, x).sum()

    (gradient,) = torch.autograd.grad(total(), model.weights)
    slopes = []
    for i in (0, 1):
        ends = []
        for step in (h, -h):
            with torch.no_grad():
                model.weights[i] += step
                ends.append(float(total()))
                model.weights[i] -= step
        slopes.append((ends[0] - ends[1]) / (2.0 * h))
    slope = torch.tensor(slopes, dtype=torch.float64)
    judge.close(gradient, slope, 1e-4 * (1.0 + slope.abs()))
    judge.true(bool(gradient.abs().max() > 0.0), "a gradient of 0", "a slope")
    return judge.figure


@law("loss", "the exact posterior has no higher loss than the prior of the data")
def check_knowledge_lowers_the_loss(loss: Loss) -> float:
    """Whatever a loss measures, a perfect network does not make it larger than one that ignores the messages."""
    judge, toy = Judge(check_knowledge_lowers_the_loss, loss), _toy()
    n = DRAWS
    ignorant = _Ignorant(toy)
    with seeded(0, "knowledge"):
        x = toy.sample(n)
        with seeded(0, "noise"):
            known = loss(toy.oracle, x)
        with seeded(0, "noise"):
            unknown = loss(ignorant, x)
    for values in (known, unknown):
        judge.true(values.shape == (n,), f"shape {tuple(values.shape)}", f"({n},)")
    gain = unknown - known
    words = f"{float(unknown.mean()):.4g} without the messages, {float(known.mean()):.4g} with them"
    judge.true(float(gain.mean()) >= -Z * float(gain.std()) / n**0.5, words, "no more with them")
    return judge.figure


class _Ignorant(Model):
    def __init__(self, toy: Toy) -> None:
        self.family, self.toy = toy.family, toy

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        return Atoms(self.toy.values, self.toy.weights.log().expand(len(params.v), -1))


@law(
    "loss", "E[loss] is H(X), or H(X) - H(X|theta_1), or H(X|theta_1), when the output is the exact posterior", in_nats
)
def check_the_mean_loss_is_an_entropy(loss: Loss) -> float:
    """The cost of the messages, of the data after them, or of both, on a toy whose last beliefs leave much open."""
    judge, toy = Judge(check_the_mean_loss_is_an_entropy, loss), _toy()
    with seeded(0, "entropy"):
        x = toy.sample(DRAWS)
        values = loss(toy.oracle, x)
        judge.true(values.shape == x.shape[:1], f"shape {tuple(values.shape)}", f"{tuple(x.shape[:1])}")
        last = toy.family.flow(x, torch.ones(DRAWS, dtype=torch.float64))
        rest = float(-toy.posterior(last).log_prob(x).mean())
    mean = float(values.mean())
    expected = min((toy.entropy, toy.entropy - rest, rest), key=lambda nats: abs(nats - mean))
    judge.mean(values, expected, slack=6.0 * 1.2 / DRAWS**0.5)
    return judge.figure


@law("loss", "the loss is the sum of the losses of the parts, each that of the part alone", has_part_losses)
def check_losses_of_parts_add_up(loss: Any) -> float:
    """A product of two real numbers has a loss for each under its name; the names are those of the parts."""
    judge, toy = Judge(check_losses_of_parts_add_up, loss), _toy()
    n = DRAWS // 2
    pair = ProductFamily({"a": toy.family, "b": Line(QuadraticSchedule(2.0 * BETA_1))})
    model = _Pair(pair, toy)
    with seeded(0, "parts"):
        x = {"a": toy.sample(n), "b": toy.sample(n)}
        with seeded(0, "one seed"):
            parts = loss.part_losses(model, x)
        with seeded(0, "one seed"):
            whole = loss(model, x)
        alone = loss(toy.oracle, x["a"])
    names = list(parts) if isinstance(parts, Mapping) else parts
    judge.true(names == ["a", "b"], f"losses of {names}", "of the parts a and b")
    total = torch.stack(list(parts.values())).sum(0)
    judge.true(total.shape == (n,), f"losses of shape {tuple(total.shape)}", f"({n},)")
    judge.close(whole, total, EXACT * (1.0 + total.abs()))
    judge.named("part a").mean(parts["a"] - alone, 0.0)
    return judge.figure


class _Pair(Model):
    def __init__(self, family: ProductFamily, toy: Toy) -> None:
        self.family = family
        self.toys = {name: Toy(part, toy.values, toy.weights) for name, part in family.parts.items()}

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        return self.family.join_outputs({name: toy.posterior(params[name]) for name, toy in self.toys.items()})


@law("loss", "repr, pickle and TOML give back an equal loss")
def check_loss_round_trips(loss: Loss) -> float:
    """The configuration of a loss is a value."""
    return round_trip(Judge(check_loss_round_trips, loss))
