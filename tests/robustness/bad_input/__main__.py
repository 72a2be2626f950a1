"""``python -m bad_input [WORDS]``: the cases whose ids begin so, or all; status 1 if one is not as it says."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from faults.tiny import experiment

from bad_input.cases import faults_of
from bad_input.table import CASES
from bfn_toolkit import train


def run(words: list[str]) -> int:
    """The number of faults, each of which is printed."""
    faults: list[str] = []
    chosen = [case for case in CASES if not words or case.id.startswith(tuple(words))]
    with tempfile.TemporaryDirectory() as name:
        trained = Path(name, "trained")
        train(experiment(steps=4, checkpoint_every=2), trained)
        for i, case in enumerate(chosen):
            folder = Path(name, str(i))
            folder.mkdir()
            faults += faults_of(case, folder.resolve(), trained.resolve())
    print(*faults, f"{len(chosen)} cases, {len(faults)} faults", sep="\n")
    return len(faults)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]) > 0)
