"""The report of a table: its scores and figures, the row that prices give away, and the settings to change."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from bfn_toolkit import ConfigError, Experiment, Run, train
from bfn_toolkit.cli.entry import main
from bfn_toolkit.data.typed_columns import TypedColumn, TypedTable
from bfn_toolkit.evaluation import table_quality
from bfn_toolkit.reports import report
from bfn_toolkit.reports.memorisation import memorisation
from bfn_toolkit.reports.report import complete_run, write_figures, write_film
from bfn_toolkit.reports.table_figures import columns_figure, pairs_figure
from bfn_toolkit.reports.tables import advice, check_target
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, report_size
from tests.significance import Z

PLANTED, TIMES = ["9.75", "c", "0"], 60


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No classifiers, which have tests of their own and take most of the time."""
    for name in ("_two_samples", "_target"):
        monkeypatch.setattr(table_quality, name, lambda *_: {})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A table of 640 rows, of which one stands there 60 times."""
    folder = tmp_path_factory.mktemp("table")
    random = np.random.default_rng(0)
    kind = random.integers(3, size=580)
    rows = [
        [f"{u:.2f}", "abc"[k], str(n)]
        for u, k, n in zip(kind + random.normal(size=580), kind, random.integers(9, size=580), strict=True)
    ]
    for i in random.integers(580, size=TIMES).tolist():
        rows.insert(i, PLANTED)
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["u", "kind", "n"], *rows])
    settings = {"training.steps": 150, "training.batch_size": 64, "network.width": 32, "training.ema_decay": 0.9}
    overrides = [(key, str(value)) for key, value in settings.items()]
    with pytest.warns(match="duplicates"):
        experiment = Experiment.from_path(folder / "rows.csv", None, None, overrides)
    return train(experiment, folder / "run")


def plan_of(run: Run) -> ResolvedPlan:
    return ResolvedPlan.of(run, SamplePlan(n=report_size(run), steps=3))


@pytest.fixture(scope="module")
def reported(run: Run) -> tuple[Mapping[str, Any], list[str]]:
    """Scores and lines of a report without a likelihood, which would use its time."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "likelihood_bound", lambda *_, **__: 1 // 0)
        for name in ("_two_samples", "_target"):
            patch.setattr(table_quality, name, lambda *_: {})
        return complete_run(plan_of(run), lines.append, 1e6), lines


def test_the_report_of_a_table_has_scores_and_figures_of_its_columns(
    run: Run, reported: tuple[Mapping[str, Any], list[str]]
) -> None:
    scores, lines = reported
    assert [line for line in lines if line.startswith("no ")] == [
        "no likelihood: ZeroDivisionError: integer division or modulo by zero"
    ]
    samples = scores["samples"]
    assert samples["n"] == report_size(run) == 640
    table = samples["table"]
    assert table["rows"] == {"samples": 640, "train": 547, "held_out": 93}
    assert set(table["columns"]) == {"u", "kind", "n"}
    assert table["valid"] == {"samples": 1.0, "invalid": {}}
    assert run.path is not None
    assert sorted(path.stem for path in (run.path / "figures").iterdir()) == ["columns", "pairs", "training"]
    assert scores.items() <= json.loads((run.path / "evaluation.json").read_text()).items()
    with (run.path / "samples.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["u", "kind", "n"]
    assert len(rows) == 640


def test_a_table_is_checked_for_copies_with_its_own_prices(
    run: Run, reported: tuple[Mapping[str, Any], list[str]]
) -> None:
    samples = reported[0]["samples"]
    found = samples["memorisation"]
    assert found["rows"] == {"samples": 640, "train": 547, "train_of": 547, "held_out": 93}
    assert abs(found["copied"]) < Z * found["copied_stderr"]
    assert found["membership"].items() <= samples["table"]["membership"].items()
    train = run.split("train").x[:200]
    copies = memorisation(attrs.evolve(plan_of(run), plan=SamplePlan(n=200)), train)
    assert copies["copies"]["samples"] == 1.0
    assert copies["copied"] > 0.8  # some rows stand on both sides
    steps = samples["by_steps"]
    assert [line["steps"] for line in steps] == [1, 2, 3]  # one for each column at most
    assert {line["name"] for line in steps} == {"pairs"}
    assert steps[0]["score"] > 3.0 * steps[0]["floor"]  # all columns at once do not know of each other


def test_a_row_that_stands_there_many_times_is_named_with_its_place(
    reported: tuple[Mapping[str, Any], list[str]],
) -> None:
    private = reported[0]["samples"]["table"]["membership"]
    (named,) = private["named"]
    path, _, line = named["row"].rpartition(":")
    assert Path(path).read_text().splitlines()[int(line) - 1] == ",".join(PLANTED)
    assert named["cheaper_than"] >= 0.99
    assert 30 < named["repeats"] <= TIMES
    assert private["exposed"] == 1


def test_commands_print_the_scores_of_a_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.path), "--draws", "1", "--target", "kind"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line[:8].strip() for line in lines if line[:8].strip() in ("columns", "pairs", "copies", "prices")]
    assert words == ["columns", "pairs", "copies", "prices"]
    assert len(lines) < 30
    assert any("times in the training, cheaper than" in line for line in lines)
    assert main(["evaluate", str(run.path), "--target", "kinds"]) == 2
    error = capsys.readouterr().err
    assert "no column is named 'kinds'; the columns are u, kind, n" in error
    assert "'kind'" in error


