"""``python -m benchmarks.tables``: draws, fills and scores mixed tables, by the toolkit and its peers.

A peer whose environment cannot be made is left out with a word.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from . import page, runs
from .data import TARGETS
from .impute import IMPUTERS

PARTS = ("samples", "gaps", "scale")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--tables", default=",".join(TARGETS), metavar="NAME,...", help=f"of {', '.join(TARGETS)}")
    parser.add_argument(
        "--peers", default=",".join(runs.METHODS), metavar="NAME,...", help=f"of {', '.join(runs.METHODS)}"
    )
    parser.add_argument("--parts", default=",".join(PARTS), metavar="NAME,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS", help="CPU time of a peer on a table")
    parser.add_argument("--out", type=Path, default=runs.RESULTS, metavar="FOLDER", help="for the results")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page from the results; measure nothing")
    options = parser.parse_args()
    tables, methods, parts = (getattr(options, name).split(",") for name in ("tables", "peers", "parts"))
    for found, known in ((tables, TARGETS), (methods, runs.METHODS), (parts, PARTS)):
        if unknown := [name for name in found if name not in known]:
            sys.exit(f"there is no '{unknown[0]}'; there are {', '.join(known)}")
    if options.write:
        options.write.write_text(page.page(runs.saved(options.out)))
        return
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"  # for the peers
    seeds, keep = range(options.seeds), partial(runs.save, options.out)
    if "samples" in parts:
        for name, method, seed in itertools.product(tables, methods, seeds):
            try:
                keep(method, "samples", runs.samples(method, name, seed, options.budget))
            except subprocess.CalledProcessError as error:
                print(f"{method} on {name} is left out: {error}", file=sys.stderr, flush=True)
    if "gaps" in parts:
        for name in tables:
            for imputer in IMPUTERS:
                keep(imputer, "gaps", runs.filled(imputer, name, 0))
            for seed in seeds if runs.OURS in methods else ():
                keep(runs.OURS, "gaps", runs.filled(runs.OURS, name, seed))
    if "scale" in parts and runs.OURS in methods:
        for row in runs.scale():
            keep(runs.OURS, "scale", row)


if __name__ == "__main__":
    main()
