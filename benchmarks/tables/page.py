"""The page that records the results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from ..data.common import Result
from .data import TABLES, TARGETS
from .impute import DRAWS, IMPUTERS
from .peers import ENVIRONMENTS, PEERS
from .runs import FLOOR, LARGE, OURS

PAGE = """\
# Results on mixed tables

Made by `make bench-tables`, which trains the toolkit and its peers, each in an environment of its own, and writes
`benchmarks/tables/results/*.json`; this page is written from those files by `python -m benchmarks.tables --write
docs/reference/results_tables.md`. All run with their defaults on {machines}.
Two thirds of the rows train, the others test. A spread is the standard deviation over seeds; a row without one is of
one seed. Neural peers are cut to a minute of CPU time, so that their rows say nothing about longer training. The
peers are those of {packages}.

{sections}
"""

MEASURES = """\
## Samples

As many samples as there are training rows, measured against the test rows. *C2ST* is the area under the ROC curve of a
classifier of samples and test rows (0.5: cannot be told apart), *target* the score on the test rows of a model trained
on the samples (area under the ROC curve, accuracy or R2), W1 the Wasserstein distance of the numbers in standard
deviations, TV the total variation of the names, *pairs* the mean and the largest error of the associations of two
columns, DCR the distance to the nearest training row in that of test rows (less than 1 leans on the training rows),
*copies* the share of samples that are training rows. *Other real rows* are one half of the training rows beside the
other half: what a perfect generator reaches. CPU seconds are of training and drawing; those of the toolkit also have
the start of its two commands. `benchmarks/tables/score.py` has the definitions.
"""

# Losses of a rank, from the scores of a row.
LOSSES = {
    "C2ST": lambda row: abs(row["c2st"] - 0.5),
    "target": lambda row: max(row["target_real"] - row["target"], 0.0),
    "W1": lambda row: row["w1"],
    "TV": lambda row: row["tv"],
    "mean of pairs": lambda row: row["association_mean"],
    "largest of pairs": lambda row: row["association_max"],
}
COLUMNS = {
    "C2ST": ("c2st", ".2f"),
    "target": ("target", ".2f"),
    "W1": ("w1", ".3f"),
    "TV": ("tv", ".3f"),
    "mean of pairs": ("association_mean", ".3f"),
    "largest": ("association_max", ".2f"),
    "DCR": ("dcr", ".2f"),
    "copies": ("copies", ".1%"),
    "valid": ("valid", ".3f"),
}
WORDS = {FLOOR: "other real rows", OURS: "**bfn**", **{name: peer.words for name, peer in PEERS.items()}}


def ranks(losses: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Ranks of methods by their losses over seeds, in which those within the noise of seeds share a place.

    Two methods tie if their means differ by less than the standard deviation over seeds, of both together.  A rank is 1
    plus the number of better methods and half of the number of those that tie.
    """
    means = {name: statistics.fmean(values) for name, values in losses.items()}
    known = {name: statistics.variance(values) for name, values in losses.items() if len(values) > 1}
    usual = statistics.median(known.values()) if known else 0.0
    found = {}
    for name, mean in means.items():
        found[name] = 1.0
        for other in means.keys() - {name}:
            noise = ((known.get(name, usual) + known.get(other, usual)) / 2) ** 0.5
            difference = mean - means[other]
            found[name] += 0.5 if abs(difference) <= noise else float(difference > 0)
    return found


def mean_ranks(rows: Mapping[str, Mapping[str, Sequence[Result]]]) -> dict[str, float]:
    """Mean rank of each method over the losses of the tables it was measured on; those without names have no TV.

    Arguments:
        rows: Results by table and method, without the floor.
    """
    found: dict[str, list[float]] = {}
    for methods in rows.values():
        for loss in LOSSES.values():
            losses = {name: [loss(row) for row in results] for name, results in methods.items()}
            if any(any(values) for values in losses.values()):
                for name, rank in ranks(losses).items():
                    found.setdefault(name, []).append(rank)
    return {name: statistics.fmean(values) for name, values in found.items()}


