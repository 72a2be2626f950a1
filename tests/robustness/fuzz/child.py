"""Runs commands one after another in one process: a line of JSON comes in for each, and one goes out."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bfn_toolkit.cli import main

from .cases import has_control
from .corpus import TARGETS, make

SPACE = 2**31  # bytes of address space above those at the start
SHOWN = 4000


def megabytes(name: str) -> float:
    """A number of /proc/self/status in MB; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def answer(command: list[str]) -> dict[str, object]:
    """Runs a command, and says how it ended and what it printed."""
    with tempfile.TemporaryFile() as printed:
        kept = [os.dup(1), os.dup(2)]
        for number in (1, 2):
            os.dup2(printed.fileno(), number)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted from here
        start, seconds = megabytes("VmRSS"), time.monotonic()
        try:
            status: object = main(command)
        except SystemExit as error:
            status = error.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
        grown = megabytes("VmHWM") - start
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    return {
        "status": status if isinstance(status, int) else 70,
        "megabytes": grown,
        "printed": text[-SHOWN:],
        "has_control": has_control(text),
        "seconds": time.monotonic() - seconds,
    }


def run(corpus: Path) -> None:
    """Makes the corpus if it is not there, tries the commands on sound files, and answers until the end of the input.

    Raises:
        RuntimeError: If a command fails on sound files.
    """
    out = os.fdopen(os.dup(1), "w")
    if not any(corpus.iterdir()):
        os.chdir(corpus)
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            make(corpus)
    for command in dict.fromkeys(command for target in TARGETS for command in target.commands):
        with tempfile.TemporaryDirectory() as name:  # what is imported here is not counted later
            folder = shutil.copytree(corpus, Path(name, "sound"))
            os.chdir(folder)
            found = answer(command.split())
            os.chdir("/")
        if found["status"] != 0:
            raise RuntimeError(f"bfn {command}: status {found['status']} on sound files: {found['printed']}")
    with contextlib.suppress(ValueError, OSError):
        limit = int(megabytes("VmSize") * 2**20) + SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        folder, command = json.loads(line)
        os.chdir(folder)
        print(json.dumps(answer(command)), file=out, flush=True)
        os.chdir("/")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
