"""The goals of the benchmark beside what the saved results reached, and whether that meets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from .common import Result, spread
from .images_runs import PEERS, best_of_peer


@attrs.frozen
class Goal:
    """One line of the table.

    Arguments:
        what: Data, budget and score.
        limit: The goal.
        reached: What was reached; None if it is not measured.
        error: Its standard error, or the standard deviation over seeds.
        baseline: What stands beside it, in words.
        at_least: Whether the limit is the least that will do.
        note: What the figure needs to be understood.
        form: Format of the figures.
        strict: Whether a figure must be on this side of the limit, not at it.
    """

    what: str
    limit: float
    reached: float | None
    error: float = 0.0
    baseline: str = ""
    at_least: bool = False
    note: str = ""
    form: str = ".2f"
    strict: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        assert self.reached is not None
        if self.reached == self.limit:
            return not self.strict
        return (self.reached > self.limit) == self.at_least

    def verdict(self) -> str:
        """Whether it is met, and otherwise by how much it is missed."""
        if self.reached is None:
            return "not measured"
        apart = abs(self.reached - self.limit)
        inside = " (within the error)" if 0.0 < self.error >= apart else ""
        if self.is_met:
            return f"met{inside}"
        return f"missed by {apart:{self.form}}, {apart / abs(self.limit):.1%}{inside}"

    def line(self) -> str:
        """The line in Markdown."""
        sign = (">" if self.at_least else "<") + ("" if self.strict else "=")
        reached = "" if self.reached is None else f"{self.reached:{self.form}}"
        if self.reached is not None and self.error:
            reached += f" ± {self.error:{self.form}}"
        cells = [self.what, f"{sign} {self.limit:{self.form}}", reached + self.note, self.baseline, self.verdict()]
        return f"| {' | '.join(cells)} |"


def goals(results: Mapping[str, Result]) -> Iterator[Goal]:
    """All goals, from the saved results."""
    yield from _prices(results)
    yield from _grey(results.get("images-grey"))
    yield _binary_samples(results.get("images-binary-samples"))
    yield from _text(results)
    yield from _costs(results.get("costs"))


def _prices(results: Mapping[str, Result]) -> Iterator[Goal]:
    of = results.get("images-baselines", {"binary": {}, "bins": {}})
    table, nats = of["binary"].get("table of 10 neighbours"), "Fashion-MNIST, black and white, {} min: nats"
    beside = "; ".join(f"{name} {x:.1f}" for name, x in of["binary"].items())
    for minutes, limit in ((2, table or 122.8), (4, 105.0), (15, 95.0)):
        row = _price(results.get(f"images-binary-{minutes}"), "nats", "stderr")
        yield Goal(nats.format(minutes), limit, *row, baseline=beside, form=".1f", strict=minutes == 2)
    beside = "; ".join(f"{name} {_bits(x):.2f}" for name, x in of["bins"].items())
    for minutes, limit in ((4, 3.30), (15, 3.05)):
        row = _price(results.get(f"images-bins-{minutes}"), "bits", "bits_stderr")
        yield Goal(f"Fashion-MNIST, 256 bins, {minutes} min: bits per dimension", limit, *row, baseline=beside)


def _price(result: Result | None, unit: str, stderr: str) -> tuple[float | None, float]:
    """Mean over seeds, and the larger of its spread and of the standard error of the held-out images."""
    if result is None:
        return None, 0.0
    found = spread([row["price"][unit] for row in result["rows"]])
    return found["mean"], max(found["std"], result["rows"][0]["price"][stderr])


def _bits(nats: float) -> float:
    return nats / (784 * 0.6931471805599453)


def _grey(result: Result | None) -> Iterator[Goal]:
    rows = result["rows"] if result is not None and "floor" in result else []
    for evaluations in (20, 50):
        what = f"Fashion-MNIST, grey, samples of {evaluations} evaluations: distance, no worse than torchcfm"
        if not rows:
            yield Goal(what, 0.0, None)
            continue
        ours = spread([row[f"ours {evaluations}"]["distance"] for row in rows])
        of_peers = {
            name: [best_of_peer(row[name], evaluations) for row in rows if name in row]
            for name in {*PEERS, *(key for key in rows[0] if key.startswith("torchcfm"))}
        }
        means = {name: spread([found["distance"] for _, found in some]) for name, some in of_peers.items() if some}
        best = min(means, key=lambda name: means[name]["mean"])
        method = of_peers[best][0][0].split()[0]
        beside = f"{best}, {method}: {means[best]['mean']:.1f}; held-out images {result['floor']['distance']:.1f}"  # type: ignore[index]
        error = ours["std"] + means[best]["std"]
        yield Goal(what, means[best]["mean"], ours["mean"], error, beside, form=".1f", note=_seeds(ours))
    what = "The same, 20 steps with guidance 1: accuracy on the label asked for"
    if not rows:
        yield Goal(what, 0.9, None, at_least=True)
        return
    found = spread([row["guided 20"]["accuracy"] for row in rows])
    plain = spread([row["ours 20"]["accuracy"] for row in rows])
    beside = f"without guidance {plain['mean']:.2f}; held-out images {result['floor']['accuracy']:.2f}"  # type: ignore[index]
    yield Goal(what, 0.9, found["mean"], found["std"], beside, at_least=True, note=_seeds(found))


def _seeds(found: Mapping[str, float]) -> str:
    return f" ({found['n']} seeds)" if found["n"] > 1 else ""


def _binary_samples(result: Result | None) -> Goal:
    what = "Fashion-MNIST, black and white, 20 evaluations by default: distance above that of held-out images"
    limit = 8.0 - 4.1
    if result is None:
        return Goal(what, limit, None, form=".1f")
    floor, found = result["floor"]["distance"], {name: row["distance"] for name, row in result["rows"].items()}
    beside = ", ".join(f"{name} {x - floor:.1f}" for name, x in found.items() if name != "default 20")
    note = f" (distance {found['default 20']:.1f}, held-out images {floor:.1f}; {result['samples']:,} samples)"
    return Goal(what, limit, found["default 20"] - floor, 0.0, beside, note=note, form=".1f")


def _text(results: Mapping[str, Result]) -> Iterator[Goal]:
    found, long = results.get("text"), results.get("text-long")
    beside = ""
    if found is not None:
        grams = "/".join(f"{row['bits']:.2f}" for row in found["n-grams"].values())
        peers = ", ".join(f"{row['bits']:.2f} in {row['seconds']:.0f} s" for row in found["autoregressive"])
        beside = f"1- to {len(found['n-grams'])}-gram {grams}; autoregressive, same blocks, {peers}"
    what = "King James Version, 27 characters, length 128, {} min: bits per character"
    flows = found["flow"] if found is not None else []
    prices = [row["prices"]["infinity"] for row in flows if row["preset"] == flows[0]["preset"]]
    value = spread([price["bits"] for price in prices]) if prices else None
    error = max(value["std"], prices[0]["stderr"]) if value else 0.0
    yield Goal(what.format(5), 3.0, value["mean"] if value else None, error, beside)
    best = min([*flows, *([long] if long else [])], key=lambda row: row["prices"]["infinity"]["bits"], default=None)
    price = best["prices"]["infinity"] if best is not None else None
    note = f" (in {best['seconds'] / 60:.0f} min)" if best is not None else ""
    bits, error = (price["bits"], price["stderr"]) if price else (None, 0.0)
    yield Goal(what.format(30), 2.5, bits, error, beside, note=note)


def _costs(result: Result | None) -> Iterator[Goal]:
    share, one = "Report after training, {}: share of the training time", "`bfn sample -n 1`, {}: time / the network's"
    if result is None:
        yield Goal(share.format("a minute"), 0.2, None)
        yield Goal(one.format("any network"), 2.0, None)
        yield Goal("Bytes in memory: resident / stored", 1.5, None)
        yield Goal("A memory map of 10 GB: GB of memory in training", 2.0, None)
        return
    for name, found in result.items():
        if not (isinstance(found, dict) and "report" in found):
            continue
        took = f" ({found['report']:.0f} s of {found['training']:.0f} s)"
        limit = max(0.2, 60.0 / found["training"])
        yield Goal(share.format(name), limit, found["report"] / found["training"], baseline="20 %, or 60 s", note=took)
        drawn: Mapping[str, Any] = found["sampling"]["1"]
        error = (drawn["high"] - drawn["low"]) / 4.0
        yield Goal(one.format(name), 2.0, drawn["ratio"], error, f"16 samples {found['sampling']['16']['ratio']:.2f}")
    yield Goal("Bytes in memory: resident / stored", 1.5, result["memory"]["held"])
    yield Goal("A memory map of 10 GB: GB of memory in training", 2.0, result["memory"]["process"])


def section(results: Mapping[str, Result]) -> str:
    """The table of all goals."""
    found = list(goals(results))
    known = [goal for goal in found if goal.reached is not None]
    met = sum(goal.is_met for goal in known)
    lines = [
        "## Goals",
        "",
        f"{met} of {len(found)} goals are met, {len(known) - met} are missed, {len(found) - len(known)} are not "
        "measured. Behind ± is the standard error over the held-out data or, where it is larger, the standard "
        "deviation over seeds. Distances are of Frechet between features of our own small classifier, and depend on "
        "the number of samples: they are to be compared with that of as many held-out images, of which each label has "
        "as many, and not with those of another classifier. So a goal that was set with another one (black and white: "
        "8, held-out images 4.1) is stated as what is above the held-out images.",
        "",
        "| what | goal | reached | beside it | verdict |",
        "|---|---|---|---|---|",
        *(goal.line() for goal in found),
        "",
        "![Bars of prices, ours beside baselines and peers](../figures/results_prices.png)",
        "",
        "Prices of held-out data, ours in orange: shorter is better. Only the autoregressive transformer and ours were "
        "trained for minutes; the others count.",
    ]
    return "\n".join(lines)
