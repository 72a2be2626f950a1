"""Signals that are answered at a safe moment: between two steps, not in the middle of one.

Within :func:`listening`, a handler only notes which signal came.  Loops that may take long (training steps, validation,
sampling, likelihood) poll it (:func:`~bfn_toolkit.parallel.processes.check_signals`):

========= ===================================================
SIGUSR1   save a checkpoint and continue
SIGUSR2   save a checkpoint and stop
SIGTERM   the same
SIGHUP    the same: the terminal is closed
SIGINT    the same; a second one stops immediately
========= ===================================================

A signal that this process was told to ignore when it started, as by ``nohup``, stays ignored.
A process that is stopped this way ends with the exit status 128 + the number of the signal.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bfn_toolkit.errors import BFNError

AT_ONCE = 5.0  # seconds within which a second SIGINT stops immediately
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
SAVE = getattr(signal, "SIGUSR1", None)

_came: dict[str, signal.Signals] = {}  # signals since the last poll: "stop", "save"
_last_interrupt = -AT_ONCE
_raises = False  # whether a signal to stop raises at once


class Interrupted(BFNError):  # noqa: N818 - it is not the program's fault
    """A signal asked to stop.

    Arguments:
        number: The signal.
        advice: The end of the message.
    """

    def __init__(self, number: signal.Signals, advice: str = "") -> None:
        super().__init__(f"stopped by {number.name}" + (f"; {advice}" if advice else ""))
        self.number = number
        self.exit_status = 128 + number


def _note(number: int, _: FrameType | None) -> None:
    global _last_interrupt
    if number == signal.SIGINT:
        now = time.monotonic()
        if now - _last_interrupt < AT_ONCE:
            raise KeyboardInterrupt
        _last_interrupt = now
    _came["save" if number == SAVE else "stop"] = signal.Signals(number)
    if _raises and number != SAVE:
        raise Interrupted(signal.Signals(number))


@contextmanager
def listening(*, at_once: bool = False) -> Iterator[None]:
    """Scope that notes signals; the earlier handlers are restored at its end.

    Only the main thread can listen; in others, handlers stay as they are.  A nested scope changes nothing.

    Arguments:
        at_once: Whether a signal to stop raises :class:`Interrupted` wherever the program is, for work that leaves
            nothing half done.
    """
    global _last_interrupt, _raises
    answered = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    within = any(signal.getsignal(number) is _note for number in answered)
    if within or threading.current_thread() is not threading.main_thread():
        yield
        return
    _came.clear()
    _last_interrupt, _raises = -AT_ONCE, at_once
    before = {number: signal.signal(number, _note) for number in answered}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _came.clear()
        _raises = False


def pending() -> signal.Signals | None:
    """The signal that asks to stop, if one has come."""
    return _came.get("stop")


def take_save() -> bool:
    """Whether a signal has asked to save since this was last called."""
    return _came.pop("save", None) is not None
