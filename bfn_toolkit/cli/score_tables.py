"""Tables of scores: likelihood, distances, and the quality of the samples of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bfn_toolkit.cli.display import echo, one_line, print_table
from bfn_toolkit.reports.names import BASELINES, DISTANCES
from bfn_toolkit.runs.wording import with_error

COLUMNS = 20  # largest number of columns whose distances are printed


def _number(value: float | None, form: str = ".4f") -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:{form}}"


def _beside(value: Any, form: str, floor: Mapping[str, Any], key: str) -> str:
    """A number, and that of data in its place."""
    return _number(value, form) + (f" ({_number(floor[key], form)})" if key in floor else "")


def _distance_rows(
    scores: Mapping[str, Any], floor: Mapping[str, Any], prefix: str = "", unit: str = ""
) -> list[tuple[str, str]]:
    units = {key: f" {unit}" for key in ("w1", "sliced_w1", "w1_lengths") if unit}
    rows = [
        (prefix + name, _beside(scores[key], ".4f", floor, key) + units.get(key, ""))
        for key, name in DISTANCES.items()
        if key in scores
    ]
    columns = list(scores.get("columns", {}).items())[:COLUMNS]
    rows += [(f"  W1 of {name}", _beside(value, ".4g", floor.get("columns", {}), name)) for name, value in columns]
    for part, inner in scores.get("parts", {}).items():
        rows += _distance_rows(inner, floor.get("parts", {}).get(part, {}), f"{prefix}{part}: ", unit)
    return rows


def _steps_rows(samples: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Scores by the number of steps, beside the floor."""
    from bfn_toolkit.reports.by_steps import SCORES  # torch is there since the scores were made

    lines = samples.get("by_steps")
    if lines:
        values = ", ".join(_number(line["score"], ".3g") for line in lines)
        steps = ", ".join(str(line["steps"]) for line in lines)
        yield f"{SCORES[lines[0]['name']]} in {steps} steps", f"{values} ({_number(lines[0]['floor'], '.3g')})"


