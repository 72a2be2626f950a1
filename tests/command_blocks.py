"""Runs the command lines of the documentation, as they are written but for their sizes.

A line that begins with ``bfn`` runs in the page's working directory, in the order of the page, as a process of its own
would: with the variables before it, and with the modules of the working directory not yet imported.  It has to end with
status 0, or with the one that its comment names (``# exit status 1``).  :data:`SIZES` are the sizes that are cut down.

Other programs are not run, but looked at: :data:`PROGRAMS`.  Whatever cannot run here says so in a comment that readers
see, ``# not run here: needs two machines``; ``tests/docs/test_docs.py`` counts these comments page by page.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "plugins"  # their files lie in the working directory of every page
NOT_RUN = re.compile(r"#.*\bnot run here: \S")
STATUS = re.compile(r"#.*\bexit status (\d+)")
COMMAND = re.compile(r"(?:\w+=\S* )*(?:bfn|hf|make|pip|pytest|python|ruff|mypy|torchrun|srun|sbatch|until|for|while) ")

# The largest number that an option may have in a page that runs.  The options of the first table are added where they
# are missing, since their defaults are those of a day's work; the others are cut down where they stand.
SIZES: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]] = {
    "train": ({"--training.steps": 3}, {"--training.warmup": 1, "--processes": 1, "--steps": 3}),
    "sample": ({"-n": 8, "--steps": 3}, {}),
    "evaluate": (
        {"-n": 64, "--sample-steps": 3, "--draws": 1},
        {"--steps": 3, "--density": 4, "--particles": 2, "--examples": 4},
    ),
    "report": ({"--seconds": 1}, {}),
    "plot": ({"-n": 64, "--steps": 3}, {}),
    "check": ({"--examples": 1}, {}),
}


class Line(NamedTuple):
    """One command line of a block."""

    words: list[str]
    variables: dict[str, str]
    status: int
    run_here: bool


def lines(block: str) -> Iterator[Line]:
    """The command lines of a block: those after ``$`` where there are prompts, else all."""
    found = block.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in found):
        found = [line[2:] for line in found if line.startswith("$ ")]
    for line in found:
        words, variables = shlex.split(line, comments=True), {}
        while words and re.fullmatch(r"\w+=.*", words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        if words:
            status = STATUS.search(line)
            yield Line(words, variables, int(status[1]) if status else 0, NOT_RUN.search(line) is None)


def smaller(arguments: Sequence[str]) -> list[str]:
    """The arguments of a ``bfn`` command with small sizes, and a training without its report, which takes longest."""
    command, *rest = arguments or [""]
    added, cut = SIZES.get(command, ({}, {}))
    if command == "train" and ("--resume" in rest or "--steps" in rest):
        added = {}
    for name, most in (added | cut).items():
        place = next((i for i, word in enumerate(rest) if word == name), None)
        if place is not None and rest[place + 1].isdigit():
            rest[place + 1] = str(min(most, int(rest[place + 1])))
        elif place is None and name in added and not (name == "-n" and "--known" in rest):  # as many as rows known
            rest += [name, str(most)]
    if command == "train" and "--no-report" not in rest:
        rest.append("--no-report")
    return [command, *rest] if arguments else []


@contextmanager
def fresh_process(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment of a command, which knows nothing of what the page imported from its working directory."""
    from bfn_toolkit.registry.registry import default_registry

    here = Path.cwd()
    before = dict(os.environ)
    os.environ.update(variables)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file).is_relative_to(here):
            del sys.modules[name]
    importlib.invalidate_caches()
    default_registry.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        default_registry.cache_clear()


LAWS_OF_A_CHECK, ROWS_OF_A_BOUND = 3, 500


@contextmanager
def less_work() -> Iterator[None]:
    """Cuts down what no option does.

    A check without ``--law`` tries the first laws of each subject: all of them are tried on what is registered in
    ``tests/laws``, and on the files of the pages in ``tests/docs``.  A bound is that of the first rows of the split,
    and a report has a second in the place of five.
    """
    import torch

    from bfn_toolkit.reports import report
    from bfn_toolkit.testing import kit

    laws_for, likelihood_bound = kit.laws_for, report.likelihood_bound

    def few_laws(subject: Any, names: Sequence[str] = ()) -> list[Any]:
        return laws_for(subject, names)[: None if names else LAWS_OF_A_CHECK]

    def few_rows(model: Any, data: Any, **options: Any) -> Any:
        return likelihood_bound(model, data[torch.arange(min(ROWS_OF_A_BOUND, len(data)))], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "laws_for", few_laws)
        patch.setattr(report, "likelihood_bound", few_rows)
        patch.setattr(report, "LEAST_SECONDS", 1.0)
        patch.setattr("bfn_toolkit.reports.by_steps.MOST", 100)
        yield


