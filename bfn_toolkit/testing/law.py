"""Laws: their definition, the search for a counterexample, and its report.

A law is a plain function ``check_<law>(subject, ...)`` that returns its *figure*, the worst error in units of its
tolerance, and raises :class:`LawBroken` if that exceeds 1.  Comparisons are written so that NaN breaks them.
"""

from __future__ import annotations

import functools
import inspect
import math
import pickle
import sys
import tomllib
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import hypothesis
import tomli_w
import torch
from hypothesis import HealthCheck, Phase, strategies as st
from torch import Tensor
from torch.distributions import Distribution

from bfn_toolkit.config.layers import Configuration
from bfn_toolkit.config.structure import structure
from bfn_toolkit.config.unstructure import destructure
from bfn_toolkit.errors import BFNWarning, ConfigError
from bfn_toolkit.registry.hookspecs import KINDS, Entry, hookimpl
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.shapes import by_row
from bfn_toolkit.testing.draws import SEED

C = TypeVar("C")

Z = 6.0  # standard errors: a statistical law of z-tests rejects a correct subject once in 5e8 comparisons
NAN = "NaN"  # for what is observed where a comparison is impossible
P = 1e-8  # smallest p-value with which a two-sample test passes: one false alarm in 1e8 comparisons


class LawBroken(AssertionError):  # noqa: N818 - a verdict, not a mishap
    """A law does not hold.

    Arguments:
        law: Name of the law.
        formula: The law in one line.
        observed: The error, or the actual value.
        tolerance: The largest allowed error, or the expected value.
        example: The smallest counterexample, as runnable Python.
    """

    def __init__(self, law: str, formula: str, observed: object, tolerance: object, example: str) -> None:
        self.law, self.formula, self.observed, self.tolerance, self.example = law, formula, observed, tolerance, example
        super().__init__(
            f"{law} does not hold\n  law:       {formula}\n  observed:  {observed}\n  tolerance: {tolerance}\n"
            f"  example:\n" + "\n".join(f"    {line}" for line in example.splitlines())
        )

    def told(self, observed: object) -> LawBroken:
        """The same fault, with another word for what was observed."""
        return LawBroken(self.law, self.formula, observed, self.tolerance, self.example)


@attrs.frozen
class Law:
    """A law and its subjects.

    Arguments:
        name: Kebab-case name.
        kind: Kind of its subjects: family, network, ...
        formula: The law in one line.
        check: The function that checks it.
        applies: Function that says whether the law applies to a subject.
    """

    name: str
    kind: str
    formula: str
    check: Callable[..., float] = attrs.field(repr=False)
    applies: Callable[[Any], bool] = attrs.field(repr=False)


LAWS: dict[str, Law] = {}


def law(kind: str, formula: str, applies: Callable[[Any], bool] = lambda _: True) -> Callable[[C], C]:
    """Registers ``check_some_law`` as the law "some-law" for a kind of subject.

    Arguments:
        kind: Kind of the subjects.
        formula: The law in one line.
        applies: Function that says whether the law applies to a subject.
    """

    def register(check: Any) -> Any:
        name = check.__name__.removeprefix("check_").replace("_", "-")

        @functools.wraps(check)
        def wrapped(subject: Any, *arguments: Any, **keywords: Any) -> float:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", BFNWarning)  # it is for the user of a model, not of a law
                    figure = check(subject, *arguments, **keywords)
            except LawBroken as fault:
                if fault.observed == NAN and (
                    verb := first_nan(lambda: check(subject, *arguments, **keywords), subject)
                ):
                    raise fault.told(f"{NAN} in {verb}") from None
                raise
            except Exception as error:
                reason = told(error, subject)
                raise LawBroken(name, formula, reason, "no exception", call(check, subject, keywords)) from error
            return float(figure)

        LAWS[name] = Law(name, kind, formula, wrapped, applies)
        return wrapped

    return register


def told(error: BaseException, subject: Any) -> str:
    """An exception in words, with the place in the subject's code."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if _own(trace.tb_frame, subject):
            place = f", in {_verb(trace.tb_frame)} ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"


def first_nan(run: Callable[[], object], subject: Any) -> str:
    """The first function of the subject's code that returns NaN in a run, or ""."""
    verbs: list[str] = []
    helpers: list[str] = []

    def watch(frame: types.FrameType, event: str, value: Any) -> None:
        if event == "return" and not verbs and _own(frame, subject) and _has_nan(value):
            (verbs if "self" in frame.f_locals else helpers).append(_verb(frame))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    except Exception:
        pass
    finally:
        sys.setprofile(before)
    return next(iter(verbs + helpers), "")


