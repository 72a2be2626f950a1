"""The state that all code of a process shares, and that no plugin may change for the others.

The states of torch and numpy are looked at where these are imported already.
"""

from __future__ import annotations

import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs


@attrs.frozen
class State:
    """One state.

    Arguments:
        name: Its name in words.
        get: Returns its value.
        put: Makes a value its value.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


def _put_environment(values: Mapping[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in values.items() if os.environ.get(name) != value})


def _put_path(values: list[str]) -> None:
    sys.path[:] = values


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _put_handlers(values: Mapping[int, Any]) -> None:
    for number, handler in values.items():
        if handler is not None and signal.getsignal(number) is not handler:
            with suppress(OSError, ValueError):
                signal.signal(number, handler)


def _attribute(owner: Any, name: str, words: str) -> State:
    return State(words, lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


SHARED = (
    _attribute(sys, "stdout", "sys.stdout"),
    _attribute(sys, "stderr", "sys.stderr"),
    _attribute(sys, "excepthook", "sys.excepthook"),
    State("the working directory", os.getcwd, os.chdir),
    State("os.environ", lambda: dict(os.environ), _put_environment),
    State("sys.path", lambda: list(sys.path), _put_path),
    State("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    State("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    State("signal handlers", _handlers, _put_handlers),
)


def _torch_states(torch: Any) -> tuple[State, ...]:
    """States of torch, but for its generator."""

    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def put_deterministic(value: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])

    def put_device(value: Any) -> None:
        torch.set_default_device(None if value == torch.device("cpu") else value)

    cudnn = torch.backends.cudnn
    flags = ("enabled", "benchmark", "deterministic")
    return (
        State("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        State("torch's default device", torch.get_default_device, put_device),
        State("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
        State("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        State("torch's deterministic algorithms", deterministic, put_deterministic),
        State("torch's matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        State("torch's detection of anomalies", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        *(_attribute(cudnn, name, f"torch.backends.cudnn.{name}") for name in flags),
    )


def _seeds() -> Iterator[State]:
    yield State("the seed of random", random.getstate, random.setstate)
    if (numpy := sys.modules.get("numpy")) is not None:

        def state_of_numpy() -> tuple[Any, ...]:
            name, key, *rest = numpy.random.get_state()
            return name, tuple(key.tolist()), *rest

        yield State("the seed of numpy", state_of_numpy, numpy.random.set_state)
    if (torch := sys.modules.get("torch")) is not None:

        def put_state(value: list[int]) -> None:
            torch.set_rng_state(torch.tensor(value, dtype=torch.uint8, device="cpu"))

        yield State("the seed of torch", lambda: torch.get_rng_state().tolist(), put_state)


def torch_states() -> tuple[State, ...]:
    """States of torch, but for its generator; none before it is imported."""
    torch = sys.modules.get("torch")
    return () if torch is None else _torch_states(torch)


def all_states() -> tuple[State, ...]:
    """Every state that is watched."""
    return (*SHARED, *_seeds(), *torch_states())


@contextmanager
def watched(states: Iterable[State]) -> Iterator[list[str]]:
    """Scope after which each state is as before; yields a list that then has the names of those that were not.

    Filters of warnings are put back too, without a word, because many libraries add some when they are imported.
    """
    before = list(_values(states))
    changed: list[str] = []
    with warnings.catch_warnings():
        try:
            yield changed
        finally:
            for state, value in before:
                with suppress(Exception):
                    if state.get() != value:
                        changed.append(state.name)
                        state.put(value)


def _values(states: Iterable[State]) -> Iterator[tuple[State, Any]]:
    for state in states:
        with suppress(Exception):  # such as a working directory that is gone
            yield state, state.get()
