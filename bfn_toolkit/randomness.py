"""Reproducible draws.

``torch.distributions`` takes no generator, so draws use torch's own, inside a scope that sets its state from a key and
gives the caller's state back.  No other generator is touched: neither Python's nor NumPy's, nor another device's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from a key, the same in every process and on every platform."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(*key: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Scope in which torch's generators of the CPU and of ``device`` start from ``key``; restored at its end.

    >>> with seeded(0, "noise"):
    ...     a = torch.rand(2)
    >>> with seeded(0, "noise"):
    ...     print(torch.equal(a, torch.rand(2)))
    True
    """
    generators = [torch.default_generator]
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed_of(*key))
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def streams() -> Callable[[str], AbstractContextManager[None]]:
    """Scopes of draws by name: what one part draws, or that it is there, changes nothing of what the others draw.

    All of them are a function of one number from torch's generator of the CPU; they hold for the CPU and for the
    current CUDA device.
    """
    key = int(torch.randint(2**62, ()))
    device = "cuda" if torch.cuda.is_initialized() else "cpu"  # type: ignore[no-untyped-call]
    return lambda name: seeded(key, name, device=device)
