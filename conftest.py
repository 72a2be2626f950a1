"""What pytest runs besides ``tests/``: the code blocks of README.md and docs/, and the doctests of the docstrings.

Python blocks of one document share a namespace and an empty working directory.  Command lines are parsed but not run,
and TOML blocks are read as experiments.
"""

from __future__ import annotations

import contextlib
import doctest
import re
import shlex
import sys
import tempfile
import tomllib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from sybil import Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

ROOT = Path(__file__).parent
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def commands(block: str) -> Iterator[list[str]]:
    """Command lines of a block, in words: those after ``$`` where there are prompts, else all."""
    lines = block.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):  # a variable of the environment
            del words[0]
        if words:
            yield words


def check_bfn(arguments: Sequence[str]) -> None:
    """Parses the arguments of a ``bfn`` command, and the experiment that they override, but runs nothing."""
    from bfn_toolkit.cli import bfn
    from bfn_toolkit.cli.options import file_and_options, parse_overrides
    from bfn_toolkit.config.experiment import Experiment

    with contextlib.suppress(click.exceptions.Exit):  # --help and --version end here
        if not arguments or arguments[0].startswith("-"):
            bfn.make_context("bfn", list(arguments))
            return
        name, *rest = arguments
        with bfn.commands[name].make_context(name, rest) as context:
            if name == "train":
                Experiment.from_toml(None, context.params["preset"], parse_overrides(context.args))
            if name == "import-checkpoint":
                _, options = file_and_options(context.params["words"])
                Experiment.from_toml(None, context.params["preset"], parse_overrides(options))


def check_commands(example: Example) -> None:
    """Checks that every command line could be run: commands, options, targets and files exist."""
    for program, *arguments in commands(example.parsed):
        if program == "bfn":
            check_bfn(arguments)
        elif program == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            targets = [argument for argument in arguments if "=" not in argument]
            assert all(re.search(rf"^{re.escape(target)}:", makefile, re.M) for target in targets), targets
        elif program == "python" and arguments[0].endswith(".py"):
            assert (ROOT / arguments[0]).is_file(), arguments[0]


def check_toml(example: Example) -> None:
    """Checks that a TOML block is an experiment, or a part of a ``pyproject.toml`` that has entry points."""
    from bfn_toolkit import Experiment

    table: dict[str, Any] = tomllib.loads(example.parsed)
    if "project" in table:
        entry_points = table["project"]["entry-points"]["bfn_toolkit"]
        assert all(isinstance(module, str) for module in entry_points.values()), entry_points
    else:
        Experiment.from_mapping(table, base="default")


PAGE = "__page__"  # module of the classes that a document defines


def enter_page(namespace: dict[str, Any]) -> None:
    """Gives a document an empty working directory, and makes its namespace a module, as classes and pickle expect.

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


def leave_page(namespace: dict[str, Any]) -> None:
    """Leaves and removes them."""
    namespace["__folder__"].close()
    del sys.modules[PAGE]


documents = Sybil(
    name="blocks",
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=DOCTEST_FLAGS),
        *(CodeBlockParser(language, check_commands) for language in ("bash", "console")),
        CodeBlockParser("toml", check_toml),
    ],
    patterns=["README.md", "docs/**/*.md"],
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
