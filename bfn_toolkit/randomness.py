"""Reproducible draws.

``torch.distributions`` takes no generator, so draws use torch's own, inside a scope that sets its state from a key and
then restores the caller's state.  No other generator is touched: neither Python's, nor NumPy's, nor another device's.

torch's generators belong to the whole process, so only one thread at a time may be inside such a scope; others wait.
Draws outside of all scopes are not protected.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bfn_toolkit.errors import PluginError

T = TypeVar("T")

_generators = threading.RLock()  # held by the thread that is inside a scope


def _renew() -> None:
    global _generators
    _generators = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)  # the thread that holds it does not exist in the child


def seed_of(*key: int | str) -> int:
    """Hashes a key to a 63-bit seed, the same in every process and on every platform."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(*key: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Scope in which torch's generators of the CPU and of ``device`` start from ``key``; restored at its end.

    Other threads wait at the start of their own scopes until it ends.

    >>> with seeded(0, "noise"):
    ...     a = torch.rand(2)
    >>> with seeded(0, "noise"):
    ...     print(torch.equal(a, torch.rand(2)))
    True
    """
    generators = _generators_of(device)
    with _generators:
        states = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed_of(*key))
        try:
            yield
        finally:
            _restore(generators, states)


class _MPSGenerator:
    """torch's generator of Apple's GPUs."""

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.mps.manual_seed(seed)

    @staticmethod
    def get_state() -> Tensor:
        return torch.mps.get_rng_state()

    @staticmethod
    def set_state(state: Tensor) -> None:
        torch.mps.set_rng_state(state)


def _generators_of(device: torch.device | str) -> list[Any]:
    """torch's generators of the CPU and of a device."""
    generators, device = list[Any]([torch.default_generator]), torch.device(device)
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    elif device.type == "mps":
        generators.append(_MPSGenerator())
    return generators


