"""The page about a run: what it says, what a stranger's strings can do in it, and how it looks in a browser."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from bfn_toolkit import DataError, Experiment, Run, train
from bfn_toolkit.cli.entry import main
from bfn_toolkit.evaluation import table_quality
from bfn_toolkit.reports import report
from bfn_toolkit.reports.page import pictures, sections
from bfn_toolkit.reports.page.blocks import Table, four_digits, number, rough
from bfn_toolkit.reports.page.checks import Evidence, checks
from bfn_toolkit.reports.page.curves import MOST, Curve, chart, read_curves, smoothed, thinned
from bfn_toolkit.reports.page.sections import SECTIONS
from bfn_toolkit.reports.page.subject import Subject
from bfn_toolkit.reports.page.writing import render
from bfn_toolkit.runs.records import write_evaluation
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan

SCRIPT = "<script>alert(1)</script>"
COLUMN = f'"><img src=x onerror=alert(2)>{SCRIPT}\u202e'
VOID = {"meta", "img", "br", "line", "polyline", "circle"}


class Page(HTMLParser):
    """Tags of a page with their attributes, the text of each section, and the exact numbers in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, str] = {"": ""}
        self.numbers: dict[str, list[float]] = {"": []}
        self.open: list[str] = []
        self.section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = found["id"]
            self.words[self.section], self.numbers[self.section] = "", []
        if tag == "data":
            self.numbers[self.section].append(float(found["value"]))

    def handle_startendtag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # whatever is opened is closed, in that order

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words[self.section] += data


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """No classifiers, which have tests of their own, and no time for more than a piece of everything."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_two_samples", "_target"):
            patch.setattr(table_quality, name, lambda *_: {})
        patch.setattr(report, "LEAST_SECONDS", 0.0)
        patch.setattr(report, "MOST_SECONDS", 0.0)
        yield


def subject_of(run: Run, scores: Mapping[str, Any] | None = None, n: int = 20, **options: Any) -> Subject:
    plan = ResolvedPlan.of(run, SamplePlan(n=n, steps=2))
    return Subject(plan, scores or {}, plan.draw(), **options)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of numbers that was trained without a report, which is made later."""
    path = tmp_path_factory.mktemp("page") / "run"
    options = ["--dataset.count", "50", "--width", "8", "--steps", "6", "--training.validate_every", "2"]
    assert main(["train", "--out", str(path), *options, "--no-report"]) == 0
    assert not (path / "evaluation.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save_figure", lambda draw, path: path)  # drawing takes most of the time
        assert main(["report", str(path)]) == 0
    return path