def by_table(results: Mapping[str, Result], part: str) -> dict[str, dict[str, list[Result]]]:
    """Rows by table and method, in the order of the tables."""
    found: dict[str, dict[str, list[Result]]] = {}
    for name in TARGETS:
        for method in [*WORDS, *IMPUTERS]:
            rows = [row for row in results.get(method, {}).get(part, []) if row["table"] == name]
            if rows:
                found.setdefault(name, {})[method] = rows
    return found


def cell(values: Iterable[float], form: str) -> str:
    """Mean and spread."""
    found = list(values)
    if not found:
        return ""
    spread = f" ± {statistics.stdev(found):{form}}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):{form}}{spread}"


def lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def seconds(rows: Sequence[Result]) -> str:
    """Mean CPU seconds of training and drawing."""
    return cell((row.get("train", 0.0) + row["sample"] for row in rows if "sample" in row), ".1f").partition(" ")[0]


def samples(results: Mapping[str, Result]) -> str:
    """Ranks, and the scores on each table."""
    tables = by_table(results, "samples")
    ranked = mean_ranks(compared(tables))
    order = sorted(ranked, key=ranked.__getitem__)
    costs = {method: [row for methods in tables.values() for row in methods[method]] for method in order}
    parts = [
        MEASURES,
        f"Mean rank over {len(tables)} tables in {len(LOSSES)} losses: {', '.join(LOSSES)}. Methods within the\n"
        "noise of seeds share a place; one that was not measured on all tables has no rank.\n",
        lines(["method", "mean rank", "CPU s"], [[WORDS[m], f"{ranked[m]:.2f}", seconds(costs[m])] for m in order]),
    ]
    for name, methods in tables.items():
        real = next((rows[0]["target_real"] for method, rows in methods.items() if method != FLOOR), 0.0)
        parts.append(
            f"\n### {name.capitalize()}: {TABLES[name][1]}\n\n"
            f"The target is {TARGETS[name]}, with the score {real:.2f} when trained on the training rows.\n"
        )
        cells = [
            [WORDS[m], *(cell((row[key] for row in rows), form) for key, form in COLUMNS.values()), seconds(rows)]
            for m, rows in methods.items()
        ]
        parts.append(lines(["method", *COLUMNS, "CPU s"], cells))
    return "\n".join(parts) + "\n"


def compared(tables: Mapping[str, Mapping[str, Sequence[Result]]]) -> dict[str, dict[str, Sequence[Result]]]:
    """The methods that were measured on all tables, without the floor."""
    common = [m for m in WORDS if m != FLOOR and all(m in methods for methods in tables.values())]
    return {name: {m: methods[m] for m in common} for name, methods in tables.items()}


def gaps(results: Mapping[str, Result]) -> str:
    """Errors of filled gaps."""
    tables = by_table(results, "gaps")
    measures = {"nrmse": ".3f", "accuracy": ".3f", "coverage": ".3f"}
    header = ["table", "by", "NRMSE of numbers", "accuracy of names", "coverage of 90 %", "CPU s"]
    rows = [
        [
            name,
            WORDS.get(m, m),
            *(cell((r[k] for r in found if k in r), form) for k, form in measures.items()),
            cost(found),
        ]
        for name, methods in tables.items()
        for m, found in methods.items()
    ]
    return f"""\
## Gaps

A fifth of the cells of the test rows is hidden. NRMSE is the root of the mean squared error in standard deviations, the
mean over the numbers; accuracy is that of all hidden names. The toolkit draws {DRAWS} times (`bfn sample RUN --known
gaps.csv`): the mean and the most frequent name count, and their range should cover 90 %. Boosting is one model for each
column, forests fill in five rounds.

{lines(header, rows)}
"""


def cost(rows: Sequence[Result]) -> str:
    """Mean CPU seconds."""
    return f"{statistics.fmean(row['seconds'] for row in rows):.1f}"


def scale(results: Mapping[str, Result]) -> str:
    """Costs of larger tables."""
    found = sorted(results.get(OURS, {}).get("scale", []), key=lambda row: row["rows"])
    rows = [[r["table"], f"{r['seconds']:.1f}", f"{r['wall']:.1f}", f"{r['memory']:.2f}"] for r in found]
    same = [row["same file twice"] for row in found if "same file twice" in row]
    words = {True: "One seed gave one file.", False: "One seed gave two files."}
    return f"""\
## Larger tables

Ten columns; one process from its start to its end. {words[all(same)] if same else ""}

{lines(["", "CPU s", "wall s", "peak memory, GB"], rows)}
"""


