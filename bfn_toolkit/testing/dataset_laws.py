"""Laws of datasets.

The laws that compare frequencies take a larger data set of the same fields, where the field ``count`` says its size.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from scipy.stats import binom
from torch import Tensor

from bfn_toolkit.data.dataset import Batch, Dataset, Split
from bfn_toolkit.data.loader import minibatches
from bfn_toolkit.masks import mask_by_part, mask_of, present
from bfn_toolkit.shapes import by_row, expand, leaves, map_data, named_parts
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, P, Z, law, round_trip
from bfn_toolkit.testing.probes import columns

SPLITS: tuple[Split, ...] = ("train", "valid", "test", "all")
ENOUGH = 2000  # rows for a law that compares frequencies
FEW = 32  # columns that are compared
STATES = 300_000  # values of whole examples that are enumerated


def _split(judge: Judge, dataset: Dataset, name: Split, *, stored: bool = False) -> Batch:
    """A split, or its rows as they are stored; one that raises, or is not finite, breaks the law in words."""
    verb = "rows" if stored else "split"
    try:
        rows = dataset.rows(name) if stored else dataset.split(name)
        batch = rows if isinstance(rows, Batch) else rows[torch.arange(len(rows))]
    except Exception as error:
        judge.broken(f"{verb}('{name}') raises {type(error).__name__}: {error}", "a Batch")
    for key, part in (*named_parts(batch.x), *batch.condition.items()):
        judge.true(bool(torch.isfinite(part).all()), f"{name}: {key or 'x'} has values that are not finite", "finite")
    return batch


def _larger(dataset: Dataset) -> Dataset:
    """A data set of the same fields with at least 2,000 rows, if the field ``count`` is their number."""
    rows, count = len(dataset.split("all")), getattr(dataset, "count", None)
    times = math.ceil(ENOUGH / rows)
    if times == 1 or isinstance(count, bool) or not isinstance(count, int | tuple):
        return dataset
    try:
        more = count * times if isinstance(count, int) else tuple(n * times for n in count)
        larger: Any = attrs.evolve(dataset, count=more)  # type: ignore[misc]
        fits = len(larger.split("all")) == times * rows and larger.site_shape == dataset.site_shape
    except Exception:
        return dataset
    return larger if fits else dataset


def _told(batch: Batch) -> Tensor:
    """Conditions side by side, with shape (B, C), in float64; those of another length break the law of shapes."""
    values = [batch.condition[name].double() for name in sorted(batch.condition)]
    fitting = [value.reshape(len(batch), -1) for value in values if value.ndim and len(value) == len(batch)]
    return torch.cat([torch.empty(len(batch), 0), *fitting], 1)


def _rows(x: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in x.tolist()]


def _pairs(batch: Batch) -> Tensor:
    """Data and conditions side by side, in float64."""
    return torch.cat([columns(batch.x), _told(batch)], 1)


def _few(x: Tensor, most: int = FEW) -> Tensor:
    """At most so many of the columns, spread evenly."""
    step = math.ceil(x.shape[1] / most) if x.shape[1] else 1
    return x[:, ::step]


@law("dataset", "every split has examples of shape site_shape, finite, and conditions with as many rows")
def check_splits_have_the_declared_shape(dataset: Dataset) -> float:
    """The declared shape, which the family relies on, is true; numbers are float32, and classes int64."""
    judge = Judge(check_splits_have_the_declared_shape, dataset)
    shapes = dataset.site_shape
    if not isinstance(shapes, Mapping):
        stated = dataset.metadata.get("site_shape")
        judge.true(stated == shapes, f"metadata with site_shape {stated}", f"metadata with site_shape {shapes}")
    kinds = {}
    for name in SPLITS:
        rows = _split(judge, dataset, name)
        actual = map_data(lambda part: tuple(part.shape[1:]), rows.x)
        judge.true(actual == shapes, f"{name}: (B, *{actual})", f"(B, *{shapes})")
        judge.true(len(rows) > 0, f"{name} is empty", "examples")
        for part in leaves(rows.x):
            judge.true(len(part) == len(rows), f"{name}: parts of {len(part)} and {len(rows)} rows", "equal numbers")
            right = part.dtype in (torch.float32, torch.int64)
            judge.true(right, f"{name} is {part.dtype}", "float32 for numbers, int64 for classes")
        for key, value in rows.condition.items():
            found = f"{len(value)} rows" if value.ndim else "a scalar"
            judge.true(value.ndim > 0 and len(value) == len(rows), f"{name}: {found} of {key}", f"{len(rows)} rows")
        told = {key: (value.dtype, tuple(value.shape[1:])) for key, value in rows.condition.items()}
        kinds[name] = (tuple(part.dtype for part in leaves(rows.x)), told)
    for name in SPLITS:
        judge.true(kinds[name] == kinds["train"], f"{name} has {kinds[name]}", f"{kinds['train']}, as train has")
    return judge.figure


@law("dataset", "training and validation rows are disjoint, and are all of the rows")
def check_splits_partition_the_data(dataset: Dataset) -> float:
    """No example is used for both training and validation; repeated examples are counted."""
    judge = Judge(check_splits_partition_the_data, dataset)
    splits: tuple[Split, ...] = ("train", "valid", "all")
    train, valid, everything = (sorted(_rows(columns(_split(judge, dataset, name, stored=True).x))) for name in splits)
    counts = f"{len(train)} + {len(valid)} rows of {len(everything)}"
    judge.true(sorted(train + valid) == everything, counts, "each row once")
    return judge.figure


@law("dataset", "each row of train and valid has the conditions that it has in all")
def check_conditions_stay_with_their_rows(dataset: Dataset) -> float:
    """Data and conditions are indexed and shuffled together."""
    judge = Judge(check_conditions_stay_with_their_rows, dataset)
    known = Counter(_rows(_pairs(_split(judge, dataset, "all", stored=True))))
    for name in SPLITS[:2]:
        strange = Counter(_rows(_pairs(_split(judge, dataset, name, stored=True)))) - known
        judge.true(not strange, f"{strange.total()} rows of {name} with other conditions than in all", "none")
    return judge.figure


@law("dataset", "the test rows are no copies of rows of train and valid")
def check_test_rows_are_others(dataset: Dataset) -> float:
    """Test rows equal other rows no more often than these equal each other."""
    judge = Judge(check_test_rows_are_others, dataset)
    dataset = _larger(dataset)
    test = _rows(columns(_split(judge, dataset, "test", stored=True).x))
    for name in SPLITS:
        rows = _rows(columns(_split(judge, dataset, name, stored=True).x))
        if name != "test" and rows == test:  # unless chance can do it, as with few rows of few classes
            chance = sum(count * math.log(count / len(rows)) for count in Counter(rows).values())
            judge.true(chance > math.log(P), f"test has the {len(rows)} rows of {name}", "other rows")
    seen = Counter(_rows(columns(_split(judge, dataset, "all", stored=True).x)))
    shared, total = sum(row in seen for row in test), seen.total()
    twins = sum(count * (count - 1) // 2 for count in seen.values())
    if len(seen) < 0.9 * total:
        return judge.figure  # repeated rows are no copies
    found = f"{shared} of {len(test)} test rows are in all, of whose {total} rows {total - len(seen)} repeat others"
    judge.true(twins > 0 or shared < max(4, len(test) / 2), found, "other rows")
    # Each pair of rows, whether of test and all or within all, is as likely to be equal.
    share = len(test) / (len(test) + (total - 1) / 2)
    judge.true(float(binom.sf(shared - 1, shared + twins, share)) >= P, found, f"a p-value of at least {P:g}")
    return judge.figure


@law("dataset", "the rows of each split have one distribution, and their conditions are as predictable")
def check_splits_have_one_law(dataset: Dataset) -> float:
    """Training rows are compared with validation and test rows, column by column.

    From the training rows a condition is predicted, a class by the nearest mean and a number by a linear function; the
    errors are as large in validation and in test rows, unless one of them has the conditions of other rows.
    """
    judge = Judge(check_splits_have_one_law, dataset)
    dataset = _larger(dataset)
    train, valid, test = (_split(judge, dataset, name) for name in SPLITS[:3])
    for other in (valid, test):
        judge.same_law(*(_few(columns(batch.x)) for batch in (train, other)))
        told = [_few(_told(batch)) for batch in (train, other)]
        if told[0].shape[1] == told[1].shape[1]:  # else splits-have-the-declared-shape is broken
            judge.same_law(*told)
    for name in train.condition:
        sides = [batch.condition.get(name, torch.zeros(())) for batch in (train, valid, test)]
        if not all(value.shape == (len(batch),) for value, batch in zip(sides, (train, valid, test), strict=True)):
            continue
        errors = _errors(*((columns(batch.x), c) for batch, c in zip((train, valid, test), sides, strict=True)))
        means = [float(error.mean()) for error in errors]
        slack = Z * float(torch.cat(errors).std()) * math.sqrt(sum(1.0 / len(error) for error in errors))
        near = abs(means[0] - means[1]) <= slack + 1e-9
        found = f"{name} is predicted from x with error {means[0]:.3g} in valid, and {means[1]:.3g} in test"
        judge.true(near, found, f"within {slack:.2g}")
        judge.error(abs(means[0] - means[1]), slack + 1e-9)
    return judge.figure


def _errors(train: tuple[Tensor, Tensor], *others: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Errors of the predictions of a condition, for each row of the others."""
    x, condition = train
    if not condition.is_floating_point():
        labels, index = torch.unique(condition, return_inverse=True)
        sums = torch.zeros(len(labels), x.shape[1], dtype=x.dtype).index_add_(0, index, x)
        means = sums / index.bincount().unsqueeze(1)
        return [(labels[torch.cdist(y, means).argmin(1)] != c).double() for y, c in others]
    ones = [torch.cat([y, torch.ones(len(y), 1, dtype=y.dtype)], 1) for y, _ in (train, *others)]
    weights = torch.linalg.lstsq(ones[0], condition.double().unsqueeze(1), driver="gelsd").solution
    pairs = zip(ones[1:], others, strict=True)
    return [(y @ weights - c.double().unsqueeze(1)).square().squeeze(1) for y, (_, c) in pairs]


