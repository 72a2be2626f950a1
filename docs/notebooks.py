"""Executes the notebooks of the documentation in place: ``python docs/notebooks.py [NAME ...]``, or ``make notebooks``.

Each runs in a kernel and in an empty folder of its own.  What changes by itself from run to run is not stored: times
of cells, execution counts, ids of cells, versions of the kernel; and lines of the progress that differ only in speed
and time stay as they are.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parent / "tutorials" / "notebooks"
SECONDS = 120  # longest time of a cell
LARGEST = 300_000  # bytes of a stored notebook
COLOURS = 256  # of a stored picture
CLOCK = re.compile(r"step [\d,]+/.*\n|[\d.,]+ (?:steps/s|s/step)|\b\d+:\d\d\b")  # of the progress of a training


class Kernel(NamedTuple):
    """A kernel and the line to it."""

    manager: KernelManager
    client: BlockingKernelClient


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A kernel without the settings of the user, on one thread."""
    manager = KernelManager(kernel_name="python3", transport="ipc")
    with tempfile.TemporaryDirectory() as settings:
        manager.start_kernel(
            extra_arguments=["--HistoryManager.enabled=False"],
            env=os.environ | {"IPYTHONDIR": settings, "OMP_NUM_THREADS": "1"},
        )
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=SECONDS)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def execute(notebook: nbformat.NotebookNode, kernel: Kernel) -> None:
    """Executes all cells in an empty folder, as after a restart of the kernel, but for the modules that it imported.

    Raises:
        CellExecutionError: If a cell fails, with its text and the error.
    """
    with tempfile.TemporaryDirectory() as folder:
        enter = nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}")
        leave = nbformat.v4.new_code_cell("%cd -q /")
        cells = notebook.cells
        notebook.cells = [enter, *cells, leave]
        run = NotebookClient(notebook, km=kernel.manager, timeout=SECONDS, coalesce_streams=True)
        run.kc = kernel.client
        try:
            run.execute(cleanup_kc=False)
        finally:
            notebook.cells = cells


def stable(new: nbformat.NotebookNode, old: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook as it is stored: without what is another in each run, and with the old outputs where only speed and
    time differ."""
    before = {cell.source: cell.get("outputs", []) for cell in old.cells}
    new.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(new.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
                if "image/png" in output.get("data", {}):
                    picture = Image.open(BytesIO(base64.b64decode(output.data["image/png"])))
                    output.data = {"image/png": base64.b64encode(small_png(picture)).decode()}
                    output.metadata = {}
            stored = before[cell.source]
            if _without_times(stored) == _without_times(cell.outputs):
                cell.outputs = stored
    return new


def small_png(picture: Image.Image, colours: int = COLOURS) -> bytes:
    """A PNG with a palette of its own, which takes a third of the room and looks the same."""
    buffer = BytesIO()
    picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _without_times(outputs: list[nbformat.NotebookNode]) -> list[object]:
    return [CLOCK.sub("", output.text) if output.output_type == "stream" else output for output in outputs]


def main(names: list[str]) -> None:
    """Executes the notebooks of these names, or all."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        old, new = (nbformat.read(path, as_version=4) for _ in range(2))
        with kernel() as fresh:
            execute(new, fresh)
        text = nbformat.writes(stable(new, old))
        path.write_text(text + "\n", encoding="utf-8")
        size = len(text.encode())
        print(f"{path.name}: {size / 1000:.0f} kB{', too large' * (size > LARGEST)}")


if __name__ == "__main__":
    main(sys.argv[1:])
