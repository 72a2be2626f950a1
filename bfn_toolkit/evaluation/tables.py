r"""Quality of the samples of a table: columns, pairs of columns, rows.

Every measure compares samples with held-out rows, which the model was not trained on; beside it stands its floor, the
same measure of as many training rows in the place of the samples: real rows, which differ from others by chance alone.

=================== ===============================================================================================
:func:`columns`     numbers: Wasserstein-1 distance, in standard deviations of the training rows, and the difference
                    of the shares of gaps; categories, a gap among them: total variation distance
:func:`association` of each pair: Spearman's correlation of two numbers, the correlation ratio of the ranks of a number
                    in the groups of a category, Cramér's V of two categories; the error is the absolute difference
:func:`two_samples` area under the ROC curve (AUC) of a classifier that tells samples from held-out rows, by gradient
                    boosting and cross-validation: 0.5 if it cannot, 1 if it always can
:func:`target`      score of a model that predicts one column from the others, trained on samples or on real rows and
                    tested on held-out rows
:func:`valid`       samples whose cells all could stand in the data: known names, numbers in the range and with the
                    decimals of the real rows, gaps only where these have gaps
:func:`nearest`     distance to the closest training row: the mean over the columns of the difference of ranks among
                    the training rows, or of 1 for different names
:func:`keys`        rows that are equal in every cell have the same key: copies of training rows
=================== ===============================================================================================

Sources: Lopez-Paz and Oquab 2017 (arXiv 1610.06545) for the two-sample test; Esteban et al. 2017 (arXiv 1706.02633) for
training on samples and testing on real rows; Gower 1971 for the distance of mixed rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np

from bfn_toolkit.data.typed_columns import Array, TypedTable

GAPS = 0.01  # smallest share of gaps of a number whose gaps count as a category in the pairs
COMPLETE = 5  # smallest number of rows of which a pair has an association
LEVELS = 200  # largest number of names that gradient boosting treats as categories
FOLDS = 5  # of the two-sample test
DECIMALS = 12  # largest number of decimals that are checked
SMALL = 500  # rows below which the leaves of trees may be small

Metric: TypeAlias = Literal["R2", "AUC", "accuracy"]


@attrs.frozen(eq=False)
class Cells:
    """Rows as numbers: those of numbers as they are, and the number of the name for categories.

    Arguments:
        names: Names of the D columns.
        is_number: Whether each column has numbers: booleans (D,).
        values: The cells (N, D) in float64: NaN for the gap of a number; of a category, a gap is one more name.
        labels: Names of the categories of each column, in order; () for numbers.
    """

    names: tuple[str, ...]
    is_number: Array
    values: Array
    labels: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: Array | slice) -> Cells:
        """The rows with these numbers."""
        return attrs.evolve(self, values=self.values[index])

    def some(self, n: int, random: int | np.random.Generator = 0) -> Cells:
        """At most n rows, drawn without repetition, by a generator or its seed."""
        return self.rows(np.random.default_rng(random).permutation(len(self))[:n])

    def joined(self, others: Cells) -> Cells:
        """These rows, and then others with the same columns and labels."""
        return attrs.evolve(self, values=np.concatenate([self.values, others.values]))

    def columns(self, index: Sequence[int]) -> Cells:
        """The columns with these numbers."""
        chosen = list(index)
        return Cells(
            tuple(self.names[i] for i in chosen),
            self.is_number[chosen],
            self.values[:, chosen],
            tuple(self.labels[i] for i in chosen),
        )

    def shuffled(self, seed: int = 0) -> Cells:
        """The same columns, each in an order of its own: independent columns."""
        random = np.random.default_rng(seed)
        return attrs.evolve(self, values=random.permuted(self.values, axis=0))


def cells(*tables: TypedTable) -> list[Cells]:
    """Tables with the same columns as numbers, with the same numbers for the same names."""
    values: list[list[Array]] = [[] for _ in tables]
    kinds, labels = [], []
    for name, first in tables[0].items():
        columns = [table[name].values for table in tables]
        kinds.append(first.is_number)
        names = () if first.is_number else tuple(sorted(set().union(*map(set, columns))))
        number = {text: float(i) for i, text in enumerate(names)}
        labels.append(names)
        for own, column in zip(values, columns, strict=True):
            own.append(column if first.is_number else np.array([number[text] for text in column], np.float64))
    shared = tuple(tables[0]), np.array(kinds, np.bool_)
    return [Cells(*shared, np.stack(own, 1) if own else np.zeros((0, 0)), tuple(labels)) for own in values]


def deviations(rows: Cells) -> Array:
    """Standard deviation of each column of numbers, 1 where that is 0 or unknown: (D,)."""
    found = np.ones(len(rows.names))
    for i in np.flatnonzero(rows.is_number):
        there = _there(rows.values[:, i])
        found[i] = (there.std(ddof=1) if len(there) > 1 else 0.0) or 1.0
    return found


def _there(column: Array) -> Array:
    return column[~np.isnan(column)]


# Columns


def columns(real: Cells, samples: Cells, unit: Array) -> tuple[Array, Array]:
    """Distance of each column, and the absolute difference of its shares of gaps: (D,) each.

    Arguments:
        real: Real rows.
        samples: Samples, or other real rows.
        unit: Unit of the distances of numbers, (D,).
    Returns:
        The distances: Wasserstein-1 of numbers in their units, NaN if one side has gaps only; total variation of
        categories in [0, 1].  The differences are 0 for categories, where a gap is one of the names.
    """
    from scipy.stats import wasserstein_distance

    distance, gaps = np.zeros(len(real.names)), np.zeros(len(real.names))
    for i, is_number in enumerate(real.is_number):
        a, b = real.values[:, i], samples.values[:, i]
        if is_number:
            there = _there(a), _there(b)
            distance[i] = wasserstein_distance(*there) / unit[i] if all(map(len, there)) else np.nan
            gaps[i] = abs(np.isnan(a).mean() - np.isnan(b).mean())
        else:
            size = len(real.labels[i])
            shares = [np.bincount(side.astype(np.int64), minlength=size) / len(side) for side in (a, b)]
            distance[i] = 0.5 * np.abs(shares[0] - shares[1]).sum()
    return distance, gaps


# Pairs of columns


def with_gap_flags(rows: Cells, flagged: Array) -> Cells:
    """The rows with one more category for each of these columns: whether the number is missing."""
    flags = np.isnan(rows.values[:, flagged]).astype(np.float64)
    return Cells(
        rows.names + tuple(f"{name}?" for name, flag in zip(rows.names, flagged, strict=True) if flag),
        np.append(rows.is_number, np.zeros(flags.shape[1], np.bool_)),
        np.concatenate([rows.values, flags], 1),
        rows.labels + (("no", "yes"),) * flags.shape[1],
    )


def has_gaps(rows: Cells) -> Array:
    """Whether each column has numbers, and a share of :data:`GAPS` or more of them is missing: booleans (D,)."""
    found: Array = rows.is_number & (np.isnan(rows.values).mean(0) >= GAPS)
    return found


def association(rows: Cells) -> Array:
    """Association of each pair of columns, symmetric with 1 on the diagonal: (D, D).

    Of each pair the rows count in which no number is missing.
    """
    d, complete = len(rows.names), ~np.isnan(rows.values)
    kinds = [bool(number) for number in rows.is_number]
    found = np.eye(d)
    whole = [bool(complete[:, i].all()) for i in range(d)]
    ranks = [_ranks(rows.values[:, i]) if kinds[i] else rows.values[:, i] for i in range(d)]
    for i in range(d):
        for j in range(i + 1, d):
            x, y = ranks[i], ranks[j]
            if not (whole[i] and whole[j]):
                both = complete[:, i] & complete[:, j]
                x, y = (_ranks(rows.values[both, k]) if kinds[k] else rows.values[both, k] for k in (i, j))
            if len(x) >= COMPLETE:
                found[i, j] = found[j, i] = _ASSOCIATIONS[kinds[i], kinds[j]](x, y)
    return found


def _ranks(values: Array) -> Array:
    """Ranks from 1, their mean where numbers are equal; NaN if one is missing."""
    from scipy.stats import rankdata  # takes half a second to import

    ranks: Array = rankdata(values)
    return ranks


def _correlation(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0.0 else 0.0


def _correlation_ratio(x: Array, group: Array) -> float:
    """Share of the variance of x that lies between the groups, its square root."""
    index = group.astype(np.int64)
    counts = np.bincount(index)
    means = np.bincount(index, x) / np.maximum(counts, 1)
    variance = float(x.var())
    return math.sqrt(float((counts * (means - x.mean()) ** 2).sum()) / len(x) / variance) if variance > 0.0 else 0.0


def _cramer(x: Array, y: Array) -> float:
    """Cramér's V: the root of chi-squared / N / (the smaller number of names - 1)."""
    x, y = x.astype(np.int64), y.astype(np.int64)
    of_x, of_y = np.bincount(x), np.bincount(y)
    smaller = min(np.count_nonzero(of_x), np.count_nonzero(of_y))
    if smaller < 2:
        return 0.0
    pairs, count = np.unique(x * len(of_y) + y, return_counts=True)  # a dense table could be too large
    expected = of_x[pairs // len(of_y)] * of_y[pairs % len(of_y)]
    return math.sqrt(max(0.0, float((count**2 / expected).sum()) - 1.0) / (smaller - 1))


_ASSOCIATIONS = {
    (True, True): _correlation,
    (True, False): _correlation_ratio,
    (False, True): lambda x, y: _correlation_ratio(y, x),
    (False, False): _cramer,
}


# Two-sample test and target


def two_samples(real: Cells, samples: Cells, *, importance: bool = True, seed: int = 0) -> tuple[float, Array]:
    """AUC of a classifier that tells samples from real rows, and its loss if a column is shuffled: (D,).

    As many rows of both as the fewer are.  The loss is measured on the same held-out folds; it is NaN without
    ``importance``.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    n, random = min(len(real), len(samples)), np.random.default_rng(seed)
    a, b = real.some(n, random), samples.some(n, random)
    x, y = np.concatenate([a.values, b.values]), np.arange(2 * n) >= n
    boosting = _boosting(HistGradientBoostingClassifier, a, n)
    score, shuffled = np.zeros(2 * n), np.zeros((len(a.names), 2 * n))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        model = boosting().fit(x[train], y[train])
        score[test] = model.predict_proba(x[test])[:, 1]
        for i in range(len(a.names) if importance else 0):
            other = x[test].copy()
            other[:, i] = random.permutation(other[:, i])
            shuffled[i, test] = model.predict_proba(other)[:, 1]
    value = auc(score[n:], score[:n])
    losses = [value - auc(of[n:], of[:n]) for of in shuffled] if importance else [math.nan] * len(shuffled)
    return value, np.array(losses)


def auc(high: Array, low: Array) -> float:
    """Probability that a number of the first is above one of the second; ties count half."""
    ranks = _ranks(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() / len(high) - 0.5 * (len(high) + 1)) / len(low))


def auc_error(n: int, m: int) -> float:
    """Standard error of :func:`auc` of n and m independent numbers of one distribution."""
    return math.sqrt((n + m + 1) / (12.0 * n * m))


def _boosting(kind: Callable[..., Any], rows: Cells, n: int) -> Callable[[], Any]:
    """Gradient boosting with settings that suit few rows and many."""
    categories = [
        not number and len(names) <= LEVELS for number, names in zip(rows.is_number, rows.labels, strict=True)
    ]
    leaf = 20 if n >= SMALL else 5
    return lambda: kind(
        max_iter=100, early_stopping=False, random_state=0, min_samples_leaf=leaf, categorical_features=categories
    )


def target(train: Cells, test: Cells, column: int) -> tuple[Metric, float]:
    """Score of gradient boosting that predicts a column of the test rows from the others, trained on other rows.

    Rows whose target is missing are left out.

    Returns:
        The name of the score and the score: R2 of numbers, AUC of two names, accuracy of more.
    Raises:
        ImportError: If scikit-learn is not installed.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    others = [i for i in range(len(train.names)) if i != column]
    gap = float(train.labels[column].index("")) if "" in train.labels[column] else math.nan
    train, test = (rows.rows(~np.isnan(y := rows.values[:, column]) & (y != gap)) for rows in (train, test))
    y, truth = train.values[:, column], test.values[:, column]
    x, z = train.columns(others), test.columns(others).values
    if train.is_number[column]:
        spread = float(((truth - truth.mean()) ** 2).sum()) if len(truth) else 0.0
        if len(y) < 10 or spread == 0.0:
            return "R2", 0.0
        guess = _boosting(HistGradientBoostingRegressor, x, len(y))().fit(x.values, y).predict(z)
        return "R2", 1.0 - float(((truth - guess) ** 2).sum()) / spread
    names = np.unique(truth)
    metric: Metric = "AUC" if len(names) == 2 else "accuracy"
    if len(np.unique(y)) < 2:
        return metric, 0.5 if metric == "AUC" else float((truth == y[:1]).mean()) if len(y) else 0.0
    model = _boosting(HistGradientBoostingClassifier, x, len(y))().fit(x.values, y)
    if metric == "accuracy":
        return metric, float((model.predict(z) == truth).mean())
    known = list(model.classes_)
    if names[1] not in known:
        return metric, 0.5
    chance = model.predict_proba(z)[:, known.index(names[1])]
    return metric, auc(chance[truth == names[1]], chance[truth == names[0]])


TARGETS = ("target", "class", "label", "outcome", "y")


def default_target(rows: Cells) -> int | None:
    """Number of the column that a target score predicts; None if there is one column alone.

    It is the one called target, class, label, outcome or y; else the last category with 2 to 50 names; else the last
    column.
    """
    if len(rows.names) < 2:
        return None
    lower = [name.lower() for name in rows.names]
    named = [lower.index(name) for name in TARGETS if name in lower]
    categories = [i for i, names in enumerate(rows.labels) if 2 <= len(set(names) - {""}) <= 50]
    return (named or categories[::-1] or list(range(len(rows.names)))[::-1])[0]


# Rows


def valid(rows: Cells, real: Cells) -> Array:
    """Whether each cell could stand in the real rows: booleans (N, D)."""
    found = np.ones(rows.values.shape, np.bool_)
    for i, is_number in enumerate(real.is_number):
        known, cell = real.values[:, i], rows.values[:, i]
        if not is_number:
            found[:, i] = np.isin(cell, known)
            continue
        numbers, gap = _there(known), np.isnan(cell)
        found[:, i] = gap & (len(numbers) < len(known))
        if len(numbers):
            digits = next((k for k in range(DECIMALS) if np.array_equal(np.round(numbers, k), numbers)), None)
            fits = (cell >= numbers.min()) & (cell <= numbers.max())
            found[:, i] |= fits if digits is None else fits & (np.round(cell, digits) == cell)
    return found


def nearest(rows: Cells, train: Cells) -> Array:
    """Distance of each row to the closest training row (:func:`gower`), in [0, 1]: (N,)."""
    return np.array([distance.min() for distance in gower(rows, train)])


def gower(rows: Cells, others: Cells) -> Iterator[Array]:
    """Distances of each row to M other rows, in [0, 1]: an array (M,) for each.

    It is the mean over the columns.  Of two numbers it is the difference of their ranks among the others, as a share of
    these; of a gap and a number 1, of two gaps 0; of different names 1.
    """
    a, b = np.empty(rows.values.shape, np.float32), np.empty(others.values.shape, np.float32)
    for i, is_number in enumerate(others.is_number):
        there = np.sort(_there(others.values[:, i]))
        for side, out in ((rows, a), (others, b)):
            column = side.values[:, i]
            if is_number:
                ranks = np.searchsorted(there, column, "left") + np.searchsorted(there, column, "right")
                column = np.where(np.isnan(column), np.nan, ranks / (2.0 * max(1, len(there))))
            out[:, i] = column
    gaps, names = np.isnan(b), ~others.is_number
    for i in range(len(a)):
        apart = np.abs(b - a[i])
        apart[:, names] = b[:, names] != a[i, names]
        missing = np.isnan(a[i])
        yield np.where(gaps | missing, gaps != missing, apart).sum(1).astype(np.float64) / max(1, len(others.names))


def keys(values: Array) -> Array:
    """A number for each row of (N, D), the same for rows that are equal in every cell and another for others: uint64.

    Two different rows have the same number with a probability of about 1e-19.
    """
    found = np.zeros(len(values), np.uint64)
    for column in values.T:
        column = column.astype(np.float64) + 0.0  # -0.0 is 0.0
        found ^= np.where(np.isnan(column), np.nan, column).view(np.uint64)
        for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 0x9E3779B97F4A7C15)):
            found ^= found >> np.uint64(shift)
            found *= np.uint64(factor)
    return found