@law("dataset", "data are scaled by the training rows, no split by itself and none by all rows")
def check_splits_are_scaled_by_the_training_rows(dataset: Dataset) -> float:
    """Mean 0 and variance 1 to the last digits betray the rows by which data were scaled."""
    judge = Judge(check_splits_are_scaled_by_the_training_rows, dataset)
    x = {name: _split(judge, dataset, name).x for name in SPLITS}
    parts = [{name: dict(named_parts(x[name]))[key] for name in SPLITS} for key, _ in named_parts(x["all"])]
    for part in (part for part in parts if part["train"].is_floating_point()):
        rows: dict[str, Tensor] = {name: by_row(part[name].double()) for name in SPLITS}
        rows["all and test"] = torch.cat([rows["all"], rows["test"]])
        for scaled in (_standard, _spans):
            by_train = scaled(rows["train"])
            for name in ("valid", "test") if by_train else ("valid", "test", "all", "all and test"):
                of_its_own = scaled(rows[name]) and (by_train or scaled is _standard)
                judge.true(not of_its_own, f"{name} has {scaled.__doc__} exactly", "the scale of the training rows")
    return judge.figure


def _standard(x: Tensor) -> bool:
    """mean 0 and variance 1"""
    x = x[:, (x != x[:1]).any(0)]
    if len(x) < 10 or not x.numel():
        return False
    return any(
        bool((numbers.mean(0).abs() < 1e-5).all() and ((numbers.std(0, correction=c) - 1.0).abs() < 1e-5).all())
        for numbers in (x, x.reshape(-1, 1))
        for c in (0, 1)
    )


