"""Sections of a page, each made from what is known about a run.  A section without contents is left out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.errors import DataError
from bfn_toolkit.registry.registry import BUILT_IN
from bfn_toolkit.reports.names import BASELINES, COMPARED, DISTANCES
from bfn_toolkit.reports.page.blocks import (
    Block,
    Cell,
    Charts,
    Code,
    Number,
    Paragraph,
    Pictures,
    Price,
    Prices,
    Table,
    Verdicts,
    four_digits,
    number,
    rough,
)
from bfn_toolkit.reports.page.checks import simplest
from bfn_toolkit.reports.page.curves import Curve, chart, compared_charts, read_curves, training_charts
from bfn_toolkit.reports.page.pictures import columns, picture, side_by_side
from bfn_toolkit.reports.page.subject import LETTER_WORDS, Subject, plural
from bfn_toolkit.reports.tables import Sides
from bfn_toolkit.runs.listing import settings_that_differ, summarise
from bfn_toolkit.runs.metrics_log import StoredMetrics
from bfn_toolkit.runs.provenance import providers
from bfn_toolkit.runs.records import EXPERIMENT, all_facts
from bfn_toolkit.shapes import batch_size

NOT_EVALUATED = "There are no scores of these weights."
COLUMNS = 12  # largest number of columns of a table with a row each
LETTERS = 60  # of a setting in a comparison
NAMED = 5  # rows that their prices give away


def data_and_model(subject: Subject) -> Iterator[Block]:
    """The data, the model and its training, as a table."""
    run, counts = subject.run, subject.counts
    experiment = run.experiment
    parts = providers(experiment)
    data = subject.data_name + (
        "" if subject.data_name == subject.dataset_name else f", read as {subject.dataset_name}"
    )
    rows: list[tuple[str, Cell]] = [("Data", data)]
    if counts:
        split = f"{counts['train']:,} for training, {counts['valid']:,} for validation, {counts['test']:,} held out"
        rows.append((plural(subject.noun).capitalize(), split))
    rows.append((f"One {subject.noun}", _example(subject)))
    for key, title in (("family", "Family"), ("network", "Network"), ("loss", "Loss")):
        rows.append((title, _component(parts, key)))
    weights = sum(weight.numel() for weight in run.model.parameters())
    rows.append(("Parameters", Number(weights, f"{weights / 1e6:.3g} million" if weights >= 1e6 else f"{weights:,}")))
    training, step = experiment.training, subject.steps
    asked = "" if step == training.steps else f" of {training.steps:,}"
    rows.append(("Training", f"{step:,}{asked} steps of {training.batch_size:,} {plural(subject.noun)}"))
    rows.append(("Optimiser", f"{training.optimizer}, learning rate {training.lr:g}, schedule {training.scheduler}"))
    seconds, device = subject.description.get("training_seconds"), subject.environment.get("device")
    if seconds is not None:
        rows.append(("Time", f"{_duration(seconds)}{f' on {device}' if device else ''}"))
    rows.append(("Weights", str(run.weights)))
    rows.append(("Seed", Number(experiment.seed, str(experiment.seed))))
    versions = {"bfn-toolkit": subject.description.get("bfn-toolkit"), "torch": subject.description.get("torch")}
    others = {part["distribution"]: part["version"] for part in parts.values() if part["distribution"] != BUILT_IN}
    rows.append(("Versions", ", ".join(f"{name} {one}" for name, one in {**versions, **others}.items() if one)))
    rows.append(("Finished" if subject.description else "Started", subject.date))
    yield Table([row for row in rows if row[1]])
    if not counts:
        yield Paragraph("The data cannot be read now, so their rows are neither counted nor drawn.", "note")


def _example(subject: Subject) -> str:
    """Shape of one example, in words."""
    run, word = subject.run, subject.scores.get("dimension", "")
    if run.codec.is_table:
        names = run.codec.names
        few = ", ".join(names[:COLUMNS]) + (", ..." if len(names) > COLUMNS else "")
        return f"{len(names)} columns: {few}" if len(names) > 1 else few
    found = []
    for part in run.model.family.walk():
        shape, classes = part.family.network_io.site_shape, part.family.network_io.parts[""].classes
        count = " x ".join(map(str, shape)) or "1"
        noun = word if word in LETTER_WORDS else "site" if classes else "number"
        of = f" of {classes} classes" if classes else ""
        found.append(f"{part.name}: " * bool(part.name) + f"{count} {noun}{'s' * (count != '1')}{of}")
    return "; ".join(found)


def _component(parts: Mapping[str, Mapping[str, str]], key: str) -> str:
    """A component and those inside it, by name."""
    inner = (f"{name.rpartition('.')[2]} {part['name']}" for name, part in parts.items() if name.startswith(f"{key}."))
    return ", ".join([parts[key]["name"], *dict.fromkeys(inner)])


def _duration(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s" if seconds >= 10.0 else f"{seconds:.1f} s"
    return f"{seconds / 60.0:.0f} minutes" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} hours"


def comparison(subject: Subject) -> Iterator[Block]:
    """This run beside others: curves, settings that differ, scores."""
    if not subject.compared:
        return
    found = [summarise(path) for path in (subject.path, *subject.compared)]
    names = _different_names([run.path for run in found])
    curves = {}
    for name, run in zip(names, found, strict=True):
        record = next((facts.get("metrics") for facts, _ in all_facts(run.path)), None)
        curves[name] = read_curves(StoredMetrics(run.path, record) if record else ())
    curves[names[0]] = subject.curves
    yield Charts(compared_charts(curves))
    differing = settings_that_differ(found)
    rows: list[list[Cell]] = [[key, *map(_setting, values)] for key, values in differing.items()]
    if rows:
        yield Table(rows, ["Settings that differ", *names])
    else:
        yield Paragraph("The settings are equal.")
    scores: list[list[Cell]] = [["weights", *(_count(run.weights) for run in found)]]
    scores.append(["steps", *(_count(run.step) for run in found)])
    scores.append(["lowest validation loss", *(_score(run.best_valid_loss) for run in found)])
    for key, words in COMPARED.items():
        if any(key in run.scores for run in found):
            scores.append([words, *(_score(run.scores.get(key), run.scores.get(f"{key}_stderr")) for run in found)])
    yield Table(scores, ["Scores", *names])
    for name, run in zip(names, found, strict=True):
        yield from (Paragraph(f"{name}: {fault}", "fault") for fault in run.faults)


def _different_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths by which they differ."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {path}" for i, path in enumerate(paths, 1)]


def _setting(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "not set" if value is None else str(value)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} ..."


def _count(value: int | None) -> Cell:
    return "" if value is None else Number(value, f"{value:,}")


def _score(value: float | None, stderr: float | None = None) -> Cell:
    return "" if value is None else number(value, stderr)


def samples(subject: Subject) -> Iterator[Block]:
    """Samples beside the data, and their distances."""
    run, scores = subject.run, subject.scores.get("samples", {})
    if subject.samples is None:
        yield Paragraph("There are no samples.", "fault")
        return
    n = batch_size(subject.samples)
    plan = subject.plan
    yield Paragraph(f"{n:,} samples in {plan.plan.steps:,} steps of the sampler {plan.sampler}, beside the data.")
    try:
        if run.codec.is_table:
            yield columns(Sides.of(plan, subject.samples))
            if "pairs" in subject.figures:
                words = "associations of pairs of columns in real rows and in samples, and their difference"
                yield Pictures([picture(subject.figures["pairs"](), words, "Pairs of columns")], "wide")
        else:
            condition = plan.draws.condition(torch.arange(n)) or {}
            drawn = Batch(subject.samples, condition, plan.mask(range(n)))
            yield from side_by_side(run.model.family, drawn, run.split("all"), run.codec)
    except DataError as error:
        yield Paragraph(f"The data cannot be drawn: {error}", "fault")
    if "table" in scores:
        yield from _table_quality(scores["table"])
    elif scores:
        yield from _distances(scores)


def _distances(scores: Mapping[str, Any]) -> Iterator[Block]:
    """Distances of samples beside those of rows of the data in their place."""
    floor = scores.get("floor", {})
    rows = [*_distance_rows(scores, floor)]
    if rows:
        words = (
            f"The floor is that of {floor['n']:,} {floor['rows']}, in place of the samples: about the best possible."
            if floor
            else ""
        )
        yield Table(rows, ["Distance, lower is better", "samples", "floor"], words)
    if shares := scores.get("mode_shares"):
        expected, other = scores.get("mode_probabilities", {}), floor.get("mode_shares", {})
        modes = [[f"mode {mode}", *(_share(each.get(mode)) for each in (shares, other, expected))] for mode in shares]
        yield Table(modes, ["Share of a mode", "samples", "floor", "expected"])


def _distance_rows(scores: Mapping[str, Any], floor: Mapping[str, Any], prefix: str = "") -> Iterator[list[Cell]]:
    for key, words in DISTANCES.items():
        if key in scores:
            yield [prefix + words, number(scores[key]), _score(floor.get(key))]
    for name, value in list(scores.get("columns", {}).items())[:COLUMNS]:
        yield [f"{prefix}W1 of {name}", number(value), _score(floor.get("columns", {}).get(name))]
    for name, inner in scores.get("parts", {}).items():
        yield from _distance_rows(inner, floor.get("parts", {}).get(name, {}), f"{name}: ")


def _share(value: float | None) -> Cell:
    return "" if value is None else Number(value, f"{value:.1%}")


def _table_quality(table: Mapping[str, Any]) -> Iterator[Block]:
    """Scores of the samples of a table, beside those of training rows in their place."""
    rows: list[list[Cell]] = []

    def add(words: str, scores: Mapping[str, Any] | None) -> None:
        if scores and scores.get("samples") is not None:
            rows.append([words, number(scores["samples"]), _score(scores.get("real"))])

    add("Columns of numbers: mean W1", table["w1"])
    add("Columns of categories: mean TV", table["tv"])
    add("Missing values: error of their share", table["gaps"])
    add("Pairs of columns: error of their association", table["pairs"].get("mean"))
    if test := table.get("two_samples"):
        rows.append(
            ["Classifier of samples against real rows: AUC", number(test["samples"], test["stderr"]), number(0.5)]
        )
    if target := table.get("target"):
        add(f"Predictor of {target['column']}, trained on samples: {target['metric']}", target)
    held_out = table["rows"]["held_out"]
    words = f"Against {held_out:,} held-out rows. The floor is the score of training rows in place of the samples."
    yield Table(rows, ["Quality of the samples", "samples", "floor"], words)
    kinds = {"w1": "W1", "tv": "TV"}
    worst = sorted(
        (
            (name, key, scores)
            for name, column in table["columns"].items()
            for key, scores in column.items()
            if key in kinds
        ),
        key=lambda one: (one[2]["real"] or 0.0) - (one[2]["samples"] or 0.0),
    )
    each: list[list[Cell]] = [
        [f"{name}, {kinds[key]}", number(scores["samples"]), _score(scores["real"])] for name, key, scores in worst
    ]
    if len(each) > 1:
        words = (
            "W1 (Wasserstein) is in standard deviations of the column; TV is the total variation between categories."
        )
        yield Table(each[:COLUMNS], ["Columns, worst first", "samples", "floor"], words)


def flows(subject: Subject) -> Iterator[Block]:
    """The way from the prior to the samples."""
    if "flows" in subject.figures:
        yield Paragraph(
            "A sample starts from the prior, a belief that knows nothing of the data, which each step sharpens."
        )
        alt = "beliefs and expectations of the network at several times between the prior and the samples"
        yield Pictures([picture(subject.figures["flows"](), alt)], "wide")


def likelihood(subject: Subject) -> Iterator[Block]:
    """The likelihood bound of held-out rows, beside the entropy and the baselines."""
    scores = subject.scores
    if "total_nats" not in scores:
        yield Paragraph(NOT_EVALUATED, "note")
        return
    word, noun = scores.get("dimension", "dimension"), subject.noun
    own = number(scores["total_nats"], scores["total_nats_stderr"])
    where = {"test": "new", "train": "training", "valid": "validation"}.get(scores["split"], "known")
    sentences = [
        f"Encoded with this model, a {where} {noun} costs at most {own.text} nats on average: this is an upper "
        f"bound on \N{MINUS SIGN}ln p(x), so lower is better. It was measured on {scores['examples']:,} "
        f"{plural(noun)}, with {scores['draws']:,} draws of each."
    ]
    best = simplest(scores)
    if best is not None and scores["total_nats"] is not None:
        key, costs = best
        gain = costs["total_nats"] - scores["total_nats"]
        error = math.hypot(scores["total_nats_stderr"] or 0.0, costs["total_nats_stderr"] or 0.0)
        words = f"the best simple baseline ({BASELINES[key].format(word)})"
        if abs(gain) <= 2.0 * error:
            sentences.append(f"That is as much as {words}, within the error.")
        else:
            sentences.append(f"That is {rough(abs(gain), error)} nats {'below' if gain > 0.0 else 'above'} {words}.")
    if "entropy_nats" in scores and scores["total_nats"] is not None:
        gap = scores["total_nats"] - scores["entropy_nats"]
        error = math.hypot(scores["total_nats_stderr"] or 0.0, scores["entropy_nats_stderr"] or 0.0)
        known = "The entropy of the data is known, and no model can cost less on average"
        far = (
            f"this one is {rough(gap, error)} nats above it"
            if gap > 2.0 * error
            else "this one reaches it, within the error"
        )
        sentences.append(f"{known}: {far}.")
    yield Paragraph(" ".join(sentences))
    yield _prices(scores, word, noun)
    halves: list[list[Cell]] = [
        [words, number(scores[f"{key}_nats"], scores[f"{key}_nats_stderr"])]
        for key, words in (("loss", "the messages"), ("reconstruction", "the data after the last message"))
    ]
    parts: list[list[Cell]] = [
        [f"of which {name}", number(part["total_nats"], part["total_nats_stderr"])]
        for name, part in scores.get("parts", {}).items()
    ]
    yield Table(
        halves + parts,
        ["Cost of the parts of the bound", "nats"],
        f"Unit of the density: {scores['unit']}." if scores.get("unit") else "",
    )


def _prices(scores: Mapping[str, Any], word: str, noun: str) -> Prices:
    """All prices on one scale."""
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    if "entropy_nats" in scores:
        entropy = {"total_nats": scores["entropy_nats"], "total_nats_stderr": scores["entropy_nats_stderr"]}
        found.append(("entropy of the data", "floor", entropy))
    found.append(("this model", "model", scores))
    if weighted := scores.get("importance"):
        found.append((f"this model, {weighted['particles']:,} particles", "model", weighted))
    if "log_density_nats" in scores:
        exact = {"total_nats": -scores["log_density_nats"], "total_nats_stderr": scores["log_density_nats_stderr"]}
        found.append(("this model, exact density", "model", exact))
    for name, costs in scores.get("baselines", {}).items():
        found.append((BASELINES[name].format(word), "baseline", costs))
    reach = [
        (costs["total_nats"], 2.0 * (costs.get("total_nats_stderr") or 0.0))
        for _, _, costs in found
        if costs["total_nats"] is not None
    ]
    low = min((value - more for value, more in reach), default=0.0)
    high = max((value + more for value, more in reach), default=0.0)
    scale = 100.0 / (high - low) if high > low else 0.0
    rows = []
    for name, style, costs in found:
        value, error = costs["total_nats"], costs.get("total_nats_stderr") or 0.0
        cells = [number(value, error), _bits(costs)]
        place = None if value is None else round(scale * (value - low), 2)
        rows.append(Price(name, cells, place, round(2.0 * error * scale, 2), style))
    ends = (number(low).text, number(high).text) if high > low else ("", "")
    return Prices(
        rows, (f"nats per {noun}", f"bits per {word}"), ends, "A bar reaches two standard errors to each side."
    )


def _bits(costs: Mapping[str, Any]) -> Number:
    bits = costs.get("bits_per_dimension")
    return Number(None, "") if bits is None else number(bits, costs.get("bits_per_dimension_stderr"))


def training(subject: Subject) -> Iterator[Block]:
    """Curves of the training."""
    charts = training_charts(subject.curves)
    if charts:
        yield Paragraph(
            f"{subject.steps:,} steps. Each curve is a moving average over a fortieth of them; "
            "the pale line is the raw values."
        )
        yield Charts(charts)
    else:
        yield Paragraph("There are no measurements of the training.", "note")


def by_steps(subject: Subject) -> Iterator[Block]:
    """Quality of samples against the number of steps of the sampler."""
    found = subject.scores.get("samples", {}).get("by_steps") or []
    if len(found) < 2:
        return
    first = found[0]
    words = DISTANCES.get(first["name"], first["name"])
    text = (
        f"{first['n']:,} samples, drawn in different numbers of steps. More steps cost more evaluations of the network."
    )
    yield Paragraph(f"{text} Where the curve is flat, fewer steps would do.")
    known = [one for one in found if one["score"] is not None]
    points = np.array([[one["steps"] for one in known], [one["score"] for one in known]], np.float64)
    curves = [Curve("samples", points, 0, "dots")]
    if known and first["floor"] is not None:
        ends = np.array([points[0, [0, -1]], [first["floor"]] * 2], np.float64)
        curves.append(Curve("rows of the data in place of the samples", ends, 1, "dashed"))
    drawn = chart(words, curves, "steps of the sampler", log_x=True)
    if drawn is not None:
        yield Charts([drawn])
    rows: list[list[Cell]] = [
        [f"{one['steps']:,}", one["sampler"], _count(one["evaluations"]), number(one["score"]), _score(one["floor"])]
        for one in found
    ]
    yield Table(rows, ["Steps", "sampler", "evaluations", words, "floor"])


def memorisation(subject: Subject) -> Iterator[Block]:
    """Whether samples copy training rows, and whether the likelihood tells who was in the training."""
    scores = subject.scores.get("samples", {})
    found, table = scores.get("memorisation") or {}, scores.get("table") or {}
    if not found and not table:
        return
    yield Paragraph(
        "Held-out rows are the yardstick: they come from the same source as the training rows, but the model has not "
        "seen them. If samples are nearer to the training rows than held-out rows are, the model has memorised."
    )
    rows: list[list[Cell]] = []
    for key, words, form in (
        ("nearest", "distance to the nearest training row, median", _score),
        ("longest", "longest passage shared with a training text, median", _score),
        ("copies", "share that equals a training row", _share),
        ("closer", "share nearer than 95 % of the held-out rows", _share),
    ):
        if pair := found.get(key) or table.get(key):
            rows.append([words, form(pair["samples"]), form(pair["real"])])
    measure = f"A distance is the {found['measure']}." if "measure" in found else ""
    yield Table(rows, ["To the training rows", "samples", "held-out rows"], measure)
    if quantiles := found.get("quantiles"):
        curves = []
        for i, (who, words) in enumerate((("samples", "samples"), ("real", "held-out rows"))):
            values = np.array(quantiles[who], np.float64)
            shares = np.linspace(0.0, 100.0, len(values))
            curves.append(Curve(words, np.stack([values, shares])[:, :-1], 1 - i))  # the largest hides the others
        drawn = chart(
            "share of rows within a distance, in percent", curves, "distance to the nearest training row", log_y=False
        )
        if drawn is not None:
            yield Charts([drawn])
    if found.get("copied") is not None:
        copied = number(found["copied"], found.get("copied_stderr"))
        yield Paragraph(
            f"The nearest of all rows is a training row for {found['train_votes']:.1%} of the samples, where "
            f"{found['expected']:.1%} are expected of a model that does not copy. From this difference, "
            f"the share of copies is estimated as {copied.text}."
        )
    if private := table.get("membership") or found.get("membership"):
        auc = number(private["auc"], private["stderr"])
        nats = private.get("nats", {})
        words = (
            f"; the medians are {four_digits(nats['train'])} and {four_digits(nats['held_out'])} nats" if nats else ""
        )
        yield Paragraph(
            f"Membership test: the likelihood separates training rows from held-out rows with an AUC of {auc.text} "
            f"(0.5: not at all){words}."
        )
        named: list[list[Cell]] = [
            [row["row"], _count(row["repeats"]), number(row["nats"]), _share(row["cheaper_than"])]
            for row in private.get("named", [])[:NAMED]
        ]
        if named:
            yield Table(
                named,
                [
                    "Training rows that stand out, because the model finds them too probable",
                    "times in the training data",
                    "nats",
                    "more probable than this share of held-out rows",
                ],
            )


def what_next(subject: Subject) -> Iterator[Block]:
    """The checks, each with a command to try where something looks wrong."""
    wrong = [verdict for verdict in subject.verdicts if verdict.state == "wrong"]
    if wrong:
        yield Paragraph("Below each observation that looks wrong is a command to try. Try one at a time.")
    else:
        yield Paragraph("Nothing looks wrong in this run, so there is nothing to advise.")
    if not subject.scores:
        yield Paragraph(f"{NOT_EVALUATED} Bound and samples could not be checked.", "note")
    order = {"wrong": 0, "unknown": 1, "fine": 2}
    yield Verdicts(sorted(subject.verdicts, key=lambda verdict: order[verdict.state]))


def settings(subject: Subject) -> Iterator[Block]:
    """The experiment."""
    text = subject.run.text or subject.run.experiment.to_toml()
    yield Code(text.rstrip(), f"{EXPERIMENT}: all {len(subject.options)} settings")


def reproduce(subject: Subject) -> Iterator[Block]:
    """Commands that repeat the run, and the digests to compare."""
    path, digest = shlex.quote(str(subject.path)), subject.description.get("sha256", "")
    yield Paragraph("The same settings and data give the same model, bit for bit on the same kind of machine:")
    config = shlex.quote(str(subject.path / EXPERIMENT))
    lines = [f"bfn train --config {config} --out again"]
    if digest:
        lines += ["sha256sum again/model.safetensors", f"# {digest}"]
    yield Code("\n".join(lines))
    yield Paragraph("To use the model:")
    yield Code(f"bfn sample {path} -n 20\nbfn evaluate {path}\nbfn report {path}")
    facts: list[list[Cell]] = [["Model, SHA-256", digest], ["Rows, SHA-256", subject.run.data or ""]]
    facts += [[f"Data, {key}", str(value)] for key, value in (subject.run.source or {}).items()]
    facts += [[key.capitalize(), str(value)] for key, value in subject.environment.items()]
    yield Table(
        [row for row in facts if row[1]],
        (),
        "With other versions or on another machine, training may differ in the last bits.",
    )


SECTIONS: Sequence[tuple[str, str, Callable[[Subject], Iterator[Block]]]] = (
    ("comparison", "Comparison", comparison),
    ("model", "Data and model", data_and_model),
    ("samples", "Samples beside the data", samples),
    ("flows", "From the prior to the samples", flows),
    ("likelihood", "Likelihood", likelihood),
    ("training", "Training", training),
    ("steps", "Quality by number of steps", by_steps),
    ("memorisation", "Memorisation", memorisation),
    ("next", "What to try next", what_next),
    ("settings", "Settings", settings),
    ("reproduce", "How to reproduce", reproduce),
)
