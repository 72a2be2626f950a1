"""Writing the page about a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from bfn_toolkit.errors import printable
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.reports.page.blocks import Block, Paragraph, Section
from bfn_toolkit.reports.page.curves import HEIGHT, WIDTH
from bfn_toolkit.reports.page.sections import SECTIONS
from bfn_toolkit.reports.page.subject import Subject
from bfn_toolkit.reports.report import described
from bfn_toolkit.storage.files import write_atomically

T = TypeVar("T")


def write_page(subject: Subject, path: Path) -> Path:
    """Writes the page about a run as one HTML file; returns its path.

    A section that fails costs only itself, and says so.

    Raises:
        ResourceError: If it cannot be written.
    """
    write_atomically(path, render(subject))
    return path


def render(subject: Subject) -> str:
    """The page about a run as HTML."""
    status, is_wrong = _or(lambda: subject.status, ("", False))
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=_or(lambda: subject.data_name, "A model"),
            eyebrow=_or(lambda: subject.eyebrow, str(subject.path)),
            headline=_or(subject.headline, "A model."),
            status=status,
            is_wrong=is_wrong,
            sections=list(_sections(subject)),
            width=WIDTH,
            height=HEIGHT,
            version=version("bfn-toolkit"),
        )
    )


def _or(make: Callable[[], T], otherwise: T) -> T:
    """A part of the head of the page, or another if it fails: the section with its facts says why."""
    try:
        return make()
    except Interrupted:
        raise
    except (Exception, SystemExit):
        return otherwise


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("bfn_toolkit.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """A text with escapes for characters that a browser would hide or obey; markup as it is."""
    return printable(value) if type(value) is str else value


def _sections(subject: Subject) -> Iterator[Section]:
    """The sections that have contents."""
    for key, title, make in SECTIONS:
        blocks: list[Block] = []
        try:
            blocks.extend(make(subject))
        except Interrupted:
            raise
        except (Exception, SystemExit) as error:  # of a plugin, which may do anything
            blocks.append(Paragraph(f"This section is not complete: {described(error)}", "fault"))
        if blocks:
            yield Section(key, title, blocks)
