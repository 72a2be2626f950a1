"""Figures are ours whatever the user's settings of matplotlib are, and leave these as they were."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import BFN, seeded
from bfn_toolkit.data.typed_columns import TypedColumn, TypedTable
from bfn_toolkit.reports import animation
from bfn_toolkit.reports.figures import data_figure, flows_figure, schedule_figure
from bfn_toolkit.reports.style import StyledFigure
from bfn_toolkit.reports.table_figures import columns_figure, pairs_figure
from bfn_toolkit.sampling.trajectory import Trajectory

# What authors of papers set, and what would change or break a figure.
SETTINGS: dict[Any, Any] = {
    "text.usetex": True,
    "font.family": "No Such Font",
    "figure.autolayout": True,
    "figure.dpi": 31,
    "savefig.bbox": "tight",
    "savefig.dpi": 17,
    "savefig.format": "svg",
    "savefig.transparent": True,
    "axes.grid": True,
    "axes.prop_cycle": matplotlib.cycler(color=["k"]),
    "image.cmap": "jet",
    "xtick.labelsize": 40,
}
PAIR = Gaussian(site_shape=(2,))


def numbers(n: int, *site: int) -> torch.Tensor:
    with seeded(n):
        return torch.randn(n, *site)


def flows(family: Any) -> Figure:
    with seeded(0):
        return flows_figure(BFN(family, MLP(width=4)).eval(), 3)


def table(n: int) -> TypedTable:
    values = numbers(n, 1).flatten().numpy()
    return {"u_$1$": TypedColumn(values), "v": TypedColumn(np.where(values > 0, "$a", "b"))}


FIGURES: dict[str, Callable[[], Figure]] = {
    "schedule": lambda: schedule_figure(PAIR, 5),
    "flows": lambda: flows(Categorical(site_shape=(5,), classes=3)),
    "columns": lambda: columns_figure(table(50), table(60), table(40)),
    "pairs": lambda: pairs_figure(table(50), table(60), table(40)),
}


def png(draw: Callable[[], Figure]) -> bytes:
    file = io.BytesIO()
    draw().savefig(file)
    return file.getvalue()


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_a_figure_has_the_same_bytes_under_any_settings(draw: Callable[[], Figure]) -> None:
    ours = png(draw)
    with matplotlib.rc_context(SETTINGS):
        before = dict(matplotlib.rcParams)
        assert png(draw) == ours
        assert dict(matplotlib.rcParams) == before


def test_a_notebook_shows_our_figure() -> None:
    with matplotlib.rc_context(SETTINGS):
        figure = data_figure(PAIR, numbers(30, 2))
        figure.canvas.print_figure(io.BytesIO(), format="png")  # as IPython does, without savefig; LaTeX is not here
        assert not any(label.get_usetex() for label in figure.axes[0].get_xticklabels())


def test_a_film_is_ours_and_keeps_its_titles_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures differ inside their axes, and in the time."""
    monkeypatch.setattr(animation, "FRAMES", 3)
    family = Categorical(site_shape=(3,), classes=3)
    model, seen = BFN(family, MLP(width=4)).eval(), Trajectory(family, 9)
    with seeded(0):
        model.sample(9, n_steps=5, on_step=seen)
    with matplotlib.rc_context(SETTINGS):
        content = animation.film(seen, torch.randint(3, (30, 3)), "title")
    with Image.open(io.BytesIO(content)) as gif:
        assert (gif.n_frames, gif.size) == (3, (700, 360))
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("L")).astype(int))
    changed = np.ptp(np.stack(frames), axis=0) > 64
    first = np.flatnonzero(changed.any(1))[0]
    columns = np.flatnonzero(changed[first : first + 35].any(0))  # of the heading, and the titles below it
    assert columns[-1] - columns[0] < 40  # of 700: the digits of the time alone


HOSTILE = """
import sys
from bfn_toolkit.cli.display import load_matplotlib
load_matplotlib()
import matplotlib
assert not matplotlib.rcParams["text.usetex"], "a matplotlibrc was read"
assert "matplotlib.pyplot" not in sys.modules
from matplotlib.figure import Figure
from PIL import Image
Figure().savefig("figure.png")
"""


def test_the_command_reads_no_settings_of_matplotlib(tmp_path: Path) -> None:
    """Whatever lies in one of the three places where matplotlib looks for them; and the backend of a notebook."""
    for place in ("matplotlibrc", "config/matplotlib/matplotlibrc", "named"):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'text.usetex: True\n"\n\xff\xfe')
    settings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": str(tmp_path / "named"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "figure.png").exists()


def test_a_figure_is_shown_at_the_end_of_a_cell_of_a_notebook() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(FIGURES["schedule"]())
    assert shown["image/png"] == png(FIGURES["schedule"])


def test_axes_that_a_user_adds_have_the_style() -> None:
    figure = StyledFigure(2.0, 2.0)
    with matplotlib.rc_context(SETTINGS):
        axis = figure.add_subplot()
    assert not axis.spines["top"].get_visible()
    assert axis.title.get_fontsize() == 10
