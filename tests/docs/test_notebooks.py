"""The notebooks of the tutorials: executed cell by cell in a kernel, and stored with their outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import notebooks
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
NAMES = {"first_model", "your_table", "your_images", "your_text", "write_a_plugin", "guidance_and_inpainting"}
VOLATILE = re.compile(r"0x[0-9a-f]{6,}|ipykernel_\d+|/tmp/")  # what is another in each run


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """One kernel for all notebooks, which imports torch once."""
    with notebooks.kernel() as fresh:
        yield fresh


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_there_are_notebooks_for_each_first_task() -> None:
    assert {path.stem for path in NOTEBOOKS} == NAMES


def test_every_cell_of_a_notebook_runs_and_shows_what_the_stored_one_shows(
    notebook: nbformat.NotebookNode, kernel: Any
) -> None:
    stored = [[(o.output_type, o.get("name"), *sorted(o.get("data", ()))) for o in outputs(notebook)]]
    notebooks.execute(notebook, kernel)
    notebooks.stable(notebook, nbformat.v4.new_notebook(cells=notebook.cells))
    assert [[(o.output_type, o.get("name"), *sorted(o.get("data", ()))) for o in outputs(notebook)]] == stored


def test_outputs_are_stored_without_errors_and_without_what_changes_by_itself(
    notebook: nbformat.NotebookNode, request: pytest.FixtureRequest
) -> None:
    nbformat.validate(notebook)
    text = nbformat.writes(notebook)
    assert len(text.encode()) <= notebooks.LARGEST
    kinds = [output.output_type for output in outputs(notebook)]
    assert kinds
    assert "error" not in kinds
    assert "stderr" not in [output.get("name") for output in outputs(notebook)]
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert not VOLATILE.search("".join(str(output) for output in outputs(notebook) if "image/png" not in str(output)))
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere_and_it_ends_with_the_next_step(path: Path) -> None:
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts))
    assert "## Where to go next" in texts[-1]
    for link in links:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve()
        assert target.is_file(), link
        assert target.is_relative_to(DOCS), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_lines_of_the_progress_that_differ_in_time_alone_stay_as_they_are() -> None:
    def notebook(text: str) -> nbformat.NotebookNode:
        cell = nbformat.v4.new_code_cell("train()", outputs=[nbformat.v4.new_output("stream", text=text)])
        return nbformat.v4.new_notebook(cells=[cell])

    old = notebook("step 9/9 (100 %)  loss 1.5  7 steps/s  0:02\ndone   9 steps in 0:02; loss 1.5\n")
    slower = "step 5/9 (55 %)  loss 1.9  2 steps/s  0:02\nstep 9/9 (100 %)  loss 1.2  2 steps/s  0:05\n"
    same, other = (notebook(f"{slower}done   9 steps in 0:05; loss {loss}\n") for loss in (1.5, 1.6))
    stable = notebooks.stable
    assert outputs(stable(same, old))[0].text == outputs(old)[0].text
    assert "loss 1.6" in outputs(stable(other, old))[0].text
