"""The report of a training: its budget, and what a failure or a signal costs."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from faults.crashes import forked
from faults.tiny import experiment
from scipy.stats import norm

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    Batch,
    ConfigError,
    ContinuousTimeLoss,
    Dataset,
    Experiment,
    NetworkIO,
    Oracle,
    Run,
    Split,
    TextCodec,
    Training,
    likelihood_bound,
    seeded,
    train,
    w1,
)
from bfn_toolkit.cli import train as cli_train
from bfn_toolkit.cli.display import say
from bfn_toolkit.cli.entry import main
from bfn_toolkit.cli.score_tables import scores_table
from bfn_toolkit.evaluation import likelihood
from bfn_toolkit.evaluation.likelihood import BUDGET_CHUNK, Budget
from bfn_toolkit.reports import report
from bfn_toolkit.reports.by_steps import affordable, by_steps
from bfn_toolkit.reports.figures import figures
from bfn_toolkit.reports.memorisation import memorisation
from bfn_toolkit.reports.report import complete_run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan, report_size
from bfn_toolkit.testing.toys import Atoms, Line, Toy
from tests.significance import Z

VALUES = torch.tensor([[-1.0], [0.2], [1.0]], dtype=torch.float64)
TOY = Toy(Line(), VALUES, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))


MODES = ("-0.75", "-0.25", "0.25", "0.75")


class Clock:
    """A clock that each evaluation of a model moves on by a second for 32 rows."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(clock: Clock) -> Oracle:
    def output(params: Any) -> Atoms:
        exact = TOY.posterior(params)
        clock.now += len(exact.logits) / 64.0  # the messages and the reconstruction take one each
        return exact

    return Oracle(TOY.family, output)


def rows(n: int) -> Batch:
    with seeded(0, "rows"):
        return Batch(TOY.sample(n))


@pytest.mark.parametrize("seconds", [0.0, 3.0, 10.0, 40.0, 300.0])
def test_a_bound_takes_its_time_and_no_more(seconds: float) -> None:
    clock = Clock()
    bound = likelihood_bound(timed(clock), rows(640), budget=Budget(seconds, 0.0, clock))
    spent = bound.examples * bound.draws / BUDGET_CHUNK
    assert clock.now == spent
    assert spent <= max(1.0, seconds)
    assert spent > 0.5 * seconds  # a job that does not fit is left out: here at most one draw of all 20 chunks
    assert (bound.examples, bound.draws) == {
        0.0: (32, 1),
        3.0: (96, 1),
        10.0: (320, 1),
        40.0: (640, 2),
        300.0: (640, 15),
    }[seconds]


def test_a_bound_ends_when_it_is_exact_enough() -> None:
    for share in (0.2, 0.05, 0.02):
        bound = likelihood_bound(timed(Clock()), rows(4000), budget=Budget(1e9, share))
        assert bound.total.stderr <= share * bound.total.value
    few = likelihood_bound(timed(Clock()), rows(4000), budget=Budget(1e9, 0.2))
    assert few.examples * few.draws <= 2 * 8 * BUDGET_CHUNK


def test_the_first_draws_of_a_larger_budget_are_those_of_a_smaller_one() -> None:
    """The work that a budget pays for is a prefix, whatever the clock does between."""
    chunks: dict[float, list[tuple[Any, ...]]] = {}
    for seconds in (5.0, 30.0):
        seen = chunks[seconds] = []
        original = likelihood.map_chunks

        def watched(*args: Any, seen: list[Any] = seen, original: Any = original, **options: Any) -> Any:
            found = original(*args, **options)
            seen += [
                (key, *row) for key, part in found.items() for row in part.tolist() if args[3][-1] == 0
            ]  # of the first round
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(likelihood, "map_chunks", watched)
            likelihood_bound(timed(clock := Clock()), rows(640), budget=Budget(seconds, 0.0, clock))
    assert len(chunks[5.0]) == 160
    assert chunks[30.0][:160] == chunks[5.0]