def _spans(x: Tensor) -> bool:
    """the range from -1 to 1"""
    if len(x) < 10:
        return False
    values = x.sort(0).values
    gaps = values.diff(dim=0)
    free = ((gaps > 0).double().mean(0) > 0.9) & (gaps.amax(0) > 1.001 * gaps.amin(0))
    if not bool(free.any()):  # repeated values, or a grid, reach the ends of their range without being scaled
        return False
    ends = torch.stack([values[0] + 1.0, values[-1] - 1.0])[:, free]
    return bool((ends.abs() < 1e-6).all())


@law("dataset", "metadata are true of the rows")
def check_facts_are_true(dataset: Dataset) -> float:
    """Shape, classes, bins, labels, conditions and mean square, which options of family and network take over."""
    judge = Judge(check_facts_are_true, dataset)
    facts = dataset.metadata
    rows = {name: _split(judge, dataset, name) for name in SPLITS}
    rows = {name: attrs.evolve(batch, x=present(batch.x, batch.mask)) for name, batch in rows.items()}
    batch = _split(judge, _larger(dataset), "train")
    train, masks = batch.x, mask_by_part(batch.x, batch.mask)
    if isinstance(train, Mapping):
        parts: Any = facts.get("parts", {})
        names = set(parts) <= set(train) if isinstance(parts, Mapping) else False
        judge.true(names, f"parts {list(parts)}", f"some of {list(train)}")
    else:
        parts, train, masks = {"": facts}, {"": train}, {"": masks}
        rows = {name: Batch({"": batch.x}, batch.condition) for name, batch in rows.items()}
    for part, stated in parts.items():
        more = stated.get("head")
        stated = {**stated, **more} if isinstance(more, Mapping) else stated
        for name in SPLITS:
            if part and "site_shape" in stated:
                found, actual = stated["site_shape"], tuple(rows[name].x[part].shape[1:])
                judge.true(tuple(found) == actual, f"site_shape {found} of {part}", f"{actual}, as {name} has")
            _facts_of_a_split(judge, stated, rows[name].x[part], f"{part} {name}".strip())
        _mean_square(judge, stated, train[part], masks[part])
    for name in SPLITS:
        _facts_of_conditions(judge, facts, rows[name].condition, name)
    return judge.figure