def _own(frame: types.FrameType, subject: Any) -> bool:
    """Whether a frame runs the subject's code: a method of the subject or of a part of it, or the same module."""
    owner = frame.f_locals.get("self")
    parts = (subject, *values_within(subject))
    return frame.f_globals.get("__name__") == type(subject).__module__ or any(owner is part for part in parts)


def _verb(frame: types.FrameType) -> str:
    owner, name = frame.f_locals.get("self"), frame.f_code.co_name
    return name if owner is None else f"{type(owner).__name__}.{name}"


def _has_nan(value: Any, depth: int = 4) -> bool:
    """Whether a tensor in a value (params, an output, a distribution, a mapping) has NaN."""
    if isinstance(value, Tensor):
        return value.device.type != "meta" and bool(value.isnan().any())
    if isinstance(value, Mapping):
        parts: list[Any] = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif attrs.has(type(value)):
        parts = [getattr(value, field.name, None) for field in attrs.fields(type(value))]
    else:
        parts = list(vars(value).values()) if isinstance(value, Distribution) else []
    return depth > 0 and any(_has_nan(part, depth - 1) for part in parts)


def call(check: Callable[..., Any], subject: Any, keywords: Mapping[str, Any]) -> str:
    """Python code that runs a check on a subject."""
    written = "".join(f", {key}={value!r}" for key, value in keywords.items())
    parts = {type(part) for value in (subject, *keywords.values()) for part in values_within(value)} | {type(subject)}
    imports = {f"from {part.__module__} import {part.__qualname__}" for part in parts}
    lines = [f"from bfn_toolkit.testing.laws import {check.__name__}", *sorted(imports)]
    run = f"{check.__name__}({subject!r}{written})"
    if not SEED.get():
        return "\n".join([*lines, run])
    return "\n".join(
        ["from bfn_toolkit.testing.draws import under_seed", *lines, f"with under_seed({SEED.get()}):", f"    {run}"]
    )


@attrs.define
class Judge:
    """Compares errors with tolerances for one law, and keeps the worst figure."""

    check: Callable[..., Any]
    subject: Any
    keywords: dict[str, Any] = attrs.field(factory=dict)
    figure: float = 0.0
    name: str = ""

    def named(self, name: str) -> Judge:
        """The judge, which from now on names what it compares if the law is broken."""
        self.name = name
        return self

    def error(self, observed: Tensor | float, tolerance: Tensor | float) -> None:
        """Breaks the law unless ``observed <= tolerance`` everywhere; NaN breaks it."""
        error = torch.as_tensor(observed, dtype=torch.float64).detach()
        bound = torch.as_tensor(tolerance, dtype=torch.float64).detach().expand_as(error)
        if error.numel() == 0:
            return
        if not bool(bound.isfinite().all()) or bool(error.isnan().any()):
            self.broken(NAN if bool((error.isnan() | bound.isnan()).any()) else "inf", "finite numbers")
        ratio = torch.where(error <= bound, error / bound.clamp_min(1e-300), torch.inf)
        worst = int(ratio.argmax())
        if not bool((error <= bound).all()):
            self.broken(float(error.flatten()[worst]), float(bound.flatten()[worst]))
        self.figure = max(self.figure, float(ratio.max()))

    def close(self, a: Tensor, b: Tensor, tolerance: Tensor | float) -> None:
        """Breaks the law unless a and b have one shape and are within the tolerance, or both -inf (a probability 0)."""
        if a.shape != b.shape:
            self.broken(f"shape {tuple(a.shape)}", f"shape {tuple(b.shape)}")
        self.error(torch.where(a.isneginf() & b.isneginf(), 0.0, (a - b).detach().abs()), tolerance)

    def mean(self, values: Tensor, expected: float, slack: float = 0.0) -> None:
        """Breaks the law unless the mean of independent values is within Z standard errors (plus slack) of a number."""
        if values.ndim != 1 or len(values) < 2:
            self.broken(f"shape {tuple(values.shape)}", "(B,)")
        stderr = float(values.std()) / math.sqrt(len(values))
        # Values that differ only by rounding have a standard error of nearly 0, hence the last term.
        self.error(abs(float(values.mean()) - expected), Z * stderr + slack + 1e-9 * (1.0 + abs(expected)))

    def same_law(self, a: Tensor, b: Tensor) -> None:
        """Breaks the law unless two samples could come from one distribution (Kolmogorov-Smirnov, each column).

        Log-densities of -inf, a probability of 0, count as one value below all others.
        """
        from scipy.stats import ks_2samp

        for sample in (a, b):
            finite = torch.isfinite(sample) | sample.isneginf()
            wrong = NAN if bool(sample.isnan().any()) else "inf"
            self.true(bool(finite.all()), wrong, "finite numbers")
        for x, y in zip(by_row(a).unbind(1), by_row(b).unbind(1), strict=True):
            least = torch.cat([x, y]).nan_to_num(neginf=0.0).amin().double()
            x, y = (torch.where(column.isneginf(), 2.0 * least - 1.0, column) for column in (x, y))
            scale = max(float(x.abs().max()), float(y.abs().max()), 1e-300)
            # Rounded, because a constant computed in two ways would count as two distributions.
            a_, b_ = ((column / scale).round(decimals=9).numpy() for column in (x, y))
            p = float(ks_2samp(a_, b_, method="asymp").pvalue)
            self.true(p >= P, f"p-value {p:.2g}", f"p-value at least {P:g}")
            self.figure = max(self.figure, math.log(p) / math.log(P))

    def true(self, holds: bool, observed: object, expected: object) -> None:
        """Breaks the law unless ``holds``."""
        if not holds:
            self.broken(observed, expected)

    def broken(self, observed: object, tolerance: object) -> NoReturn:
        """Breaks the law."""
        name = self.check.__name__.removeprefix("check_").replace("_", "-")
        formula = LAWS[name].formula
        if self.name and observed != NAN:
            observed = f"{observed} ({self.name})"
        raise LawBroken(name, formula, observed, tolerance, call(self.check, self.subject, self.keywords))