def test_a_table_has_no_flows(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no figure 'flows'; there are columns, pairs, training"):
        write_figures(plan_of(run), tmp_path, only=["flows"])
    with pytest.raises(ConfigError, match="leave out --animate"):
        write_film(plan_of(run), tmp_path)


def test_a_target_goes_with_a_table() -> None:
    from faults.tiny import experiment

    with pytest.raises(ConfigError, match="goes with a table"):
        check_target(train(experiment(steps=1)), "kind")


def table(n: int, seed: int, wide: int = 0) -> TypedTable:
    random = np.random.default_rng(seed)
    u = random.normal(size=n)
    columns = {
        "a_$long$_name": TypedColumn(np.where(random.random(n) < 0.2, np.nan, u)),
        "count": TypedColumn(random.poisson(3.0, n)),
        "letter": TypedColumn(np.array([*"abcdefghijkl", ""], object)[random.integers(13, size=n)]),
        "empty": TypedColumn(np.full(n, np.nan)),
    }
    return columns | {f"w{i}": TypedColumn(random.normal(size=n)) for i in range(wide)}


def test_columns_are_drawn_with_their_gaps_and_names() -> None:
    figure = columns_figure(table(300, 0), table(400, 1), table(200, 2))
    panels = {axis.get_title(): axis for axis in figure.axes}
    assert set(panels) == {r"a_\$long\$_name", "count", "letter", "empty"}
    gap = panels[r"a_\$long\$_name"]
    assert [text.get_text() for text in gap.texts] == ["gap"]
    assert not panels["count"].texts
    labels = [label.get_text() for label in panels["letter"].get_yticklabels()]
    assert len(labels) == 8
    assert labels[-1] == "6 others"
    bars = [bar.get_width() for bar in panels["letter"].patches]
    assert sum(bars[:8]) == pytest.approx(1.0)  # real rows
    assert sum(bars[8:]) == pytest.approx(1.0)  # samples
    figure.savefig(io.BytesIO())


def test_a_wide_table_has_twelve_panels_and_matrices_of_24_columns() -> None:
    sides = table(60, 0, 40), table(80, 1, 40), table(40, 2, 40)
    assert len(columns_figure(*sides).axes) == 12
    figure = pairs_figure(*sides)
    sizes = [image.get_array().shape for axis in figure.axes for image in axis.images]
    assert len(sizes) == 3
    assert all(24 <= size[0] <= 26 for size in sizes)  # with whether a number is missing
    figure.savefig(io.BytesIO())


FINE: Mapping[str, Any] = {
    "rows": {"held_out": 1000},
    "columns": {"u": {"w1": {"samples": 0.1, "real": 0.1}}, "k": {"tv": {"samples": 0.5, "real": 0.1}}},
    "pairs": {"mean": {"samples": 0.03, "real": 0.03}},
    "two_samples": {"samples": 0.52, "stderr": 0.01},
    "nearest": {"ratio": 1.0},
    "copies": {"samples": 0.01, "real": 0.01},
    "membership": {"auc": 0.52, "stderr": 0.01},
}
OPTIONS = {"training.steps": 1000, "network.dropout": 0.2, "network.width": 128, "dataset.bins": None}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (
            {"membership": {"auc": 0.7, "stderr": 0.01}},
            ["training rows are cheaper", "(AUC 0.70)", "--training.steps 500", "--network.dropout 0.4"],
        ),
        ({"copies": {"samples": 0.05, "real": 0.01}}, ["(5.0%, of held-out rows 1.0%)", "--training.steps 500"]),
        ({"nearest": {"ratio": 0.5}}, ["close to training rows (0.50", "--training.steps 500"]),
        ({"nearest": {"ratio": 0.5}, "copies": {"samples": 0.05, "real": 0.0}, "rows": {"held_out": 20}}, []),
        ({"membership": {}}, []),
        ({"columns": {"u": {"w1": {"samples": 0.3, "real": 0.1}}}}, ["of u", "(up to 0.30 sd", "--dataset.bins 200"]),
        (
            {"pairs": {"mean": {"samples": 0.1, "real": 0.03}}},
            ["(associations off by 0.100, in training rows 0.030)", "--training.steps 2000 or --network.width 256"],
        ),
        ({"two_samples": {"samples": 0.8, "stderr": 0.01}}, ["with an AUC of 0.80", "--training.steps 2000"]),
        ({"two_samples": {}, "pairs": {}}, []),
    ],
)
def test_settings_follow_from_what_looks_wrong(changes: Mapping[str, Any], expected: list[str]) -> None:
    found = advice({**FINE, **changes}, OPTIONS)
    assert len(found) == bool(expected)
    assert all(word in found[0] for word in expected)


