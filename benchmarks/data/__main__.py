"""``python -m benchmarks.data``: measures what is learned from real data, and writes the page about it.

Each module of this package that has ``RUNS`` is a subject: its measurements by name, whose results go into
``results/NAME.json``.  Its ``section(results)`` is the text about the saved results.  A result that is saved is kept,
one that another process measures is left to it, and what an interrupted measurement had trained is used: to go on,
give the same command again; to use two cores, give it twice.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

from . import __path__ as package, figures, goals
from .common import CACHE, Cache, Result, Run, Seeds, alone, machine, minutes, result_file, save, saved, version

PAGE = """\
# Results on real data

Made by `make bench-data`, which trains the models and their peers and writes `benchmarks/data/results/*.json`; this
page is written from those files by `python -m benchmarks.data --write docs/reference/results.md`. Budgets are CPU time
of one thread{machine}. A spread is the standard deviation over seeds; a standard error is that of the held-out data.

{sections}
"""


def subjects() -> list[ModuleType]:
    """The modules of this package that measure something."""
    names = [found.name for found in pkgutil.iter_modules(package) if not found.name.startswith("_")]
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "RUNS")]


def page() -> str:
    """The page about the saved results."""
    results = saved()
    machines = sorted({result["machine"] for result in results.values()})
    sections = [goals.section(results), *(module.section(results) for module in subjects()), _made(results)]
    places = f" on {' and '.join(machines)}" if machines else ""
    return PAGE.format(machine=places, sections="\n\n".join(text.strip() for text in sections if text))


def _made(results: Mapping[str, Result]) -> str:
    """From which commit each result is."""
    runs = [name for module in subjects() for name in module.RUNS if name in results]
    lines = ["## From which version", ""]
    lines += ["Distances of held-out images were computed anew, with balanced labels, also where the samples are of an"]
    lines += ["earlier version. The rows of texts are of two calls: those of 128 steps were added to the others.", ""]
    lines += ["| measurement | commit | CPU minutes |", "|---|---|---|"]
    for name in runs:
        used = results[name].get("cpu_minutes")
        commit = results[name].get("version", {}).get("commit", "")
        lines.append(f"| {name} | {commit or 'an earlier one'} | {'' if used is None else f'{used:.1f}'} |")
    return "\n".join(lines)


def listed(runs: Mapping[str, Run]) -> str:
    """What there is to measure, how long it takes, and what is saved."""
    results, lines = saved(), []
    for name, run in runs.items():
        found = results.get(name)
        about = found.get("cpu_minutes", run.minutes) if found else run.minutes
        made = found.get("version", {}) if found else {}
        state = "missing" if found is None else f"saved, of {made.get('commit') or 'an earlier version'}"
        if found is not None and made.get("sources") != version()["sources"]:
            state += "; the toolkit has changed since"
        lines.append(f"{name:<26} {about:6.1f} min   {state}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help="measure these alone")
    parser.add_argument("--again", action="store_true", help="first drop what is saved of them, and train anew")
    parser.add_argument("--seeds", metavar="N", type=int, help="at most so many seeds of each")
    parser.add_argument("--quick", action="store_true", help="tiny budgets, to try it; nothing is saved")
    parser.add_argument("--list", action="store_true", help="list the measurements with their CPU minutes")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="write the page from the saved results; measure nothing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    Seeds.most = options.seeds
    version()  # before the source code can change
    runs: dict[str, Run] = {name: run for module in subjects() for name, run in module.RUNS.items()}
    if options.list:
        print(listed(runs))
        return
    if options.write:
        options.write.write_text(page())
        figures.write(saved(), options.write.parent.parent / "figures")
        return
    wanted = options.only.split(",") if options.only else list(runs)
    if unknown := [name for name in wanted if name not in runs]:
        sys.exit(f"there is no measurement '{unknown[0]}'; there are {', '.join(runs)}")
    if options.again and not options.quick:
        Cache.since = time.time()
        for name in wanted:
            result_file(name).unlink(missing_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if options.quick:
            print(name, json.dumps(runs[name].measure(True)))
            continue
        with alone(CACHE / name, wait=False) as is_ours:
            if not is_ours or result_file(name).exists():
                reason = "is saved; --again measures it anew" if is_ours else "is measured by another process"
                print(f"{name}: {reason}", file=sys.stderr, flush=True)
                continue
            before = minutes()
            result = runs[name].measure(False)
            save(name, {"cpu_minutes": round(minutes() - before, 2), **result})
        print(f"{name}: done on {machine()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
