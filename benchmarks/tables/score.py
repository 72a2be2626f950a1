"""``python -m benchmarks.tables.score TRAIN TEST SAMPLES --target COLUMN``: how near samples are to real rows.

Fidelity is measured against the test rows, so that a copy of the training rows gains nothing; nearness to the training
rows is a measure of its own.  A column is of numbers if every cell of its training rows that is not empty is a number;
all others are of names, in which a gap is one more name.  The measures:

* ``w1``: mean over the numbers of the Wasserstein distance, in standard deviations of the training rows;
* ``tv``: mean over the names of half the L1 distance of the shares;
* ``gaps``: mean error of the share of gaps of the numbers;
* ``association_mean``, ``association_max``: errors of a matrix of all pairs: Spearman's correlation of two numbers, the
  correlation ratio (of ranks) of a number and a name, Cramer's V of two names; gaps of a number are a name here;
* ``c2st``: area under the ROC curve of a classifier of samples and test rows, by five folds; 0.5 cannot be told apart;
* ``target``: score on the test rows of a model of the target that is trained on the samples, and ``target_real`` on the
  training rows: area under the ROC curve of two names, accuracy of more, R2 of numbers;
* ``dcr``: median distance of samples to the nearest training row, in that of the test rows; less than 1 leans on them;
* ``copies``, ``copies_test``: share of samples, and of test rows, that are equal to a training row;
* ``valid``: share of samples whose names and ranges occur in the real rows, and whose integers are integers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wasserstein_distance
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from .data import Texts, read

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

DIGITS = 9  # significant ones, so that the spelling of a number makes no difference
MOST_NAMES = 200  # of a column that trees treat as names; more are treated as numbers
NEAREST_ROWS = 1000  # for distances to the training rows


@attrs.frozen
class Rows:
    """Numbers with NaN in gaps, shape (N, numbers), and codes of names with 0 in gaps, shape (N, names)."""

    numbers: Floats
    names: Codes

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: NDArray[Any]) -> Rows:
        return Rows(self.numbers[index], self.names[index])


def number(text: str) -> float | None:
    """The number in a cell, NaN for an empty one, None for other text."""
    try:
        return float(text) if text else np.nan
    except ValueError:
        return None


def are_numbers(cells: Sequence[str]) -> bool:
    """Whether all cells of a column are numbers or empty."""
    return all(number(cell) is not None for cell in cells)


def coded(*tables: Texts) -> tuple[list[Rows], list[str], list[str]]:
    """Tables with the columns of the first one, and the columns that are numbers and names.

    Codes are places in the sorted names of all tables; 0 is that of an empty cell.
    """
    first = tables[0]
    for table in tables[1:]:
        if missing := [name for name in first if name not in table]:
            raise SystemExit(f"the samples lack the columns {missing}")
    numbers = [name for name, cells in first.items() if are_numbers(cells)]
    names = [name for name in first if name not in numbers]

    def rounded(cell: str) -> float:
        value = number(cell)
        return float(f"{value:.{DIGITS}g}") if value is not None and np.isfinite(value) else np.nan

    places = {}
    for name in names:
        levels = sorted({""}.union(*(table[name] for table in tables)))  # the empty text is the first
        places[name] = {level: place for place, level in enumerate(levels)}
    rows = []
    for table in tables:
        n = len(next(iter(table.values())))
        values = [[rounded(cell) for cell in table[name]] for name in numbers]
        codes = [[places[name][cell] for cell in table[name]] for name in names]
        rows.append(
            Rows(
                np.array(values, np.float64).reshape(len(numbers), n).T.copy(),
                np.array(codes, np.int64).reshape(len(names), n).T.copy(),
            )
        )
    return rows, numbers, names


def present(values: Floats) -> Floats:
    """The values that are no gaps."""
    return values[~np.isnan(values)]


def distance(real: Floats, drawn: Floats, scale: float) -> float:
    """Wasserstein distance of two columns in a scale; nine scales if nothing was drawn."""
    real, drawn = present(real), present(drawn)
    return float(wasserstein_distance(real, drawn)) / scale if len(drawn) else 9.0


def total_variation(real: Codes, drawn: Codes) -> float:
    """Half the L1 distance of the shares of names."""
    size = int(max(real.max(), drawn.max())) + 1
    shares = [np.bincount(codes, minlength=size) / len(codes) for codes in (real, drawn)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's correlation, 0 of a constant."""
    ranks = rankdata(x), rankdata(y)
    if not ranks[0].std() or not ranks[1].std():
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def correlation_ratio(x: Floats, group: Codes) -> float:
    """Standard deviation of the mean ranks of the groups, in that of the ranks."""
    ranks = rankdata(x)
    variance = ranks.var()
    if not variance:
        return 0.0
    counts = np.bincount(group)
    means = np.bincount(group, ranks) / np.maximum(counts, 1)
    return float(np.sqrt(means[group].var() / variance))


