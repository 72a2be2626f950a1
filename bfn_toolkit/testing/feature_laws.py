"""Laws of what a network sees of beliefs: their features, in float32 too, of data that are checked and of parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.errors import DataError
from bfn_toolkit.families import Family
from bfn_toolkit.outputs import Delta, Finite, Output
from bfn_toolkit.shapes import Data, by_row, leaves, map_data
from bfn_toolkit.testing.cases import accuracy_near, data, is_stepped
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law
from bfn_toolkit.testing.price_laws import whole_accuracy
from bfn_toolkit.testing.probes import (
    EXACT,
    MANY,
    SameNoise,
    cast,
    fold_one,
    probe,
    raw_numbers,
    repeat,
    rows_of,
    some_times,
    tensors,
)


def with_leaves(x: Data, values: Iterable[Tensor]) -> Data:
    """Data of the same parts with other tensors."""
    rest = iter(values)
    return map_data(lambda _: next(rest), x)


@law("family", "beliefs that differ have features that differ")
def check_features_tell_beliefs_apart(family: Family[Any]) -> float:
    """What the beliefs know of each site reaches the network: two messages that differ at one number show."""
    judge, n = Judge(check_features_tell_beliefs_apart, family), 64
    x, alpha = data(family, n, 6), accuracy_near(family, n, 1.0)
    prior = family.prior(n, dtype=torch.float64)
    with seeded(0, "apart"):
        y, other = family.sender(x, alpha).sample(), family.sender(data(family, n, 7), alpha).sample()
    before = family.update(prior, y, alpha)
    densities, seen = probe(family, before, x), family.features(before)
    for i, (name, leaf) in enumerate(tensors({"y": y}).items()):
        for j in range(leaf[0].numel()):
            changed = leaf.clone()
            by_row(changed)[:, j] = by_row(leaves(other)[i])[:, j]
            z = [changed if k == i else part for k, part in enumerate(leaves(y))]
            after = family.update(prior, with_leaves(y, z), alpha)
            gap = (probe(family, after, x) - densities).abs().amax(1)
            told = (gap > 0.1) & ((gap < 5.0) | gap.isinf())
            moved = by_row((family.features(after) - seen).abs()).amax(1)
            alike = int((told & ~(moved > 1e-9)).sum())
            place = f"{name.removeprefix('y').strip('.') or 'the message'}[{j}]"
            judge.true(alike == 0, f"{alike} of {n} beliefs change with {place}, their features do not", "0")
    if all(leaf.is_floating_point() for leaf in leaves(y)):
        after = family.update(prior, map_data(torch.neg, y), alpha)
        told = (probe(family, after, x) - densities).abs().amax(1) > 0.1
        alike = int((told & ~(by_row((family.features(after) - seen).abs()).amax(1) > 1e-9)).sum())
        judge.true(alike == 0, f"{alike} of {n} beliefs and their opposites have the same features", "0")
        _check_slopes_of_features(judge, x, y, alpha)
    return judge.figure


def _check_slopes_of_features(judge: Judge, x: Data, y: Data, alpha: Any) -> None:
    """No change of the message moves the beliefs and leaves the features where they are.

    So the gradients of the log-densities by the message lie in the span of those of the features.
    """
    family, n, h = judge.subject, 16, 1e-4
    x, y, alpha = (rows_of(value, torch.arange(n)) for value in (x, y, alpha))
    prior, sizes = family.prior(n, dtype=torch.float64), [leaf[0].numel() for leaf in leaves(y)]
    if sum(sizes) > 24:
        return
    slopes: list[tuple[Tensor, Tensor]] = []
    for i, j in [(i, j) for i, size in enumerate(sizes) for j in range(size)]:
        ends = []
        for step in (h, -h):
            moved = [leaf.clone() for leaf in leaves(y)]
            by_row(moved[i])[:, j] += step
            params = family.update(prior, with_leaves(y, moved), alpha)
            ends.append((by_row(family.features(params)), probe(family, params, x)))
        slopes.append(tuple((a - b) / (2.0 * h) for a, b in zip(*ends, strict=True)))
    seen, told = (torch.stack(part, 1) for part in zip(*slopes, strict=True))  # (n, numbers, F) and (n, numbers, 4)
    basis = torch.linalg.svd(seen, full_matrices=False)
    known = (basis.U * (1e-6 * basis.S[:, :1] < basis.S).unsqueeze(1)) @ (basis.U.mT @ told)
    lost = by_row(told - known).norm(dim=1) / by_row(told).norm(dim=1).clamp_min(1e-9)
    share = float(lost.nan_to_num().median())
    judge.true(share < 0.05, f"{share:.0%} of what a small change of the message does is not in the features", "0%")


@law("family", "features are of order 1 from t = 0 to t = 1")
def check_features_are_of_order_one(family: Family[Any]) -> float:
    """At most 10 in root mean square, and a spread of 0.05 or more once the beliefs have learned half a nat."""
    judge, n = Judge(check_features_are_of_order_one, family), 256
    x = data(family, n, 8)
    start = family.input(family.prior(n, dtype=torch.float64)).log_prob(x)
    for t in some_times(family, 0.0, 1e-3, 0.1, 0.3, 0.5, 0.8, 1.0).tolist():
        with seeded(0, "order"):
            params = family.flow(x, torch.full((n,), t, dtype=torch.float64))
        features = family.features(params)
        size = float(features.square().mean(0).sqrt().amax())
        judge.true(size <= 10.0, f"a root mean square of {size:.3g} at t = {t:g}", "at most 10")
        spread = float(features.std(0).amax())
        learned = float((family.input(params).log_prob(x) - start).mean())
        words = f"a spread of {spread:.3g} at t = {t:g}, where beliefs have learned {learned:.2g} nats", "at least 0.05"
        judge.true(spread >= 0.05 or learned < 0.5, *words)
    return judge.figure


# Precision


@law("family", "flow, features and prices in float32 agree with float64, from the same noise")
def check_float32_is_precise(family: Family[Any]) -> float:
    """Formulas lose no digits that training needs, at small, middle and large times and accuracies."""
    judge, n = Judge(check_float32_is_precise, family), 64
    x, raw = cast(data(family, n, 9), torch.float32), raw_numbers(family, n, torch.float32)
    for time, accuracy in ((1e-3, 1e-3), (0.3, 0.4), (0.7, 1.5), (1.0, 8.0), (1.0, None)):
        results: list[dict[str, Tensor]] = []
        for dtype in (torch.float32, torch.float64):
            x_, t = cast(x, dtype), some_times(family, time).expand(n).to(dtype)
            alpha = cast(whole_accuracy(family, n) if accuracy is None else accuracy_near(family, n, accuracy), dtype)
            with seeded(0, "precision", str(time)), SameNoise():  # type: ignore[no-untyped-call]
                params = family.flow(x_, t)
                output = family.output(raw.to(dtype), params)
                found = {
                    "flow": family.input(params).log_prob(x_),
                    "features": family.features(params),
                    "step_loss": family.step_loss(x_, output, alpha),
                }
                if not is_stepped(family):
                    found["loss_rate"] = family.loss_rate(x_, output, t)
                for part in family.walk(output, x_):
                    p_o, values = part.values
                    if not isinstance(p_o, Delta):
                        found[f"log_prob {part.name}".strip()] = p_o.log_prob(values)
            results.append({name: value.double() for name, value in found.items()})
        for name, exact in results[1].items():
            single = results[0][name]
            error = torch.where(single == exact, 0.0, (single - exact).abs()) / (1.0 + exact.abs())
            # A draw that is a choice may fall on the other side of an edge in a few rows.
            judge.named(f"{name} at t = {time:g}").error(
                error.flatten().sort().values[: int(0.95 * error.numel())], 3e-3
            )
    return judge.figure


# Data


@law("family", "check_data accepts the family's own draws, and raises DataError for all else")
def check_data_are_checked(family: Family[Any]) -> float:
    """Wrong shapes and dtypes, NaN and inf, and classes out of range are refused at the entry."""
    judge = Judge(check_data_are_checked, family)
    params = repeat(fold_one(family), 64)
    x, output = data(family, 64), family.output(raw_numbers(family, 64), params)
    with seeded(0, "checked"):
        good = [output.sample(), *([x] if all(part.family.is_discrete for part in family.walk()) else [])]
    for values in [value for z in good for value in (z, cast(z, torch.float32))]:
        try:
            family.check_data(values)
        except DataError as error:
            judge.broken(f"a draw of the family is refused: {error}", "no error")
    for name, bad in _bad_data(family, good[0], output):
        try:
            family.check_data(bad)
        except DataError:
            continue
        except Exception as error:
            judge.broken(f"{type(error).__name__} for {name}: {error}", "DataError")
        judge.broken(f"{name} is accepted", "DataError")
    return judge.figure


def _bad_data(family: Family[Any], x: Data, output: Output) -> Iterator[tuple[str, Data]]:
    for part in family.walk(x, output):
        good, p_o = part.values

        def whole(bad: Tensor, name: str = part.name) -> Data:
            return {**x, name: bad} if name else bad

        def at_the_end(value: Any, good: Tensor = good) -> Tensor:
            bad = good.clone()
            bad.view(-1)[-1] = value
            return bad

        where = f" in {part.name}" if part.name else ""
        yield f"an axis too many{where}", whole(good.unsqueeze(-1))
        yield f"an example without the batch axis{where}", whole(good[0])
        if good.ndim > 1:
            yield f"a site too many{where}", whole(torch.cat([good, good[..., :1]], -1))
        if not part.family.is_discrete:
            yield f"integers{where}", whole(good.long())
            for value in (math.nan, math.inf, -math.inf):
                yield f"{value}{where}", whole(at_the_end(value))
            continue
        yield f"floating-point classes{where}", whole(good.float())
        own = type(part.family).check_data is not Family.check_data  # otherwise no range is known
        if own and isinstance(p_o, Finite):
            for value in (-1, len(p_o.values)):
                yield f"class {value}{where}", whole(at_the_end(value))


# Products


def has_parts(family: Any) -> bool:
    """Whether the family is a product."""
    return bool(getattr(family, "has_parts", False))


@law("family", "a verb of a product is that of its parts: log-densities and losses add up", has_parts)
def check_parts_are_told_apart(family: Family[Any]) -> float:
    """Each part has its own data, message, accuracy, raw numbers and share of the price."""
    judge, n = Judge(check_parts_are_told_apart, family), 6
    x, t = data(family, n), some_times(family, 0.4).expand(n)
    step = some_times(family, 0.8).expand(n)
    with seeded(0, "parts"):
        params = family.flow(x, t)
        output, alpha = family.output(raw_numbers(family, n), params), family.accuracy(t, step)
        y = family.sender(x, alpha).sample()

    def total(verb: Callable[..., Tensor], *values: Any) -> Tensor:
        return torch.stack([verb(part.family, *part.values) for part in family.walk(*values)]).sum(0)

    pairs = {
        "input": (family.input(params).log_prob(x), total(lambda f, p, v: f.input(p).log_prob(v), params, x)),
        "sender": (
            family.sender(x, alpha).log_prob(y),
            total(lambda f, *v: f.sender(*v[:2]).log_prob(v[2]), x, alpha, y),
        ),
        "receiver": (
            family.receiver(output, alpha).log_prob(y),
            total(lambda f, *v: f.receiver(*v[:2]).log_prob(v[2]), output, alpha, y),
        ),
        "update": (
            family.input(family.update(params, y, alpha)).log_prob(x),
            total(lambda f, p, m, a, v: f.input(f.update(p, m, a)).log_prob(v), params, y, alpha, x),
        ),
    }
    if not is_stepped(family):
        pairs["loss_rate"] = (family.loss_rate(x, output, t), total(lambda f, *v: f.loss_rate(*v), x, output, t))
    for name, (whole, parts) in pairs.items():
        judge.named(name).close(whole, parts, EXACT * (1.0 + parts.abs()))
    for part in family.walk(alpha):
        judge.named("accuracy").close(part.values[0], part.family.accuracy(t, step), EXACT)
    many = torch.arange(MANY // 8) % n
    x, params, alpha = (rows_of(value, many) for value in (x, params, alpha))
    output = family.output(raw_numbers(family, n)[many], params)
    with seeded(0, "prices of parts"):
        price = family.step_loss(x, output, alpha)
        parts = total(lambda f, *v: f.step_loss(*v), x, output, alpha)
    judge.named("step_loss").mean(price - parts, 0.0)
    return judge.figure
