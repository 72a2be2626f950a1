"""Scores and figures of a trained run, and its samples, written into its directory."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from bfn_toolkit.data.dataset import Batch, Rows, Split
from bfn_toolkit.data.parts_codec import raw_like, texts_of
from bfn_toolkit.data.rows import spread
from bfn_toolkit.errors import BFNError, ConfigError
from bfn_toolkit.evaluation.baselines import baselines
from bfn_toolkit.evaluation.density import log_density
from bfn_toolkit.evaluation.distances import distances, w1
from bfn_toolkit.evaluation.importance import affordable_examples, importance_bound
from bfn_toolkit.evaluation.likelihood import (
    ROW_DRAWS,
    Budget,
    CodeLength,
    Estimate,
    LikelihoodBound,
    budget_order,
    likelihood_bound,
    present_numbers,
)
from bfn_toolkit.masks import mask_by_part, mask_of, present
from bfn_toolkit.model import readable
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.randomness import seeded
from bfn_toolkit.reports.by_steps import by_steps
from bfn_toolkit.reports.memorisation import LONG, memorisation, priced_membership
from bfn_toolkit.reports.tables import EVERY, SOME, Sides, table_scores
from bfn_toolkit.runs.directory import FIGURES, PAGE
from bfn_toolkit.runs.model_files import load_description
from bfn_toolkit.runs.records import EVALUATION, read_evaluation, write_evaluation
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan, samples_name, write_samples
from bfn_toolkit.sampling.chunks import MIN_ROWS, concatenated
from bfn_toolkit.sampling.trajectory import Trajectory
from bfn_toolkit.shapes import Data, batch_size, device_of, leaves, map_data
from bfn_toolkit.storage.files import write_atomically

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

FILM_ROWS = 500  # largest number of samples in a film
SHARE, LEAST_SECONDS, MOST_SECONDS = 0.2, 5.0, 60.0  # of a report: share of the training time, and its limits
COMPARED = 20_000  # largest number of rows of the data that samples are compared with
COUNTED = 2**22  # largest number of numbers in the rows that baselines count, and price
FEW_DRAWS = 16  # for the price of a row
FIRST = 3  # texts among the scores
OF_SAMPLES = ("samples", "columns", "pairs")  # figures that need samples
ON_PAGE = ("flows", "pairs")  # figures that the page has as they are
MAIN = 6  # part from which on the main process works alone
PARTS = 8  # of a report: samples, likelihood, baselines, distances, steps, memorisation, figures and page


def sample_scores(run: Run, samples: Batch, data: Batch) -> dict[str, Any]:
    """Distances of samples to data of the run, and the shares of the modes where the data set has modes.

    Distances are between the numbers of the model, whose unit is "unit"; those of single columns ("columns") are in
    the units of the user.
    """
    dataset = run.experiment.dataset
    shares, columns = dataset.mode_shares(present(samples.x, samples.mask)), _columns(run, samples, data)
    return {
        **distances(run.model.family, samples, data),
        "unit": dataset.unit,
        **({"columns": columns} if columns else {}),
        **({} if shares is None else {"mode_shares": dict(shares)}),
    }


def _some(rows: Rows, most: int) -> Batch:
    """Rows at equal distances, on the CPU."""
    with seeded(0, "rows"):
        return rows[spread(len(rows), most)].to(torch.device("cpu"))


def _floor(run: Run, n: int, data: Batch) -> dict[str, Any]:
    """The scores of n test rows in place of samples; of rows of half of the data, if there are fewer test rows."""
    rows, fresh, index = "test rows", _some(run.rows("test"), n), torch.arange(len(data))
    if len(fresh) < min(n, len(data) // 2):
        rows, fresh, data = (
            "rows of one half, against the other",
            _some(data.rows(index[1::2]), n),
            data.rows(index[::2]),
        )
    return {"rows": rows, "n": len(fresh), **sample_scores(run, fresh, data)}


def _columns(run: Run, samples: Batch, data: Batch) -> dict[str, float]:
    """Wasserstein-1 distance of each column of numbers with a name, in the units of the user."""
    names = run.codec.names
    drawn, rows = (raw_like(present(x.x, x.mask), run.codec) for x in (samples, data))
    if isinstance(rows, Mapping) or not rows.is_floating_point() or rows.shape[1:] != (len(names),):
        return {}
    there = [mask_of(x.x, x.mask).cpu() for x in (samples, data)]
    return {
        name: w1(drawn[there[0][:, i], i], rows[there[1][:, i], i])
        for i, name in enumerate(names)
        if all(bool(mask[:, i].any()) for mask in there)
    }


def _baselines(run: Run, test: Batch) -> dict[str, Any]:
    """Prices of test rows by simple laws of training rows, in the unit of the bound."""
    train, family = run.rows("train"), run.model.family
    numbers = max(1, sum(leaf[0].numel() for leaf in leaves(test.x)))
    facts: Mapping[str, Any] = run.experiment.dataset.metadata
    by_part = facts.get("parts", {})
    bins = {name: table["bins"] for name, table in [("", facts), *by_part.items()] if "bins" in table}
    few = torch.arange(min(len(test), max(1, COUNTED // numbers)))
    test, counted = test.rows(few), _some(train, max(1, COUNTED // numbers))
    found = {}
    for name, nats in baselines(family, counted, test, bins).items():
        total = Estimate.of(nats)
        bits = total.bits_per(max(float(present_numbers(test).mean()), 1e-300))
        found[name] = {
            "total_nats": total.value,
            "total_nats_stderr": total.stderr,
            "bits_per_dimension": bits.value,
            "bits_per_dimension_stderr": bits.stderr,
        }
    return found


def _beside(run: Run, test: Batch) -> dict[str, Any]:
    """Numbers beside a bound on test rows: the entropy, the baselines, and the word for a dimension."""
    stated = run.experiment.dataset.entropy()
    known = {}
    if stated is not None:
        entropy, error = stated if isinstance(stated, tuple) else (stated, 0.0)
        known = {"entropy_nats": float(entropy), "entropy_nats_stderr": float(error)}
    return {**known, "dimension": _dimension(run, test), "baselines": _baselines(run, test)}


def _dimension(run: Run, test: Batch) -> str:
    """Word for one number of an example: a cell of a table, a character or a token of texts, else a dimension."""
    if run.codec.is_table:
        return "cell"
    first = test.part(0, 1)
    texts = texts_of(present(first.x, first.mask), mask_by_part(first.x, first.mask), run.codec)
    if not texts or isinstance(test.x, Mapping):
        return "dimension"
    return "character" if all(len(name) == 1 for name in run.codec.class_names) else "token"


def _code_length(cost: CodeLength) -> dict[str, float]:
    """The numbers of a bound, or of a part of it."""
    figures = {"loss": cost.messages, "reconstruction": cost.reconstruction, "total": cost.total}
    return {
        key: number
        for name, estimate in figures.items()
        for key, number in ((f"{name}_nats", estimate.value), (f"{name}_nats_stderr", estimate.stderr))
    }


def _likelihood(plan: ResolvedPlan, bound: LikelihoodBound, split: Split) -> dict[str, Any]:
    """The numbers of a likelihood bound of the run."""
    return {
        "weights": attrs.asdict(plan.run.weights),
        "steps": "inf" if bound.n_steps is None else bound.n_steps,
        "split": split,
        "examples": bound.examples,
        "draws": bound.draws,
        **_code_length(bound),
        "bits_per_dimension": bound.bits_per_dimension.value,
        "bits_per_dimension_stderr": bound.bits_per_dimension.stderr,
        "unit": plan.run.experiment.dataset.unit,
        "parts": {name: _code_length(part) for name, part in bound.parts.items()},
    }


def _quality(plan: ResolvedPlan, samples: Data, *, thorough: bool = False, target: str | None = None) -> dict[str, Any]:
    """The numbers of the first samples of a plan, beside those of data."""
    run, wanted, n = plan.run, plan.plan, batch_size(samples)
    settings = {
        "n": n,
        "steps": wanted.steps,
        "sampler": plan.sampler,
        "evaluations": plan.draws.sampler.nfe(wanted.steps),
        "seed": wanted.seed,
    }
    if run.codec.is_table:
        sides = Sides.of(plan, samples, EVERY if thorough else SOME)
        return {**settings, "table": table_scores(sides, thorough=thorough, target=target)}
    data, expected = _some(run.rows("all"), COMPARED), run.experiment.dataset.mode_probabilities()
    few = range(min(n, FIRST))
    raw = plan.raw(map_data(lambda part: part[: len(few)], samples), few)
    texts = [text for text in raw if isinstance(text, str)] if isinstance(raw, list) else []
    return {
        **settings,
        **sample_scores(run, Batch(samples, mask=plan.mask(range(n))).to(torch.device("cpu")), data),
        **({} if expected is None else {"mode_probabilities": dict(expected)}),
        "floor": _floor(run, n, data),
        **({"first": texts} if texts else {}),
    }


def evaluate(
    plan: ResolvedPlan,
    *,
    n_steps: int | None = None,
    split: Split = "test",
    draws: int | None = None,
    density: int = 0,
    particles: int = 0,
    examples: int | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """The likelihood bound on a split and the quality of samples, as one JSON object.

    Arguments:
        plan: The samples to score, of a run.
        n_steps: Number of messages of the bound; None for continuous time.
        split: Rows for the likelihood.
        draws: Number of draws of the time per example.
        density: Number of examples for the exact log-density (:func:`~bfn_toolkit.log_density`).
        particles: Number of particles for the importance-weighted bound (:func:`~bfn_toolkit.importance_bound`), of
            ``n_steps`` messages, or for None those of the plan.
        examples: Number of examples for that bound; by default as many as take about a million evaluations.
        target: Column of a table that a model is trained to predict, on samples and on real rows; None for the choice
            of :func:`~bfn_toolkit.evaluation.tables.default_target`.
    """
    run, seed = plan.run, plan.plan.seed
    data = run.rows(split, next(run.model.parameters()).device)
    bound = likelihood_bound(run.model, data, n_steps=n_steps, draws=draws, seed=seed, deal=deal_chunks)
    scores = _likelihood(plan, bound, split)
    scores |= _beside(run, _some(run.rows(split), bound.examples))
    if density:
        scores |= _density(run, data, density, seed)
    if particles:
        scores["importance"] = _importance(plan, data, n_steps or plan.plan.steps, particles, examples)
    samples = plan.draw()
    quality = _quality(plan, samples, thorough=True, target=target) | by_steps(plan, samples)
    return {**scores, "samples": quality | _memorisation(plan, samples, quality)}


def _memorisation(
    plan: ResolvedPlan,
    samples: Data,
    quality: Mapping[str, Any],
    seconds: float = LONG,
    elapsed: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """The memorisation check, in which a table has the prices of its own scores."""
    found = memorisation(plan, samples, 0.5 * seconds)
    if not found:
        return {}
    if plan.run.codec.is_table:
        private = quality["table"]["membership"]
        prices = {key: private[key] for key in ("auc", "stderr", "rows", "nats") if private}
    else:
        draws = ROW_DRAWS if seconds == LONG else FEW_DRAWS
        prices = priced_membership(plan.run, 0.5 * seconds, draws=draws, elapsed=elapsed)
    return {"memorisation": {**found, **({"membership": prices} if prices else {})}}


def _first_rows(data: Rows, examples: int, seed: int) -> Batch:
    with seeded(seed, "first rows"):
        return data[torch.arange(min(examples, len(data)))]


def _importance(plan: ResolvedPlan, data: Rows, n_steps: int, particles: int, examples: int | None) -> dict[str, float]:
    rows = _first_rows(data, examples or affordable_examples(n_steps, particles), plan.plan.seed)
    bound = importance_bound(
        plan.run.model, rows, n_steps=n_steps, particles=particles, seed=plan.plan.seed, deal=deal_chunks
    )
    return {
        "steps": bound.n_steps,
        "particles": bound.particles,
        "effective_particles": bound.effective_particles,
        "examples": bound.examples,
        "total_nats": bound.total.value,
        "total_nats_stderr": bound.total.stderr,
        "gain_nats": bound.gain.value,
        "gain_nats_stderr": bound.gain.stderr,
        "bits_per_dimension": bound.bits_per_dimension.value,
        "bits_per_dimension_stderr": bound.bits_per_dimension.stderr,
    }


def _density(run: Run, data: Rows, examples: int, seed: int) -> dict[str, float]:
    rows = _first_rows(data, examples, seed)
    probes = 0 if rows.x[0].numel() <= 64 else 16
    with seeded(seed, "density", device=device_of(rows.x)):
        found = log_density(run.model, rows.x, probes=probes, condition=readable(run.model, rows.condition))
    mean = Estimate.of(found.value)
    return {
        "log_density_nats": mean.value,
        "log_density_nats_stderr": mean.stderr,
        "log_density_solver_error": float(found.error.mean()),
        "log_density_examples": len(rows),
    }


def described(error: BaseException) -> str:
    """An error in words, with its class if it is not one of ours."""
    return str(error) if isinstance(error, BFNError) else f"{type(error).__name__}: {error}"


def write_figures(
    plan: ResolvedPlan,
    folder: Path,
    samples: Data | None = None,
    only: Sequence[str] | None = None,
    *,
    show: Callable[[Path], object] = lambda path: None,
) -> list[Path]:
    """Draws the figures of a run into a folder, as PNG.

    Arguments:
        plan: Plan of the samples.
        folder: The folder.
        samples: The samples; needed only for the figure "samples".
        only: Names of the figures to draw; by default all.
        show: Called with the path of each figure that is written.
    Raises:
        ConfigError: If these data have no figure of a name.
        Exception: The first error of a figure, after the others are written.
    """
    from bfn_toolkit.reports.figures import figures

    drawn = figures(plan, samples)
    for name in only or ():
        if name not in drawn:
            raise ConfigError(f"these data have no figure '{name}'; there are {', '.join(drawn)}")
    paths: list[Path] = []
    failed: list[Exception] = []
    for name in drawn if only is None else only:
        try:
            paths.append(save_figure(drawn[name], folder / f"{name}.png"))
            show(paths[-1])
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return paths


def save_figure(draw: Callable[[], Figure], path: Path) -> Path:
    """Draws a figure and writes it as PNG; returns its path."""
    buffer = io.BytesIO()
    draw().savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return path


def write_film(plan: ResolvedPlan, folder: Path) -> Path:
    """Draws the samples' way from the prior to the data, as a GIF in a folder; returns its path.

    Raises:
        ConfigError: If the data are a table.
    """
    if plan.run.codec.is_table:
        raise ConfigError(
            "an animation needs data that can be drawn, and the rows of a table cannot; leave out --animate"
        )
    from bfn_toolkit.reports.animation import film

    trajectory = Trajectory(plan.run.model.family, min(plan.plan.n, FILM_ROWS))
    plan.draw(range(trajectory.rows), trajectory)
    path = folder / "flows.gif"
    title = f"{plan.sampler}, {plan.plan.steps} steps"
    write_atomically(path, film(trajectory, plan.run.split("all"), title, plan.mask(range(trajectory.rows))))
    return path


def complete_run(
    plan: ResolvedPlan,
    say: Callable[[str], None],
    seconds: float | None = None,
    *,
    show: Callable[[str, float], object] = lambda name, done: None,
) -> dict[str, Any]:
    """Writes samples, scores, figures and a page about a trained run into its directory; returns the scores.

    It has a budget.  The samples may use a third of it, the likelihood bound half of the rest, other numbers of steps a
    third of what is left then, and the memorisation check half of that.  There are fewer samples then, and the bound is
    less exact; the scores state how many were drawn.  A score or a figure that fails costs only itself.

    Arguments:
        plan: Plan of the samples.
        say: Called with a line about each part that is done, or failed.
        seconds: The budget; by default 20 % of the training time, but 5 to 60 s.
        show: Called with the name of each part that begins, and the share of the parts that are done.
    Raises:
        Interrupted: If a signal asks to stop; what was done before is written.
    """
    report = _Report.of(plan, say, seconds, show)
    report.evaluate()
    if processes.is_main_process():
        report.part("page", MAIN + 1.0, report.page)
    return report.scores


def write_report(
    plan: ResolvedPlan,
    say: Callable[[str], None],
    out: Path | None = None,
    compared: Sequence[Path] = (),
    *,
    seconds: float | None = None,
    show: Callable[[str, float], object] = lambda name, done: None,
) -> Path:
    """Writes the page about a run as it is; returns its path.

    The scores are those of the last evaluation.  A finished run that has none, or has them of other weights, is
    evaluated first, as after its training (:func:`complete_run`).

    Arguments:
        plan: Plan of the samples.
        say: Called with a line about each part that is done, or failed.
        out: The file; by default ``report.html`` in the run directory.
        compared: Directories of other runs, beside which it stands.
        seconds: The budget of the samples and of an evaluation; by default that of :func:`complete_run`, and a minute
            where there are scores.
        show: Called with the name of each part that begins, and the share of the parts that are done.
    Raises:
        RunDirectoryError: If the scores are damaged.
        ResourceError: If the page cannot be written.
    """
    run = plan.run
    assert run.path is not None
    scores = read_evaluation(run.path) or {}
    about = scores.pop("experiment", None), scores.get("weights")
    is_judged = about == (run.identity, attrs.asdict(run.weights))
    report = _Report.of(plan, say, MOST_SECONDS if is_judged and seconds is None else seconds, show)
    if is_judged:
        report.scores = scores
        report.draw()
    elif run.weights.source == "final":
        say(f"no scores of these weights in {run.path / EVALUATION}: evaluating")
        report.evaluate()
    else:
        say("the training has not ended, so there are no scores")
        report.draw()
    path = out or report.path / PAGE
    if processes.is_main_process():
        report.page(path, compared)
    return path


@attrs.define(eq=False)
class _Report:
    """The parts of a report, one after another."""

    plan: ResolvedPlan
    path: Path
    say: Callable[[str], None]
    seconds: float
    show: Callable[[str, float], object]
    scores: dict[str, Any] = attrs.field(factory=dict)
    samples: Data | None = None
    drawn: dict[str, Callable[[], Figure]] = attrs.field(factory=dict)  # figures for the page
    pace: float = 0.0  # seconds for a sample
    _began: float = attrs.field(factory=time.monotonic)

    @classmethod
    def of(
        cls,
        plan: ResolvedPlan,
        say: Callable[[str], None],
        seconds: float | None,
        show: Callable[[str, float], object],
    ) -> _Report:
        """The report of a run in a directory; by default its budget follows from the training time."""
        path = plan.run.path
        if path is None:
            raise ValueError("the run was kept in memory: train it with a run directory")
        if seconds is None:
            is_finished = plan.run.weights.source == "final"
            trained = float(load_description(path).get("training_seconds", 0.0)) if is_finished else 0.0
            seconds = min(MOST_SECONDS, max(LEAST_SECONDS, SHARE * trained))
        return cls(plan, path, say, seconds, show)

    def evaluate(self) -> None:
        """Writes samples, scores and figures."""
        try:
            self.part("samples", 0.0, self._samples)
            self.part("likelihood", 1.0, self._price)
            self.part("baselines", 2.0, self._compare)
            self.part("distances", 3.0, self._score)
            self.part("quality by steps", 4.0, self._steps)
            self.part("memorisation", 5.0, self._memorise)
            if processes.is_main_process():
                self.part("figures", 6.0, self._figures)
        finally:
            if self.scores and processes.is_main_process():
                write_evaluation(self.plan.run, self.scores)

    def part(self, name: str, place: float, work: Callable[[], str | None]) -> None:
        """Does a part, and says what came of it and how long it took."""
        processes.check_signals(self._device, together=place < MAIN)
        self.show(name, place / PARTS)
        began = time.monotonic()
        try:
            line = work()
        except Interrupted:
            raise
        except (Exception, SystemExit) as error:  # of a plugin, which may do anything
            self.say(f"no {name}: {described(error)}")
        else:
            if line is not None:
                self.say(f"{line}  ({time.monotonic() - began:.1f} s)")

    @property
    def _device(self) -> torch.device:
        return next(self.plan.run.model.parameters()).device

    def _elapsed(self) -> float:
        """Seconds since the report began, the same in all processes."""
        return processes.all_reduce_max(int(1e6 * (time.monotonic() - self._began)), self._device) / 1e6

    def draw(self) -> None:
        """Draws samples, and no other part: the scores are there."""
        from bfn_toolkit.reports.figures import figures

        self.part("samples", 0.0, self._draw)
        if processes.is_main_process() and self.samples is not None:
            found = {**figures(self.plan, self.samples), "flows": self._flows()}
            self.drawn = {name: draw for name in ON_PAGE if (draw := found.get(name)) is not None}

    def _draw(self) -> None:
        """Draws as many samples as a third of the budget pays for, and 16 at least; each turn at most doubles them."""
        n, done, now = self.plan.plan.n, 0, self._elapsed()
        drawn: list[Data] = []
        while done < n:
            affordable = int((self.seconds / 3.0 - now) / self.pace) // MIN_ROWS if drawn else 1
            if done == MIN_ROWS and now < self.seconds / 3.0:
                affordable = max(1, affordable)  # imports and files are in the pace of the first turn
            rows = range(done, min(n, done + MIN_ROWS * min(affordable, max(1, done // MIN_ROWS))))
            if not rows:
                break
            drawn.append(self.plan.draw(rows))
            before, now = now, self._elapsed()
            done, self.pace = rows.stop, max(now - before, 1e-9) / len(rows)
        self.samples = concatenated(drawn)

    def _samples(self) -> str:
        """Draws samples, and writes them."""
        self._draw()
        assert self.samples is not None
        n, done = self.plan.plan.n, batch_size(self.samples)
        path = self.path / samples_name(self.plan.run)
        if processes.is_main_process():
            write_samples(path, self.plan.raw(self.samples, range(done)), self.plan.run.codec)
        more = "" if done == n else f" of {n:,}, for which there was no time,"
        return f"{done:,} samples{more} in {self.plan.plan.steps} steps: {path}"

    def _price(self) -> str:
        """The likelihood bound, within half of what is left of the budget."""
        run, now = self.plan.run, self._elapsed()
        data = run.rows("test", self._device)
        budget = Budget(max(0.0, 0.5 * (self.seconds - now)), clock=self._elapsed)
        n_steps, seed = run.model.family.n_steps, self.plan.plan.seed
        bound = likelihood_bound(run.model, data, n_steps=n_steps, seed=seed, deal=deal_chunks, budget=budget)
        self.scores |= _likelihood(self.plan, bound, "test")
        return f"likelihood of {bound.examples:,} of {len(data):,} test examples, {bound.draws:,} draws of each"

    def _compare(self) -> None:
        """The prices of the same rows under simple laws."""
        if "examples" not in self.scores:
            return
        rows = self.plan.run.rows("test")
        order = budget_order(len(rows), self.plan.plan.seed)[: self.scores["examples"]]
        with seeded(0, "rows"):
            test = rows[order]
        self.scores |= _beside(self.plan.run, test)

    def _score(self) -> str | None:
        if self.samples is None:
            return None
        self.scores["samples"] = _quality(self.plan, self.samples)
        return "distances of the samples to the data"

    def _steps(self) -> str | None:
        """Fewer and more steps, in a third of what is left of the budget, but at least a tenth of it."""
        if self.samples is None or "samples" not in self.scores:
            return None
        left = max(0.0, self.seconds - self._elapsed())
        found = by_steps(self.plan, self.samples, max(left / 3.0, self.seconds / 10.0), self.pace)
        self.scores["samples"] |= found
        words = ", ".join(str(line["steps"]) for line in found["by_steps"])
        missing = ", ".join(map(str, found.get("by_steps_left_out", ())))
        done = f"quality in {words} steps" if words else "no quality by the number of steps"
        return done + (f"; no time for {missing}" if missing else "")

    def _memorise(self) -> str | None:
        """Distances to training rows and prices of these, in half of what is left of the budget."""
        if self.samples is None or "samples" not in self.scores:
            return None
        left = max(0.0, self.seconds - self._elapsed())
        found = _memorisation(self.plan, self.samples, self.scores["samples"], 0.5 * left, self._elapsed)
        self.scores["samples"] |= found
        return "samples and held-out rows beside the training rows" if found else None

    def _flows(self) -> Callable[[], Figure] | None:
        """The figure of the flows, of as many samples as what is left of the budget pays for; None of too few."""
        from bfn_toolkit.reports.figures import STRIPS, figures

        left = max(1.0, self.seconds - (time.monotonic() - self._began))
        paths = int(left / max(self.pace, 1e-9))
        return None if paths < STRIPS else figures(self.plan, self.samples, paths).get("flows")

    def _figures(self) -> None:
        from bfn_toolkit.reports.figures import figures

        drawn = figures(self.plan, self.samples)
        if self.samples is None:
            drawn = {name: draw for name, draw in drawn.items() if name not in OF_SAMPLES}
        for i, (name, draw) in enumerate(drawn.items()):

            def work(name: str = name, draw: Callable[[], Figure] | None = draw) -> str | None:
                draw = self._flows() if name == "flows" else draw
                if draw is None:
                    later = f"bfn plot {shlex.quote(str(self.path))} --flows"
                    self.say(f"no figure flows: it would take longer than the report may; later: {later}")
                    return None
                if name in ON_PAGE:
                    draw = self.drawn[name] = cache(draw)
                return f"figure: {save_figure(draw, self.path / FIGURES / f'{name}.png')}"

            self.part(f"figure {name}", MAIN + i / len(drawn), work)

    def page(self, path: Path | None = None, compared: Sequence[Path] = ()) -> str:
        """Writes the page."""
        from bfn_toolkit.reports.page.subject import Subject
        from bfn_toolkit.reports.page.writing import write_page

        subject = Subject(self.plan, self.scores, self.samples, self.drawn, compared)
        return f"report: {write_page(subject, path or self.path / PAGE)}"