def goals(results: Mapping[str, Result]) -> str:
    """Each goal beside what was reached."""
    tables, filled = by_table(results, "samples"), by_table(results, "gaps")
    ranked, rows = mean_ranks(compared(tables)), list[list[str]]()

    def goal(words: str, place: str, value: float, limit: float, at_least: bool = False) -> None:
        short = limit - value if at_least else value - limit
        word = "met" if short <= 0 else f"missed by {short:.3f}"
        rows.append([words, place, f"{value:.3f}", f"{'≥' if at_least else '≤'} {limit:.3f}", word])

    if OURS in ranked:
        others = min((rank for name, rank in ranked.items() if name != OURS), default=1.0)
        goal("mean rank, beside the best peer", "all", ranked[OURS], others)
    for name, methods in tables.items():
        if OURS not in methods:
            continue
        mean = {key: statistics.fmean(row[key] for row in methods[OURS]) for key in methods[OURS][0] if key != "table"}
        goal("C2ST", name, mean["c2st"], 0.65 if name == "penguins" else 0.58)
        room = 0.05 if name in ("penguins", "wage") else 0.02
        goal("target, beside real rows", name, mean["target"], mean["target_real"] - room, True)
        for key, words in (("w1", "W1"), ("tv", "TV"), ("association_mean", "pairs")):
            floor = statistics.fmean(row[key] for row in methods[FLOOR]) if FLOOR in methods else 0.0
            if floor:
                goal(f"{words}, in those of real rows", name, mean[key] / floor, 1.2)
        goal("DCR", name, mean["dcr"], 0.9, True)
        goal("copies, beyond test rows", name, mean["copies"] - mean["copies_test"], 0.01)
        goal("valid", name, mean["valid"], 0.99, True)
        goal("CPU seconds", name, mean["train"] + mean["sample"], 60.0)
    for name, methods in filled.items():
        if OURS not in methods:
            continue
        learned = [methods[m][0] for m in IMPUTERS if m in methods and m != "mean-or-mode"]
        mean = {k: statistics.fmean(row[k] for row in methods[OURS]) for k in methods[OURS][0] if k != "table"}
        for key, at_least in (("nrmse", False), ("accuracy", True)):
            if key in mean and learned:
                best = (max if at_least else min)(row[key] for row in learned)
                goal(f"gaps, {key}, beside the better baseline", name, mean[key], best, at_least)
        if "coverage" in mean:
            goal("gaps, coverage of 90 %: error", name, abs(mean["coverage"] - 0.9), 0.03)
    limits = {"10,000 rows: training": 60.0, "10,000 rows: 10,000 samples": 6.0}
    sizes = {row["table"]: row for row in results.get(OURS, {}).get("scale", [])}
    for name, limit in limits.items():
        if name in sizes:
            goal("CPU seconds", name, sizes[name]["seconds"], limit)
    large = [sizes[name] for name in map("{:,} rows: 10 steps".format, LARGE) if name in sizes]
    if len(large) == len(LARGE):
        goal("memory, GB", large[-1]["table"], large[-1]["memory"], 2.0)
        first, second = (
            (b["seconds"] - a["seconds"]) / (m - n) for (a, n), (b, m) in pairwise(zip(large, LARGE, strict=True))
        )
        goal("CPU seconds for a further row, beside half of the rows", large[-1]["table"], second / first, 1.2)
    met = sum(row[-1] == "met" for row in rows)
    return f"""\
## Goals

{met} of {len(rows)} are met.

{lines(["goal", "table", "reached", "limit", ""], sorted(rows, key=lambda row: row[-1] == "met"))}
"""


def page(results: Mapping[str, Result]) -> str:
    """The whole page."""
    machines = " and ".join(sorted({result["machine"] for result in results.values()}))
    sections = [samples(results), gaps(results)]
    if OURS in results:
        sections += [scale(results), goals(results)]
    packages = ", ".join(requirements[0].replace("==", " ") for requirements in ENVIRONMENTS.values())
    return PAGE.format(machines=machines, packages=packages, sections="\n".join(sections).strip())
