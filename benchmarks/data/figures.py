"""Figures of the page about the saved results, in the style of the reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bfn_toolkit.reports.panels import BLUE, ORANGE
from bfn_toolkit.reports.style import StyledFigure, style

from .common import Result, spread
from .images import bits

Bar = tuple[str, float, bool]  # name, height, whether it is ours


def write(results: Mapping[str, Result], folder: Path) -> None:
    """Writes all figures for which there are results."""
    folder.mkdir(parents=True, exist_ok=True)
    panels = {title: bars for title, bars in _prices(results) if any(ours for *_, ours in bars)}
    if panels:
        prices(panels).savefig(folder / "results_prices.png", dpi=90)
    tables = {kind: found for kind in ("grey", "binary") if (found := results.get(f"images-samplers-{kind}"))}
    if tables:
        samplers(tables).savefig(folder / "results_samplers.png", dpi=90)
    if "examples" in (found := results.get("points-molecules", {})):
        molecules(found["examples"]).savefig(folder / "results_molecules.png", dpi=75)


def _prices(results: Mapping[str, Result]) -> Iterator[tuple[str, list[Bar]]]:
    """Titles and bars of the panels."""
    of = results.get("images-baselines")
    for kind, unit, title in (
        ("binary", "nats", "Black and white images: nats"),
        ("bins", "bits", "256 bins: bits per dimension"),
    ):
        found = {minutes: results.get(f"images-{kind}-{minutes}") for minutes in (2, 4, 15)}
        ours = [
            (f"this, {minutes} min", spread([row["price"][unit] for row in result["rows"]])["mean"], True)
            for minutes, result in found.items()
            if result
        ]
        beside = [(name, x if unit == "nats" else bits(x), False) for name, x in (of or {}).get(kind, {}).items()]
        yield title, [*ours, *sorted(beside, key=lambda bar: bar[1])]
    if text := results.get("text"):
        rows = [*text["flow"][:1], *([results["text-long"]] if "text-long" in results else [])]
        ours = [(f"this, {row['seconds'] / 60:.0f} min", row["prices"]["infinity"]["bits"], True) for row in rows]
        peers = [(f"autoregressive, {r['seconds'] / 60:.0f} min", r["bits"], False) for r in text["autoregressive"]]
        grams = [(f"{k}-gram", row["bits"], False) for k, row in text["n-grams"].items()]
        yield "King James Version: bits per character", [*ours, *peers, *grams]
    if strings := results.get("strings"):
        found = {name: spread(values)["mean"] for name, values in strings["bits"].items()}
        names = {
            "bfn": f"this, {strings['minutes']:g} min",
            "autoregressive transformer, same blocks": "autoregressive",
        }
        order = sorted(found, key=lambda name: (name != "bfn", found[name]))
        yield "SMILES: bits per character", [(names.get(name, name), found[name], name == "bfn") for name in order]


@style()
def prices(panels: Mapping[str, Sequence[Bar]]) -> StyledFigure:
    """Bars of prices, of which the toolkit's have a colour of their own; shorter is better."""
    columns, rows = min(2, len(panels)), -(-len(panels) // 2)
    figure = StyledFigure(9.0, 2.6 * rows)
    for i, (title, bars) in enumerate(panels.items()):
        axis: Any = figure.add_subplot(rows, columns, i + 1)
        names, heights, ours = zip(*reversed(bars), strict=True)
        drawn = axis.barh(names, heights, color=[ORANGE if one else BLUE for one in ours])
        axis.bar_label(drawn, fmt=lambda x: f"{x:.3g}", padding=2, fontsize=7)
        axis.set_title(title)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.12)
    return figure


@style()
def samplers(tables: Mapping[str, Result]) -> StyledFigure:
    """Distance to held-out images by evaluations, for each sampler; dashed, that of other held-out images."""
    figure = StyledFigure(9.0, 3.6)
    for i, (kind, result) in enumerate(tables.items()):
        axis: Any = figure.add_subplot(1, len(tables), i + 1)
        for j, (name, row) in enumerate((name, row) for name, row in result["table"].items() if len(row) > 1):
            counts = sorted(row, key=int)
            heights = [row[count]["distance"] for count in counts]
            axis.semilogx([int(n) for n in counts], heights, marker="o", label=name, color=f"C{j}")
        axis.axhline(result["floor"]["distance"], color="black", linestyle="--", linewidth=1.0)
        axis.set(xlabel="evaluations of the network", title="grey" if kind == "grey" else "black and white")
        axis.set_ylim(bottom=0.0)
        axis.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        axis.minorticks_off()
        if not i:
            axis.set_ylabel("distance")
        axis.legend(fontsize=7)
    return figure


RADII = {"H": 0.31, "C": 0.76, "N": 0.71, "O": 0.66, "F": 0.57}  # covalent radii in Angstrom, Cordero et al. 2008
COLOURS = {"H": "white", "C": "0.4", "N": "tab:blue", "O": "tab:red", "F": "tab:green"}


@style()
def molecules(examples: Sequence[tuple[Sequence[str], Any]]) -> StyledFigure:
    """Molecules from their flattest side, with a line between atoms that are near enough for a bond."""
    figure = StyledFigure(8.0, 4.0)
    for i, (names, places) in enumerate(examples):
        x = np.array(places) - np.mean(places, 0)
        x = x @ np.linalg.svd(x)[2].T
        radii = np.array([RADII[name] for name in names])
        near = np.linalg.norm(x[:, None] - x, axis=-1) < 1.25 * (radii[:, None] + radii)
        axis: Any = figure.add_subplot(2, -(-len(examples) // 2), i + 1)
        for a, b in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            axis.plot(*x[[a, b], :2].T, color="0.6", linewidth=2.0, zorder=1)
        colours = [COLOURS[name] for name in names]
        axis.scatter(*x[:, :2].T, s=300.0 * radii, c=colours, edgecolor="black", linewidth=0.5, zorder=2)
        axis.set_aspect("equal")
        axis.axis("off")
        axis.margins(0.15)
    return figure
