"""``python -m benchmarks.data``: measures what is learned from real data, and writes the page about it.

Each module of this package that has ``RUNS`` is a subject: functions by name, which are called with ``quick`` and
return a result for ``results/NAME.json``.  Its ``section(results)`` is the text about the saved results.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import torch

from . import __path__ as package
from .common import machine, save, saved

PAGE = """\
# Results on real data

Made by `make bench-data`, which trains the models and their peers and writes `benchmarks/data/results/*.json`; this
page is written from those files by `python -m benchmarks.data --write docs/reference/results.md`. Budgets are CPU time
of one thread{machine}. A spread is the standard deviation over seeds.

{sections}
"""


def subjects() -> list[ModuleType]:
    """The modules of this package that measure something."""
    names = [found.name for found in pkgutil.iter_modules(package) if not found.name.startswith("_")]
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "RUNS")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help="measure these alone")
    parser.add_argument("--quick", action="store_true", help="tiny budgets, to try it; nothing is saved")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="write the page from the saved results; measure nothing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    modules = subjects()
    if options.write:
        results = saved()
        machines = sorted({result["machine"] for result in results.values()})
        sections = "\n\n".join(text for module in modules if (text := module.section(results)))
        places = f" on {' and '.join(machines)}" if machines else ""
        options.write.write_text(PAGE.format(machine=places, sections=sections.strip()))
        return
    runs = {name: run for module in modules for name, run in module.RUNS.items()}
    wanted = options.only.split(",") if options.only else list(runs)
    if unknown := [name for name in wanted if name not in runs]:
        sys.exit(f"there is no measurement '{unknown[0]}'; there are {', '.join(runs)}")
    for name in wanted:
        result = runs[name](options.quick)
        if options.quick:
            print(name, result)
        else:
            save(name, result)
        print(f"{name}: done on {machine()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