def search(
    check: Callable[..., Any],
    subject: Any,
    strategy: st.SearchStrategy[C],
    body: Callable[[Judge, C], None],
    example: C | None,
    examples: int,
) -> float:
    """Searches for an example that breaks a law, and shrinks it; if ``example`` is not None, tries only that one.

    Arguments:
        check: The law's function, which takes the example as its keyword ``case``.
        subject: Its subject.
        strategy: Source of the examples.
        body: The comparison.
        example: The only example to try, or None.
        examples: Number of examples to try.
    Returns:
        The worst figure.
    """
    judge = Judge(check, subject)

    def attempt(case: C) -> None:
        judge.keywords = {"case": case}
        try:
            body(judge, case)
        except LawBroken:
            raise
        except Exception as error:
            judge.broken(told(error, subject), "no exception")

    if example is not None:
        attempt(example)
        return judge.figure

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,  # torch's first call is slow
        database=None,  # a law leaves no files behind
        derandomize=True,  # the same verdict each time
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @hypothesis.given(strategy)
    def run(case: C) -> None:
        attempt(case)

    run()
    return judge.figure


def pickled(value: C) -> C:
    """A copy of a value by pickle, as another process receives it."""
    copy: C = pickle.loads(pickle.dumps(value))
    return copy


def round_trip(judge: Judge) -> float:
    """Breaks the law unless pickle, repr and TOML reproduce the subject with an equal value and hash."""
    subject, cls = judge.subject, type(judge.subject)
    registry = Registry.from_entry_points()
    for part in (subject, *values_within(subject)):
        install(type(part), registry)
    text = tomli_w.dumps({"name": registry.name_of(cls.kind, cls), **destructure(subject, registry)})
    configuration = Configuration()
    configuration.add_mapping(tomllib.loads(text))
    known = {**vars(sys.modules[cls.__module__]), **{type(v).__name__: type(v) for v in values_within(subject)}}
    copies = {
        "pickle": pickled(subject),
        "repr": eval(repr(subject), known),
        "TOML": structure(cls, configuration, registry),
    }
    for field in attrs.fields(cls):
        judge.true(not field.init or (bool(field.eq) and bool(field.repr)), f"{field.name} is left out", "every field")
    for way, copy in copies.items():
        judge.true(copy == subject, f"{copy!r} after {way}", repr(subject))
        judge.true(hash(copy) == hash(subject), f"another hash after {way}", "the same hash")
    return judge.figure


def install(cls: type[Any], registry: Registry) -> None:
    """Registers a class that is not installed under a name, in this registry only."""
    if getattr(cls, "kind", None) not in KINDS:
        return
    try:
        registry.name_of(cls.kind, cls)
    except ConfigError:
        name = f"subject-{cls.kind}-{cls.__name__.lower()}"
        hook = hookimpl(lambda: [Entry(name, cls)], specname=KINDS[cls.kind])
        registry.register(types.SimpleNamespace(hook=hook), name=name)


def values_within(value: Any) -> Iterator[Any]:
    """Yields the value and all attrs values within it."""
    if attrs.has(type(value)):
        yield value
        for field in attrs.fields(type(value)):
            yield from values_within(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from values_within(part)


def accepts_examples(check: Callable[..., Any]) -> bool:
    """Whether a law searches for examples, and so accepts their number."""
    return "examples" in inspect.signature(check).parameters