def _facts_of_a_split(judge: Judge, stated: Mapping[str, Any], x: Tensor, name: str) -> None:
    low, high = float(x.min()), float(x.max())
    if "classes" in stated:
        fits = not x.is_floating_point() and low >= 0 and high < int(stated["classes"])
        found = f"{name} is {x.dtype} from {low:g} to {high:g}"
        judge.true(fits, found, f"int64 from 0 to {int(stated['classes']) - 1}, for classes = {stated['classes']}")
    if "bins" in stated:
        fits = x.is_floating_point() and max(-low, high) <= 1.0 + 1e-6
        judge.true(fits, f"{name} is {x.dtype} from {low:g} to {high:g}", "numbers in [-1, 1], which the bins divide")


def _mean_square(judge: Judge, stated: Mapping[str, Any], x: Tensor, mask: Tensor | None) -> None:
    if "data_variance" not in stated or not x.is_floating_point() or not bool(x.any()):
        return
    variance = float(stated["data_variance"])
    squares, counts = (by_row(v.double()).sum(1) for v in (present(x, mask).square(), mask_of(x, mask)))
    mean = float(squares.sum() / counts.sum())
    deviation = float((squares - mean * counts).std() / counts.mean())
    slack = Z * deviation / math.sqrt(len(squares)) + 0.01 * mean
    near = abs(mean - variance) <= slack
    judge.true(
        near, f"data_variance {variance:.6g}", f"the mean square of the training rows, {mean:.6g} +- {slack:.2g}"
    )
    judge.error(abs(mean - variance), slack)


def _facts_of_conditions(judge: Judge, facts: Mapping[str, Any], told: Mapping[str, Tensor], name: str) -> None:
    for condition in facts.get("conditions", ()):
        judge.true(condition in told, f"{name} has the conditions {list(told)}", f"'{condition}' among them")
    if facts.get("labels"):
        label = told.get("label")
        judge.true(label is not None, f"{name} has the conditions {list(told)}", "'label' among them")
        assert label is not None
        low, high = float(label.min()), float(label.max())
        fits = not label.is_floating_point() and low >= -1 and high < int(facts["labels"])
        found = f"label of {name} is {label.dtype} from {low:g} to {high:g}"
        judge.true(fits, found, f"integers below labels = {facts['labels']}")