def test_settings_that_an_experiment_lacks_are_not_named() -> None:
    scores = {**FINE, "columns": {"u": {"w1": {"samples": 0.3, "real": 0.1}}}, "nearest": {"ratio": 0.1}}
    (line,) = advice(scores, {"training.steps": 10})
    assert line == "samples lie close to training rows (0.10 of the distance of held-out rows): --training.steps 5"


def test_the_step_of_the_lowest_validation_loss_is_proposed() -> None:
    scores = {**FINE, "nearest": {"ratio": 0.1}}
    metrics = [{"step": 10, "valid_loss": 3.0}, {"step": 20, "valid_loss": 2.0}, {"step": 30, "valid_loss": 4.0}]
    (line,) = advice(scores, {"training.steps": 30}, [{"step": 1, "loss": 1.0}, *metrics])
    assert line.endswith("--training.steps 20")
    (line,) = advice(scores, {"training.steps": 20}, metrics[:2])
    assert line.endswith("--training.steps 10")


def test_no_other_number_of_steps_is_proposed_where_the_best_step_counts() -> None:
    scores, options = {**FINE, "nearest": {"ratio": 0.1}}, {"training.steps": 30, "training.final": "best"}
    assert advice(scores, options) == []
    assert advice(scores, {**options, "network.dropout": 0.5}) == []
    for now, more in ((0.2, 0.4), (0.0, 0.1), (0.3, 0.5)):
        (line,) = advice(scores, {**options, "network.dropout": now})
        assert line.endswith(f"held-out rows): --network.dropout {more}")
