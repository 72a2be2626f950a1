"""The laws of masks, and of times that differ by site or part.

They are for families that claim such times (:attr:`~bfn_toolkit.Family.site_times`).  A family or an output that does
not know masks says so by a PluginError, and then what would need them is not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.errors import ConfigError, PluginError
from bfn_toolkit.families import Family
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, NatsLoss, ReconstructionLoss
from bfn_toolkit.masks import mask_by_part, told
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.outputs import Delta, Output
from bfn_toolkit.product_family import JointOutput, ProductFamily
from bfn_toolkit.shapes import Data, expand, map_data
from bfn_toolkit.testing.cases import accuracy_near, data, is_stepped
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import NAN, Judge, law
from bfn_toolkit.testing.probes import EXACT, MANY, fold, probe, raw_numbers, repeat, some_times, steps_of
from bfn_toolkit.testing.toys import Toy


def by_site(family: Family[Any], function: Callable[..., Tensor], *values: Any) -> Any:
    """A function of the shape of the sites, and of each part's share of the values: a tensor, or a mapping by part."""
    found = {part.name: function(part.family.sites, *part.values) for part in family.walk(*values)}
    return found if family.has_parts else found[""]


def groups(family: Family[Any], rows: int) -> Any:
    """Two groups of sites, true in the first: every second site, and the others in every second row."""

    def alternating(sites: tuple[int, ...]) -> Tensor:
        shape = (rows, *sites)
        numbers = [torch.arange(n).reshape(-1, *(1,) * (len(shape) - 1 - i)) for i, n in enumerate(shape)]
        return reduce(torch.add, numbers) % 2 == 0

    return by_site(family, alternating)


def mixed(family: Family[Any], first: Any, a: Any, b: Any) -> Any:
    """Times or accuracies (B,): those of a in the first group, of b in the other."""
    return by_site(family, lambda _, group, u, v: torch.where(group, expand(u, group), expand(v, group)), first, a, b)


def opposite(mask: Any) -> Any:
    """The other group."""
    return map_data(torch.logical_not, mask)


def _sees(family: Family[Any], params: Any) -> Any:
    """Features, (B, *site, F), by part."""
    return family.join(family.network_io.split(family.features(params)))


def _has_site_times(family: Family[Any]) -> bool:
    return family.site_times


@law(
    "family", "at each site, theta(t_1 or t_2 by site) is theta(t_1) or theta(t_2), and prices add up", _has_site_times
)
def check_sites_keep_their_own_time(family: Family[Any]) -> float:
    """Under one seed, a site with a time of its own gets the beliefs and the price that it has where all have it.

    If all sites have the same time, no bit changes.
    """
    judge, n = Judge(check_sites_keep_their_own_time, family), 6
    x, first = data(family, n), groups(family, n)
    t = [some_times(family, value).expand(n) for value in (0.4, 0.9)]
    a = [accuracy_near(family, n, value) for value in (0.3, 2.0)]
    with seeded(0, "sites"):
        before, y = family.flow(x, t[0]), family.sender(x, a[0]).sample()
        output = family.output(raw_numbers(family, n), before)
    verbs: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "flow": (lambda t: family.flow(x, t), t),
        "draw_update": (lambda alpha: family.draw_update(before, x, alpha), a),
        "update": (lambda alpha: family.update(before, y, alpha), a),
        "a second update": (lambda alpha: family.update(family.draw_update(before, x, alpha), y, a[1]), a),
        "forget": (lambda alpha: family.forget(family.flow(x, t[1]), alpha), [0.1 * t[0], 0.2 * t[1]]),
    }
    if is_stepped(family):
        del verbs["forget"]
    for name, (verb, (u, v)) in verbs.items():

        def run(times: Any, verb: Callable[[Any], Any] = verb) -> Any:
            with seeded(0, "verb"):
                return verb(times)

        try:
            every = run(u)
        except ConfigError:  # a family need not forget
            continue
        one, other, both = (_sees(family, params) for params in (every, run(v), run(mixed(family, first, u, v))))
        for part in family.walk(one, other, both, first):
            a_, b_, ab, group = part.values
            judge.named(f"{name}, {part.name}").close(
                ab, torch.where(expand(group, ab), a_, b_), EXACT * (1.0 + ab.abs())
            )
        same = torch.equal(family.features(run(mixed(family, first, u, u))), family.features(every))
        judge.true(same, f"{name} with one time, by site, changes bits", "the same bits")
    prices: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "step_loss": (lambda alpha, mask: told(family.step_loss, x, output, alpha, mask=mask), a),
    }
    if not is_stepped(family):
        prices["loss_rate"] = (lambda t, mask: told(family.loss_rate, x, output, t, mask=mask), t)
    for name, (price, (u, v)) in prices.items():

        def cost(times: Any, mask: Any = None, price: Callable[..., Any] = price) -> Tensor:
            with seeded(0, "price"):
                return torch.as_tensor(price(times, mask))

        expected = cost(u)
        judge.named(name).close(cost(mixed(family, first, u, u)), expected, EXACT * (1.0 + expected.abs()))
        with suppress(PluginError):
            expected = cost(u, first) + cost(v, opposite(first))
            judge.close(cost(mixed(family, first, u, v)), expected, EXACT * (1.0 + expected.abs()))
    return judge.figure


