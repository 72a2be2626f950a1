"""Three ways to run the laws: one call, a parametrised test, or a report.

.. code-block:: python

    from bfn_toolkit.testing import check_family, parametrize_families

    check_family(MyFamily())                     # raises LawBroken at the first law that does not hold

    @parametrize_families(MyFamily(), MyFamily(classes=2))
    def test_law(law, family):                   # one test for each law and instance
        law(family)

A law that a subject is known to break is declared in the call, with the reason: ``expected={"accuracies-add": "..."}``.
A declared law that holds is reported too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.testing.draws import under_seed
from bfn_toolkit.testing.law import accepts_examples
from bfn_toolkit.testing.laws import LAWS, Law, LawBroken

PLURALS = {"family": "families", "loss": "losses"}
HOLDS, BROKEN, EXPECTED, SURPRISE = "holds", "broken", "broken as expected", "holds against expectation"


@attrs.frozen
class Verdict:
    """Verdict of a law on a subject.

    Arguments:
        law: The law.
        verdict: "holds", "broken", "broken as expected" or "holds against expectation".
        figure: Worst error in units of the tolerance; None for a broken law.
        fault: The fault, if the law is broken; else None.
        reason: Reason why a break was expected, or None.
    """

    law: Law
    verdict: str
    figure: float | None = None
    fault: LawBroken | None = None
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the law holds, or is broken as expected."""
        return self.verdict in (HOLDS, EXPECTED)


def kind_of(subject: Any) -> str:
    """The kind of a subject: family, network, ...

    Raises:
        ConfigError: If there are no laws for its kind.
    """
    kind = getattr(type(subject), "kind", None)
    kinds = sorted({law.kind for law in LAWS.values()})
    if kind not in kinds:
        description = f"a {kind}" if isinstance(kind, str) else f"{type(subject).__name__}, which has no kind"
        raise ConfigError(f"there are laws for {', '.join(kinds)}; {subject!r} is {description}")
    return str(kind)


def laws_for(subject: Any, names: Sequence[str] = ()) -> list[Law]:
    """Laws that apply to a subject, or the selected ones.

    Arguments:
        subject: The subject.
        names: Names of the selected laws; empty for all that apply.
    Raises:
        ConfigError: If there is no law with a name, or it does not apply to this subject.
    """
    known = {law.name: law for law in LAWS.values() if law.kind == kind_of(subject) and law.applies(subject)}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no law '{name}' for {type(subject).__name__}.{did_you_mean(name, known)} "
                f"Laws: {', '.join(known)}"
            )
    return [known[name] for name in names] if names else list(known.values())


def verdicts(
    subject: Any,
    *,
    laws: Sequence[str] = (),
    examples: int | None = None,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Iterator[Verdict]:
    """Judges a subject law by law.

    Arguments:
        subject: An instance of a family, network builder, data set, sampler, schedule,
            loss or time distribution.
        laws: Names of the laws; by default all that apply.
        examples: Number of examples for each law that searches.
        expected: Laws that are known to be broken, each with the reason.
        seed: Seed of the laws' draws.
    """
    expected = expected or {}
    laws_for(subject, list(expected))  # raises for a misspelt name
    for law in laws_for(subject, laws):
        searched = examples is not None and accepts_examples(law.check)
        reason = expected.get(law.name)
        try:
            with under_seed(seed):
                figure = law.check(subject, examples=examples) if searched else law.check(subject)
        except LawBroken as fault:
            yield Verdict(law, BROKEN if reason is None else EXPECTED, None, fault, reason)
        else:
            yield Verdict(law, HOLDS if reason is None else SURPRISE, figure, None, reason)


def check(subject: Any, **options: Any) -> None:
    """Checks every law on a subject; the options are those of :func:`verdicts`.

    Raises:
        LawBroken: For the first law that does not hold.
        AssertionError: If a law that was expected to be broken holds.
    """
    for verdict in verdicts(subject, **options):
        if verdict.fault is not None and not verdict.passed:
            raise verdict.fault
        if not verdict.passed:
            raise AssertionError(f"{verdict.law.name} was expected to be broken ({verdict.reason}), but holds")


def _of_kind(kind: str) -> Callable[..., None]:
    def check_kind(subject: Any, **options: Any) -> None:
        if kind_of(subject) != kind:
            raise ConfigError(f"check_{kind} expects a {kind}, got {subject!r}")
        check(subject, **options)

    check_kind.__name__ = check_kind.__qualname__ = f"check_{kind.replace('-', '_')}"
    check_kind.__doc__ = f"""Checks every law of a {kind} on an instance; see :func:`check`."""
    return check_kind


check_family = _of_kind("family")
check_network = _of_kind("network")
check_dataset = _of_kind("dataset")
check_schedule = _of_kind("schedule")
check_sampler = _of_kind("sampler")
check_loss = _of_kind("loss")
check_time_distribution = _of_kind("time-distribution")


def _cases(kind: str, subjects: Sequence[Any], expected: Mapping[str, str]) -> Iterator[tuple[Any, Any, str]]:
    for number, subject in enumerate(subjects):
        if kind_of(subject) != kind:
            raise ConfigError(f"expected a {kind}, got {subject!r}")
        for law in laws_for(subject):
            run = law.check
            if law.name in expected:

                def run(subject: Any, law: Law = law) -> None:  # type: ignore[misc]
                    check(subject, laws=[law.name], expected={law.name: expected[law.name]})

            yield run, subject, f"{law.name}-{type(subject).__name__}{number}"


def _parametrize(kind: str) -> Callable[..., Any]:
    def parametrize(*subjects: Any, expected: Mapping[str, str] | None = None) -> Any:
        import pytest

        cases = list(_cases(kind, subjects, expected or {}))
        values = [pytest.param(run, subject, id=name) for run, subject, name in cases]
        return pytest.mark.parametrize(("law", argument), values)

    argument = kind.replace("-", "_")
    parametrize.__name__ = parametrize.__qualname__ = f"parametrize_{PLURALS.get(kind, argument + 's')}"
    parametrize.__doc__ = f"""Parametrises a test by ``law`` and ``{argument}``: one test for each law and instance."""
    return parametrize


parametrize_families = _parametrize("family")
parametrize_networks = _parametrize("network")
parametrize_datasets = _parametrize("dataset")
parametrize_schedules = _parametrize("schedule")
parametrize_samplers = _parametrize("sampler")
parametrize_losses = _parametrize("loss")
parametrize_time_distributions = _parametrize("time-distribution")
