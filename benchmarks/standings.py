"""What was measured of the samplers, in tables, verdicts and a figure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .page import machine

Found = Mapping[str, Sequence[float]]  # what each draw gave, by the name of the distance
DRAWN = {  # in the figure
    "ancestral": ("#8a8a8a", "o"),
    "ode-2, log-snr": ("#ff725c", "s"),
    "sde-2, log-snr": ("#4269d0", "o"),
    "sde-2 (signal), log-snr": ("#9467bd", "^"),
    "ode-2, uniform from 0.001": ("#c9a227", "x"),
    "flow matching, Euler": ("#3ca951", "v"),
    "flow matching, midpoint": ("#3ca951", "D"),
}


@attrs.frozen
class Row:
    """One line of a table.

    Arguments:
        name: What was sampled, and how.
        cells: By the number of evaluations, "" for data; the first distance at all, the others where they were asked.
    """

    name: str
    cells: Mapping[str, Found]

    def at(self, evaluations: int | str) -> float | None:
        """Mean of the first distance over the draws, if it was measured."""
        found = self.cells.get(str(evaluations))
        return None if found is None else statistics.fmean(next(iter(found.values())))


def _figures(values: Sequence[float], spread: bool) -> str:
    mean = statistics.fmean(values)
    digits = 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if spread else "")


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown: mean and standard deviation over the draws; then the other distances at 10 evaluations."""
    columns = sorted({key for row in rows for key in row.cells if key}, key=int)
    first, *others = rows[0].cells[""]
    head = [f"{first}, at", *columns, *(f"{name} at 10" for name in others)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        data = row.cells.get("")
        found = [row.cells.get(column, data) for column in columns]
        cells = [_figures(cell[first], spread=True) if cell else "" for cell in found]
        more = row.cells.get("10", data) or {}
        cells += [_figures(more[name], spread=False) if name in more else "" for name in others]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _goal(name: str, what: str, value: float, limit: float) -> str:
    """A line of the table of goals; NaN, where a data set was left out, is no miss."""
    if math.isnan(value) or math.isnan(limit):
        return f"| {name} | {what} | | | not measured |"
    met = "met" if value <= limit else f"**missed** by {value / limit - 1.0:.1%}"
    return f"| {name} | {what} | {value:.3f} | {limit:.3f} | {met} |"


def goals(tables: Mapping[str, Sequence[Row]], runs: Found) -> Iterator[str]:
    """What was to be reached, and whether it is: lines of a table."""
    named = {subject: {row.name: row for row in rows} for subject, rows in tables.items()}

    def value(subject: str, name: str, evaluations: int) -> float:
        found = named[subject][name].at(evaluations) if name in named.get(subject, {}) else None
        return float("nan") if found is None else found

    for subject, goal, evaluations, peer in (
        ("digits", "Q1", 10, 100),
        ("digits", "Q1, further", 5, 100),
        ("Markov chain", "Q2", 10, 50),
    ):
        limit = value(subject, "ancestral", peer)
        what = f"{subject}: the default at {evaluations}, no more than ancestral at {peer}"
        yield _goal(goal, what, value(subject, "default", evaluations), limit)
    for subject in ("ring of eight Gaussians", "digits"):
        starts = [value(subject, f"ode-2, log-snr from {start}", 10) for start in ("0.01", "0.001", "0.0001")]
        what = f"{subject}: `ode-2` on log-snr at 10, worst to best of the starts 0.01, 0.001 and 0.0001"
        yield _goal("Q3", what, max(starts) / min(starts), 1.15)
    for sampler in ("ode-2", "sde-2"):
        for evaluations, limit in ((5, 0.60), (10, 0.55)):
            what = f"digits: `{sampler}` on log-snr at {evaluations}"
            yield _goal("reference", what, value("digits", f"{sampler}, log-snr", evaluations), limit)
    if not runs:
        return
    what = f"default run: median W1 of 1,000 samples at 10 to the data, of {len(runs['W1'])} seeds"
    yield _goal("default", what, statistics.median(runs["W1"]), 0.03)
    worst = max(abs(share - 0.25) for share in runs["share"])
    yield _goal("default", "default run: worst error of a mode's share at 10, of all seeds", worst, 0.06)


def page(tables: Mapping[str, Sequence[Row]], runs: Found, command: str) -> str:
    """Verdicts, then one table for each data set."""
    lines = ["| goal | what | found | at most | |", "|---|---|---|---|---|", *goals(tables, runs)]
    parts = [f"Made by `OMP_NUM_THREADS=1 {command}` on {machine()}.", "\n".join(lines)]
    for subject, rows in tables.items():
        parts += [f"### {subject[0].upper()}{subject[1:]}", table(rows)]
    return "\n\n".join(parts)


_MEASURED = re.compile(r"<!-- begin quality -->.*?<!-- end quality -->", re.S)


def write(path: Path, text: str) -> None:
    """Puts the text between the marks of a page."""
    before = path.read_text()
    if not _MEASURED.search(before):
        raise SystemExit(f"{path} has no marks <!-- begin quality --> and <!-- end quality -->")
    path.write_text(_MEASURED.sub(lambda _: f"<!-- begin quality -->\n{text}\n<!-- end quality -->", before))


def figure(tables: Mapping[str, Sequence[Row]]) -> Figure:
    """The first distance against the evaluations, with that of fresh data as a line; one panel for each data set."""
    shown = {subject: rows for subject, rows in tables.items() if not subject.startswith("ring")}
    lines = -(-len(shown) // 2)
    drawing = Figure(figsize=(9.0, 0.5 + 3.0 * lines), dpi=110, layout="constrained")
    for i, (subject, rows) in enumerate(shown.items()):
        axis = drawing.add_subplot(lines, 2, i + 1)
        axis.spines[["top", "right"]].set_visible(False)
        floor = rows[0].at("")
        assert floor is not None
        if floor > 0.01:  # an excess is about 0 for fresh data, and may be below
            axis.axhline(floor, color="black", lw=0.8, ls=":", label="fresh data")
        # What is worse than the ancestral sampler in 3 evaluations would press the others flat.
        ceiling = max((row.at("3") or math.inf for row in rows if row.name == "ancestral"), default=math.inf)
        for row in rows:
            values = [row.at(key) or 0.0 for key in row.cells if key]
            if row.name in DRAWN and values and max(values) <= ceiling:
                colour, mark = DRAWN[row.name]
                axis.plot(
                    [int(key) for key in row.cells if key],
                    values,
                    color=colour,
                    marker=mark,
                    ms=4,
                    lw=1.2,
                    label=row.name,
                )
        axis.set(xscale="log", yscale="log", title=subject, xlabel="evaluations", ylabel=next(iter(rows[0].cells[""])))
        axis.set_xticks([3, 5, 10, 20, 50, 100], ["3", "5", "10", "20", "50", "100"])
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes = drawing.axes
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return drawing
