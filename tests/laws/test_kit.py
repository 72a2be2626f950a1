"""The laws themselves: what is right passes, each fault is found by the laws that name it, and NaN by all."""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from family_mutants import PARTS, PriceOfEachSite
from family_subjects import FAMILIES, LOSSES
from mutants import MUTANTS, Mutant, ProbabilitySpace, SoftmaxOfProbability, UnnormalisedBelief
from other_mutants import MORE_SUBJECTS, Pooled
from subjects import SUBJECTS, Angles, ByDefinition, Circle, Classes, Residual, SaturatingSchedule, Wheel
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from bfn_gaussian import Gaussian, UnsquaredNormLoss
from bfn_toolkit import (
    ODE2,
    ConfigError,
    ContinuousTimeLoss,
    ImportanceTimes,
    NetworkBuilder,
    NetworkIO,
    ProductFamily,
    Registry,
    UniformTimes,
)
from bfn_toolkit.testing import (
    LAWS,
    Case,
    LawBroken,
    check_family,
    check_network,
    check_schedule,
    parametrize_schedules,
    verdicts,
)
from bfn_toolkit.testing.kit import EXPECTED, HOLDS, SURPRISE, laws_for
from bfn_toolkit.testing.law import Judge, P

EXAMPLES = 8  # of a law that searches: here the laws are judged, not the subjects
# The thorough form (make laws) takes half an hour: correct subjects under five seeds, mutants under every law.
THOROUGH = bool(os.environ.get("BFN_THOROUGH_LAWS"))
SEEDS = range(5 if THOROUGH else 1)


def name_of(subject: Any) -> str:
    return type(subject).__name__


# Correct subjects


def built_ins() -> Sequence[Any]:
    kinds = {law.kind for law in LAWS.values()}
    return [x for item in Registry.from_entry_points().entries() if item.kind in kinds for x in item.entry.examples]


@pytest.mark.timeout(1200)  # rotations have a normaliser that is an integral
@pytest.mark.parametrize("subject", [*built_ins(), *SUBJECTS, *FAMILIES, *LOSSES, *MORE_SUBJECTS], ids=name_of)
def test_no_correct_subject_is_rejected(subject: Any) -> None:
    applicable = laws_for(subject)
    most = 2 if isinstance(subject, NetworkBuilder) else 5  # a network takes long, and its laws vary little
    most -= not THOROUGH
    for seed in SEEDS:
        # A round trip draws nothing, so that another seed tries nothing new.
        laws = [law.name for law in applicable if seed == 0 or not law.name.endswith("round-trips")]
        for verdict in verdicts(subject, laws=laws, examples=most if seed == 0 else 2, seed=seed):
            assert verdict.fault is None, f"{subject!r}, seed {seed}\n{verdict.fault}"
            assert verdict.figure is not None
            assert 0.0 <= verdict.figure <= 1.0


def test_the_subjects_are_of_every_kind_and_claim() -> None:
    subjects = (*SUBJECTS, *FAMILIES, *LOSSES, *MORE_SUBJECTS)
    assert {law.name for subject in subjects for law in laws_for(subject)} == set(LAWS)


def test_another_seed_makes_other_draws() -> None:
    law = "flow-is-a-gaussian-channel"
    figures = [next(verdicts(Circle(), laws=[law], seed=seed)).figure for seed in (0, 0, 1)]
    assert figures[0] == figures[1] != figures[2]


# Mutants


@functools.cache
def faults(mutant: Mutant) -> dict[str, LawBroken]:
    """The laws that reject a mutant: of all, or of those that it declares."""
    found = verdicts(mutant.subject, laws=() if THOROUGH else sorted(mutant.rejected_by), examples=EXAMPLES)
    return {verdict.law.name: verdict.fault for verdict in found if verdict.fault is not None}


def mutant_of(cls: type[Any]) -> Mutant:
    return next(mutant for mutant in MUTANTS if type(mutant.subject) is cls)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: name_of(mutant.subject))
def test_a_mutant_is_rejected_by_the_laws_that_it_declares(mutant: Mutant) -> None:
    found = faults(mutant)
    assert set(found) == mutant.rejected_by, "\n".join(map(str, found.values()))


def test_every_law_has_a_mutant_that_it_and_few_others_reject() -> None:
    fewest = {law: min((len(m.rejected_by) for m in MUTANTS if law in m.rejected_by), default=99) for law in LAWS}
    assert {law: n for law, n in fewest.items() if n > 4} == {}