@law("dataset", "E[-ln p(x)] = entropy over the rows, and p sums to 1", lambda dataset: hasattr(dataset, "log_prob"))
def check_densities_are_true(dataset: Any) -> float:
    """The numbers by which a model is judged: ``log_prob`` of rows, and ``entropy`` if no condition could lower it."""
    judge = Judge(check_densities_are_true, dataset)
    _sum_of_probabilities(judge, dataset)
    dataset = _larger(dataset)
    nats = []
    for name in SPLITS[2:]:
        batch = _split(judge, dataset, name)
        try:
            log_prob = dataset.log_prob(batch.x).double()
        except Exception as error:
            judge.broken(f"log_prob of the rows of {name} raises {type(error).__name__}: {error}", "numbers")
        judge.true(log_prob.shape == (len(batch),), f"log_prob of shape {tuple(log_prob.shape)}", "one for each row")
        bad = int((~torch.isfinite(log_prob)).sum())
        judge.true(not bad, f"log_prob is not finite for {bad} of {len(batch)} rows of {name}", "finite")
        first = dataset.log_prob(batch.rows(torch.arange(1)).x).double()
        alone = bool((first - log_prob[:1]).abs().max() <= 1e-3 * (1.0 + log_prob.abs().max()))
        judge.true(alone, f"log_prob of the first row of {name} depends on the others", "each row by itself")
        nats.append(-log_prob)
    if (stated := dataset.entropy()) is not None and not batch.condition:
        entropy, spread = stated if isinstance(stated, tuple) else (stated, 0.0)
        mean, values = float(torch.cat(nats).mean()), torch.cat(nats)
        slack = Z * math.hypot(float(values.std()) / math.sqrt(len(values)), float(spread)) + 1e-6 * (1.0 + abs(mean))
        near = abs(mean - float(entropy)) <= slack
        judge.true(near, f"entropy {float(entropy):.6g}", f"E[-ln p] of the rows, {mean:.6g} +- {slack:.2g}")
        judge.error(abs(mean - float(entropy)), slack)
    return judge.figure


def _sum_of_probabilities(judge: Judge, dataset: Any) -> None:
    """For classes that can be enumerated, the sum over all values of an example is 1."""
    x = _split(judge, dataset, "all").x
    classes = dataset.metadata.get("classes")
    if isinstance(x, Mapping) or x.is_floating_point() or not isinstance(classes, int):
        return
    sites = x[0].numel()
    if sites * math.log(classes) > math.log(STATES):
        return
    every = torch.cartesian_prod(*[torch.arange(classes)] * sites).reshape(-1, *x.shape[1:])
    total = float(dataset.log_prob(every).double().exp().sum())
    judge.true(abs(total - 1.0) <= 1e-4, f"the probabilities of all {len(every)} values add up to {total:.6g}", "1")


@attrs.frozen(eq=False)
class _NormalBeliefs:
    """Beliefs about continuous data, as a Gaussian family has them."""

    mean: Tensor
    precision: Tensor


def _has_posterior(dataset: Any) -> bool:
    return hasattr(dataset, "exact_output") and not isinstance(dataset.site_shape, Mapping)


@law("dataset", "x and a draw of exact_output(theta) have one law together with theta", _has_posterior)
def check_posteriors_are_true(dataset: Any) -> float:
    """Draws of the posterior take the place of the data: in log-density, two moments, and with the beliefs."""
    judge = Judge(check_posteriors_are_true, dataset)
    dataset = _larger(dataset)
    x = torch.cat([_split(judge, dataset, name).x for name in SPLITS[2:]])
    if not x.is_floating_point():
        return judge.figure  # of beliefs that only the family knows
    x = x.double()
    for accuracy in (0.3, 3.0, 30.0):
        with seeded(0, "posterior", str(accuracy)):
            y = x + torch.randn_like(x) / math.sqrt(accuracy)
            precision = torch.full((len(x),), 1.0 + accuracy, dtype=torch.float64)
            beliefs = _NormalBeliefs(accuracy * y / expand(precision, y), precision)
            try:
                output = dataset.exact_output(beliefs)
                draw, price = output.sample(), -output.log_prob(x)
            except (AttributeError, TypeError):
                return judge.figure  # of beliefs of another family
        price = price + output.log_prob(draw)
        finite = bool(torch.isfinite(draw).all() and torch.isfinite(price).all())
        judge.true(finite, "draws or log-densities that are not finite", "finite numbers")
        judge.mean(price, 0.0)
        for change in (x - draw, x.square() - draw.square(), (x - draw) * y):
            for column in _few(by_row(change)).unbind(1):
                judge.mean(column, 0.0)
    return judge.figure


def _knows_modes(dataset: Any) -> bool:
    return type(dataset).mode_shares is not Dataset.mode_shares