def run_bfn(line: Line) -> None:
    """Runs a command of the toolkit in this process, and holds its exit status against the page."""
    from bfn_toolkit.cli import main

    arguments = smaller(line.words[1:])
    with fresh_process(line.variables), less_work():
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    assert status == line.status, f"{shlex.join(['bfn', *arguments])} ended with {status}, not {line.status}"


def look_at_make(line: Line) -> None:
    """The targets exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in line.words[1:] if "=" not in word]
    assert all(re.search(rf"^{re.escape(target)}:", makefile, re.M) for target in targets), targets


def look_at_python(line: Line) -> None:
    """The file or the module exists."""
    first, *rest = line.words[1:]
    if first == "-m":
        assert importlib.util.find_spec(rest[0]) is not None, rest[0]
    else:
        assert (ROOT / first).is_file(), first


def look_at_pip(line: Line) -> None:
    """The project and its extras exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in (word for word in line.words[2:] if not word.startswith("--")):
        name, _, extras = word.partition("[")
        assert name in (".", "./zoo", project["name"]), word
        assert set(filter(None, extras.rstrip("]").split(","))) <= set(project["optional-dependencies"]), word


def look_at_pytest(line: Line) -> None:
    """The subjects of ``--bfn-check`` exist."""
    from bfn_toolkit.registry.registry import default_registry
    from bfn_toolkit.testing.subjects import find_subjects

    words = line.words
    with fresh_process(line.variables):
        for option, subject in itertools.pairwise(words):
            assert option != "--bfn-check" or find_subjects(subject, default_registry())


PROGRAMS: Mapping[str, Callable[[Line], None]] = {
    "bfn": run_bfn,
    "make": look_at_make,
    "pip": look_at_pip,
    "pytest": look_at_pytest,
    "python": look_at_python,
}


def run_commands(example: Any) -> None:
    """Runs a block of command lines; of a script, which cannot run here, the syntax is checked."""
    if example.parsed.startswith("#!"):
        assert NOT_RUN.search(example.parsed), "a script is not run: say why, # not run here: needs a cluster"
        subprocess.run(["bash", "-n"], input=example.parsed, text=True, check=True)
        return
    for line in lines(example.parsed):
        if line.run_here:
            program = line.words[0]
            assert program in PROGRAMS, f"{program} cannot be run: say why, # not run here: needs another program"
            PROGRAMS[program](line)


def run_text(example: Any) -> None:
    """Runs the ``bfn`` lines of a block of text; other commands belong into a block of ``bash``."""
    first = example.parsed.lstrip("$ ")
    if first.startswith("bfn "):
        run_commands(example)
    else:
        assert not COMMAND.match(first), "a command in a block of text: write ```bash"
        assert not first.startswith("#!"), "a script in a block of text: write ```bash"


def install(entry_points: Mapping[str, str]) -> None:
    """Makes entry points known as an installation would, in the working directory.

    The files of ``examples/plugins`` use each other, so that one of them is installed with the others.
    """
    found = dict(entry_points)
    if all(_is_example(module) for module in found.values()):
        found |= _example_entry_points()
    here = Path.cwd()
    info = here / "page-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: page\nVersion: 1.0\n")
    names = [f"{name} = {module}" for name, module in found.items()]
    (info / "entry_points.txt").write_text("\n".join(["[bfn_toolkit]", *names, ""]))
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))


def _is_example(module: str) -> bool:
    file, example = Path(f"{module}.py"), EXAMPLES / f"{module}.py"
    return file.is_file() and example.is_file() and file.read_text().startswith(example.read_text())


def _example_entry_points() -> dict[str, str]:
    """Name and module of each, as the pages about them say."""
    pages = sorted((ROOT / "docs" / "how-to").glob("write_a_*.md"))
    tables = [re.search(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.S) for page in pages]
    return {
        name: module
        for table in tables
        if table
        for name, module in tomllib.loads(table[1])["project"]["entry-points"]["bfn_toolkit"].items()
    }


def write_file(source: str) -> None:
    """Writes a block that begins with ``# name.py``, ``# in name.py`` or ``# name.toml`` to that file, too."""
    if named := re.match(r"# (in )?(\w+\.(?:py|toml))$", source, re.M):
        with open(named[2], "a" if named[1] else "w", encoding="utf-8") as file:
            file.write(f"\n\n{source}" if named[1] else source)
