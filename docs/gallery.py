"""Makes the figures of the gallery by the blocks of its page: ``python docs/gallery.py [FIGURE ...]``.

The page has a section for each group of figures.  Its blocks run one after another in one folder, which is kept in
``build/gallery``: command lines as on a shell, Python in a namespace of its own.  A picture ``name.png`` of the page is
the file ``name.png`` that a block wrote, or ``folder/file.png`` for the name ``folder-file``.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from notebooks import small_png
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
FIGURES = ROOT / "docs" / "figures" / "gallery"
FOLDER = ROOT / "build" / "gallery"
WIDTH = 1050  # of a figure in pixels; sheets of small pictures are enlarged by a whole number
LARGEST, ALL = 120_000, 2_000_000  # bytes of a figure, and of all


class Section(NamedTuple):
    """A section of the page: its title, its blocks with their languages, and the names of its figures."""

    title: str
    blocks: list[tuple[str, str]]
    figures: list[str]


def sections() -> Iterator[Section]:
    """The sections of the page that have figures."""
    for text in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        title, _, rest = text.partition("\n")
        figures = re.findall(r"^!\[[^\]]+\]\(figures/gallery/([\w-]+)\.png\)$", rest, re.M)
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", rest, re.M | re.S)
        if figures:
            yield Section(title, blocks, figures)


def run(language: str, block: str) -> None:
    """Runs a block in the working directory."""
    if language == "python":
        exec(compile(block, "<block>", "exec"), {"__name__": "__gallery__"})
        return
    from bfn_toolkit.cli import main as bfn

    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "bfn":  # without waiting for torch again
            if status := bfn(words[1:]):
                raise SystemExit(f"{line}: status {status}")
        elif words:
            subprocess.run(words, check=True)


def keep(name: str) -> int:
    """Stores the figure of this name in the documentation; returns its bytes."""
    files = [FOLDER / f"{name}.png", *(FOLDER / name[:i] / f"{name[i + 1 :]}.png" for i in _dashes(name))]
    files += [FOLDER / name[:i] / "figures" / f"{name[i + 1 :]}.png" for i in _dashes(name)]
    image = Image.open(next(file for file in files if file.is_file()))
    if (factor := WIDTH // image.width // 2) > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    elif image.width > WIDTH:
        image = image.convert("RGB")
        image.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    FIGURES.mkdir(parents=True, exist_ok=True)
    content = next((png for n in (256, 128) if len(png := small_png(image, n)) <= LARGEST), small_png(image, 64))
    (FIGURES / f"{name}.png").write_bytes(content)
    return len(content)


def _dashes(name: str) -> list[int]:
    return [match.start() for match in re.finditer("-", name)]


def main(names: list[str]) -> None:
    """Makes the figures of the sections that have one of these names, or all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for section in sections():
        if names and not set(names) & set(section.figures):
            continue
        began = time.monotonic()
        with contextlib.chdir(FOLDER):
            for block in section.blocks:
                run(*block)
        for name in section.figures:
            size = keep(name)
            print(f"{name}: {size / 1000:.0f} kB, {time.monotonic() - began:.0f} s{', too large' * (size > LARGEST)}")


if __name__ == "__main__":
    main(sys.argv[1:])