@law("dataset", "n mode_shares(x) adds up over the rows, each with at most one mode", _knows_modes)
def check_modes_share_the_rows(dataset: Dataset) -> float:
    """A share is the fraction of the given rows, whatever their number, and its probability the one that is stated."""
    judge = Judge(check_modes_share_the_rows, dataset)
    totals = []
    for name in SPLITS:
        batch = _split(judge, dataset, name)
        shares = dict(dataset.mode_shares(batch.x) or {})
        values = torch.tensor(list(shares.values()), dtype=torch.float64)
        fits = bool((values >= 0).all()) and float(values.sum()) <= 1.0 + 1e-5
        judge.true(fits, f"shares of {name}: {[round(v, 4) for v in values.tolist()]}", "fractions, together at most 1")
        totals.append({mode: len(batch) * share for mode, share in shares.items()})
    train, valid, _, everything = totals
    for mode in {*train, *valid, *everything}:
        parts, whole = train.get(mode, 0.0) + valid.get(mode, 0.0), everything.get(mode, 0.0)
        found = f"mode {mode}: {parts:.6g} rows of train and valid, {whole:.6g} of all"
        judge.true(abs(parts - whole) <= 1e-4 * (1.0 + whole), found, "equal numbers")
    if (stated := dataset.mode_probabilities()) is not None:
        _probabilities_of_modes(judge, _larger(dataset), stated)
    return judge.figure


def _probabilities_of_modes(judge: Judge, dataset: Dataset, stated: Mapping[str, float]) -> None:
    batches = [_split(judge, dataset, name) for name in SPLITS[2:]]
    rows = sum(map(len, batches))
    shares = [dict(dataset.mode_shares(batch.x) or {}) for batch in batches]
    for mode in {*stated, *shares[0], *shares[1]}:
        share = sum(len(batch) * found.get(mode, 0.0) for batch, found in zip(batches, shares, strict=True)) / rows
        p = stated.get(mode, 0.0)
        slack = Z * math.sqrt(max(p * (1.0 - p), 1.0 / rows) / rows) + 2e-3
        found = f"mode {mode}: probability {p:.4g}, share of {rows} rows {share:.4g}"
        judge.true(abs(share - p) <= slack, found, f"equal to {slack:.2g}")
        judge.error(abs(share - p), slack)


@law("dataset", "a split is a function of the configuration, and leaves torch's generator alone")
def check_splits_are_fixed(dataset: Dataset) -> float:
    """The data are the same each time, whatever was drawn before."""
    judge = Judge(check_splits_are_fixed, dataset)
    for name in SPLITS[:3]:
        with seeded(0, "before"):
            first = _split(judge, dataset, name)
            after = torch.rand(1)
        with seeded(0, "before"):
            untouched = torch.rand(1)
        with seeded(1, "before"):
            second = _split(judge, copy.deepcopy(dataset), name)
        judge.true(torch.equal(_pairs(first), _pairs(second)), f"{name} changes", "the same rows")
        judge.true(torch.equal(after, untouched), f"{name} draws from torch's generator", "its own seeded scope")
        for part in (*leaves(first.x), *first.condition.values()):
            part.zero_()
        kept = torch.equal(_pairs(_split(judge, dataset, name)), _pairs(second))
        judge.true(kept, f"{name} can be changed from outside", "a copy")
    return judge.figure


@law("dataset", "the batches of an epoch are different rows of the split")
def check_batches_cover_the_data(dataset: Dataset) -> float:
    """An epoch uses each row at most once, with its conditions, and leaves out less than one batch."""
    judge = Judge(check_batches_cover_the_data, dataset)
    rows = _split(judge, dataset, "train", stored=True)
    size = max(1, len(rows) // 3)
    used = [row for batch in minibatches(rows, size, seed=0, epoch=0) for row in _rows(_pairs(batch))]
    judge.true(len(rows) - len(used) < size, f"{len(used)} of {len(rows)} rows", "less than a batch left out")
    extra = Counter(used) - Counter(_rows(_pairs(rows)))
    judge.true(not extra, f"{extra.total()} rows that are not in the split, or come twice", "none")
    return judge.figure


@law("dataset", "repr, pickle and TOML give back an equal data set")
def check_dataset_round_trips(dataset: Dataset) -> float:
    """A data set is a value."""
    return round_trip(Judge(check_dataset_round_trips, dataset))