def test_the_training_has_all_its_steps_also_where_earlier_weights_are_the_best(evaluated: Path) -> None:
    run = Run.open(evaluated)
    assert run.experiment.training.steps == 6
    best = attrs.evolve(run, weights=attrs.evolve(run.weights, step=4))
    (table,) = sections.data_and_model(subject_of(best, n=1))
    assert isinstance(table, Table)
    assert dict(table.rows)["Training"] == "6 steps of 4,096 examples"


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A table whose path, column and category are markup."""
    folder = tmp_path_factory.mktemp("<b>bold")
    rows = [[f"{i / 7:.2f}", (SCRIPT, "b", "c")[i % 3]] for i in range(60)]
    file = folder / f"{SCRIPT.replace('/', '|')}.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([[COLUMN, "kind"], *rows])
    overrides = [("training.steps", "2"), ("training.batch_size", "8"), ("network.width", "8")]
    return train(Experiment.from_path(file, "table", None, overrides), folder / "run")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A text full of markup."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "book.txt").write_text(f"{SCRIPT}\n<b>&amp;</b> " * 40)
    settings = {"training.steps": 2, "training.batch_size": 4, "network.width": 8, "network.depth": 1}
    settings |= {"network.heads": 1, "dataset.length": 32}
    overrides = [(key, str(value)) for key, value in settings.items()]
    return train(Experiment.from_path(folder / "book.txt", "text", None, overrides), folder / "run")


@pytest.fixture(scope="module")
def pages(evaluated: Path, table_run: Run, text_run: Run) -> Mapping[str, str]:
    """Pages of three kinds of data."""
    table, text = subject_of(table_run), subject_of(text_run)
    table.scores = {"samples": report._quality(table.plan, table.samples)}
    found = {"table": render(table), "text": render(text)}
    return {"numbers": (evaluated / "report.html").read_text(), **found}


def test_a_page_is_well_formed_and_reads_nothing_else(pages: Mapping[str, str]) -> None:
    for text in pages.values():
        page = Page(text)
        assert page.open == []
        links = [(tag, name, value) for tag, found in page.tags for name, value in found.items()]
        for tag, name, value in links:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert value.startswith("#" if tag == "a" else "data:image/png;base64,"), (tag, name, value[:40])
        names = {tag for tag, _ in page.tags}
        assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
        anchors = {found["href"][1:] for tag, found in page.tags if tag == "a"}
        assert anchors <= {found["id"] for tag, found in page.tags if tag == "section"}
        (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
        assert "url(" not in style
        assert "@import" not in style
        assert "default-src 'none'" in text


def test_strangers_strings_are_text(pages: Mapping[str, str]) -> None:
    table, text = Page(pages["table"]), Page(pages["text"])
    assert SCRIPT.replace("/", "|") in table.words[""]  # the headline names the file
    shown = COLUMN.replace("\u202e", "\\u202e")  # what turns the direction of writing is seen
    assert shown in table.words["model"]
    assert f"{shown}, W1" in table.words["samples"]
    assert "<b>bold" in table.words["reproduce"]
    assert SCRIPT in text.words["samples"]
    alternatives = [found["alt"] for tag, found in table.tags if tag == "img"]
    assert f"column {shown}: real rows and samples" in alternatives


def test_every_section_has_the_numbers_of_the_evaluation(evaluated: Path, pages: Mapping[str, str]) -> None:
    scores, page = json.loads((evaluated / "evaluation.json").read_text()), Page(pages["numbers"])
    samples = scores["samples"]
    likelihood = [scores[key] for key in ("total_nats", "bits_per_dimension", "entropy_nats", "loss_nats")]
    likelihood += [scores["baselines"]["independent"]["total_nats"], scores["reconstruction_nats"]]
    assert set(likelihood) <= set(page.numbers["likelihood"])
    distances = [samples["w1"], samples["floor"]["w1"]]
    for side in (samples, samples["floor"]):
        distances += side["mode_shares"].values()
    distances += samples["mode_probabilities"].values()
    assert page.numbers["samples"] == pytest.approx([*distances[:2], *np.ravel([
        [samples["mode_shares"][mode], samples["floor"]["mode_shares"][mode], samples["mode_probabilities"][mode]]
        for mode in samples["mode_shares"]
    ]).tolist()], abs=0.0)  # fmt: skip
    n = sum(weight.numel() for weight in Run.open(evaluated).model.parameters())
    assert n in page.numbers["model"]
    digest = json.loads((evaluated / "model.json").read_text())["sha256"]
    assert digest in page.words["reproduce"]
    assert "[dataset]" in page.words["settings"]
    assert page.words[""].count("A model of 180 examples of gaussian-mixture. On new examples it reaches ") == 1
    assert "comparison" not in page.words
    copies = samples["memorisation"]["copies"]
    assert {copies["samples"], copies["real"]} <= set(page.numbers["memorisation"])


BY_STEPS = [
    {"steps": k, "sampler": "sde-2", "evaluations": 2 * k, "n": 64, "name": "w1", "score": 0.3 / k, "floor": 0.01}
    for k in (5, 10, 20)
]
MEMORY = {
    "measure": "root mean square of the differences",
    "rows": {"samples": 64, "train": 180, "train_of": 180, "held_out": 20},
    "nearest": {"samples": 0.0125, "real": 0.0251},
    "quantiles": {"samples": np.linspace(0.0, 1.0, 21).tolist(), "real": np.linspace(0.0, 2.0, 21).tolist()},
    "copies": {"samples": 0.125, "real": 0.0},
    "closer": {"samples": 0.25, "real": 0.05, "stderr": 0.02},
    "auc": 0.7,
    "auc_stderr": 0.03,
    "train_votes": 0.95,
    "expected": 0.9,
    "copied": 0.5,
    "copied_stderr": 0.05,
    "membership": {"auc": 0.625, "stderr": 0.031, "rows": {}, "nats": {"train": 1.25, "held_out": 1.5}},
}


def test_numbers_of_steps_and_memorisation_are_drawn_where_they_are_known(evaluated: Path) -> None:
    scores = json.loads((evaluated / "evaluation.json").read_text())
    scores["samples"] |= {"steps": 10, "by_steps": BY_STEPS, "memorisation": MEMORY}
    page = Page(render(subject_of(Run.open(evaluated), scores)))
    for line in BY_STEPS:
        assert {line["score"], line["floor"], line["evaluations"]} <= set(page.numbers["steps"])
    assert page.numbers["memorisation"] == [0.0125, 0.0251, 0.125, 0.0, 0.25, 0.05]
    for words in (
        "95.0%",
        "90.0%",
        "0.500 \N{PLUS-MINUS SIGN} 0.050",
        "0.625 \N{PLUS-MINUS SIGN} 0.031",
        "1.250",
        "1.5",
    ):
        assert words in page.words["memorisation"]
    assert "12.5% of the samples equal a training row" in page.words["next"]
    none = {**scores, "samples": {**scores["samples"], "by_steps": [], "memorisation": {}}}
    assert {"steps", "memorisation"}.isdisjoint(Page(render(subject_of(Run.open(evaluated), none))).words)


def curves_of(loss: Any, norm: Any = None, valid: Any = None) -> dict[str, Any]:
    n = len(loss)
    lines = [{"step": i + 1, "loss": float(loss[i])} for i in range(n)]
    for i in range(n):
        lines[i]["grad_norm"] = 1.0 + 0.1 * math.sin(i) if norm is None else float(norm[i])
    lines += [
        {"step": 10 * (i + 1), "valid_loss": value, "valid_loss_stderr": 0.01} for i, value in enumerate(valid or ())
    ]
    return read_curves(lines)


STEPS = np.arange(200)
NOISE = np.random.default_rng(0).normal(size=200)
SETTLED = 1.0 + np.exp(-STEPS / 10.0) + 0.01 * NOISE
GOOD: Mapping[str, Any] = {
    "total_nats": 1.0,
    "total_nats_stderr": 0.1,
    "baselines": {"independent": {"total_nats": 2.0, "total_nats_stderr": 0.1}},
    "samples": {
        "n": 1000,
        "steps": 10,
        "w1": 0.02,
        "floor": {"n": 1000, "w1": 0.01},
        "mode_shares": {"a": 0.49, "b": 0.51},
        "mode_probabilities": {"a": 0.5, "b": 0.5},
        "by_steps": [{**line, "score": 0.02} for line in BY_STEPS],
        "memorisation": {"rows": {"held_out": 500}, "copies": {"samples": 0.0, "real": 0.0}},
    },
}
FALLING = [2.0, 1.5, 1.3, 1.2, 1.1, 1.05]


def evidence(scores: Any = GOOD, nonfinite: Sequence[int] = (), options: Any = None, **curves: Any) -> Evidence:
    found = curves_of(**{"loss": SETTLED, "valid": FALLING, **curves})
    settings = {"training.steps": 200, "training.lr": 3e-3, "training.final": "last", "training.clip_norm": 1.0}
    return Evidence(found, scores, settings | (options or {}), Path("runs/a b"), nonfinite)


def with_samples(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "samples": {**GOOD["samples"], **changes}}


def test_nothing_is_advised_where_nothing_looks_wrong() -> None:
    found = checks(evidence())
    assert [verdict.state for verdict in found] == ["fine"] * 9
    assert all(verdict.line == "" for verdict in found)


@pytest.mark.parametrize(
    ("bad", "name", "words", "line"),
    [
        (evidence(nonfinite=[120, 130]), "Numbers", "2 steps, the first of them step 120", "--lr 0.001"),
        (evidence(norm=np.exp(STEPS / 20.0)), "Gradient", "explodes", "--lr 0.001"),
        (evidence(norm=np.exp(-STEPS / 10.0)), "Gradient", "vanished", "--lr 0.001"),
        (
            evidence(norm=1.0 + 999.0 * (STEPS == 100), options={"training.clip_norm": math.inf}),
            "Gradient",
            "a peak of 1,000, where its median is 1",
            "--training.clip_norm 1",
        ),
        (evidence(loss=2.0 + 0.1 * NOISE), "Training loss", "did not fall", "--lr 0.009"),
        (evidence(loss=1.0 + STEPS / 100.0), "Training loss", "It rose from 1.095", "--lr 0.0003"),
        (evidence(loss=3.0 - STEPS / 100.0), "Training loss", "still falling at the end: by 0.28", "--steps 400"),
        (
            evidence(valid=[2.0, 1.0, 1.1, 1.3, 1.6]),
            "Validation loss",
            "1 after step 20 to 1.6",
            "--training.final best",
        ),
        (evidence({**GOOD, "total_nats": 3.0}), "Bound on the likelihood", "3.0 nats are above the 2.0", "--steps 400"),
        (evidence(with_samples(w1=0.4)), "Samples and data", "0.4", "--steps 400"),
        (evidence(with_samples(mode_shares={"a": 0.1, "b": 0.9})), "Modes", "Mode a has 10.0%", "--steps 400"),
        (
            evidence(with_samples(by_steps=BY_STEPS)),
            "Steps of the sampler",
            "0.03000 in 10 steps, and 0.01500 in 20",
            "--steps 20",
        ),
        (
            evidence(with_samples(memorisation=MEMORY), options={"training.final": "best", "network.dropout": 0.2}),
            "Copies of training rows",
            "12.5% of the samples",
            "--network.dropout 0.4",
        ),
    ],
)
def test_what_looks_wrong_has_its_number_and_the_line_to_write(bad: Evidence, name: str, words: str, line: str) -> None:
    (verdict,) = [verdict for verdict in checks(bad) if verdict.state == "wrong"]
    assert verdict.name == name
    assert words in verdict.seen
    assert line in verdict.line
    assert verdict.line.startswith(("bfn train --config 'runs/a b/experiment.toml' --", "bfn sample 'runs/a b' --"))


def test_what_is_not_known_is_said() -> None:
    assert checks(Evidence({}, {}, {"training.steps": 100}, Path("run")))[1].state == "unknown"  # no validation
    few = checks(evidence(with_samples(floor={"n": 16, "w1": 0.01})))
    assert [verdict.name for verdict in few if verdict.state == "unknown"] == ["Samples and data"]
    vague = checks(evidence({**GOOD, "total_nats": 2.1, "total_nats_stderr": 1.0}))
    assert [verdict.name for verdict in vague if verdict.state == "unknown"] == ["Bound on the likelihood"]


def test_the_command_of_a_check_trains(evaluated: Path, tmp_path: Path) -> None:
    options = Subject(ResolvedPlan.of(Run.open(evaluated), SamplePlan(n=1, steps=1))).options
    line = Evidence({}, {}, options, evaluated).longer()
    words = line.split()[1:]
    assert words[-1] == "12"
    assert main([*words, "--out", str(tmp_path / "again"), "--no-report"]) == 0
    assert Run.open(tmp_path / "again").weights.step == 12


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("division by zero")


def test_a_section_that_fails_costs_only_itself(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = json.loads((evaluated / "evaluation.json").read_text())
    monkeypatch.setattr(pictures, "draw_view", broken)
    monkeypatch.setattr(sections, "training_charts", broken)
    page = Page(render(subject_of(Run.open(evaluated), scores)))
    fault = "This section is not complete: ZeroDivisionError: division by zero"
    assert [key for key, words in page.words.items() if fault in words] == ["samples", "training"]
    assert scores["total_nats"] in page.numbers["likelihood"]


def test_a_page_without_data_and_scores_says_so(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise DataError("rows.csv: no such file")

    subject = subject_of(Run.open(evaluated))
    monkeypatch.setattr(Run, "rows", gone)
    page = Page(render(subject))
    assert "A model of gaussian-mixture." in page.words[""]
    assert "The data cannot be drawn: rows.csv: no such file" in page.words["samples"]
    assert "There are no scores of these weights." in page.words["likelihood"]
    assert set(page.words) == {"", *(key for key, _, _ in SECTIONS)} - {"comparison", "flows", "steps", "memorisation"}


def test_a_report_is_made_later(evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    scores = (evaluated / "evaluation.json").read_bytes()
    assert main(["report", str(evaluated), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    before, now = (Page(path.read_text()) for path in (evaluated / "report.html", out))
    assert now.numbers == before.numbers
    assert (evaluated / "evaluation.json").read_bytes() == scores


@pytest.mark.parametrize("step", [6, 5])
def test_scores_of_other_weights_are_made_anew(
    step: int, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    opened = Run.open(run)
    weights = attrs.evolve(opened.weights, step=step)
    write_evaluation(attrs.evolve(opened, weights=weights), {"total_nats": 1234.5, "total_nats_stderr": 1.0})
    monkeypatch.setattr(report._Report, "evaluate", lambda self: self.say("evaluated"))
    monkeypatch.setattr(report._Report, "draw", lambda self: None)
    assert main(["report", str(run)]) == 0
    is_other = step != 6
    assert ("evaluated" in capsys.readouterr().err) == is_other
    assert ("1,234" in Page((run / "report.html").read_text()).words[""]) != is_other


def test_runs_stand_side_by_side(evaluated: Path, table_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "two.html"
    assert main(["report", str(evaluated), "--compare", str(table_run.path), "--out", str(out)]) == 0
    page = Page(out.read_text())
    words = page.words["comparison"]
    assert "network.width" not in words  # both have 8
    assert "training.batch_size" in words
    assert {2, 6} <= set(page.numbers["comparison"])  # steps
    scores = json.loads((evaluated / "evaluation.json").read_text())
    assert scores["total_nats"] in page.numbers["comparison"]
    charts = out.read_text().partition('id="comparison"')[2].partition("</section>")[0]
    assert len(re.findall(r'class="s0', charts)) >= 3
    assert len(re.findall(r'class="s1', charts)) >= 3


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["saved"], 4, "saved is a saved model, without metrics, scores or data"),
        (["nowhere"], 4, "nowhere is not a run directory: it does not exist"),
        (["run", "--compare", "nowhere"], 4, "nowhere is not a run directory"),
        (["run", "--out", "saved"], 2, "saved is a directory; name a file in it: --out saved/report.html"),
    ],
)
def test_what_has_no_report_is_an_error(
    arguments: list[str],
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("saved/config.json", "run/experiment.toml"):
        Path(name).parent.mkdir()
        Path(name).write_text("{}" if name.endswith("json") else "")
    assert main(["report", *arguments]) == status
    assert words in capsys.readouterr().err


def test_a_smoothed_curve_is_a_mean_of_what_is_finite() -> None:
    values = np.arange(400.0) ** 2
    values[200] = np.nan
    found = smoothed(values)
    assert found[0] == 0.0
    assert found[-1] == values[-1]
    assert found[200] == pytest.approx(np.nanmean(values[195:206]))
    assert found[100] == pytest.approx(values[95:106].mean())
    assert np.isnan(smoothed(np.full(3, np.nan))).all()


def test_a_million_measurements_are_a_few_points_with_every_peak() -> None:
    steps = np.arange(1e6)
    values = np.sin(steps)
    values[123_456], values[700_000] = 50.0, -50.0
    found = thinned(np.stack([steps, values]))
    assert found.shape[1] <= MOST
    assert {50.0, -50.0} <= set(found[1])
    drawn = chart("loss", [Curve("", np.stack([steps, values]))])
    assert drawn is not None
    assert len(drawn.lines[0].points.split()) <= MOST


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (-3.0, 7.0, ["\N{MINUS SIGN}2", "0", "2", "4", "6"]),
        (1e-3, 5.0, ["0.001", "0.01", "0.1", "1"]),
        (2.0, 30.0, ["3", "10", "30"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, labels: list[str]) -> None:
    drawn = chart("", [Curve("", np.array([[0.0, 1.0], [low, high]]))])
    assert drawn is not None
    assert [label for _, label in drawn.y_ticks] == labels


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (7.4321, 0.123, "7.43 ± 0.12"),
        (-0.5, 0.0123, "\N{MINUS SIGN}0.500 ± 0.012"),
        (1234.5, 30.0, "1,234 ± 30"),
        (0.012345, None, "0.01235"),
        (math.nan, 1.0, "not finite"),
        (None, None, "not finite"),
    ],
)
def test_a_number_has_the_digits_that_its_error_leaves(value: Any, stderr: Any, expected: str) -> None:
    assert number(value, stderr).text == expected


def test_numbers_in_sentences_are_short() -> None:
    assert [rough(7.4321, 0.1), rough(15.95), rough(-0.19, 0.06), rough(0.0), rough(1234.5, 30.0)] == [
        "7.4",
        "15.9" if f"{15.95:.1f}" == "15.9" else "16.0",
        "\N{MINUS SIGN}0.19",
        "0",
        "1,234",
    ]
    assert [four_digits(value) for value in (0.0, 3.0, 1234567.0, 1e-9)] == ["0", "3", "1.23e+06", "1e-09"]


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WRAPPER = """<!doctype html><body><script>
const found = [];
addEventListener("error", (event) => found.push("error " + event.message));
for (const name of ["alert", "fetch"]) window[name] = () => found.push(name);
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const reads = frame.contentWindow.performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:"));
  const broken = [...page.images].filter((image) => !image.naturalWidth);
  const wide = [...page.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, svg, pre, summary ~ *")
    && e.getBoundingClientRect().right > root.clientWidth + 1);
  found.push([frame.width, root.scrollWidth, page.images.length, broken.length, reads.length, page.scripts.length,
    wide.length].join(" "));
}
addEventListener("load", () => {
  document.querySelectorAll("iframe").forEach(look);
  document.title = JSON.stringify(found);
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_browser_shows_a_page_without_errors_or_overflow(pages: Mapping[str, str], tmp_path: Path) -> None:
    frames = [
        f'<iframe width="{width}" height="800" srcdoc="{html.escape(text)}"></iframe>'
        for text in pages.values()
        for width in (390, 1400)
    ]
    (tmp_path / "wrapper.html").write_text(WRAPPER + "".join(frames))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1500,900"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, str(tmp_path / "wrapper.html")], capture_output=True, text=True, timeout=120)
    (title,) = re.findall("<title>(.*?)</title>", done.stdout.partition("<iframe")[0])
    found = json.loads(html.unescape(title))
    assert len(found) == 2 * len(pages)
    for line in found:
        width, reach, images, *faults = map(int, line.split())
        assert width in (390, 1400)
        assert reach <= width
        assert images > 0
        assert faults == [0, 0, 0, 0]  # broken images, reads, scripts, elements beyond the edge
