"""The subject of a page: a run, with everything about it that several sections say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from matplotlib.figure import Figure

from bfn_toolkit.data.dataset import Split
from bfn_toolkit.errors import DataError, RunDirectoryError
from bfn_toolkit.families import ExampleKind
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.reports.page.blocks import rough
from bfn_toolkit.reports.page.checks import Evidence, checks, simplest
from bfn_toolkit.reports.page.curves import Points, read_curves
from bfn_toolkit.runs.directory import REPORTS
from bfn_toolkit.runs.model_files import load_description
from bfn_toolkit.runs.records import all_facts
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sampling import ResolvedPlan
from bfn_toolkit.shapes import Data

NOUNS = {ExampleKind.IMAGE: "image", ExampleKind.SET: "set of points", ExampleKind.ROW: "row"}
LETTER_WORDS = ("character", "token")
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@attrs.define(eq=False, slots=False)
class Subject:
    """A run and what is known about it.

    Arguments:
        plan: Plan of the samples, of a run in a directory.
        scores: The scores of the run; empty if there are none.
        samples: The first samples of the plan; None if there are none.
        figures: Figures by name ("flows", "pairs"), drawn when called.
        compared: Directories of other runs.
    """

    plan: ResolvedPlan
    scores: Mapping[str, Any] = attrs.field(factory=dict)
    samples: Data | None = None
    figures: Mapping[str, Callable[[], Figure]] = attrs.field(factory=dict)
    compared: Sequence[Path] = ()

    @property
    def run(self) -> Run:
        """The run."""
        return self.plan.run

    @property
    def path(self) -> Path:
        """The run directory."""
        assert self.run.path is not None
        return self.run.path

    @cached_property
    def options(self) -> dict[str, Any]:
        """Values of the options of the experiment by dotted key."""
        return {key: value for key, _, value in self.run.experiment.options()}

    @cached_property
    def curves(self) -> dict[str, Points]:
        """The measurements of the training."""
        return read_curves(self.run.metrics)

    @property
    def steps(self) -> int:
        """Number of steps of the training, which may have continued after that of the weights."""
        return max([self.run.weights.step, *(int(curve[0, -1]) for curve in self.curves.values())])

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """The content of ``model.json``; nothing if the training has not ended."""
        with suppress(RunDirectoryError):
            return load_description(self.path)
        return {}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Machine and versions of the training, from its last checkpoint; nothing if there are no checkpoints."""
        found = (facts.get("environment") for facts, _ in all_facts(self.path))
        return next((facts for facts in found if isinstance(facts, Mapping)), {})

    @cached_property
    def evidence(self) -> Evidence:
        """Everything that is checked."""
        names = sorted(path.stem for path in (self.path / REPORTS).glob("step-*.json"))
        steps = [int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdigit()]
        return Evidence(self.curves, self.scores, self.options, self.path, steps)

    @cached_property
    def verdicts(self) -> list[Any]:
        """The verdicts of the checks."""
        return checks(self.evidence)

    @property
    def date(self) -> str:
        """Day and time of the last change of the model."""
        changed = (self.path / "model.json" if self.description else self.path / "experiment.toml").stat().st_mtime
        return f"{datetime.fromtimestamp(changed):%d %B %Y, %H:%M}".lstrip("0")

    @property
    def dataset_name(self) -> str:
        """Registered name of the data set."""
        return default_registry().name_of("dataset", type(self.run.experiment.dataset))

    @property
    def data_name(self) -> str:
        """Name of the file of the data, or of the data set."""
        path = getattr(self.run.experiment.dataset, "path", None)
        return path.name if isinstance(path, Path) and path.name else self.dataset_name

    @cached_property
    def counts(self) -> dict[Split, int]:
        """Number of rows of each split; nothing if the data cannot be read."""
        try:
            return {name: len(self.run.rows(name)) for name in SPLITS}
        except DataError:
            return {}

    @cached_property
    def noun(self) -> str:
        """Word for one example."""
        if self.run.codec.is_table:
            return "row"
        if self.scores.get("dimension") in LETTER_WORDS:
            return "text"
        return NOUNS.get(self.run.model.family.example_kind, "example")

    def price(self, costs: Mapping[str, Any]) -> tuple[float, float] | None:
        """A likelihood in the unit of the headline, with its standard error; None if it is not known."""
        key = self.unit[0]
        value = costs.get(key)
        return None if value is None else (value, costs.get(f"{key}_stderr") or 0.0)

    @property
    def unit(self) -> tuple[str, str]:
        """Key of the likelihood in the unit that is usual for such data, and this unit."""
        word = self.scores.get("dimension", "")
        if word in LETTER_WORDS:
            return "bits_per_dimension", f"bits per {word}"
        if self.run.model.family.example_kind is ExampleKind.IMAGE:
            return "bits_per_dimension", "bits per dimension"
        return "total_nats", f"nats per {self.noun}"

    def headline(self) -> str:
        """One or two sentences: the data, and the likelihood of new rows beside that of a simple baseline."""
        n, nouns = self.counts.get("train"), plural(self.noun)
        many = nouns if n != 1 else self.noun
        first = f"A model of {n:,} {many} of {self.data_name}." if n else f"A model of {self.data_name}."
        own = self.price(self.scores)
        if own is None:
            return first + ("" if self.scores.get("total_nats", 0.0) is not None else " Its likelihood is not finite.")
        key, unit = self.unit
        sentence = f"On new {nouns} it reaches {rough(*own)} {unit}"
        best = simplest(self.scores)
        other = None if best is None else self.price(best[1])
        if other is not None:
            only = "only " if other[0] < own[0] else ""
            sentence += f", where a simple baseline needs {only}{rough(other[0], own[1])}"
        if "entropy_nats" in self.scores and key == "total_nats":
            joint = " and" if other is not None else ", where"
            sentence += f"{joint} the true distribution {rough(self.scores['entropy_nats'], own[1])}"
        return f"{first} {sentence}; lower is better."

    @property
    def status(self) -> tuple[str, bool]:
        """Number of checks that found something, in words, and whether there are any."""
        wrong = sum(verdict.state == "wrong" for verdict in self.verdicts)
        if not wrong:
            return "Nothing looks wrong", False
        return ("One thing to look at" if wrong == 1 else f"{wrong} things to look at"), True

    @property
    def eyebrow(self) -> str:
        """Place of the run, and the date of its training."""
        return f"{self.path} \N{MIDDLE DOT} {self.date}"


def plural(noun: str) -> str:
    """Several of a noun."""
    head, of, rest = noun.partition(" of ")
    return f"{head}s{of}{rest}"
