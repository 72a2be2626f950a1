"""Checks of a run: what its curves and scores show, and the line to write where something looks wrong.

Each check compares two numbers of the run, and says both.  Limits are wide: a sound run passes every check.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from bfn_toolkit.reports.names import BASELINES, DISTANCES
from bfn_toolkit.reports.page.blocks import Verdict, four_digits, rough
from bfn_toolkit.reports.page.curves import Points
from bfn_toolkit.runs.records import EXPERIMENT

ERRORS = 3.0  # standard errors of a difference that is not chance
FEWEST = 40  # steps of a training that can be judged
FALL = 0.03  # share of the whole fall of the loss that its last seventh may still have
RISE = 0.05  # share of the whole fall of the validation loss by which its end may be above its lowest
GROWTH, PEAK, VANISHED = 10.0, 100.0, 1e-3  # of the gradient norm, as a ratio
FAR, MORE = 3.0, 0.02  # times the floor, and how much more, from which samples are far from the data
MANY = 100  # samples without which distances tell little
SHARE = 0.25  # by which the share of a mode may be off, as a share of it
GAIN = 0.2  # share of a distance by which more steps may still lower it
COPIES = 0.02  # share of copies among samples, beyond what chance gives


@attrs.frozen(eq=False)
class Evidence:
    """Everything that is checked.

    Arguments:
        curves: The measurements of the training (:func:`~bfn_toolkit.reports.page.curves.read_curves`).
        scores: The scores of the run; empty if there are none.
        options: Values of the options of the experiment, by dotted key.
        folder: The run directory.
        nonfinite: Steps with numbers that were not finite.
    """

    curves: Mapping[str, Points]
    scores: Mapping[str, Any]
    options: Mapping[str, Any]
    folder: Path
    nonfinite: Sequence[int] = ()

    def again(self, *options: str) -> str:
        """The command that trains anew with other options."""
        return " ".join(["bfn train --config", shlex.quote(str(self.folder / EXPERIMENT)), *options])

    def longer(self) -> str:
        """The command that trains twice as long."""
        return self.again(f"--steps {2 * self.steps}")

    @property
    def steps(self) -> int:
        """Number of steps that were asked for."""
        return int(self.options.get("training.steps", 0))

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.options.get("training.lr", 0.0))


def checks(evidence: Evidence) -> list[Verdict]:
    """The verdicts of all checks, in the order in which one would look."""
    every = (_nonfinite, _gradient, _loss, _validation, _bound, _distances, _modes, _steps, _copies, _table)
    return [verdict for check in every for verdict in check(evidence)]


def _nonfinite(evidence: Evidence) -> Iterator[Verdict]:
    name, steps = "Numbers", evidence.nonfinite
    if not steps:
        yield Verdict(name, "fine", "The loss and the gradient were finite in every step.")
        return
    times = "one step" if len(steps) == 1 else f"{len(steps):,} steps, the first of them step {min(steps):,}"
    times = f"step {steps[0]:,}" if len(steps) == 1 else times
    seen = f"The loss or the gradient was not finite in {times}; the folder nonfinite/ names the rows where it began."
    yield Verdict(name, "wrong", seen, evidence.again(f"--lr {evidence.lr / 3.0:.2g}"))


def _gradient(evidence: Evidence) -> Iterator[Verdict]:
    norms = _finite(evidence, "grad_norm")
    if len(norms) < FEWEST:
        return
    name, tenth = "Gradient", len(norms) // 10
    first, last, middle = (float(np.median(part)) for part in (norms[:tenth], norms[-tenth:], norms))
    words = f"Its norm went from {four_digits(first)} in the first tenth of the steps to {four_digits(last)} at the end"
    peak, clip = float(norms[tenth:].max()), float(evidence.options.get("training.clip_norm", math.inf))
    if last > GROWTH * max(first, middle):
        yield Verdict(name, "wrong", f"{words}: it explodes.", evidence.again(f"--lr {evidence.lr / 3.0:.2g}"))
    elif last < VANISHED * first or last == 0.0:
        yield Verdict(name, "wrong", f"{words}: it has vanished.", evidence.again(f"--lr {evidence.lr / 3.0:.2g}"))
    elif peak > PEAK * middle and clip > GROWTH * middle:
        seen = f"Its norm had a peak of {four_digits(peak)}, where its median is {four_digits(middle)}."
        yield Verdict(name, "wrong", seen, evidence.again(f"--training.clip_norm {middle:.2g}"))
    else:
        yield Verdict(name, "fine", f"{words}.")


def _loss(evidence: Evidence) -> Iterator[Verdict]:
    losses = _finite(evidence, "loss")
    if len(losses) < FEWEST:
        return
    name, n = "Training loss", len(losses)
    start, before, end = losses[: n // 10], losses[-2 * (n // 7) : -(n // 7)], losses[-(n // 7) :]
    fall, late = _difference(start, end), _difference(before, end)
    words = f"It fell from {four_digits(start.mean())} in the first tenth of the steps to {four_digits(end.mean())}"
    if fall[0] < -ERRORS * fall[1]:
        seen = f"It rose from {four_digits(start.mean())} to {four_digits(end.mean())}."
        yield Verdict(name, "wrong", seen, evidence.again(f"--lr {evidence.lr / 10.0:.2g}"))
    elif fall[0] < ERRORS * fall[1]:
        seen = f"It did not fall: {four_digits(start.mean())} at first, {four_digits(end.mean())} at the end."
        yield Verdict(name, "wrong", seen, evidence.again(f"--lr {3.0 * evidence.lr:.2g}"))
    elif late[0] > max(FALL * fall[0], ERRORS * late[1]):
        seen = f"{words}, and was still falling at the end: by {four_digits(late[0])} in the last seventh."
        yield Verdict(name, "wrong", seen, evidence.longer())
    else:
        yield Verdict(name, "fine", f"{words}, and has settled.")


def _validation(evidence: Evidence) -> Iterator[Verdict]:
    name = "Validation loss"
    if "valid_loss" not in evidence.curves:
        every = max(1, evidence.steps // 20)
        line = evidence.again(f"--training.validate_every {every}")
        yield Verdict(name, "unknown", "It was not measured, so overfitting would go unnoticed.", line)
        return
    steps, losses = evidence.curves["valid_loss"]
    steps, losses = steps[np.isfinite(losses)], losses[np.isfinite(losses)]
    if len(losses) < 4:
        return
    best = int(losses.argmin())
    low, last, fall = float(losses[best]), float(losses[-1]), float(losses[0] - losses[best])
    # Rows and draws differ little between validations, so that one standard error of the rows is far more than chance.
    errors = _finite(evidence, "valid_loss_stderr")
    rise = max(RISE * fall, float(errors[-1]) if len(errors) else 0.0)
    at = f"{four_digits(low)} after step {steps[best]:,.0f}"
    if last <= low + rise or best >= len(losses) - 2:
        yield Verdict(name, "fine", f"Its lowest value is {at}, its last {four_digits(last)}.")
    elif evidence.options.get("training.final") == "best":
        yield Verdict(
            name, "fine", f"It rose from {at} to {four_digits(last)}; the model has the weights of the lowest."
        )
    else:
        line = evidence.again("--training.final best")
        yield Verdict(name, "wrong", f"It rose from {at} to {four_digits(last)} at the end.", line)


def _bound(evidence: Evidence) -> Iterator[Verdict]:
    scores, name = evidence.scores, "Bound on the likelihood"
    simple = simplest(scores)
    if scores.get("total_nats") is None or simple is None:
        return
    key, best = simple
    error = math.hypot(scores["total_nats_stderr"] or 0.0, best["total_nats_stderr"] or 0.0)
    own, other = (rough(one["total_nats"], one["total_nats_stderr"]) for one in (scores, best))
    law = BASELINES[key].format(scores.get("dimension", "dimension"))
    if scores["total_nats"] - best["total_nats"] > 2.0 * error:
        seen = f"{own} nats are above the {other} nats of a simple baseline ({law})."
        yield Verdict(name, "wrong", seen, evidence.longer())
    elif scores["total_nats"] > best["total_nats"]:
        seen = f"{own} nats, and {other} of a simple baseline ({law}): no more than the error of {rough(error)}."
        yield Verdict(name, "unknown", seen, f"bfn evaluate {shlex.quote(str(evidence.folder))}")
    else:
        yield Verdict(name, "fine", f"{own} nats, where the best baseline ({law}) reaches {other}.")


def simplest(scores: Mapping[str, Any]) -> tuple[str, Mapping[str, float]] | None:
    """Name and price of the best baseline; None if there is none."""
    found = {name: price for name, price in scores.get("baselines", {}).items() if price["total_nats"] is not None}
    return min(found.items(), key=lambda pair: pair[1]["total_nats"], default=None)


def _distances(evidence: Evidence) -> Iterator[Verdict]:
    name, samples = "Samples and data", evidence.scores.get("samples", {})
    pairs = [*_pairs(samples, samples.get("floor", {}))]
    if not pairs:
        return
    words, value, floor = max(pairs, key=lambda pair: pair[1] / (FAR * max(pair[2], 0.0) + MORE))
    seen = f"{words}: {four_digits(value)}, against {four_digits(floor)} for rows of the data in place of the samples"
    n = samples["floor"].get("n", samples["n"])
    if value > FAR * max(floor, 0.0) + MORE:
        yield Verdict(name, "wrong", f"{seen}: the samples are far from the data.", evidence.longer())
    elif n < MANY:
        yield Verdict(name, "unknown", f"{seen}. With only {n:,}, this says little.")
    else:
        yield Verdict(name, "fine", f"{seen}.")


def _pairs(samples: Mapping[str, Any], floor: Mapping[str, Any], part: str = "") -> Iterator[tuple[str, float, float]]:
    """Name, distance of the samples, and that of rows in their place, of each distance."""
    for key, words in DISTANCES.items():
        if samples.get(key) is not None and floor.get(key) is not None:
            yield f"{part}{words}", samples[key], floor[key]
    for name, inner in samples.get("parts", {}).items():
        yield from _pairs(inner, floor.get("parts", {}).get(name, {}), f"{name}: ")


def _modes(evidence: Evidence) -> Iterator[Verdict]:
    samples = evidence.scores.get("samples", {})
    shares, expected = samples.get("mode_shares", {}), samples.get("mode_probabilities", {})
    known = [mode for mode in expected if mode in shares and 0.0 < expected[mode] < 1.0]
    if not known:
        return
    mode = max(known, key=lambda mode: abs(shares[mode] - expected[mode]) / expected[mode])
    share, right = shares[mode], expected[mode]
    error = math.sqrt(right * (1.0 - right) / samples["n"])
    seen = f"Mode {mode} has {share:.1%} of the samples, and should have {right:.1%}"
    if abs(share - right) > max(SHARE * right, ERRORS * error):
        yield Verdict("Modes", "wrong", f"{seen}.", evidence.longer())
    else:
        yield Verdict("Modes", "fine", f"{seen}; the others are nearer to theirs.")


def _steps(evidence: Evidence) -> Iterator[Verdict]:
    samples = evidence.scores.get("samples", {})
    found = [one for one in samples.get("by_steps") or () if one["score"] is not None]
    own = next((one for one in found if one["steps"] == samples.get("steps")), None)
    more = [one for one in found if own is not None and one["steps"] > own["steps"]]
    if own is None or not more:
        return
    best = min(more, key=lambda one: one["score"])
    now, then = (f"{four_digits(one['score'])} in {one['steps']:,} steps" for one in (own, best))
    seen = f"{DISTANCES.get(own['name'], own['name'])}: {now}, and {then}"
    if own["score"] > best["score"] + max(GAIN * own["score"], own["floor"] or 0.0):
        line = f"bfn sample {shlex.quote(str(evidence.folder))} --steps {best['steps']}"
        yield Verdict("Steps of the sampler", "wrong", f"{seen}: more steps help.", line)
    else:
        yield Verdict("Steps of the sampler", "fine", f"{seen}.")


def _copies(evidence: Evidence) -> Iterator[Verdict]:
    name, samples = "Copies of training rows", evidence.scores.get("samples", {})
    found = samples.get("memorisation") or samples.get("table") or {}
    copies = found.get("copies")
    if not copies:
        return
    held_out = found.get("rows", {}).get("held_out") or samples["n"]
    seen = f"{copies['samples']:.1%} of the samples equal a training row, and {copies['real']:.1%} of the held-out rows"
    reasons = [copies["samples"] > copies["real"] + COPIES + 2.0 / held_out]
    if found.get("copied") is not None:
        copied, error = found["copied"], found["copied_stderr"] or 0.0
        seen += f"; their nearest rows suggest {copied:.1%} \N{PLUS-MINUS SIGN} {error:.1%} copies"
        reasons.append(copied > COPIES + ERRORS * error)
    if any(reasons):
        yield Verdict(name, "wrong", f"{seen}.", _shorter(evidence))
    else:
        yield Verdict(name, "fine", f"{seen}.")


def _shorter(evidence: Evidence) -> str:
    """The command of a new training that memorises less."""
    dropout = evidence.options.get("network.dropout")
    if "valid_loss" in evidence.curves and evidence.options.get("training.final") != "best":
        return evidence.again("--training.final best")
    if isinstance(dropout, float) and dropout < 0.5:
        return evidence.again(f"--network.dropout {max(0.1, min(0.5, 2.0 * dropout)):g}")
    return evidence.again(f"--steps {max(1, evidence.steps // 2)}")


def _table(evidence: Evidence) -> Iterator[Verdict]:
    """Advice from the scores of a table (:func:`~bfn_toolkit.reports.tables.advice`)."""
    table = evidence.scores.get("samples", {}).get("table")
    if table is None:
        return
    for advice in table["advice"]:
        reason, _, ways = advice.rpartition(": ")
        first, *others = ways.split(" or ")
        also = f" Another way: {' or '.join(others)}." if others else ""
        yield Verdict("Table", "wrong", f"{reason[:1].upper()}{reason[1:]}.{also}", evidence.again(first))
    if not table["advice"]:
        yield Verdict("Table", "fine", "Columns, pairs and likelihoods show nothing to change.")


def _finite(evidence: Evidence, key: str) -> NDArray[np.float64]:
    """The values of a measurement that are finite."""
    values = evidence.curves[key][1] if key in evidence.curves else np.zeros(0)
    return values[np.isfinite(values)]


def _difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Difference of two means, and its standard error."""
    error = math.sqrt(first.var() / len(first) + second.var() / len(second))
    return float(first.mean() - second.mean()), error
