"""Draws of the laws: each is fixed by a key and by a seed common to all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from bfn_toolkit import randomness

SEED: ContextVar[int] = ContextVar("SEED", default=0)


@contextmanager
def under_seed(seed: int) -> Iterator[None]:
    """Scope in which the laws draw data, messages, weights and samples under another seed."""
    token = SEED.set(seed)
    try:
        yield
    finally:
        SEED.reset(token)


def seeded(*key: int | str) -> AbstractContextManager[None]:
    """Scope in which torch's generator starts from the key and the seed; see :func:`bfn_toolkit.seeded`."""
    return randomness.seeded(*key, SEED.get())
