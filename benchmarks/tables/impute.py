"""Filling gaps: a fifth of the cells of the test rows is hidden, and filled by what the training rows taught.

``nrmse`` is the mean over the numbers of the root of the mean squared error, in standard deviations of the training
rows; ``accuracy`` is the share of the names that are right.  ``coverage`` is that of intervals of 90 % of several
draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from .data import Texts
from .score import boosting, coded, features, gaps, present

HIDDEN, SEED = 0.2, 0
DRAWS = 19  # a value is as likely at each of 20 places among them, so that their range is an interval of 90 %
ROUNDS, TREES = 5, 50


def gapped(test: Texts) -> tuple[Texts, dict[str, NDArray[np.bool_]]]:
    """The table with cells hidden at random, and which ones."""
    generator = np.random.default_rng(SEED)
    table, places = {}, {}
    for name, cells in test.items():
        hidden = (generator.uniform(size=len(cells)) < HIDDEN) & np.array([cell != "" for cell in cells])
        table[name] = ["" if h else cell for cell, h in zip(cells, hidden, strict=True)]
        places[name] = hidden
    return table, places


def errors(train: Texts, test: Texts, filled: Sequence[Texts]) -> dict[str, float]:
    """Scores of one filled table or of several draws, of which the mean and the most frequent name count."""
    (fit, truth, *draws), numbers, names = coded(train, test, *filled)
    _, places = gapped(test)
    distances, right, covered = [], [], []
    generator = np.random.default_rng(SEED)
    for column, name in enumerate(numbers):
        real = truth.numbers[places[name], column]
        found = np.stack([rows.numbers[places[name], column] for rows in draws])
        scale = np.std(present(fit.numbers[:, column]), ddof=1) or 1.0
        usual = present(fit.numbers[:, column]).mean()
        found = np.where(np.isnan(found), usual, found)
        if len(real):
            distances.append(np.sqrt(np.mean((found.mean(0) - real) ** 2)) / scale)
            below, equal = (found < real).sum(0), (found == real).sum(0)
            place = below + np.floor(generator.uniform(size=len(real)) * (equal + 1))  # ties in any order
            covered.append(np.mean((place > 0) & (place < len(found))))
    for column, name in enumerate(names):
        real = truth.names[places[name], column]
        found = np.stack([rows.names[places[name], column] for rows in draws])
        if len(real):
            modes = [np.bincount(cells).argmax() for cells in found.T]
            right.extend(modes == real)
    scores = {"nrmse": np.mean(distances)} if distances else {}
    if right:
        scores["accuracy"] = np.mean(right)
    if len(draws) == DRAWS and covered:
        scores["coverage"] = np.mean(covered)
    return {name: round(float(value), 5) for name, value in scores.items()}


def usual(train: Texts, table: Texts) -> Texts:
    """The table with the mean of the numbers and the most frequent name in its gaps."""
    (fit, _), numbers, _ = coded(train, table)
    found = {}
    for name, cells in table.items():
        if name in numbers:
            value = repr(float(present(fit.numbers[:, numbers.index(name)]).mean()))
        else:
            value = Counter(cell for cell in train[name] if cell).most_common(1)[0][0]
        found[name] = [cell or value for cell in cells]
    return found


def boosted(of_numbers: bool, n: int, numbers: int, x: Any, levels: int) -> Any:
    """Gradient boosting, with fewer rounds for many names, for each of which it grows a tree."""
    kind = HistGradientBoostingRegressor if of_numbers else HistGradientBoostingClassifier
    return boosting(kind, n, numbers, x).set_params(max_iter=max(10, min(100, 1000 // levels)))


def forest(of_numbers: bool, *_: Any) -> Any:
    """A random forest."""
    return (RandomForestRegressor if of_numbers else RandomForestClassifier)(TREES, random_state=SEED)


def predicted(train: Texts, table: Texts, make: Callable[..., Any], rounds: int) -> Texts:
    """The table with gaps predicted from the other cells by a model for each column, in one round or several.

    In one round the models read the gaps as they are; in several they read what was filled in before, at first the
    usual values (missForest, Stekhoven and Buehlmann 2012).
    """
    raw, numbers, names = coded(train, table)
    n = len(numbers)
    known, open_ = (features([rows]) for rows in raw)
    empty, hidden = gaps(known, n), gaps(open_, n)
    if rounds > 1:
        known_filled, open_filled = (features([rows]) for rows in coded(usual(train, train), usual(train, table))[0])
    else:
        known_filled, open_filled = known, open_
    found, models = open_.copy() if rounds == 1 else open_filled, dict[int, Any]()
    for _ in range(rounds):
        for column in np.flatnonzero(hidden.any(0)):
            there, gap = ~empty[:, column], hidden[:, column]
            y = known[there, column]
            x, asked = (np.delete(part, column, 1) for part in (known_filled[there], open_filled[gap]))
            if column not in models:
                of_numbers = column < n
                model = make(of_numbers, len(y), n - of_numbers, np.concatenate([x, asked]), len(np.unique(y)))
                models[column] = model.fit(x, y)
            found[gap, column] = models[column].predict(asked)
    filled = dict(table)
    for column in np.flatnonzero(hidden.any(0)):
        name = [*numbers, *names][column]
        levels = sorted({"", *train[name], *table[name]})
        texts = [repr(float(v)) if column < n else levels[int(v)] for v in found[:, column]]
        filled[name] = [cell or text for cell, text in zip(table[name], texts, strict=True)]
    return filled


IMPUTERS: dict[str, Callable[[Texts, Texts], Texts]] = {
    "mean-or-mode": usual,
    "boosting": lambda train, table: predicted(train, table, boosted, 1),
    "forests": lambda train, table: predicted(train, table, forest, ROUNDS),
}