@law("family", "p_F(. | x; t by site) is the law of messages whose accuracies differ by site", _has_site_times)
def check_flow_by_site_is_the_chain_of_updates(family: Family[Any]) -> float:
    """Sites that stop at different times have the beliefs that messages of their own give them (two-sample test)."""
    judge, n = Judge(check_flow_by_site_is_the_chain_of_updates, family), MANY // 4
    x, first = repeat(data(family, 1), n), groups(family, n)
    u, v = (some_times(family, value).expand(n) for value in (0.5, 1.0))
    grid = family.times(steps_of(family)) if is_stepped(family) else torch.tensor([0.0, 0.7, 1.0]).double()
    with seeded(0, "by site"):
        flow = family.flow(x, mixed(family, first, u, v))
        messages = []
        for s, t in pairwise(grid):
            whole = map_data(lambda alpha: alpha.expand(n), family.accuracy(s, t))
            if is_stepped(family):  # a message of the table is received or not
                short = map_data(partial(torch.where, t > u + 1e-6, torch.zeros(()).double()), whole)
            else:
                short = map_data(lambda alpha: alpha.expand(n), family.accuracy(0.5 * s, 0.5 * t))
            messages.append(mixed(family, first, short, whole))
        chain = fold(family, x, messages)
    judge.same_law(probe(family, flow, x), probe(family, chain, x))
    return judge.figure


def _nonsense(family: Family[Any], x: Data, mask: Any, number: int) -> Data:
    """Data with nonsense where they are missing."""

    def spoilt(_: Any, rows: Tensor, there: Tensor | None) -> Tensor:
        if there is None:
            return rows
        nonsense = (torch.nan, 1e30)[number] if rows.is_floating_point() else (-7, 10**6)[number]
        return torch.where(expand(there, rows), rows, nonsense)

    return by_site(family, spoilt, x, mask)


def _independent(output: Output, x: Tensor, first: Tensor) -> bool:
    """Whether the two groups of sites are independent under an output with a density."""
    y = x.roll(1, 0)
    swapped = [torch.where(expand(first, x), a, b) for a, b in ((x, y), (y, x))]
    together, apart = (output.log_prob(a) + output.log_prob(b) for a, b in ((x, y), swapped))
    return torch.allclose(together, apart, rtol=1e-9, atol=1e-9)


@law("family", "prices of x with a mask do not read what is missing, and those of two groups of sites add up")
def check_missing_sites_cost_nothing(family: Family[Any]) -> float:
    """Padding changes no bit of a price; with a mask that is true everywhere the price is that without a mask."""
    judge, n = Judge(check_missing_sites_cost_nothing, family), 6
    x, first, model = data(family, n), groups(family, n), _Untrained(family)
    t, alpha = some_times(family, 0.5).expand(n), accuracy_near(family, n, 0.5)
    with seeded(0, "missing"):
        output = model.output(family.flow(x, t), t)
    additive = True
    prices: list[tuple[str, Family[Any], Callable[..., Any], Data, Any]] = []
    for part in family.walk(output, x, first):
        p_o, values, group = part.values
        if not isinstance(p_o, Delta) or p_o.std is not None:
            additive = additive and _independent(p_o, values, group)
            prices.append(("log_prob", part.family, p_o.log_prob, values, group))

    def step_loss(x: Data, mask: Any = None) -> Tensor:
        return torch.as_tensor(told(family.step_loss, x, output, alpha, mask=mask))

    def loss_rate(x: Data, mask: Any = None) -> Tensor:
        return torch.as_tensor(told(family.loss_rate, x, output, t, mask=mask))

    prices.append(("step_loss", family, step_loss, x, first))
    if not is_stepped(family):
        prices.append(("loss_rate", family, loss_rate, x, first))
    for name, part_family, price, values, group in prices:
        with suppress(PluginError):
            _judge_price(judge.named(name), part_family, price, values, group, additive or name == "loss_rate")
    losses: list[NatsLoss] = [DiscreteTimeLoss(steps_of(family))]
    losses += [] if is_stepped(family) else [ContinuousTimeLoss()]
    losses += [ReconstructionLoss()] if sum(price[0] == "log_prob" for price in prices) == len(family.parts) else []
    for loss in losses:
        found = []
        with suppress(PluginError):
            for number in (0, 1):
                with seeded(0, "missing", repr(loss)):
                    found.append(loss(model, _nonsense(family, x, first, number), None, first))
            same = torch.equal(*found) and bool(found[0].isfinite().all())
            judge.true(same, f"{loss} reads missing sites", "one finite price, whatever they are")
    return judge.figure


