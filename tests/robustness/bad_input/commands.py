"""L: the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.disks import flip_bit, simulated_fs

from bad_input.cases import Case, case
from bad_input.configurations import as_it_is
from bad_input.data import SMALL


def option(id: str, line: str, *words: str, status: int = 2) -> Case:
    """A command about a trained run."""
    return case(id, line, status, *words, run=as_it_is)


@contextlib.contextmanager
def closed_pipe() -> Iterator[None]:
    """Nobody reads what is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8", buffering=1) as stream, contextlib.redirect_stdout(stream):
        yield


@contextlib.contextmanager
def nowhere_to_print() -> Iterator[None]:
    """As ``>&-`` in a shell has it."""
    with contextlib.redirect_stdout(None):
        yield


@contextlib.contextmanager
def ascii_of_40_columns() -> Iterator[None]:
    """Streams as Python has them where the locale is C and neither UTF-8 mode nor coercion is on."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        patch.setenv("LC_ALL", "C")
        patch.setenv("LANG", "C")
        out, err = sys.stdout, sys.stderr
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            yield
        for stream, target in zip(streams, (out, err), strict=True):
            stream.flush()
            target.write(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]


def full_disk(mb: int = 0) -> Callable[[], contextlib.AbstractContextManager[Path]]:
    """The disk of the folder "disk" has so much space."""
    return lambda: simulated_fs(Path("disk").resolve(), mb)


def damaged(run: Path) -> None:
    """The newest checkpoint has another bit."""
    flip_bit(run / "checkpoints" / "step-00000004" / "weights.safetensors", 0)


def one_line(text: str) -> None:
    if len(text.splitlines()) != 1:
        raise ValueError("expected one line")


TINY = "-n 2 --steps 2"
EVALUATE = "evaluate run --draws 1 -n 20 --sample-steps 2"

CASES: list[Case] = [
    case("L1-command", "trian", 2, "trian", "Did you mean 'train'"),
    case("L1-subcommand", "checkpoint verfy run", 2, "verfy", "Did you mean 'verify'"),
    case("L1-empty-command", [""], 2, "'': no such command"),
    option("L2-abbreviation", "sample run --step 5", "--step: no such option; did you mean --steps?"),
    option("L2-abbreviated-weights", "sample run --weigh raw", "--weigh: no such option; did you mean --weights?"),
    case("L2-field-without-table", "train --step 5", 2, "--step: unknown key; did you mean --training.steps?"),
    case("L2-option-of-another-command", "train --json", 2, "--json needs a value"),
    case("L2-misspelt-option-of-train", "train --dryrun", 2, "--dryrun: no such option; did you mean --dry-run?"),
    case("L2-short-name-of-a-wrong-value", "train --steps x", 2, "--steps: training.steps: expected an integer"),
    *(
        case(f"L3-training.steps-{name}", ["train", "--training.steps", text], 2, "expected an integer, got")
        for name, text in (("abc", "abc"), ("5.0", "5.0"), ("full-width", "５"), ("empty", ""), ("quoted", "'5'"))
    ),
    *(
        option(f"L3-n-{name}", f"sample run -n {text}", "-n", "integer")
        for name, text in (("abc", "abc"), ("5.0", "5.0"), ("1_0", "1_0"), ("full-width", "１０"), ("1e9", "1e9"))
    ),
    option("L3-seed-negative", "sample run --seed -1", "--seed"),
    option("L3-seed-2**63", f"sample run --seed {2**63}", "--seed"),
    option("L3-n-of-5000-digits", f"sample run -n {'9' * 5000}", "-n", "integer"),
    case("L4-lr-nan", "train --training.lr nan", 2, "--training.lr", "finite number, got nan"),
    case("L4-lr-inf", "train --training.lr inf", 2, "--training.lr", "finite number", "got inf"),
    case("L4-lr-empty", "train --training.lr=", 2, '--training.lr: expected a number, got ""'),
    case("L4-no-value", "train --network.width", 2, "--network.width needs a value"),
    case("L4-stray", "train stray", 3, "stray: No such file", "options as --network.width 256"),
    case("L5-field-twice", "train --training.steps 5 --training.steps 6", 2, "--training.steps: given twice"),
    case("L5-option-twice", "train --out a --out b", 2, "--out: given twice"),
    option("L5-short-option-twice", "sample run -n 1 -n 2", "-n: given twice"),
    option("L5-option-twice-in-both-forms", "evaluate run --steps 1 --steps=2", "--steps: given twice"),
    case("L6-misspelt-field", "train --training.lrr=3", 2, "--training.lrr: unknown key; did you mean --training.lr?"),
    case("L6-misspelt-width", "train --network.widht 3", 2, "did you mean --network.width?"),
    option("L7-n-0", "sample run -n 0", "-n", "at least 1"),
    option("L7-n-negative", "sample run -n -1", "-n", "at least 1"),
    case(
        "L7-n-10**9-on-a-small-disk",
        "sample run -n 1000000000 --out disk/x.npy",
        7,
        "cannot write disk/x.npy: needed 4.4 GB, free ",
        run=as_it_is,
        files={"disk/y": ""},
        around=full_disk(64),
    ),
    option("L7-n-10**18", f"sample run -n {10**18}", "needed 4400000.0 TB", "free ", status=7),
    option("L7-orders-0", "score run x.csv --out y.csv --orders 0", "--orders", "at least 1"),
    option("L7-prices-without-a-place", "score run x.csv", "--out"),
    option("L8-steps-0", "sample run --steps 0", "--steps", "at least 1"),
    option("L8-steps-True", "sample run --steps True", "--steps", "integer"),
    option("L8-steps-2.5", "sample run --steps 2.5", "--steps", "integer"),
    option("L8-steps-of-a-bound-0", "evaluate run --steps 0", "--steps", "at least 1"),
    option("L8-steps-of-a-bound-many", "evaluate run --steps many", "--steps", "integer"),
    option("L8-steps-of-a-figure", "plot run --steps -1", "--steps", "at least 1"),
    case(
        "L9-full-disk",
        f"sample run {TINY} --out disk/x.npy",
        7,
        "cannot write disk/x.npy: needed ",
        "free 0 bytes",
        run=as_it_is,
        files={"disk/y": ""},
        around=full_disk(),
    ),
    case(
        "L9-full-disk-of-a-run",
        f"train {SMALL}".replace("--out run", "--out disk/run"),
        7,
        "cannot write disk/run",
        "needed ",
        "free ",
        files={"disk/y": ""},
        around=full_disk(),
    ),
    case(
        "L10-existing-file",
        f"sample run {TINY} --out x.npy",
        2,
        "x.npy exists",
        "--force",
        run=as_it_is,
        files={"x.npy": "mine"},
    ),
    option("L10-folder", "sample run --out run", "run is a directory", "--out run/samples.npy"),
    option("L10-format", "sample run --out x.txt", ".npy, .safetensors, .csv"),
    option("L10-empty", "sample run --out ''", "--out", "expected a path, got nothing"),
    option("L10-long", f"sample run --out {'x' * 300}.npy", "--out", "too long"),
    option("L10-sampler", "sample run --sampler ancestrl", "Did you mean 'ancestral'"),
    option("L10-examples-without-particles", "evaluate run --examples 5", "--examples goes with --particles P"),
    option("L10-split", "evaluate run --split al", "--split", "'all'"),
    option("L10-no-such-run", "sample nowhere", "nowhere is not a run directory: it does not exist", status=4),
    case("L11-no-arguments", [], 2, "Usage: bfn", "train"),
    case("L11-no-run", "sample", 2, "RUN: missing; see bfn sample --help"),
    case("L12-closed-pipe", "train --options", 141, around=closed_pipe),
    case("L12-closed-stdout", "train --options", 0, around=nowhere_to_print),
    case(
        "L13-json-with-a-warning",
        f"{EVALUATE} --checkpoint last --json",
        0,
        "warning: skipped: ",
        run=damaged,
        prints=json.loads,
    ),
    case("L13-json-of-plugins", "plugins --json", 0, prints=json.loads),
    case("L14-ascii-table", EVALUATE, 0, run=as_it_is, around=ascii_of_40_columns, prints=len),
    case("L14-ascii-plugins", "plugins", 0, around=ascii_of_40_columns, prints=len),
    case(
        "L14-path-of-other-letters",
        ["sample", "läufe/ein lauf 🎲", "-n", "2", "--steps", "2", "--out", "ä ö/π.csv"],
        0,
        run=lambda run: (Path("läufe").mkdir(), run.rename("läufe/ein lauf 🎲")),
        around=ascii_of_40_columns,
        prints=one_line,
    ),
    case("L14-misspelt-in-other-letters", ["trän"], 2, "no such command", around=ascii_of_40_columns),
]