def test_a_bound_within_a_budget_is_the_same_quantity() -> None:
    """Two estimates from the same rows: they differ by their draws, which both standard errors count."""
    exact = likelihood_bound(TOY.oracle, rows(600), draws=50).total
    limited = likelihood_bound(timed(clock := Clock()), rows(600), budget=Budget(1000.0, 0.0, clock)).total
    assert abs(limited.value - exact.value) <= 3.0 * (limited.stderr + exact.stderr)
    assert limited.stderr == pytest.approx(exact.stderr, rel=0.2)


def test_draws_and_a_budget_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="draws or budget"):
        likelihood_bound(TOY.oracle, rows(10), draws=1, budget=Budget(1.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(experiment(steps=2), tmp_path_factory.mktemp("report") / "run")


def completed(run: Run, **options: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    plan = ResolvedPlan.of(run, SamplePlan(n=3000, steps=3))
    return complete_run(plan, lines.append, **options), lines


def test_a_report_without_time_has_one_piece_of_everything(run: Run) -> None:
    shown: list[str] = []
    shares: list[float] = []
    scores, lines = completed(run, seconds=0.0, show=lambda name, done: (shown.append(name), shares.append(done)))
    assert (scores["samples"]["n"], scores["examples"], scores["draws"]) == (16, BUDGET_CHUNK, 1)
    assert lines[0].startswith("16 samples of 3,000, for which there was no time, in 3 steps: ")
    parts = ["samples", "likelihood", "baselines", "distances", "quality by steps", "memorisation", "figures"]
    assert shown[:7] == parts
    assert shown[7:] == [*(f"figure {name}" for name in ("data", "schedule", "training", "samples", "flows")), "page"]
    assert shares == sorted(shares)
    assert (shares[0], shares[6], shares[-1]) == (0.0, 6.0 / 8.0, 7.0 / 8.0)
    assert scores["samples"]["by_steps"] == []  # 16 samples say nothing
    assert scores["samples"]["by_steps_left_out"] == [3, 5, 10, 20, 50, 100]
    assert scores["samples"]["memorisation"]["rows"]["samples"] == 16
    assert run.path is not None
    assert scores.items() <= json.loads((run.path / "evaluation.json").read_text()).items()
    assert lines[-1].startswith(f"report: {run.path / 'report.html'}  (")
    assert (run.path / "report.html").is_file()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither figures nor a page, because drawing takes most of the time."""
    monkeypatch.setattr(report, "save_figure", lambda draw, path: path)
    monkeypatch.setattr(report._Report, "page", lambda self: "report: ")


@pytest.mark.usefixtures("undrawn")
def test_a_report_with_time_has_all_samples(run: Run) -> None:
    scores, lines = completed(run, seconds=1e6)
    assert scores["samples"]["n"] == 3000
    assert scores["total_nats_stderr"] <= 0.01 * abs(scores["total_nats"]) or scores["draws"] > 1000
    assert lines[0].startswith("3,000 samples in 3 steps: ")
    assert [line["steps"] for line in scores["samples"]["by_steps"]] == [3, 5, 10, 20, 50, 100]
    found = scores["samples"]["memorisation"]
    assert abs(found["copied"]) < Z * found["copied_stderr"]  # two steps of training memorise nothing
    assert abs(found["membership"]["auc"] - 0.5) < Z * found["membership"]["stderr"]


def test_scores_by_steps_are_of_the_same_noise(run: Run) -> None:
    plan = ResolvedPlan.of(run, SamplePlan(n=70, steps=20))
    scores = {line["steps"]: line for line in by_steps(plan, plan.draw())["by_steps"]}
    assert [line["sampler"] for line in scores.values()] == ["ode-2"] * 3 + ["sde-2"] * 2
    other = ResolvedPlan.of(run, SamplePlan(n=70, steps=5))
    assert torch.equal(plan.with_steps(5).draw(), other.draw())
    rows = run.split("all").x
    assert scores[5]["score"] == w1(other.draw(), rows)
    assert scores[20]["score"] == w1(plan.draw(), rows)
    assert {line["n"] for line in scores.values()} == {70}
    (floor,) = {line["floor"] for line in scores.values()}
    assert 0.0 < floor < scores[5]["score"]


@pytest.mark.parametrize(
    ("seconds", "n", "kept"),
    [
        (math.inf, 1000, [0, 1, 2]),
        (9.0, 300, [0, 1, 2]),
        (2.6, 260, [0, 1]),
        (1.0, 100, [0, 1]),
        (0.5, 1000, [1]),
    ],
)
def test_steps_that_are_too_slow_are_left_out(seconds: float, n: int, kept: list[int]) -> None:
    """Three numbers of steps, of which the second has its samples already."""
    assert affordable([0.01, 0.0, 0.02], 1000, seconds) == (n, kept)


def test_a_model_that_copies_is_caught(run: Run) -> None:
    """Its samples are training rows."""
    plan = ResolvedPlan.of(run, SamplePlan(n=180, steps=2))
    found = memorisation(plan, run.split("train").x)
    assert found["copies"]["samples"] == 1.0
    assert found["copied"] == pytest.approx(1.0)
    assert found["auc"] > 0.9
    assert found["rows"] == {"samples": 180, "train": 180, "train_of": 180, "held_out": 220}


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("division by zero")


def leaves(*_: Any, **__: Any) -> Any:
    sys.exit("a plugin that ends the program")


@pytest.mark.parametrize(
    ("place", "lost", "kept"),
    [
        ("likelihood_bound", "likelihood", "samples"),
        ("sample_scores", "distances", "total_nats"),
        ("write_samples", "samples", "total_nats"),
        ("save_figure", "figure flows", "samples"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_a_part_that_fails_costs_only_itself(
    place: str, lost: str, kept: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, place, broken)
    scores, lines = completed(run, seconds=0.0)
    assert f"no {lost}: ZeroDivisionError: division by zero" in lines
    assert kept in scores


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (
            [(report, name) for name in ("likelihood_bound", "write_samples", "sample_scores", "save_figure")],
            ["no likelihood: SystemExit: a plugin", "no samples: ", "no figure data: "],
        ),
        ([(cli_train, "make_plan")], ["no report: SystemExit: a plugin that ends the program; later: bfn report "]),
        ([(cli_train, "scores_table")], ["figure: ", "no report: SystemExit"]),
    ],
    ids=["parts", "plan", "table"],
)
def test_a_training_whose_report_fails_ends_well(
    places: list[tuple[Any, str]],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module, name in places:
        monkeypatch.setattr(module, name, leaves)
    monkeypatch.setattr(report, "LEAST_SECONDS", 0.0)
    assert main(["train", "--out", str(tmp_path / "run"), *["--training.steps", "2", "--network.width", "8"]]) == 0
    said = capsys.readouterr().err
    assert [word for word in words if word not in said] == []
    assert Run.open(tmp_path / "run").weights.step == 2


def test_a_report_without_the_data_has_what_needs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("u,k\n" + "".join(f"{i / 7:.3f},{'abc'[i % 3]}\n" for i in range(40)))
    experiment = Experiment.from_path(file, None, None, [("training.steps", "2"), ("training.batch_size", "8")])
    run = train(experiment, tmp_path / "run")
    file.unlink()
    again = Run.open(tmp_path / "run")
    assert report_size(again) == 1000
    lines: list[str] = []
    scores = complete_run(ResolvedPlan.of(again, SamplePlan(n=16, steps=2)), lines.append, seconds=0.0)
    assert scores == {}
    assert lines[0].startswith("16 samples in 2 steps: ")
    assert [line[:20] for line in lines[1:4]] == [f"no {name}: {file}"[:20] for name in ("likelihood", "distances")] + [
        f"no figure columns: {file}"[:20]
    ]
    assert main(["plot", str(run.path), "-n", "20", "--steps", "2"]) == 3
    assert capsys.readouterr().out == f"{run.path}/figures/training.png\n"


@attrs.frozen
class Stubborn(MLP):
    """A network for the shapes of its data alone."""

    def build(self, io: NetworkIO) -> Any:
        raise AssertionError("a figure builds no network")


def test_no_figure_builds_a_network(run: Run) -> None:
    other = attrs.evolve(run, experiment=attrs.evolve(run.experiment, network=Stubborn()))
    plan = ResolvedPlan.of(other, SamplePlan(n=20, steps=2))
    for draw in figures(plan, plan.draw()).values():
        draw().savefig(io.BytesIO())


def test_the_table_says_what_its_numbers_are(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    scores = report.evaluate(ResolvedPlan.of(run, SamplePlan(n=50, steps=2)), draws=1)
    assert scores["entropy_nats"] == pytest.approx(
        math.log(4.0) + 0.5 * math.log(2.0 * math.pi * math.e * 0.05**2), abs=1e-5
    )
    assert scores["samples"]["mode_probabilities"] == pytest.approx(dict.fromkeys(MODES, 0.25), abs=1e-6)
    scores_table(scores)
    lines = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
    assert rows["entropy of the data: the minimum"] == "-0.1905 nats"
    assert "lower is better" in lines[0][0]
    shares, floor = scores["samples"]["mode_shares"], scores["samples"]["floor"]["mode_shares"]
    for mode in MODES:
        assert rows[f"share of mode {mode}"] == f"{shares[mode]:.3f} ({floor[mode]:.3f}); should be 0.250"


def test_probabilities_of_modes_are_those_of_the_normal_distribution() -> None:
    dataset = GaussianMixture(means=(0.5, -0.3, 0.1), std=(0.3, 0.1, 0.2), count=(10, 30, 5))
    cells = {"-0.3": (-math.inf, -0.1), "0.1": (-0.1, 0.3), "0.5": (0.3, math.inf)}  # ends in the middle
    for mode, (low, high) in cells.items():
        expected = sum(
            count / 45 * (norm.cdf(high, mean, std) - norm.cdf(low, mean, std))
            for mean, std, count in zip(dataset.means, dataset.std, dataset.count, strict=True)
        )
        assert dataset.mode_probabilities()[mode] == pytest.approx(expected, abs=1e-12)


class Proxy(io.TextIOBase):
    """What rich puts in the place of stderr while a bar is shown: text is printed above the bar, bytes into it."""

    def __init__(self) -> None:
        self.buffer, self.text = io.BytesIO(), ""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(text)
        self.text += text
        return len(text)


def test_lines_are_printed_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", proxy := Proxy())
    say("12 samples")
    assert (proxy.text, proxy.buffer.getvalue()) == ("12 samples\n", b"")


def test_scores_that_are_not_finite_are_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    scores = report.evaluate(ResolvedPlan.of(run, SamplePlan(n=20, steps=2)), draws=1)
    scores |= {"total_nats": math.nan, "loss_nats_stderr": None}
    scores["samples"] |= {"w1": math.inf}
    scores_table(scores)
    out = capsys.readouterr().out
    assert out.count("not finite") == 2
    (row,) = [line for line in out.splitlines() if "L inf" in line]
    assert "±" not in row  # a single row has no standard error


def test_the_first_signal_ends_a_report_and_says_how_to_get_it_later(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the distances: what was done before is there, the exit status is that of the signal."""

    def endless(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        end = time.monotonic() + 60.0
        while time.monotonic() < end:  # as work that never asks for signals
            pass
        os._exit(99)

    monkeypatch.setattr(report, "sample_scores", endless)
    folder = tmp_path / "run"
    command = ["train", "--out", str(folder), *["--training.steps", "2", "--network.width", "8"]]
    assert forked(lambda: os._exit(main(command))) == 130
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == (f"stopped by SIGINT; the model is complete, its report is not: bfn report {folder}")
    assert (folder / "samples.npy").exists()
    assert "samples" not in json.loads((folder / "evaluation.json").read_text())
    assert not (folder / "figures").exists()
    assert Run.open(folder).weights.step == 2


@attrs.frozen
class Padded(Dataset):
    """Two to four numbers, with NaN behind them."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (4,)

    def split(self, name: Split) -> Batch:
        with seeded("padded", name):
            mask = torch.arange(4) < torch.randint(2, 5, (60, 1))
            return Batch(torch.where(mask, torch.randn(60, 4), torch.nan), mask=mask)


def test_what_is_missing_reaches_neither_scores_nor_figures() -> None:
    family = Gaussian((4,), sigma_1=0.1)
    run = train(Experiment(Padded(), family, MLP(width=8), ContinuousTimeLoss(), Training(steps=3, batch_size=20)))
    plan = ResolvedPlan.of(run, SamplePlan(n=50, steps=3))
    samples = plan.draw()
    sizes = (samples != 0.0).sum(1)
    assert set(sizes.tolist()) == {2, 3, 4}  # as the training rows
    scores = report.evaluate(plan, draws=2)
    assert math.isfinite(scores["total_nats"])
    assert math.isfinite(scores["samples"]["sliced_w1"])
    for name, draw in figures(plan, samples).items():
        if name in ("data", "samples"):
            draw().savefig(io.BytesIO())


def test_a_budget_prices_what_is_present() -> None:
    with seeded(0, "rows"):
        data = Batch(torch.randn(600, 3), mask=torch.arange(3) < torch.randint(1, 4, (600, 1)))
        model = BFN(Gaussian((3,), sigma_1=0.3), Siren(width=8)).eval()
    limited = likelihood_bound(model, data, budget=Budget(1e9, 0.02))
    whole = likelihood_bound(model, data, draws=20)
    assert limited.dimensions == pytest.approx(2.0, abs=0.2)
    assert abs(limited.total.value - whole.total.value) < Z * math.hypot(limited.total.stderr, whole.total.stderr)
    every = likelihood_bound(model, data, budget=Budget(1e9, 1e-3))
    assert every.dimensions == whole.dimensions == float(data.mask.double().sum(1).mean())


@attrs.frozen
class Words(Dataset):
    """Texts of two letters, each often followed by itself."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (130,)

    @property
    def codec(self) -> TextCodec:
        return TextCodec("a\n", length=130)

    def split(self, name: Split) -> Batch:
        with seeded("words", name):
            return Batch((torch.rand(400 if name != "test" else 100, 130) < 0.2).long().cumsum(1) % 2)


def test_every_score_stands_beside_a_baseline_and_a_floor(capsys: pytest.CaptureFixture[str]) -> None:
    family = Categorical((130,), axes=("sequence",))
    run = train(Experiment(Words(), family, MLP(width=8), ContinuousTimeLoss(), Training(steps=3, batch_size=20)))
    scores = report.evaluate(ResolvedPlan.of(run, SamplePlan(n=50, steps=3)), draws=2)
    assert scores["dimension"] == "character"
    exact = -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
    assert scores["baselines"]["pairs"]["bits_per_dimension"] == pytest.approx(exact, abs=0.03)
    assert scores["baselines"]["independent"]["bits_per_dimension"] == pytest.approx(1.0, abs=0.01)
    floor = scores["samples"]["floor"]
    assert (floor["n"], floor["rows"]) == (50, "test rows")
    assert floor["tv_pair"] < 0.5 * scores["samples"]["tv_pair"]  # of a network that has learned nothing
    private = scores["samples"]["memorisation"]
    assert private["longest"]["samples"] <= private["longest"]["real"] < 130
    assert "copied" not in private
    copies = memorisation(ResolvedPlan.of(run, SamplePlan(n=50)), run.split("train").x[:50])
    assert copies["longest"]["samples"] == 130.0
    assert copies["copies"] == {"samples": 1.0, "real": 0.0}
    assert copies["auc"] == 1.0
    scores_table(scores)
    out = capsys.readouterr().out
    assert "longest run of a training text" in out
    assert "bits per character" in out
    assert "each character from the one before" in out
    printed = out.splitlines()[-3:]
    assert all(len(line) == 100 and set(line[:-1]) <= set("a\\n") for line in printed)


def test_few_test_rows_are_replaced_by_halves_of_the_data() -> None:
    run = train(experiment(steps=1))
    rows = run.split("all")
    scores = report._quality(ResolvedPlan.of(run, SamplePlan(n=20, steps=2)), rows.x[:20])
    assert scores["floor"]["rows"] == "test rows"
    few = attrs.evolve(run, experiment=attrs.evolve(run.experiment, dataset=FewTestRows()))
    floor = report._floor(few, 20, rows)
    assert (floor["rows"], floor["n"]) == ("rows of one half, against the other", 20)


@attrs.frozen
class FewTestRows(GaussianMixture):
    """A test split of three rows."""

    def split(self, name: Split) -> Batch:
        return super().split(name).part(0, 3)
