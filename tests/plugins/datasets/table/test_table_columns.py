"""Columns as lines: cells come back to the character, in order, with their frequencies, and nothing else is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from bfn_files.tables import Texts
from bfn_table.columns import MOST_LEVELS, WRONG, Column, distinct, fit
from bfn_table.kinds import numbers_of, tell

KINDS = ("number", "integer", "category", "date", "datetime", "time")


def column_of(cells: Sequence[str], kind: str | None = None, rows: Any = None, bins: int = 12) -> Column:
    texts = Texts(*distinct(cells))
    told = tell("a", texts, lambda row: f"row {row}", kind)
    return fit(told, texts, np.arange(len(cells)) if rows is None else rows, bins)


def points(column: Column, n: int = 200) -> Any:
    """Points all over the line, with the ends of classes and of intervals."""
    x = np.random.default_rng(0).random(n) * column.classes
    ends = np.array([*column.edges, *range(column.classes)])
    x = np.concatenate([x, ends, np.nextafter(ends, np.inf), np.nextafter(ends[1:], 0.0)]).astype(np.float32)
    return np.minimum(x, np.nextafter(np.float32(column.classes), np.float32(0.0)))


@st.composite
def cells(draw: st.DrawFn, kind: str) -> list[str]:
    """Cells of one kind, from few values or many, some of them gaps."""
    decimals = draw(st.integers(0, 4))
    second = st.integers(0, 86_399).map(lambda s: f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}")
    day = st.dates().map(str)
    number = st.integers(-(10**6), 10**6).map(lambda i: f"{i / 10**decimals:.{decimals + 1}f}")
    value = {
        "number": draw(st.sampled_from([number, st.floats(-1e9, 1e9).map(lambda v: repr(v + 0.0))])),
        "integer": st.integers(-50, 50) | st.integers(-(2**50), 2**50) if draw(st.booleans()) else st.integers(0, 9),
        "category": st.text("abcAB é,;\"'=<>", min_size=1, max_size=4).filter(lambda text: text == text.strip()),
        "date": day,
        "datetime": st.builds("{} {}".format, day, second),
        "time": second,
    }[kind]
    many = draw(st.lists(value.map(str), min_size=2, max_size=60, unique=True))
    gap = draw(st.sampled_from([[], [], [""], ["NA", ""]]))
    repeated = draw(st.lists(st.sampled_from([*many, *gap]), max_size=100))
    return [*many, *repeated, *gap]


RESOLVED = 2**17  # texts between two levels that float32 tells apart, in a column of up to 64 classes


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data(), bins=st.integers(2, 40))
def test_cells_come_back_and_points_are_cells(kind: str, data: st.DataObject, bins: int) -> None:
    texts = data.draw(cells(kind))
    train = data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1).map(sorted))
    column = column_of(texts, kind, train, bins)
    assert column.edges[0] == 0.0
    assert column.edges[-1] == column.classes - bool(column.gaps)
    assert (np.diff(column.edges) > 0.0).all()
    assert column.classes >= 2
    if kind != "category":
        assert column.classes <= bins + bool(column.gaps)
    trained = [texts[i] for i in train]
    there = column.encode(trained)
    expected = [column.gaps[0] if text in column.gaps else text for text in trained]
    assert column.decode(there) == expected
    x = points(column)
    found = column.decode(x)
    again = column.encode(found)
    assert np.array_equal(np.floor(again), np.floor(x))
    widest = max(np.diff(column.values), default=0.0)
    if column.smooth and widest * 10**column.decimals > RESOLVED:
        # Between two levels so far apart, a place in float32 is less exact than the text.
        close = np.abs(column.encode(column.decode(again)) - again) <= 4 * np.spacing(np.float32(column.classes))
        assert bool((close | np.isnan(again)).all())
    else:
        assert column.decode(again) == found
    assert (column.log_width(x) <= 0.0).all()
    everything = set(texts) - set(column.gaps)
    if not column.smooth:
        assert set(found) <= {*everything, *column.gaps[:1]}
    if column.is_ordered:
        order = [i for i in np.argsort(x) if found[i] not in column.gaps]
        numbers = numbers_of([found[i] for i in order], column.kind, column.form)
        assert (np.diff(numbers) >= 0.0).all()
        assert column.values[0] <= numbers[0]
        assert numbers[-1] <= column.values[-1]
        places = np.unique(column.encode(trained))
        inside = column.encode(column.decode(places[:-1] + np.diff(places) / 2.0))
        assert ((places[:-1] <= inside) & (inside <= places[1:])).all()


@given(data=st.data(), bins=st.integers(2, 40))
def test_levels_share_a_class_by_their_frequencies(data: st.DataObject, bins: int) -> None:
    kind = data.draw(st.sampled_from(["integer", "category"]))
    texts = data.draw(cells(kind))
    column = column_of(texts, kind, bins=bins)
    if column.smooth or column.kind == "constant":
        return
    levels = sorted(set(texts) - set(column.gaps))
    places = column.encode(levels)
    counts = np.array([texts.count(level) for level in levels])
    classes = np.floor(places).astype(int)
    share = counts / np.bincount(classes, counts)[classes]
    assert np.allclose(np.exp(column.log_width(places)), share, atol=1e-6)
    every = [*places, *([column.classes - 0.5] if column.gaps else [])]
    assert np.isclose(np.exp(column.log_width(np.array(every))).sum(), column.classes, atol=1e-6)


@pytest.mark.parametrize("step", [1, 5])
def test_values_of_a_smooth_column_are_on_its_lattice_and_fill_the_line(step: int) -> None:
    rng = np.random.default_rng(0)
    integers = np.unique(rng.integers(0, 400, 180)) * step + 3
    texts = [f"{value / 10:.1f}" for value in rng.permutation([*integers, *[3] * 40])]
    column = column_of(texts)
    assert column.smooth
    assert column.edges[1] == 1.0  # the spike has its own class
    drawn = set(column.decode(points(column, 100_000)))
    lattice = [f"{value / 10:.1f}" for value in range(3, integers[-1] + 1, step)]
    assert drawn <= set(lattice)
    assert len(drawn - set(texts)) > 50  # values that no row has
    kept = [text for text in lattice if column.decode(column.encode([text])) == [text]]
    assert set(texts) <= set(kept)
    assert drawn <= set(kept)
    assert np.isclose(np.exp(column.log_width(column.encode(kept))).sum(), column.classes, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("normal", np.random.default_rng(1).standard_normal(9000)),
        ("heavy tails", np.random.default_rng(1).standard_cauchy(9000) ** 3),
        ("zeros", np.maximum(0.0, np.random.default_rng(1).standard_normal(9000))),
        ("log-normal", np.exp(8.0 + 3.0 * np.random.default_rng(1).standard_normal(9000)).round(2)),
    ],
)
def test_a_smooth_column_has_the_distribution_of_its_rows(name: str, values: Any) -> None:
    """The largest distance of the distribution functions; a draw of this size from the truth has 0.010 on average."""
    column = column_of([repr(value) for value in values.tolist()], bins=100)
    assert column.smooth
    assert len(column.values) <= MOST_LEVELS
    assert column.classes <= 100
    x = column.encode([repr(value) for value in values.tolist()])
    u = (np.arange(len(x)) + 0.5) / len(x)
    weights = np.bincount(np.floor(x).astype(int), minlength=column.classes) / len(x)
    before = np.append(0.0, np.cumsum(weights))
    k = (np.searchsorted(before, u, "right") - 1).clip(max=column.classes - 1)
    drawn = np.sort([float(text) for text in column.decode(k + (u - before[k]) / weights[k])])
    both = np.sort(np.concatenate([drawn, values]))
    ranks = [
        np.searchsorted(np.sort(sample), both, side) / len(x)
        for sample in (drawn, values)
        for side in ("left", "right")
    ]
    assert max(np.abs(ranks[0] - ranks[2]).max(), np.abs(ranks[1] - ranks[3]).max()) < 0.002


def test_repeated_values_come_back_to_the_last_digit_and_alone() -> None:
    values = [repr(value) for value in np.exp(np.random.default_rng(0).standard_normal(200)).tolist()]
    cells = np.random.default_rng(1).choice(values, 2000).tolist()
    column = column_of(cells, bins=50)
    assert not column.smooth
    assert column.decode(column.encode(cells)) == cells
    assert set(column.decode(points(column, 20_000))) == set(cells)


def test_values_of_other_rows_are_cells_of_little_width() -> None:
    cells = [*map(str, [*range(10)] * 20), "17", "99"]
    column = column_of(cells, rows=range(200), bins=40)
    places = column.encode(["17", "99", "50", "1000", "-3"])
    assert column.decode(places) == ["17", "99", "17", "99", "0"]  # the nearest
    many = column_of([*map(str, [*range(100), *[*range(50, 100)] * 9])], rows=range(50, 550), bins=5)
    assert not many.smooth
    unseen = np.exp(many.log_width(many.encode([str(i) for i in range(50)])))
    assert (unseen < 0.03 * np.exp(many.log_width(many.encode(["70"])))).all()


@pytest.mark.parametrize("bins", [2, 12, 100])
def test_heavy_values_have_classes_of_their_own(bins: int) -> None:
    cells = ["0"] * 700 + [str(i) for i in np.random.default_rng(0).integers(1, 300, 300)]
    column = column_of(cells, bins=bins)
    assert column.classes <= bins
    assert column.edges[:2] == (0.0, 1.0)


def test_a_class_less_joins_the_lightest() -> None:
    cells = [str(i) for i in range(13) for _ in range(100 if i % 2 else 10 + i)]
    column = column_of(cells, bins=12)
    assert column.classes == 12
    assert np.flatnonzero(np.diff(column.edges) < 1.0).tolist() == [0, 1]
    assert column_of(["1"] + ["2"] * 100 + ["3"], bins=2).classes == 2


def test_ten_thousand_names() -> None:
    rng = np.random.default_rng(0)
    names = [f"n{i}" for i in range(10_000)]
    cells = [*names, *rng.choice(names[:500], 20_000).tolist()]
    column = column_of(cells, "category")
    assert 64 <= column.classes < 70
    assert column.decode(column.encode(names)) == names
    assert set(column.decode(points(column, 20_000))) <= set(names)
    counts = np.array([cells.count(text) for text in column.texts[:63]])
    assert (np.diff(counts) <= 0).all()
    assert column_of(["b", "a", "c", "c"]).texts == ("c", "a", "b")


def test_a_column_with_one_level_is_constant() -> None:
    assert column_of(["1.0", "1.00", "1.0"], "number") == Column("a", "constant", texts=["1.0"])
    assert column_of(["x", "", "x"], "category").classes == 2


@pytest.mark.parametrize("bins", [100, 2000])
def test_thousands_of_classes(bins: int) -> None:
    rng = np.random.default_rng(0)
    values = [repr(value) for value in rng.standard_normal(3900).tolist()]
    for cells in (values, values * 3):
        column = column_of(cells, bins=bins)
        assert column.smooth == (len(cells) == len(values))
        assert 0.4 * min(bins, 975) < column.classes <= bins
        assert column.decode(column.encode(values)) == values


def test_numbers_that_stand_for_a_gap() -> None:
    texts = Texts(*distinct(["1", "2", "-999", "3", "2"]))
    column = fit(tell("a", texts, str, gaps=["-999"]), texts, range(5), 10)
    assert column.encode(["-999", "-5"]).tolist() == [3.5, 0.5]
    assert column.region("=", "-999") == [(3.0, 4.0)]
    assert column.region("<", "2") == [(0.0, 1.0)]


def test_texts_that_are_no_cells() -> None:
    column = column_of(["3", "4", "5"] * 9)
    places = column.encode(["x", "NA", "", None, " 4 ", "4.0", "1e1"])
    assert places[0] == WRONG
    assert np.isnan(places[1:4]).all()
    assert column.decode(places[4:]) == ["4", "4", "5"]
    assert re.search("column 'a': expected an integer such as 3, got 'x'", column.mistake("x"))
    names = column_of(["Adelie", "Gentoo", "NA", ""] * 5)
    assert names.encode(["null", "", " Gentoo ", "adelie"]).tolist() == [2.5, 2.5, 1.5, WRONG]
    assert "expected one of Adelie, Gentoo, got 'adelie'. Did you mean 'Adelie'?" in names.mistake("adelie")
