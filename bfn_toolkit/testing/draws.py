"""The draws of the laws: each is fixed by a key, and by a seed under which all of them can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from bfn_toolkit import randomness

SEED: ContextVar[int] = ContextVar("SEED", default=0)


@contextmanager
def under_seed(seed: int) -> Iterator[None]:
    """Scope in which the laws make other draws, of data, messages, weights and samples, than by default."""
    token = SEED.set(seed)
    try:
        yield
    finally:
        SEED.reset(token)


def seeded(*key: int | str) -> AbstractContextManager[None]:
    """Scope in which torch's generator starts from the key and the seed; see :func:`bfn_toolkit.seeded`."""
    return randomness.seeded(*key, SEED.get())