def test_a_mutant_differs_from_a_correct_subject_by_its_fault_alone() -> None:
    for mutant in MUTANTS:
        assert len(mutant.rejected_by) < len(laws_for(mutant.subject))


# What a broken law says


def test_a_broken_law_names_itself_its_formula_the_figures_and_the_smallest_example() -> None:
    fault = faults(mutant_of(SoftmaxOfProbability))["bayes-rule"]
    assert (fault.law, fault.formula) == ("bayes-rule", LAWS["bayes-rule"].formula)
    assert isinstance(fault.observed, float)
    assert isinstance(fault.tolerance, float)
    assert fault.observed > fault.tolerance
    message = str(fault)
    for part in (fault.law, fault.formula, str(fault.observed), str(fault.tolerance), *fault.example.splitlines()):
        assert part in message
    assert repr(Case(rows=1, accuracies=(), seed=0)) in fault.example


def test_the_example_has_as_many_messages_as_the_fault_needs() -> None:
    fault = faults(mutant_of(ProbabilitySpace))["bayes-rule"]
    assert repr(Case(rows=1, accuracies=(1000.0,), seed=0)) in fault.example


CATALOGUE = [mutant for mutant in MUTANTS if mutant.published]


@pytest.mark.parametrize("mutant", CATALOGUE, ids=lambda mutant: name_of(mutant.subject))
def test_the_example_runs_and_breaks_the_law_again(mutant: Mutant) -> None:
    fault = next(iter(faults(mutant).values()))
    with pytest.raises(LawBroken) as again:
        exec(fault.example, {})
    assert again.value.law == fault.law
    assert str(again.value.observed) == str(fault.observed)


def test_the_example_runs_in_a_process_of_its_own() -> None:
    (verdict,) = verdicts(SoftmaxOfProbability(), laws=["zero-accuracy-changes-nothing"], examples=EXAMPLES, seed=3)
    assert verdict.fault is not None
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", verdict.fault.example]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"LawBroken: {verdict.law.name} does not hold" in run.stderr
    assert f"observed:  {verdict.fault.observed}" in run.stderr


# NaN

NAN = float("nan")


