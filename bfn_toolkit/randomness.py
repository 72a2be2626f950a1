"""Reproducible draws.

``torch.distributions`` takes no generator, so draws use torch's own, inside a scope that sets its state from a key and
gives the caller's state back.  No other generator is touched: neither Python's nor NumPy's, nor another device's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


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


_first_row: ContextVar[int] = ContextVar("first_row", default=0)


def first_row() -> int:
    """Number, in the whole batch, of the first row that this process has (see :class:`Shard`)."""
    return _first_row.get()


class Shard(TorchFunctionMode):
    """Scope in which what is drawn for some rows of a batch is what a draw for the whole batch has there.

    Processes that share a batch draw under the same key, each for the whole batch, and keep their own rows; so
    the noise of a step does not depend on their number.  A draw is one of torch's random functions; its axis of rows is
    the first whose length is a multiple of the number of rows, and draws without one are common to all processes.

    Arguments:
        start: First row of this process.
        rows: Its rows.
        total: Rows of the whole batch.
    """

    def __init__(self, start: int, rows: int, total: int) -> None:
        super().__init__()
        self.start, self.rows, self.total = start, rows, total

    def __enter__(self) -> Any:
        self._token = _first_row.set(self.start)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)  # type: ignore[no-untyped-call]
        _first_row.reset(self._token)

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in _FILLS:
            tensor, *rest = args
            wide = tensor.new_empty(self._size(tensor.shape))
            function(wide, *map(self._wide, rest), **kwargs)
            return tensor.copy_(self._own(wide, self._axis(tensor.shape)))
        if function not in _DRAWS:
            return function(*args, **kwargs)
        if function in (torch.rand, torch.randn) and args and isinstance(args[0], int):
            args = (args,)
        shapes = [v.shape if isinstance(v, Tensor) else v for v in (*args, *kwargs.values()) if _is_shape(v)]
        axis = next((a for a in map(self._axis, shapes) if a is not None), None)
        wide = function(*map(self._wide, args), **{name: self._wide(value) for name, value in kwargs.items()})
        return self._own(wide, axis)

    def _axis(self, shape: Sequence[int]) -> int | None:
        return next((i for i, n in enumerate(shape) if n and n % self.rows == 0), None)

    def _size(self, shape: Sequence[int]) -> tuple[int, ...]:
        axis = self._axis(shape)
        return tuple(n if i != axis else n // self.rows * self.total for i, n in enumerate(shape))

    def _wide(self, value: Any) -> Any:
        """An argument for the whole batch: this process's rows where they belong, and copies of them elsewhere."""
        if not isinstance(value, Tensor):
            return self._size(value) if _is_shape(value) else value
        axis = self._axis(value.shape)
        if axis is None:
            return value
        n = value.shape[axis]
        per_row = n // self.rows
        index = torch.arange(per_row * self.total, device=value.device).sub_(self.start * per_row).remainder_(n)
        return value.index_select(axis, index)

    def _own(self, wide: Tensor, axis: int | None) -> Tensor:
        if axis is None:
            return wide
        per_row = wide.shape[axis] // self.total
        return wide.narrow(axis, self.start * per_row, self.rows * per_row)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (Tensor, torch.Size)) or (
        isinstance(value, (tuple, list)) and bool(value) and all(isinstance(n, int) for n in value)
    )


_FILLS = {
    getattr(Tensor, f"{name}_")
    for name in ("normal", "uniform", "exponential", "random", "geometric", "cauchy", "log_normal", "bernoulli")
}
_DRAWS = {
    *(getattr(torch, name) for name in ("rand", "randn", "randint", "normal", "bernoulli", "multinomial", "poisson")),
    *(getattr(torch, name) for name in ("rand_like", "randn_like", "randint_like", "binomial")),
    *(getattr(torch, name) for name in ("_standard_gamma", "_sample_dirichlet", "dropout")),
    *(getattr(F, name) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")),
    *(getattr(Tensor, name) for name in ("bernoulli", "multinomial")),
}
