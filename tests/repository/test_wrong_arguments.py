"""A walk over the public names with wrong arguments: what comes is an error of ours, or Python's own about the call."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from typing import Any

import pytest
import torch

import bfn_toolkit
from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    Batch,
    BFNError,
    Delta,
    Estimate,
    Finite,
    Guided,
    JointOutput,
    Observed,
    Oracle,
    ProductFamily,
    Registry,
    TrainingEvent,
    UniformTimes,
)
from bfn_toolkit.registry.registry import BUILT_IN, default_registry


@pytest.fixture(scope="module", autouse=True)
def folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where "x" is a directory to save a model in."""
    with chdir(tmp_path_factory.mktemp("wrong")):
        yield


WRONG: list[Any] = [None, "x", -1, float("nan"), object(), {}, torch.zeros(2, 3)]
WRONG_TYPES: list[Any] = [None, "x", object()]
OTHERS = {"hookimpl", "finite"}  # called by pluggy and attrs
ANYTHING = ("Any", "object", "P", "Raw", "_", "Fixed")  # annotations that admit every value


def public() -> dict[str, Any]:
    """The public names, and the classes of the registered plugins."""
    names = {name: getattr(bfn_toolkit, name) for name in bfn_toolkit.__all__}
    ours = [registered for registered in default_registry().entries() if registered.distribution == BUILT_IN]
    classes = {registered.entry.build.__name__: registered.entry.build for registered in ours}
    return {
        name: thing
        for name, thing in {**names, **classes}.items()
        if (isinstance(thing, type) or inspect.isfunction(thing))
        and not inspect.isabstract(thing)
        and not (isinstance(thing, type) and issubclass(thing, Exception))
        and name not in OTHERS
    }


def calls(thing: Callable[..., Any], wrongs: Sequence[Any]) -> Iterator[tuple[list[Any], dict[str, Any], Any]]:
    """Wrong calls: every required argument wrong, and, where there is none, each other one."""
    parameters = list(inspect.signature(thing).parameters.values())
    given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p for p in given if p.default is p.empty]
    for wrong in wrongs:
        if required:
            positional = [wrong for p in required if p.kind is not p.KEYWORD_ONLY]
            yield positional, {p.name: wrong for p in required if p.kind is p.KEYWORD_ONLY}, None
        else:
            for p in given:
                yield [], {p.name: wrong}, p


def outcome(thing: Callable[..., Any], arguments: list[Any], named: dict[str, Any]) -> str:
    """ "" for an error that a user should see; otherwise what happened."""
    try:
        thing(*arguments, **named)
    except BFNError:
        return ""
    except TypeError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        own = last.endswith(("border.py", "functools.py", __file__))  # the call itself does not fit the signature
        return "" if own else f"TypeError: {error}"
    except OSError as error:
        return "" if "OSError:" in (thing.__doc__ or "") else f"OSError: {error}"  # of opening a file
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def admits(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and any(word in str(parameter.annotation) for word in ANYTHING)


def test_constructors_and_functions() -> None:
    found, n = [], 0
    for name, thing in public().items():
        for arguments, named, parameter in calls(thing, WRONG if isinstance(thing, type) else WRONG[:-1]):
            n += 1
            came = outcome(thing, arguments, named)
            value = next(iter([*arguments, *named.values()]))
            everything_admitted = all(
                admits(p) for p in inspect.signature(thing).parameters.values() if p.default is p.empty
            )
            unchecked = type(value) is not object or not isinstance(thing, type)
            fine = came == "accepted" and (unchecked or admits(parameter) or (not parameter and everything_admitted))
            if came and not fine:
                found.append(f"{name}({', '.join(map(repr, arguments))}{named}): {came}"[:200])
    assert n > 1500
    assert not found, f"{len(found)} of {n}:\n" + "\n".join(found)


GAUSSIAN, CLASSES = Gaussian((2,)), Categorical((2,), classes=3)
MODEL = BFN(GAUSSIAN, MLP(width=4)).eval()
POINT = Delta(torch.zeros(2, 2), 0.1)


def instances() -> Iterator[Any]:
    """One of each registered class, and of the classes that users meet."""
    for registered in default_registry().entries():
        yield from registered.entry.examples[:1]
    yield from (MODEL, Guided(MODEL, 1.0), Oracle(GAUSSIAN, lambda params: POINT), ProductFamily({"a": GAUSSIAN}))
    yield from (Batch(torch.zeros(2, 2)), POINT, Finite(None, torch.zeros(2, 2, 3)), JointOutput({"a": POINT}))
    yield Observed(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    yield from (Estimate(0.0, 1.0), UniformTimes(), Registry(), TrainingEvent(1, (), MODEL, None))


def test_methods() -> None:
    found, n, seen = [], 0, set()
    for instance in instances():
        cls = type(instance)
        for name in dir(cls):
            method = inspect.getattr_static(cls, name)
            owner = next(c for c in cls.__mro__ if name in vars(c))
            theirs = owner.__module__.partition(".")[0] in ("torch", "builtins", "abc", "typing")
            if name.startswith("_") or theirs or not inspect.isfunction(method) or method in seen or name == "forward":
                continue
            seen.add(method)
            for arguments, named, _ in calls(getattr(instance, name), WRONG_TYPES):
                n += 1
                came = outcome(getattr(instance, name), arguments, named)
                if came not in ("", "accepted"):
                    value = [*arguments, *named.values()][0]
                    found.append(f"{cls.__name__}.{name}({value!r:.20}): {came}"[:160])
    assert n > 1000
    assert not found, f"{len(found)} of {n}:\n" + "\n".join(found)