class NotANumber(Distribution):
    """A distribution with NaN for every float."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Distribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return nan(self.base.sample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return nan(self.base.log_prob(value))


def nan(value: Any) -> Any:
    """The value with NaN for every floating number in it."""
    if isinstance(value, Tensor):
        return value * NAN if value.is_floating_point() else value
    if isinstance(value, Distribution):
        return NotANumber(value)
    if isinstance(value, tuple):
        return tuple(map(nan, value))
    if isinstance(value, dict):
        return {name: nan(part) for name, part in value.items()}
    if attrs.has(type(value)):
        parts = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return type(value)(**{name: nan(part) if isinstance(part, Tensor) else part for name, part in parts.items()})
    return value


def with_nan(subject: Any, *verbs: str) -> Any:
    """The subject, of a class of its own whose verbs return NaN."""

    def override(verb: str) -> Any:
        return lambda self, *args, **kw: nan(getattr(type(subject), verb)(self, *args, **kw))

    verbs = tuple(verb for verb in verbs if hasattr(subject, verb))
    cls = type(f"Nan{name_of(subject)}", (type(subject),), {verb: override(verb) for verb in verbs})
    return cls(**{f.name: getattr(subject, f.name) for f in attrs.fields(cls) if f.init})


@attrs.frozen
class NanAngles(Angles):
    def split(self, name: Any) -> Any:
        return nan(Angles.split(self, name))


def nan_raw(network: torch.nn.Module) -> torch.nn.Module:
    network.register_forward_hook(lambda _module, _args, raw: nan(raw))
    return network


@attrs.frozen
class NanResidual(Residual):
    def build(self, io: NetworkIO) -> torch.nn.Module:
        return nan_raw(Residual.build(self, io))


@attrs.frozen
class NanPooled(Pooled):
    def build(self, io: NetworkIO) -> torch.nn.Module:
        return nan_raw(Pooled.build(self, io))


@attrs.frozen
class NanField(SaturatingSchedule):
    number: float = NAN


BLIND = {  # a law, and where it looks
    "family": ("prior", "input", "sender", "update", "flow", "features", "loss_rate"),
    "receiver-is-the-mixture-of-senders": ("receiver",),
    "output-density-is-that-of-its-draws": ("output",),
    "step-loss-is-a-divergence": ("receiver",),
    "dtype-and-device-are-kept": ("flow",),
    "loss-rate-is-the-limit-of-the-step-loss": ("kl_rate",),
    "gradients-are-finite": ("output",),
    "steps-telescope": ("accuracy",),
    "channel-coordinates-round-trip": ("natural_params",),
    "flow-is-a-gaussian-channel": ("natural_params",),
    "mean-embedding-is-that-of-the-draws": ("mean_embedding",),
    "other-step-counts-are-refused": ("times",),
    "steps-follow-the-table": ("accuracy",),
    "messages-cost-what-they-tell": ("step_loss",),
    "step-loss-is-right-at-every-accuracy": ("step_loss",),
    "every-raw-number-moves-the-price": ("output",),
    "gradients-are-derivatives": ("step_loss",),
    "loss-weight-brings-unit-scale": ("loss_weight",),
    "loss-rate-is-alpha-times-the-kl-rate": ("kl_rate",),
    "no-draw-is-likelier-than-the-mode": ("output",),
    "data-are-checked": ("output",),
    "schedule": ("beta", "alpha", "accuracy"),
    "sampler": ("sample",),
    "loss": ("__call__", "part_losses"),
    "time-distribution": ("draw", "fitted"),
}
ONES = {
    "family": (Circle(bins=4), Classes(), Wheel()),
    "network": (Residual(), NanPooled(), NanPooled(time_free=True)),
    "dataset": (Angles(),),
    "schedule": (SaturatingSchedule(),),
    "sampler": (ByDefinition(), ODE2()),
    "loss": (ContinuousTimeLoss(), UnsquaredNormLoss()),
    "time-distribution": (UniformTimes(), ImportanceTimes()),
    "a-point-is-as-sharp-as-the-last-beliefs": (Gaussian(),),
    "messages-cost-what-they-tell": (Classes(),),
    "no-draw-is-likelier-than-the-mode": (Classes(), Gaussian()),
    "data-are-checked": (Circle(bins=4), Wheel()),
    "parts-are-told-apart": (ProductFamily(PARTS),),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_nan_breaks_every_law(law: Any) -> None:
    if law.name.endswith("round-trips"):
        # A configuration with NaN is equal to no copy of itself, of whatever kind it is.
        with pytest.raises(LawBroken):
            LAWS["schedule-round-trips"].check(NanField())
        return
    for subject in ONES.get(law.name, ONES[law.kind]):
        if not law.applies(subject):
            continue
        if law.kind in ("network", "dataset"):
            nans: Any = NanResidual() if law.kind == "network" else NanAngles()
            broken = subject if isinstance(subject, NanPooled) else nans
        else:
            broken = with_nan(subject, *BLIND.get(law.name, BLIND[law.kind]))
        with pytest.raises(LawBroken):
            law.check(broken)


def test_a_verdict_says_in_words_where_nan_comes_from() -> None:
    class Lost(Circle):
        def update(self, params: Any, y: Tensor, alpha: Tensor) -> Any:
            return nan(Circle.update(self, params, y, alpha))

    for law in ("bayes-rule", "accuracies-add", "flow-is-a-gaussian-channel", "rows-keep-their-own-time"):
        (verdict,) = verdicts(Lost(), laws=[law], examples=2)
        assert verdict.fault is not None
        assert (verdict.fault.observed, verdict.fault.tolerance) == ("NaN in Lost.update", "finite numbers")


def test_a_verdict_says_which_verb_raised_and_where() -> None:
    class Short(Circle):
        def update(self, params: Any, y: Tensor, alpha: Tensor) -> Any:
            return params.v[:, 7]

    for law in ("bayes-rule", "accuracies-add", "results-have-their-shapes"):
        (verdict,) = verdicts(Short(), laws=[law], examples=2)
        assert verdict.fault is not None
        words = r"IndexError: index 7 is out of bounds .*, in Short\.update \(test_kit\.py:\d+\)"
        assert re.fullmatch(words, str(verdict.fault.observed))


def test_a_verdict_names_what_it_compares() -> None:
    mutant = PriceOfEachSite(site_shape=(2,))
    (verdict,) = verdicts(mutant, laws=["results-have-their-shapes"])
    assert verdict.fault is not None
    assert (verdict.fault.observed, verdict.fault.tolerance) == ("loss_rate of shape (5, 2)", "(5,)")


# Figures


def judge() -> Judge:
    return Judge(LAWS["bayes-rule"].check, Classes())


def test_the_figure_is_the_worst_error_in_units_of_its_tolerance() -> None:
    j = judge()
    j.error(torch.tensor([0.1, 0.3]), 1.0)
    j.error(0.5, 2.0)
    assert j.figure == pytest.approx(0.3)
    with pytest.raises(LawBroken) as fault:
        j.error(torch.tensor([0.1, 3.0]), torch.tensor([1.0, 2.0]))
    assert (fault.value.observed, fault.value.tolerance) == (3.0, 2.0)


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_what_is_not_finite_is_no_figure(value: float) -> None:
    numbers = torch.tensor([0.0, value], dtype=torch.float64)
    for compare in (
        lambda j: j.error(numbers, 1.0),
        lambda j: j.error(torch.zeros(2), torch.tensor([1.0, NAN])),
        lambda j: j.close(numbers, torch.zeros(2), 1.0),
        lambda j: j.mean(numbers, 0.0),
        lambda j: j.same_law(numbers.unsqueeze(-1), numbers.unsqueeze(-1)),
    ):
        with pytest.raises(LawBroken):
            compare(judge())


def test_two_samples_of_one_law_pass_and_shifted_ones_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5000, 1, dtype=torch.float64, generator=generator)
    j = judge()
    j.same_law(a, b)
    assert 0.0 < j.figure < 0.5  # ln p / ln P: at most the half of it, for all but one seed in 1 / sqrt(P)
    assert P == 1e-8
    with pytest.raises(LawBroken, match="p-value"):
        j.same_law(a, b + 0.2)  # four times the distance that 5,000 draws resolve


def test_the_mean_is_judged_in_standard_errors() -> None:
    values = torch.tensor([-1.0, 1.0] * 50, dtype=torch.float64)  # standard error 0.1005
    j = judge()
    j.mean(values, 0.3)
    assert j.figure == pytest.approx(0.3 / (6 * 0.1005), rel=1e-3)
    with pytest.raises(LawBroken):
        j.mean(values, 0.7)


# Expectations


def test_a_broken_law_that_is_expected_passes_with_its_reason() -> None:
    expected = {"beliefs-are-normalised": "log-weights", "beliefs-are-a-martingale": "log-weights"}
    unnormalised = mutant_of(UnnormalisedBelief).subject
    check_family(unnormalised, laws=list(expected), expected=expected)
    found = list(verdicts(unnormalised, laws=list(expected), expected=expected))
    assert [(v.verdict, v.passed, v.reason) for v in found] == [(EXPECTED, True, "log-weights")] * 2
    assert all(v.fault is not None for v in found)


def test_a_law_that_holds_against_expectation_is_reported() -> None:
    options: Any = {"laws": ["accuracy-increases"], "expected": {"accuracy-increases": "it turns back"}}
    (verdict,) = verdicts(SaturatingSchedule(), **options)
    assert (verdict.verdict, verdict.passed) == (SURPRISE, False)
    with pytest.raises(AssertionError, match=r"accuracy-increases was expected to be broken \(it turns back\)") as e:
        check_schedule(SaturatingSchedule(), **options)
    assert not isinstance(e.value, LawBroken)


@pytest.mark.parametrize("how", ["laws", "expected"])
def test_a_misspelt_law_is_told_with_the_name_that_was_meant(how: str) -> None:
    options: Any = {"laws": ["bayes-rul"]} if how == "laws" else {"expected": {"bayes-rul": "a reason"}}
    with pytest.raises(ConfigError, match="Did you mean 'bayes-rule'"):
        check_family(Classes(), **options)


def test_a_law_of_another_claim_is_no_law_of_the_subject() -> None:
    with pytest.raises(ConfigError, match="there is no law 'accuracies-add' for Wheel"):
        check_family(Wheel(), laws=["accuracies-add"])


def test_a_subject_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="check_network expects a network"):
        check_network(Classes())
    with pytest.raises(ConfigError, match="has no kind"):
        check_network(Independent(Normal(torch.zeros(2), 1.0), 1))


TURNS_BACK = next(mutant for mutant in MUTANTS if name_of(mutant.subject) == "TurnsBack").rejected_by


@parametrize_schedules(
    SaturatingSchedule(),
    next(mutant.subject for mutant in MUTANTS if mutant.rejected_by == TURNS_BACK),
    expected={},
)
def test_parametrised_laws_are_called_with_their_subject(law: Any, schedule: Any) -> None:
    if isinstance(schedule, SaturatingSchedule) or law not in [LAWS[name].check for name in TURNS_BACK]:
        law(schedule)
    else:
        with pytest.raises(LawBroken):
            law(schedule)


def test_verdicts_of_a_correct_subject_hold() -> None:
    assert {v.verdict for v in verdicts(SaturatingSchedule(), examples=EXAMPLES)} == {HOLDS}
