"""Figures of a table: its columns, samples beside real rows, and the associations of its pairs of columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bfn_toolkit.data.typed_columns import Array, TypedTable, typed_joined
from bfn_toolkit.evaluation import tables
from bfn_toolkit.evaluation.table_quality import associations, worst_columns
from bfn_toolkit.evaluation.tables import Cells
from bfn_toolkit.reports.panels import BLUE, ORANGE, one_line, printed
from bfn_toolkit.reports.style import StyledFigure, style

SHOWN, ACROSS = 12, 4  # largest number of columns that are drawn, and of panels side by side
TITLE, LABEL = 28, 20  # largest number of letters of the name of a column
BARS, NAMES = 8, 12  # largest number of names with a bar of their own, and of letters of a name
BINS = 30  # largest number of bins of a histogram
TAIL = 0.005  # share of the real numbers beyond each end of a histogram, which counts them in its last bins
MATRIX = 24  # largest number of columns of a matrix
GAP = "(gap)"


@style()
def columns_figure(samples: TypedTable, train: TypedTable, held_out: TypedTable) -> StyledFigure:
    """Each column of samples and of real rows: histograms of numbers, bars of names, the gap as a bar of its own.

    At most 12 columns, those first that are farthest above their floor.
    """
    sampled, every, chosen = _shown(samples, train, held_out)
    across = min(ACROSS, len(chosen))
    down = math.ceil(len(chosen) / across)
    figure = StyledFigure(2.4 * across + 0.2, 1.9 * down + 0.45)
    for place, i in enumerate(chosen):
        _draw_column(figure.add_subplot(down, across, place + 1), every, sampled, i)
    handles = [
        Patch(color=BLUE, alpha=0.45, label=f"{len(every):,} real rows"),
        Patch(color=ORANGE, label=f"{len(sampled):,} samples", fill=False),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def column_figures(samples: TypedTable, train: TypedTable, held_out: TypedTable) -> Iterator[tuple[str, StyledFigure]]:
    """The columns of :func:`columns_figure` by name, each in a figure of its own."""
    sampled, every, chosen = _shown(samples, train, held_out)
    for i in chosen:
        with style():
            figure = StyledFigure(2.1, 1.7)
            _draw_column(figure.add_subplot(), every, sampled, i)
        yield every.names[i], figure


def _shown(samples: TypedTable, train: TypedTable, held_out: TypedTable) -> tuple[Cells, Cells, list[int]]:
    """Samples, all real rows, and the columns to draw, those first that are farthest above their floor."""
    sampled, known, real = tables.cells(samples, train, held_out)
    (every,) = tables.cells(typed_joined([train, held_out]))
    return sampled, every, worst_columns(sampled, known, real)[:SHOWN]


def _draw_column(axis: Axes, every: Cells, sampled: Cells, i: int) -> None:
    sides = every.values[:, i], sampled.values[:, i]
    if every.is_number[i]:
        _draw_numbers(axis, *sides)
    else:
        # Samples have other numbers for the names, if they have others than the real rows.
        _draw_names(axis, [_texts(rows.labels[i], side) for rows, side in zip((every, sampled), sides, strict=True)])
    axis.set_title(printed(one_line(every.names[i], TITLE)), fontsize=8)
    axis.tick_params(labelsize=6)


def _texts(names: Sequence[str], numbers: Array) -> Array:
    return np.array(names, object)[numbers.astype(np.int64)]


def _draw_numbers(axis: Axes, real: Array, sampled: Array) -> None:
    edges = _edges(real[~np.isnan(real)])
    gaps = [float(np.isnan(side).mean()) for side in (real, sampled)]
    heights = [
        np.histogram(np.clip(side[~np.isnan(side)], edges[0], edges[-1]), edges)[0] / max(1, len(side))
        for side in (real, sampled)
    ]
    axis.stairs(heights[0], edges, fill=True, color=BLUE, alpha=0.45)
    axis.stairs(heights[1], edges, color=ORANGE, lw=1.2)
    if any(gaps):
        span = edges[-1] - edges[0]
        left, right = edges[-1] + 0.08 * span, edges[-1] + 0.16 * span
        axis.stairs(gaps[:1], [left, right], fill=True, color=BLUE, alpha=0.45)
        axis.stairs(gaps[1:], [left, right], color=ORANGE, lw=1.2)
        axis.annotate("gap", (0.5 * (left + right), max(gaps)), ha="center", va="bottom", fontsize=6)
    axis.set_yticks([])
    axis.locator_params(axis="x", nbins=4)


def _edges(numbers: Array) -> Array:
    """Ends of the bins of numbers; those of integers hold equally many each."""
    if not len(numbers):
        return np.array([0.0, 1.0])
    low, high = np.quantile(numbers, [TAIL, 1.0 - TAIL])
    bins = min(BINS, max(8, math.ceil(2.0 * len(numbers) ** (1 / 3))))  # Rice's rule
    if np.array_equal(numbers, np.round(numbers)):
        low, high = math.floor(low), math.ceil(high)
        return np.arange(low, high + (width := max(1, math.ceil((high - low + 1) / bins))) + 1, width) - 0.5
    return np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])


def _draw_names(axis: Axes, sides: Sequence[Array]) -> None:
    shares = []
    for side in sides:
        names, counts = np.unique(side.astype(str), return_counts=True)
        shares.append(dict(zip(names.tolist(), (counts / len(side)).tolist(), strict=True)))
    order = sorted(shares[0] | shares[1], key=lambda name: -shares[0].get(name, 0.0))
    shown = order if len(order) <= BARS else order[: BARS - 1]
    labels = [one_line(name, NAMES) if name else GAP for name in shown]
    heights = [[share.get(name, 0.0) for name in shown] for share in shares]
    if len(shown) < len(order):
        labels.append(f"{len(order) - len(shown)} others")
        for height, share in zip(heights, shares, strict=True):
            height.append(1.0 - sum(height) if share else 0.0)
    places = np.arange(len(labels))[::-1]
    axis.barh(places, heights[0], height=0.8, color=BLUE, alpha=0.45)
    axis.barh(places, heights[1], height=0.8, fill=False, edgecolor=ORANGE, lw=1.2)
    axis.set_yticks(places, [printed(label) for label in labels])
    axis.locator_params(axis="x", nbins=4)


@style()
def pairs_figure(samples: TypedTable, train: TypedTable, held_out: TypedTable) -> StyledFigure:
    """Associations of the pairs of columns in real rows and in samples, and their difference, as three matrices.

    At most 24 columns, those that are farthest above their floor, in the order of the table, which has two or more.
    """
    rows = tables.cells(samples, train, held_out)
    chosen = sorted(worst_columns(*rows)[:MATRIX])
    sampled, known, real = (side.columns(chosen) for side in rows)
    found = associations(sampled, known, real)
    names = tables.with_gap_flags(known.rows(slice(0)), tables.has_gaps(known)).names
    (data,), drawn = found["data"], np.mean(found["samples"], 0)
    floor = float(np.mean([np.abs(block - data)[np.triu_indices(len(names), 1)].mean() for block in found["real"]]))
    error = float(np.abs(drawn - data)[np.triu_indices(len(names), 1)].mean())
    labels = [printed(one_line(name, LABEL)) for name in names]
    letters = max(4.0, min(7.0, 90.0 / len(names)))  # points
    size, room = min(3.6, 1.2 + 0.14 * len(names)), 0.0105 * letters * max(map(len, labels))  # inches
    figure = StyledFigure(3.0 * size + room + 1.0, size + room + 0.45)
    panels = (
        ("real rows", data),
        ("samples", drawn),
        (f"difference: {error:.3f} on average\n(two sets of real rows: {floor:.3f})", drawn - data),
    )
    for place, (title, matrix) in enumerate(panels):
        axis = figure.add_subplot(1, 3, place + 1)
        picture = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=8)
        axis.tick_params(length=0, labelsize=letters)
        axis.set_xticks(range(len(names)), labels, rotation=90)
        axis.set_yticks(range(len(names)), labels if not place else [])
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=figure.axes, shrink=0.7, pad=0.01)
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
    return figure
