"""The gallery: each figure exists, is made by a block that stands above it, and every command and name there exists."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import gallery
import pytest
from PIL import Image

from bfn_toolkit.cli import bfn

DOCS = Path(__file__).parents[2] / "docs"
PLOTTED = ("data", "schedule", "training", "samples", "flows", "columns", "pairs")  # figures of bfn plot and bfn train

SECTIONS = list(gallery.sections())
BLOCKS = [(section.title, *block) for section in SECTIONS for block in section.blocks]


def commands(block: str) -> list[list[str]]:
    found = (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())
    return [words for words in found if words]


def test_there_are_twenty_figures_each_on_the_page_and_in_the_folder() -> None:
    named = [name for section in SECTIONS for name in section.figures]
    assert len(named) == len(set(named)) >= 20
    files = {path.stem: path.stat().st_size for path in gallery.FIGURES.glob("*.png")}
    assert set(files) == set(named)
    assert all(size <= gallery.LARGEST for size in files.values())
    assert sum(files.values()) <= gallery.ALL
    for name in named:
        with Image.open(gallery.FIGURES / f"{name}.png") as image:
            image.verify()
            assert 300 <= image.width <= 2 * gallery.WIDTH, name


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_a_figure_is_made_by_a_block_of_its_section(section: Any) -> None:
    text = "\n".join(block for _, block in section.blocks)
    made = {name for _, block in section.blocks for name in re.findall(r"([\w-]+)\.png\b", block)}
    for folder in re.findall(r"^bfn (?:plot|train) .*--out (\w+)", text, re.M):
        made |= {f"{folder}-{name}" for name in PLOTTED}
    assert set(section.figures) <= made


@pytest.mark.parametrize(("title", "language", "block"), BLOCKS, ids=[title for title, _, _ in BLOCKS])
def test_every_block_can_be_read(title: str, language: str, block: str) -> None:
    if language == "python":
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names), node.module
        compile(block, title, "exec")
        return
    assert language == "bash"
    for program, *words in commands(block):
        if program == "bfn":
            command = bfn.commands[words[0]]
            with command.make_context(words[0], list(words[1:]), resilient_parsing=False) as context:
                assert isinstance(context, click.Context)
        else:
            assert program == "chromium"


def test_models_of_the_gallery_are_in_the_zoo() -> None:
    named = {name for _, _, block in BLOCKS for name in re.findall(r"\bzoo:([\w-]+)", block)}
    assert named
    assert {name for name in named if not (DOCS.parent / "zoo" / "bfn_zoo" / name / "config.json").is_file()} == set()


def test_a_section_is_run_and_its_figure_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (section,) = (section for section in SECTIONS if section.figures == ["schedules"])
    kept = gallery.FIGURES / "schedules.png"
    monkeypatch.setattr(gallery, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(gallery, "FIGURES", tmp_path / "figures")
    gallery.main(section.figures)
    assert "schedules: " in capsys.readouterr().out
    with Image.open(tmp_path / "figures" / "schedules.png") as made, Image.open(kept) as before:
        assert made.size == before.size