def cramer(a: Codes, b: Codes) -> float:
    """Cramer's V, 0 if one of the columns is constant."""
    (levels, rows), (others, columns) = (np.unique(codes, return_inverse=True) for codes in (a, b))
    least = min(len(levels), len(others))
    if least < 2:
        return 0.0
    table = np.zeros((len(levels), len(others)))
    np.add.at(table, (rows, columns), 1.0)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / len(a)
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / len(a) / (least - 1)))


def associations(rows: Rows) -> Floats:
    """Association of each pair of columns, over the rows in which neither number is a gap."""
    known = ~np.isnan(rows.numbers)
    n, m = rows.numbers.shape[1], rows.names.shape[1]
    found = []
    for i in range(n):
        x = rows.numbers[:, i]
        for j in range(i + 1, n):
            both = known[:, i] & known[:, j]
            found.append(spearman(x[both], rows.numbers[both, j]) if both.sum() >= 5 else 0.0)
        for j in range(m):
            both = known[:, i]
            found.append(correlation_ratio(x[both], rows.names[both, j]) if both.sum() >= 5 else 0.0)
    enough = len(rows) >= 5
    found += [cramer(rows.names[:, i], rows.names[:, j]) if enough else 0.0 for i in range(m) for j in range(i + 1, m)]
    return np.array(found)


def with_flags(rows: Rows, flagged: NDArray[np.bool_]) -> Rows:
    """The rows with the gaps of some numbers as further names."""
    return Rows(rows.numbers, np.column_stack([rows.names, np.isnan(rows.numbers[:, flagged])]).astype(np.int64))


def shuffled(rows: Rows, n: int, generator: np.random.Generator) -> Rows:
    """The first n rows of a permutation."""
    return rows[generator.permutation(len(rows))[:n]]


def features(rows: Sequence[Rows]) -> Floats:
    """Rows of several tables one below the other, as an input of boosting."""
    return np.concatenate([np.column_stack([r.numbers, r.names]) for r in rows])


def gaps(x: Floats, numbers: int) -> NDArray[np.bool_]:
    """Which cells of an input, whose first columns are numbers, are gaps."""
    return np.column_stack([np.isnan(x[:, :numbers]), x[:, numbers:] == 0])


def boosting(kind: Any, n: int, numbers: int, x: Floats) -> Any:
    """Gradient boosting for n training rows, whose first columns are numbers; x are all rows it will see."""
    few = [len(np.unique(codes)) <= MOST_NAMES for codes in x.T[numbers:]]
    return kind(
        max_iter=100,
        learning_rate=0.1,
        early_stopping=False,
        random_state=0,
        min_samples_leaf=20 if n >= 500 else 5,
        categorical_features=np.array([False] * numbers + few),
    )


def two_sample(real: Rows, drawn: Rows) -> float:
    """Area under the ROC curve of a classifier of drawn and real rows, as many of each."""
    n, generator = min(len(real), len(drawn)), np.random.default_rng(0)
    x = features([shuffled(rows, n, generator) for rows in (real, drawn)])
    y = np.repeat([0.0, 1.0], n)
    model = boosting(HistGradientBoostingClassifier, n, real.numbers.shape[1], x)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    chance = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
    return float(roc_auc_score(y, chance[:, 1]))


def learned_target(train: Rows, test: Rows, column: int) -> float:
    """Score on the test rows of a model of a column, of the numbers and then the names, that other rows have trained.

    Rows in which the column is a gap are left out.
    """
    numbers = train.numbers.shape[1]
    of_numbers = column < numbers
    tables = [features([rows]) for rows in (train, test)]
    tables = [rows[~gaps(rows, numbers)[:, column]] for rows in tables]
    (y, truth), x = (rows[:, column] for rows in tables), np.delete(np.concatenate(tables), column, 1)
    n, names = len(y), np.unique(truth)
    if of_numbers and n < 10:
        return 0.0
    if not of_numbers and len(np.unique(y)) < 2:
        return 0.5 if len(names) == 2 or not n else float((truth == y[0]).mean())
    kind = HistGradientBoostingRegressor if of_numbers else HistGradientBoostingClassifier
    model = boosting(kind, n, numbers - of_numbers, x).fit(x[:n], y)
    if of_numbers:
        return float(r2_score(truth, model.predict(x[n:])))
    if len(names) != 2:
        return float(accuracy_score(truth, model.predict(x[n:])))
    place = np.flatnonzero(model.classes_ == names[1])
    return float(roc_auc_score(truth == names[1], model.predict_proba(x[n:])[:, place[0] if len(place) else 0]))


