"""Standard output belongs to the results of a command: what parts and libraries print goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

STDOUT, STDERR = 1, 2
_stream: Any = None  # for results, while sys.stdout is stderr
_kept: int | None = None  # descriptor of the results, while descriptor 1 is stderr


def results() -> Any:
    """The stream for results."""
    return sys.stdout if _stream is None else _stream


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Scope in which ``sys.stdout`` and descriptor 1 are stderr, for code in C too, and :func:`results` is stdout."""
    global _stream, _kept
    out, before = sys.stdout, (_stream, _kept)
    if out is None:
        yield
        return
    with suppress(ValueError):  # a closed stream
        out.flush()
    is_descriptor = _descriptor(out) == STDOUT
    _kept = _stderr_for_stdout()
    if _kept is not None and is_descriptor:
        buffering = 1 if out.isatty() else -1
        _stream = open(_kept, "w", buffering, encoding=out.encoding, errors=out.errors, closefd=False)  # noqa: SIM115
    else:
        _stream = out
    sys.stdout = sys.stderr
    try:
        yield
        _stream.flush()
    finally:
        sys.stdout = out
        if _kept is not None:
            _flush_others(out)
            os.dup2(_kept, STDOUT)
            os.close(_kept)
        _stream, _kept = before


@contextmanager
def no_results() -> Iterator[None]:
    """Scope without results, in processes that only follow."""
    global _stream
    before = _stream
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        _stream = nowhere
        try:
            yield
        finally:
            _stream = before


def _stderr_for_stdout() -> int | None:
    """Makes descriptor 1 another name of stderr; returns a descriptor of what it was, None if one is closed."""
    try:
        kept = os.dup(STDOUT)
    except OSError:
        return None
    try:
        os.dup2(STDERR, STDOUT)
    except OSError:
        os.close(kept)
        return None
    return kept


def _flush_others(stream: Any) -> None:
    """Writes what others have left in buffers for descriptor 1, while that is stderr."""
    with suppress(AttributeError, OSError, ValueError):
        stream.flush()
    with suppress(AttributeError, OSError, ImportError, TypeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None


@contextmanager
def stdout_for_children() -> Iterator[None]:
    """Scope in which descriptor 1 is that of the results, for processes that print them."""
    if _kept is None:
        yield
        return
    os.dup2(_kept, STDOUT)
    try:
        yield
    finally:
        os.dup2(STDERR, STDOUT)