class _Untrained(Model):
    """Model whose raw numbers are always the same."""

    def __init__(self, family: Family[Any]) -> None:
        self.family = family

    def output(self, params: Any, t: Any, condition: Condition | None = None, **told: Any) -> Output:
        return self.family.output(raw_numbers(self.family, len(self.family.features(params))), params)


def _judge_price(
    judge: Judge, family: Family[Any], price: Callable[..., Any], x: Data, first: Any, additive: bool
) -> None:
    def cost(x: Data, *mask: Any) -> Tensor:
        with seeded(0, "price"):
            return torch.as_tensor(told(price, x, mask=mask[0] if mask else None))

    whole = cost(x)
    judge.true(bool(whole.isfinite().all()), NAN, "finite numbers")
    parts = [cost(x, mask) for mask in (first, opposite(first))]
    judge.close(cost(x, map_data(torch.ones_like, first)), whole, EXACT * (1.0 + whole.abs()))
    if additive:
        judge.close(parts[0] + parts[1], whole, EXACT * (1.0 + parts[0].abs() + parts[1].abs()))
    for number in (0, 1):
        spoilt = cost(_nonsense(family, x, first, number), first)
        judge.true(
            torch.equal(spoilt, parts[0]), f"{judge.name} reads missing sites", "the same bits, whatever they are"
        )


def _has_rates_by_site(family: Family[Any]) -> bool:
    return family.site_times and not is_stepped(family)


@law("family", "E[L^inf] is the same on every path of the times, when p_O is the exact posterior", _has_rates_by_site)
def check_the_loss_does_not_depend_on_the_path(family: Family[Any]) -> float:
    """Some sites may learn before others, or all together: what the messages tell in all is the same.

    A leg of a path, in which one group of sites moves and the other waits, costs the loss rate of those that move.
    """
    judge, toy, n = Judge(check_the_loss_does_not_depend_on_the_path, family), Toy.of(family), MANY // 4
    first = groups(family, n)
    ends = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)

    def leg(x: Data, moving: Any, waiting: Tensor) -> Tensor:
        u = torch.rand(n, dtype=torch.float64)
        times = mixed(family, moving, u, waiting)
        output = toy.posterior(family.flow(x, times))
        return torch.as_tensor(told(family.loss_rate, x, output, times, mask=moving))

    with seeded(0, "paths"), suppress(PluginError):
        x = toy.sample(n)
        together = leg(x, map_data(torch.ones_like, first), ends[0])
        for moving in (first, opposite(first)):
            one_by_one = leg(x, moving, ends[0]) + leg(x, opposite(moving), ends[1])
            judge.mean(one_by_one - together, 0.0)
    return judge.figure


def _has_parts(family: Family[Any]) -> bool:
    return family.has_parts


@law("family", "prices of a product without one of its parts are those with a mask that leaves it out", _has_parts)
def check_a_masked_product_is_the_product_without_the_part(family: ProductFamily) -> float:
    """A missing part changes no message and no price of the others."""
    judge, n = Judge(check_a_masked_product_is_the_product_without_the_part, family), 6
    x, t, alpha = data(family, n), some_times(family, 0.5).expand(n), accuracy_near(family, n, 0.5)
    with seeded(0, "whole"):
        output = family.output(raw_numbers(family, n), family.flow(x, t))
    for name in family.parts if len(family.parts) > 1 else ():
        rest = ProductFamily({other: part for other, part in family.parts.items() if other != name})
        mask = {name: torch.zeros(n, dtype=torch.bool)}
        spoilt, less = _nonsense(family, x, mask_by_part(x, mask), 0), {other: x[other] for other in rest.parts}
        left = JointOutput({other: output[other] for other in rest.parts})  # type: ignore[index]
        for verb, time in (("step_loss", alpha), *(() if is_stepped(family) else (("loss_rate", t),))):
            found: list[Tensor] = []
            for product, values, p_o, masks in ((family, spoilt, output, mask), (rest, less, left, None)):
                with seeded(0, "without"), suppress(PluginError):
                    found.append(told(getattr(product, verb), values, p_o, time, mask=masks))
            if len(found) == 2:
                judge.named(f"{verb} without {name}").close(found[0], found[1], EXACT * (1.0 + found[1].abs()))
    return judge.figure