def _restore(generators: Sequence[Any], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def rewind(device: torch.device | str) -> Callable[[], None]:
    """A function that puts torch's generators of the CPU and of ``device`` back to where they are now."""
    generators = _generators_of(device)
    states = [generator.get_state() for generator in generators]
    return lambda: _restore(generators, states)


def draw_key() -> int:
    """Draws a key for later draws from torch's generator of the CPU; the same for all pieces of a batch."""
    with _generators, common():
        return int(torch.randint(2**62, ()))


def streams() -> Callable[[str], AbstractContextManager[None]]:
    """Returns scopes of draws by name, independent of each other: adding or changing one leaves the others as they are.

    All are seeded from one number of torch's generator of the CPU, and apply to the CPU and the current CUDA device.
    In a program that ``torch.export`` traces they are empty, because its draws are inputs.
    """
    if torch.compiler.is_exporting():
        return lambda name: nullcontext()
    key, device = draw_key(), "cpu"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"
    return lambda name: seeded(key, name, device=device)


_shard: ContextVar[Shard | None] = ContextVar("shard", default=None)
_scope: ContextVar[Literal["rows", "common", "piece"]] = ContextVar("scope", default="rows")


def first_row() -> int:
    """Index, in the whole batch, of the first row of this piece (see :class:`Shard`)."""
    shard = _shard.get()
    return 0 if shard is None else shard.start


def redrawn() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Scopes of a computation and of its repetition in the backward pass, which draws the same numbers.

    For ``torch.utils.checkpoint.checkpoint(..., context_fn=redrawn)`` in a network that draws, as by dropout: the
    backward pass of a piece of a batch is outside of the piece's :class:`Shard`.
    """
    shard = _shard.get()
    return nullcontext(), nullcontext() if shard is None else Shard(shard.start, shard.rows, shard.total)


@contextmanager
def common() -> Iterator[None]:
    """Scope of draws that all rows of a batch share: each piece of the batch draws the same numbers."""
    token = _scope.set("common")
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def per_piece() -> Iterator[None]:
    """Scope in which each piece of a batch draws for itself, in any shape, on the CPU and the current CUDA device.

    Pieces draw independently, and a run repeats the same draws each time.  Another division into pieces gives other
    draws, so a training that uses this scope depends on ``training.accumulate`` and on the number of processes.
    """
    stream = streams()
    token = _scope.set("piece")
    try:
        with stream(f"rows from {first_row()}"):
            yield
    finally:
        _scope.reset(token)


class Shard(TorchFunctionMode):
    """Scope in which a piece of a batch draws the numbers that its rows would have in a draw for the whole batch.

    All pieces of a batch, in one process or in several, draw for the whole batch under the same key and keep their own
    rows, so the noise of a step does not depend on the pieces.  This intercepts torch's random functions; axis 0 of
    each draw must be the rows (for ``multinomial``: rows times sites, as torch's distributions call it).  Draws that
    all rows share belong in a scope :func:`common`.

    Arguments:
        start: First row of this piece.
        rows: Number of its rows.
        total: Number of rows of the whole batch.
    Raises:
        PluginError: At a draw whose axis 0 is not the rows, and at one that takes a variable number of random numbers,
            so that the rows of other pieces would change it.
    """

    groups = False  # whether each row may have several numbers on axis 0, one after another

    def __init__(self, start: int, rows: int, total: int) -> None:
        super().__init__()
        self.start, self.rows, self.total = start, rows, total

    def __enter__(self) -> Any:
        self._token = _shard.set(self)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)  # type: ignore[no-untyped-call]
        _shard.reset(self._token)

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function not in _RANDOM:  # almost all calls
            return function(*args, **kwargs) if kwargs else function(*args)
        kwargs = kwargs or {}
        if _scope.get() != "rows" or _is_idle(function, args, kwargs):
            return function(*args, **kwargs)
        if function in _UNCUT:
            raise self._error(function, "takes random numbers that cannot be divided among rows")
        return self.cut(function, args, kwargs)

    def cut(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The rows of this piece in a draw for the whole batch."""
        if function in _FILLS:
            tensor, *rest = args
            wide = tensor.new_empty(self._wide(function, tensor.shape))
            sites = len(wide) // self.total
            function(wide, *(self._argument(v, wide.ndim, sites) for v in rest), **kwargs)
            return tensor.copy_(self._own(wide, sites))
        args, shape = _with_shape(function, args, kwargs)
        size = self._wide(function, shape)
        sites = size[0] // self.total
        if function in _LIKE:  # which does not read the numbers
            return self._own(function(args[0].new_empty(size), *args[1:], **kwargs), sites)
        wide = function(
            *(self._argument(v, len(shape), sites) for v in args),
            **{name: self._argument(v, len(shape), sites) for name, v in kwargs.items()},
        )
        return self._own(wide, sites)

    def _wide(self, function: Any, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a draw for the whole batch."""
        sites = shape[0] // self.rows if shape and (self.groups or function in _FLATTENED) else 1
        if not shape or shape[0] != sites * self.rows:
            raise self._error(function, f"draws the shape {tuple(shape)}, whose axis 0 is not the rows")
        return (sites * self.total, *shape[1:])

    def _argument(self, value: Any, ndim: int, sites: int) -> Any:
        """An argument extended to the whole batch: this piece's rows in their place, copies of them elsewhere."""
        if not _is_shape(value):
            return value
        shape = value.shape if isinstance(value, Tensor) else value
        if len(shape) < ndim or shape[0] != sites * self.rows:  # it broadcasts
            return value
        if not isinstance(value, Tensor):
            return (sites * self.total, *shape[1:])
        index = torch.arange(sites * self.total, device=value.device).sub_(sites * self.start)
        return value.index_select(0, index.remainder_(sites * self.rows))

    def _own(self, wide: Tensor, sites: int) -> Tensor:
        return wide.narrow(0, sites * self.start, sites * self.rows)

    def _error(self, function: Any, fault: str) -> PluginError:
        name = getattr(function, "__name__", str(function))
        return PluginError(
            f"torch's '{name}' {fault}, in a step whose batch is split into pieces (here {self.rows} of {self.total} "
            "rows). Put the rows on axis 0; or draw inside `with bfn_toolkit.common():` if all rows share the numbers; "
            "or inside `with bfn_toolkit.per_piece():` if the numbers may depend on the pieces; or use "
            "training.accumulate = 1 and one process"
        )


class _Piece(Shard):
    """The rows of a block that are wanted."""

    groups = True


class Blocks(TorchFunctionMode):
    """Scope in which rows draw the same numbers whichever rows are drawn with them.

    The rows are consecutive ones of an endless sequence, which is divided into blocks.  Each draw takes one key from
    torch's generator of the CPU, and every block has its own random stream under that key: it is drawn in full, and the
    rows that are wanted are kept.  Like :class:`Shard` it intercepts torch's random functions; axis 0 must be the rows,
    or several numbers for each row, one after another.

    Arguments:
        rows: Indices of the rows.
        size: Rows of a block.
        device: Device of the draws.
    Raises:
        PluginError: At a draw whose axis 0 is not the rows.
    """

    def __init__(self, rows: range, size: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.rows, self.generators = len(rows), _generators_of(device)
        self._pieces, first = list[tuple[int, _Piece, int]](), rows.start
        while first < rows.stop:
            block, start = divmod(first, size)
            count = min(size - start, rows.stop - first)
            self._pieces.append((first - rows.start, _Piece(start, count, size), block))
            first += count
        self._each_row = [(i, _Piece(0, 1, 1), row) for i, row in enumerate(rows)]
        self._aside_draws: bool | None = None  # None before the first call

    def aside(self, call: Callable[[], T]) -> T:
        """Calls a function outside of this scope, which saves the interception, if its first call drew nothing.

        If the first call draws, it is repeated, and it and all others are made within the scope.
        """
        if self._aside_draws or torch.overrides._get_current_function_mode() is not self:  # type: ignore[no-untyped-call]
            return call()
        self.__exit__(None, None, None)
        try:
            if self._aside_draws is not None:
                return call()
            before = [generator.get_state() for generator in self.generators]
            result = call()
            same = [torch.equal(g.get_state(), state) for g, state in zip(self.generators, before, strict=True)]
        finally:
            self.__enter__()
        self._aside_draws = not all(same)
        if not self._aside_draws:
            return result
        _restore(self.generators, before)
        return call()

    @staticmethod
    def outside(call: Callable[..., T], *arguments: Any) -> T:
        """Calls a function that draws nothing outside of the scope there is, and within it if :meth:`aside` drew."""
        scope = torch.overrides._get_current_function_mode()  # type: ignore[no-untyped-call]
        if not isinstance(scope, Blocks) or scope._aside_draws is not False:
            return call(*arguments)
        scope.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            return call(*arguments)
        finally:
            scope.__enter__()  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function not in _RANDOM:  # almost all calls
            return function(*args, **kwargs) if kwargs else function(*args)
        kwargs = kwargs or {}
        if _scope.get() != "rows" or _is_idle(function, args, kwargs):
            return function(*args, **kwargs)
        key = int(torch.randint(2**62, ()))
        args, shape = _with_shape(function, args, kwargs)
        if function in _ROWS_LAST or not shape or shape[0] % self.rows:
            raise PluginError(
                f"torch's '{getattr(function, '__name__', function)}' draws the shape {tuple(shape)}, whose axis 0 is "
                f"not the {self.rows} rows that are sampled together. Put the rows on axis 0; or draw inside "
                "`with bfn_toolkit.common():` if all rows share the numbers; a network that draws only in training "
                "needs model.eval()"
            )
        sites = shape[0] // self.rows
        states, drawn = [generator.get_state() for generator in self.generators], []
        try:
            for first, piece, number in self._each_row if function in _UNCUT else self._pieces:
                for generator in self.generators:
                    generator.manual_seed((key + number * _STRIDE) % 2**63)
                whole = piece.rows == piece.total and function not in _FILLS
                # The order in memory decides which number a place gets; that of a whole block is that of its rows.
                place = (len(shape), self.rows * sites, first * sites, piece.rows * sites, whole)
                own = [_cut(value, *place) for value in args]
                own_by_name = {name: _cut(value, *place) for name, value in kwargs.items()}
                drawn.append(function(*own, **own_by_name) if whole else piece.cut(function, own, own_by_name))
        finally:
            _restore(self.generators, states)
        return args[0] if function in _FILLS else drawn[0] if len(drawn) == 1 else torch.cat(drawn)


# Streams of one draw differ in the 32 bits that the CPU's generator reads of a seed, because the stride is odd.
_STRIDE = 0x9E3779B97F4A7C15


def _cut(value: Any, ndim: int, rows: int, first: int, count: int, contiguous: bool) -> Any:
    """The share of some rows in an argument; one that broadcasts stays as it is."""
    if not _is_shape(value):
        return value
    shape = value.shape if isinstance(value, Tensor) else value
    if len(shape) < ndim or shape[0] != rows:
        return value
    if count == rows and not contiguous:
        return value
    if not isinstance(value, Tensor):
        return (count, *shape[1:])
    own = value.narrow(0, first, count)
    return own.contiguous() if contiguous else own


def _with_shape(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Sequence[int]]:
    """Arguments of a random function, and the shape that it draws."""
    if function in (torch.rand, torch.randn) and args and isinstance(args[0], int):
        args = (args,)
    shapes = [v.shape if isinstance(v, Tensor) else v for v in (*args, *kwargs.values()) if _is_shape(v)]
    return args, max(shapes, key=lambda shape: (len(shape), *shape[:1]), default=())


def _is_shape(value: Any) -> bool:
    return isinstance(value, (Tensor, torch.Size)) or (
        isinstance(value, (tuple, list)) and bool(value) and all(isinstance(n, int) for n in value)
    )


def _is_idle(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function that may draw, such as dropout, draws nothing in this call."""
    if function in _RECURRENT:
        return not any(isinstance(v, float) and v > 0.0 for v in args)
    if function not in _DROPOUTS:
        return False
    (name, place, share), (flag, at, training) = _DROPOUTS[function]
    share = kwargs.get(name, args[place] if len(args) > place else share)
    training = kwargs.get(flag, args[at] if len(args) > at else training)
    return not training or share == 0.0


_FILLS = {
    getattr(Tensor, f"{name}_")
    for name in ("normal", "uniform", "exponential", "random", "geometric", "cauchy", "log_normal", "bernoulli")
}
_FLATTENED = {torch.multinomial, Tensor.multinomial}
_LIKE = {torch.rand_like, torch.randn_like, torch.randint_like}
_ROWS_FIRST = {
    *(getattr(torch, name) for name in ("rand", "randn", "randint", "normal", "bernoulli")),
    *_LIKE,
    *(Tensor.bernoulli, F.gumbel_softmax),
}
_P = ("p", 1, 0.5)
# For each dropout: name, position and default of its probability, then of its training flag.
_DROPOUTS: dict[Any, tuple[tuple[str, int, float], tuple[str, int, bool]]] = {
    **{getattr(F, name): (_P, ("training", 2, True)) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")},
    **{getattr(F, name): (_P, ("training", 2, False)) for name in ("alpha_dropout", "feature_alpha_dropout")},
    **{getattr(torch, name): (_P, ("train", 2, True)) for name in ("dropout", "feature_dropout", "alpha_dropout")},
    F.scaled_dot_product_attention: (("dropout_p", 4, 0.0), ("", 99, True)),
    F.multi_head_attention_forward: (("dropout_p", 10, 0.0), ("training", 13, True)),
    F.rrelu: (("", 99, 1.0), ("training", 3, False)),
}
_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}
_UNCUT = {
    *(getattr(torch, name) for name in ("_standard_gamma", "_sample_dirichlet", "poisson", "binomial", "randperm")),
    *(F.rrelu, F.scaled_dot_product_attention, F.multi_head_attention_forward),
    *_RECURRENT,
}
_ROWS_LAST = {*_RECURRENT, torch.randperm, F.multi_head_attention_forward}
_RANDOM = {*_FILLS, *_FLATTENED, *_ROWS_FIRST, *_DROPOUTS, *_UNCUT}
