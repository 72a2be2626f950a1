"""What pytest runs besides ``tests/``: the code blocks of README.md and docs/, and the doctests of the docstrings.

Python blocks of one document share a namespace, and all blocks a working directory in which the files of
``examples/plugins`` lie.  Command lines run in it as :mod:`command_blocks` says, TOML blocks are read as experiments,
and those with an entry point install it.
"""

from __future__ import annotations

import contextlib
import doctest
import shutil
import sys
import tempfile
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

from command_blocks import EXAMPLES, NOT_RUN, fresh_process, install, run_commands, run_text, write_file

ROOT = Path(__file__).parent
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def check_toml(example: Example) -> None:
    """Reads a TOML block as an experiment, or installs the entry points of a part of a ``pyproject.toml``."""
    from bfn_toolkit import Experiment

    table: dict[str, Any] = tomllib.loads(example.parsed)
    write_file(example.parsed)
    if "project" in table:
        install(table["project"]["entry-points"].get("bfn_toolkit", {}))
    else:
        Experiment.from_mapping(table, base="default")


class Python(PythonCodeBlockParser):
    """Python blocks; those that begin with the name of a file are written to it, too."""

    def __init__(self) -> None:
        super().__init__(doctest_optionflags=DOCTEST_FLAGS)
        self.codeblock_parser = CodeBlockParser("python", self.run)

    @staticmethod
    def run(example: Example) -> None:
        """Runs a block, and writes its file; one that cannot run here is compiled."""
        write_file(example.parsed)
        if NOT_RUN.match(example.parsed):
            compile(example.parsed, example.path, "exec")
        else:
            PythonEvaluator()(example)


PAGE = "__page__"  # module of the classes that a document defines


def enter_page(namespace: dict[str, Any]) -> None:
    """Gives a document a working directory, and makes its namespace a module, as classes and pickle expect.

    One thread, because small tensors gain nothing from more.
    """
    import torch

    torch.set_num_threads(1)

    def lookup(name: str) -> Any:
        if name not in namespace:
            raise AttributeError(name)
        return namespace[name]

    sys.modules[PAGE] = page = types.ModuleType(PAGE)
    page.__dict__["__getattr__"] = lookup
    namespace["__name__"] = PAGE
    namespace["__folder__"] = folder = contextlib.ExitStack()
    folder.enter_context(contextlib.chdir(folder.enter_context(tempfile.TemporaryDirectory())))
    namespace["__search__"] = list(sys.path)
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, file.name)


def leave_page(namespace: dict[str, Any]) -> None:
    """Leaves and removes them, and forgets what was imported from there."""
    with fresh_process({}):
        sys.path[:] = namespace["__search__"]
    namespace["__folder__"].close()
    del sys.modules[PAGE]


documents = Sybil(
    name="blocks",
    parsers=[
        Python(),
        *(CodeBlockParser(language, run_commands) for language in ("bash", "console")),
        CodeBlockParser("text", run_text),
        CodeBlockParser("toml", check_toml),
    ],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    excludes=["docs/gallery.md"],  # its blocks make figures for minutes: tests/docs/test_gallery.py looks at them
    setup=enter_page,
    teardown=leave_page,
)
docstrings = Sybil(
    name="doctests",
    parsers=[DocTestParser(DOCTEST_FLAGS)],
    patterns=["bfn_toolkit/**/*.py", "plugins/**/*.py"],
    document_types={".py": PythonDocStringDocument},
)

pytest_collect_file = (documents + docstrings).pytest()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Blocks of one document build on each other, so one worker runs them all; everything else goes one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class DocumentsTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, name = nodeid.partition("::")
            return path if name.startswith("sybil:") else nodeid

    return DocumentsTogether(config, log)