def _memorisation_rows(samples: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Samples beside the training rows; in brackets held-out rows."""
    found = samples.get("memorisation")
    if not found:
        return
    if "longest" in found:
        runs = found["longest"]
        yield "longest run of a training text", _beside(runs["samples"], ".0f", {"real": runs["real"]}, "real")
    yield "nearest training row", _beside(found["nearest"]["samples"], ".4g", found["nearest"], "real")
    yield "  nearer than 95 % of held-out rows", _beside(found["closer"]["samples"], ".1%", found["closer"], "real")
    if "copied" in found:
        yield "  memorised, judged by nearest rows", with_error(found["copied"], found["copied_stderr"])
    private = found.get("membership")
    if private and "table" not in samples:
        yield "AUC of prices for training rows", with_error(private["auc"], private["stderr"]) + " (0.5)"


def scores_table(scores: Mapping[str, Any], *, details: bool = False) -> None:
    """Prints the scores of :func:`~bfn_toolkit.reports.report.evaluate`.

    Arguments:
        scores: The scores.
        details: Whether to print the worst columns and pairs of a table.
    """

    def estimate(key: str, scores: Mapping[str, Any] = scores) -> str:
        return with_error(scores[key], scores[f"{key}_stderr"])

    rows, title = [], []
    if "total_nats" in scores:
        steps, dimension = scores["steps"], scores.get("dimension", "dimension")
        messages = "L inf: the messages, in continuous time" if steps == "inf" else f"L {steps}: the {steps} messages"
        rows += [
            (messages, estimate("loss_nats") + " nats"),
            ("L r: the data after the last message", estimate("reconstruction_nats") + " nats"),
            ("sum: bound on -ln p(x)", estimate("total_nats") + " nats"),
            ("", f"{estimate('bits_per_dimension')} bits per {dimension}"),
        ]
        rows += [
            (f"  of {name}", f"{estimate('total_nats', part)} nats") for name, part in scores.get("parts", {}).items()
        ]
        if "entropy_nats" in scores:
            exact = scores["entropy_nats_stderr"] == 0.0
            entropy = f"{scores['entropy_nats']:.4f}" if exact else estimate("entropy_nats")
            rows.append(("  entropy of the data: the minimum", f"{entropy} nats"))
        for name, costs in scores.get("baselines", {}).items():
            cost = f"{estimate('total_nats', costs)} nats, {_number(costs['bits_per_dimension'])} bits"
            rows.append((f"  {BASELINES[name].format(dimension)}", cost))
        if scores["unit"]:
            rows.append(("unit of the density", scores["unit"]))
        title.append(f"negative log-likelihood of {scores['examples']:,} {scores['split']} examples, lower is better")
    if weighted := scores.get("importance"):
        rows += [
            (f"bound of {weighted['particles']:,} particles", estimate("total_nats", weighted) + " nats"),
            (
                f"  {weighted['steps']:,} messages, {weighted['examples']:,} examples",
                estimate("bits_per_dimension", weighted) + " bits per dimension",
            ),
            ("  gain over one particle", estimate("gain_nats", weighted) + " nats"),
            ("  effective particles", f"{weighted['effective_particles']:.1f}"),
        ]
    if "log_density_nats" in scores:
        rows.append((f"ln p(x) of {scores['log_density_examples']:,} examples", estimate("log_density_nats") + " nats"))
        rows.append(("", f"{scores['log_density_solver_error']:.4f} error of the solver"))
    if samples := scores.get("samples"):
        floor, exact = samples.get("floor", {}), samples.get("mode_probabilities", {})
        rows += _distance_rows(samples, floor, unit=samples.get("unit", ""))
        for mode, share in samples.get("mode_shares", {}).items():
            right = f"; should be {exact[mode]:.3f}" if mode in exact else ""
            rows.append((f"share of mode {mode}", _beside(share, ".3f", floor.get("mode_shares", {}), mode) + right))
        rows += [*_steps_rows(samples), *_memorisation_rows(samples)]
        if floor:
            rows.append(("  in brackets: in place of the samples", f"{floor['n']:,} {floor['rows']}"))
        better = "" if "table" in samples else ", distances: lower is better"
        title.append(f"{samples['n']:,} samples in {samples['steps']} {samples['sampler']} steps{better}")
    if rows:
        print_table("; ".join(title), rows)
    for text in scores.get("samples", {}).get("first", ()):
        echo(one_line(text))
    if table := scores.get("samples", {}).get("table"):
        for word, text in _table_lines(table, details):
            echo(f"{word:<8}{text}")


WORST = 5  # columns of a table, and pairs of them, that are printed


def _table_lines(table: Mapping[str, Any], details: bool) -> Iterator[tuple[str, str]]:
    """Scores of the samples of a table as lines, each with its first word."""

    def pair(scores: Mapping[str, Any], form: str = ".3f") -> str:
        samples, real = ("unknown" if scores[who] is None else f"{scores[who]:{form}}" for who in ("samples", "real"))
        return f"{samples} ({real})"

    rows = table["rows"]
    yield "", f"against {rows['held_out']:,} held-out rows; in brackets: training rows in the place of the samples"
    kinds = {"w1": "numbers: W1 {} sd", "tv": "categories: total variation {}", "gaps": "share of gaps {}"}
    parts = [text.format(pair(table[key])) for key, text in kinds.items() if table[key]["real"] is not None]
    yield "columns", "   ".join(parts)
    columns = [
        (name, key, scores)
        for name, column in table["columns"].items()
        for key, scores in column.items()
        if key != "gaps"
    ]
    columns.sort(key=lambda column: (column[2]["real"] or 0.0) - (column[2]["samples"] or 0.0))
    for name, key, scores in columns[: WORST * details]:
        yield "", f"{name}: {pair(scores)}{' sd' * (key == 'w1')}"
    if pairs := table["pairs"]:
        yield (
            "pairs",
            f"association off by {pair(pairs['mean'])}; independent columns {pairs['mean']['independent']:.3f}",
        )
        for found in pairs["worst"][: WORST * details]:
            values = f"{found['samples']:.2f} in samples, {found['data']:.2f} in data"
            yield "", f"{' and '.join(found['columns'])}: {values}, off by {pair(found['error'])}"
    if test := table.get("two_samples"):
        by = f", most by {', '.join(list(test['columns'])[:3])}" if test["columns"] else ""
        yield (
            "told",
            f"from real rows: AUC {test['samples']:.3f} \N{PLUS-MINUS SIGN} {test['stderr']:.3f} (0.5: not at all){by}",
        )
    if target := table.get("target"):
        yield "target", f"{target['column']}, learned from samples: {target['metric']} {pair(target)}"
    if "left_out" in table:
        yield "", table["left_out"]
    if table["valid"]["samples"] < 1.0:
        yield "valid", f"{table['valid']['samples']:.2%} of the samples; not so: {', '.join(table['valid']['invalid'])}"
    closest = f"closest training row: {pair(table['nearest'])}"
    yield "copies", f"of training rows: {pair(table['copies'], '.2%')}   {closest}"
    if private := table["membership"]:
        value = f"AUC {private['auc']:.3f} \N{PLUS-MINUS SIGN} {private['stderr']:.3f} (0.5: not at all)"
        yield "prices", f"tell training rows: {value}"
        for row in private["named"][: WORST if details else 3]:
            times = f"{row['repeats']} times in the training, " if row["repeats"] > 1 else ""
            yield "", f"{row['row']}: {times}cheaper than {row['cheaper_than']:.1%} of held-out rows"
    for line in table["advice"]:
        yield "try", line