def nearest(rows: Rows, train: Rows) -> Floats:
    """Mean over the columns of the distance to the nearest training row.

    Numbers are at the distance of their ranks among the training rows, in shares; names, and a gap and a number, are
    equal or at the distance 1.
    """
    ranks = []
    for column, values in enumerate(train.numbers.T):
        order = np.sort(present(values))

        def rank(x: Floats, order: Floats = order) -> Floats:
            below = np.searchsorted(order, x, "left") + np.searchsorted(order, x, "right")
            return np.where(np.isnan(x), np.nan, below / (2 * max(len(order), 1))).astype(np.float32)

        ranks.append((rank(rows.numbers[:, column]), rank(values)))
    found = np.empty(len(rows))
    for i in range(len(rows)):
        total = (train.names != rows.names[i]).sum(1).astype(np.float32)
        for mine, others in ranks:
            if np.isnan(mine[i]):
                total += ~np.isnan(others)
            else:
                total += np.nan_to_num(np.abs(others - mine[i]), nan=1.0)
        found[i] = total.min()
    return found / (train.numbers.shape[1] + train.names.shape[1])


def keys(rows: Rows) -> list[bytes]:
    """Equal for equal rows."""
    numbers = np.nan_to_num(rows.numbers, nan=np.inf) + 0.0  # one zero, one gap
    return [a.tobytes() + b.tobytes() for a, b in zip(numbers, rows.names, strict=True)]


def valid(rows: Rows, train: Rows, test: Rows) -> float:
    """Share of rows whose names and ranges occur in the real rows, and whose integers are integers."""
    good = np.ones(len(rows), bool)
    for column, values in enumerate(rows.numbers.T):
        real = np.concatenate([train.numbers[:, column], test.numbers[:, column]])
        gap, known = np.isnan(values), present(real)
        inside = (values >= known.min(initial=np.inf)) & (values <= known.max(initial=-np.inf))
        if not (present(train.numbers[:, column]) % 1).any():
            inside &= values % 1 == 0
        good &= inside | (gap & bool(np.isnan(real).any()))
    for column, codes in enumerate(rows.names.T):
        good &= np.isin(codes, np.concatenate([train.names[:, column], test.names[:, column]]))
    return float(good.mean())


def score(train: Texts, test: Texts, drawn: Texts, target: str) -> dict[str, float]:
    """All measures of samples, by name."""
    (fit, real, rows), numbers, names = coded(train, test, drawn)
    scales = [np.std(present(values), ddof=1) or 1.0 for values in fit.numbers.T]
    pairs = list(zip(real.numbers.T, rows.numbers.T, strict=True))
    empty = [np.isnan(part.numbers).mean(0) for part in (fit, real, rows)]
    errors = np.abs(empty[1] - empty[2])[(empty[0] > 0) | (empty[2] > 0)]
    n = min(len(real), len(rows))
    equal = [shuffled(part, n, np.random.default_rng(0)) for part in (real, rows)]  # V and ratios grow on few rows
    matrices = [associations(with_flags(part, empty[0] >= 0.01)) for part in equal]
    error = np.abs(matrices[0] - matrices[1])
    column = [*numbers, *names].index(target)
    distances = [nearest(shuffled(part, NEAREST_ROWS, np.random.default_rng(0)), fit) for part in (rows, real)]
    known = set(keys(fit))
    copies = [float(np.mean([key in known for key in keys(part)])) for part in (rows, real)]
    found = {
        "w1": np.mean([distance(*pair, scale) for pair, scale in zip(pairs, scales, strict=True)]) if numbers else 0.0,
        "tv": np.mean([total_variation(a, b) for a, b in zip(real.names.T, rows.names.T, strict=True)])
        if names
        else 0.0,
        "gaps": errors.mean() if len(errors) else 0.0,
        "association_mean": error.mean() if len(error) else 0.0,
        "association_max": error.max(initial=0.0),
        "c2st": two_sample(real, rows),
        "target": learned_target(rows, real, column),
        "target_real": learned_target(fit, real, column),
        "dcr": np.median(distances[0]) / max(np.median(distances[1]), 1e-9),
        "copies": copies[0],
        "copies_test": copies[1],
        "valid": valid(rows, fit, real),
    }
    return {name: round(float(value), 5) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables.score", description=__doc__)
    parser.add_argument("files", nargs=3, type=Path)
    parser.add_argument("--target", required=True)
    options = parser.parse_args()
    print(json.dumps(score(*map(read, options.files), options.target)))


if __name__ == "__main__":
    main()
