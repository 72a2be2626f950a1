"""``python -m benchmarks``: prints the table; ``--write docs/reference/benchmarks.md`` records it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from . import page, rows, startup
from .timing import keep_pages


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each comparison; 60 or more for the record")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="page to write, such as docs/reference/benchmarks.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    measured = []
    for group, rounds in (
        (rows.training, options.rounds),
        (rows.sampling, options.rounds),
        (rows.starting, max(options.rounds // 4, 5)),
        (rows.resident, 1),
    ):
        for row in group(rounds):
            measured.append(row)
            print(f"{row.what}: {page.cell(row.ratio)}", file=sys.stderr, flush=True)
    needless = {*startup.imported("import bfn_toolkit"), *startup.imported(startup.LOSS_AND_SAMPLE)}
    if needless:
        sys.exit(f"the package, a loss or a sampler imports {', '.join(sorted(needless))}")
    print(page.table(measured), page.verdict(measured), sep="\n\n")
    if options.write:
        command = (
            f"OMP_NUM_THREADS=1 python -m benchmarks --rounds {options.rounds} --write docs/reference/benchmarks.md"
        )
        before = options.write.read_text() if options.write.exists() else ""
        options.write.write_text(page.page(measured, command, options.rounds, before))


if __name__ == "__main__":
    main()
