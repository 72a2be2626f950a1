"""A case: one file of a copy of the corpus is damaged, and one command reads it."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import attrs

from bfn_toolkit.errors import BFNError

from .corpus import TARGETS, sign
from .mutations import mutated

MEMORY = 200  # MB by which a command may let the process grow
SECONDS = 60  # after which a command hangs
STATUSES = {0, 1, *(error.exit_status for error in BFNError.__subclasses__())}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@attrs.frozen
class Case:
    """A command in a folder.

    Arguments:
        number: Its number.
        kind: Kind of the damaged file.
        command: The arguments of ``bfn``.
    """

    number: int
    kind: str
    command: list[str]


@attrs.frozen
class Answer:
    """Answer of a command.

    Arguments:
        status: Exit status; None if there was none in time, or the process was killed.
        megabytes: Growth of the process at its highest.
        printed: The beginning of what was printed.
        has_control: Whether control bytes were printed.
        seconds: Time that it took.
    """

    status: int | None
    megabytes: float = 0.0
    printed: str = ""
    has_control: bool = False
    seconds: float = 0.0


def write_case(corpus: Path, folder: Path, seed: int, number: int, kinds: str = "") -> Case:
    """Makes the folder of a case: a copy of the corpus with a damaged file.

    Arguments:
        corpus: The sound files.
        folder: The folder, which does not exist.
        seed: Seed of all cases.
        number: Number of the case, from 0; the kinds of files take turns.
        kinds: Pattern of the kinds of files to choose from.
    """
    rng = random.Random(f"{seed}:{number}")
    targets = [target for target in TARGETS if re.search(kinds, target.kind)]
    target = targets[number % len(targets)]
    command = rng.choice(target.commands)
    shutil.copytree(corpus, folder, symlinks=True)
    path = folder / target.path
    path.write_bytes(mutated(path.read_bytes(), rng, [(corpus / other.path).read_bytes() for other in TARGETS]))
    if rng.random() < 0.6:
        sign(folder)
    return Case(number, target.kind, command.split())


def has_control(printed: str) -> bool:
    """Whether a text has control characters other than the ends of lines and tabs."""
    return _CONTROL.search(printed) is not None


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Place, size and time of the last change of all files in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = os.lstat(path)
        found[str(path.relative_to(folder))] = status.st_ino, status.st_size, status.st_mtime_ns
    return found


def faults_of(answer: Answer, before: object, after: object) -> list[str]:
    """Promises that are broken, in words."""
    faults = []
    if answer.status is None:
        faults.append(f"no answer within {SECONDS} seconds, or killed")
    elif answer.status not in STATUSES:
        faults.append(f"status {answer.status}")
    if answer.megabytes > MEMORY:
        faults.append(f"{answer.megabytes:.0f} MB")
    if answer.has_control:
        faults.append("control bytes are printed")
    if before != after:
        faults.append("files outside are changed")
    return faults
