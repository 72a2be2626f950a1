"""The style of all figures: matplotlib's defaults and a few settings of our own, whatever a matplotlibrc says.

There is no window, no pyplot and no backend to choose, and the settings of the caller stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_OWN = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
}
_STYLE: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"} | _OWN


@contextmanager
def style() -> Iterator[None]:
    """Scope in which figures are made; as a decorator, it holds for a function."""
    with matplotlib.rc_context(_STYLE):
        yield


class StyledFigure(Figure):
    """Figure that is drawn and saved in the style, wherever that happens: some of its parts are made only then.

    At the end of a cell of a notebook it is shown below, without pyplot.

    Arguments:
        width: Width in inches.
        height: Height in inches.
        dpi: Pixels to the inch.
    """

    def __init__(self, width: float, height: float, dpi: int = 150) -> None:
        with style():
            super().__init__(figsize=(width, height), dpi=dpi, layout="constrained")

    def add_subplot(self, *args: Any, **options: Any) -> Any:
        """Adds axes in the style."""
        with style():
            return super().add_subplot(*args, **options)

    def draw(self, renderer: Any) -> None:
        """Draws the figure."""
        with style():
            super().draw(renderer)

    def savefig(self, *args: Any, **options: Any) -> None:
        """Saves the figure."""
        with style():
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        """The figure as notebooks show it."""
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
