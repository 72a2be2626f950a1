"""Numbers of a run in words, the same on every line and page."""

from __future__ import annotations

import math


def with_error(value: float | None, stderr: float | None) -> str:
    """A mean and its standard error, which a single row does not have."""
    if value is None or not math.isfinite(value):
        return "not finite"
    known = stderr is not None and math.isfinite(stderr)
    return f"{value:.4f} \N{PLUS-MINUS SIGN} {stderr:.4f}" if known else f"{value:.4f}"


def shown_parameters(n: int) -> str:
    """A number of parameters in words: "1.2 M parameters"."""
    return f"{n / 1e6:.3g} M parameters" if n >= 100_000 else f"{n:,} parameters"


def clock(seconds: float) -> str:
    """A time as a clock has it: "0:38", "2:05:00"."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
