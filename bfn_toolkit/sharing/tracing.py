r"""Samplers as programs: a start and a step, traced by ``torch.export``, whose random numbers are inputs.

The loop of a sampler becomes two functions of tensors, for any number of rows:

.. math::
    \text{state}_0 = \mathrm{start}(\text{noise}), \qquad
    (x_i, \text{state}_{i+1}) = \mathrm{step}(\text{state}_i, t_i, t_{i+1}, \text{noise}, \text{condition})

The state holds the beliefs, and whatever else the sampler keeps.  x is a draw of the output distribution under the
beliefs of the state; at the last time, where the step stands still, it is the sample.  So one program has the network.

The steps are those of the sampler itself.  While they are traced, each of torch's random functions takes its numbers
from an input (:class:`GivenDraws`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Output
from bfn_toolkit.randomness import _RANDOM, _is_idle, seeded
from bfn_toolkit.sampling.sampler import Sampler
from bfn_toolkit.shapes import Times, expand

ROWS = 7  # rows of the example from which a program is traced; prime, so that no site shape is taken for them
Take: TypeAlias = Callable[[str, Sequence[Any], torch.dtype], Tensor]
Tensors: TypeAlias = Mapping[str, Tensor]


@attrs.frozen
class Input:
    """An input of a program.

    Arguments:
        kind: "rows" (numbers that are not read, one for each row), "state", "time", "condition", or that of random
            numbers: "normal" (of mean 0 and variance 1), "uniform" (on [0, 1)) or "exponential" (of mean 1).
        shape: Shape of one row; of a time, which has no rows, its shape.
        dtype: Dtype.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def example(self) -> Tensor:
        """Zeros, or random numbers of this kind."""
        numbers = torch.zeros(self.shape if self.kind == "time" else (ROWS, *self.shape), dtype=self.dtype)
        fill: Mapping[str, Callable[[], Tensor]] = {
            "normal": numbers.normal_,
            "uniform": numbers.uniform_,
            "exponential": numbers.exponential_,
        }
        return fill[self.kind]() if self.kind in fill else numbers


class GivenDraws(TorchFunctionMode):
    """Scope in which torch's random functions take their numbers from a function.

    Arguments:
        take: Function from a kind ("normal", "uniform" or "exponential"), a shape and a dtype to numbers.
    Raises:
        ConfigError: At a random function whose numbers cannot be made from these kinds.
    """

    def __init__(self, take: Take) -> None:
        super().__init__()
        self.take = take

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.__len__ and isinstance(args[0].shape[0], torch.SymInt):
            raise ConfigError("len(x) fixes the number of rows; write x.shape[0]")
        if function not in _RANDOM or _is_idle(function, args, kwargs):
            return function(*args, **kwargs)
        if function in (torch.randn_like, torch.rand_like):
            return self.take(_KINDS[function], args[0].shape, kwargs.get("dtype") or args[0].dtype)
        if function in (torch.randn, torch.rand):
            size = kwargs.get("size") or (args[0] if args and isinstance(args[0], Sequence) else args)
            return self.take(_KINDS[function], size, kwargs.get("dtype") or torch.get_default_dtype())
        if function in _FILLS and len(args) == 1 and not kwargs:
            return args[0].copy_(self.take(_FILLS[function], args[0].shape, args[0].dtype))
        if function is torch.normal and len(args) == 2 and all(isinstance(value, Tensor) for value in args):
            mean, std = torch.broadcast_tensors(*args)  # type: ignore[no-untyped-call]
            return self.take("normal", mean.shape, mean.dtype) * std + mean
        if function in (torch.multinomial, Tensor.multinomial) and args[1] == 1:
            # As torch does on the CPU: of waits at these rates, the shortest one is chosen.
            return (args[0] / self.take("exponential", args[0].shape, args[0].dtype)).argmax(-1, keepdim=True)
        if function is torch.randint and args[-1] == ():  # the key of random streams, which have no meaning here
            return 0
        name = getattr(function, "__name__", str(function))
        raise ConfigError(f"draws by torch's '{name}' cannot become inputs of a program")


_KINDS = {torch.randn: "normal", torch.randn_like: "normal", torch.rand: "uniform", torch.rand_like: "uniform"}
_FILLS = {Tensor.normal_: "normal", Tensor.uniform_: "uniform", Tensor.exponential_: "exponential"}


class _Noise:
    """The random numbers of a program by name: first those of its example, then those that are given.

    Arguments:
        given: The numbers; None to draw and record them.
    """

    def __init__(self, given: Tensors | None = None) -> None:
        self.given, self.inputs, self.prefix, self.count = given, dict[str, Input](), "noise", 0

    def __call__(self, kind: str, shape: Sequence[Any], dtype: torch.dtype) -> Tensor:
        name = f"{self.prefix}_{self.count}"
        self.count += 1
        if self.given is not None:
            return self.given[name].reshape(tuple(shape)).clone()  # the caller may write into it
        rows, *rest = shape or (1,)
        if rows % ROWS:
            raise ConfigError(
                f"a draw has the shape {tuple(shape)}, whose axis 0 is not the {ROWS} rows of the example"
            )
        per_row = [rows // ROWS] if rows > ROWS else []
        self.inputs[name] = Input(kind, (*per_row, *rest), dtype)
        return self.inputs[name].example().reshape(tuple(shape))


@attrs.frozen(eq=False)
class Program:
    """A traced function of tensors.

    Arguments:
        traced: The program.
        inputs: Its inputs by name, in order.
        outputs: Names of its outputs, in order.
    """

    traced: torch.export.ExportedProgram
    inputs: Mapping[str, Input]
    outputs: Sequence[str]


@attrs.frozen(eq=False)
class SamplerPrograms:
    """A sampler of a model as programs.

    Arguments:
        start: From noise to the first state.
        step: From a state to a draw x and the next state.
        times: Times of the n + 1 states, with shape (n + 1, k).
        first: Number of the first step of the loop; those before it are part of the start.
    """

    start: Program
    step: Program
    times: Tensor
    first: int


def trace(
    model: Model, sampler: Sampler[Any], n_steps: int, conditions: Mapping[str, Input], dtype: torch.dtype
) -> SamplerPrograms:
    """Traces a sampler of a model on the CPU.

    Arguments:
        model: The model, ready to sample.
        sampler: The sampler.
        n_steps: Number of steps.
        conditions: Inputs of the model's conditions by name.
        dtype: Floating dtype of the beliefs.
    Raises:
        ConfigError: If a draw cannot become an input, or the state of the sampler changes its form at every step.
        Exception: Whatever ``torch.export`` raises at code that it cannot trace.
    """
    with torch.no_grad(), seeded("trace"):
        loop = _Loop(model, sampler, sampler.step_times(model, n_steps), dtype)
        first, form = loop.settle({name: one.example() for name, one in conditions.items()})
        rows = {"rows": Input("rows", (), dtype), **(conditions if loop.evaluations else {})}
        start = _program(loop, lambda given, _: loop.start(first, form, given, conditions), rows)
        state = {name: Input("state", tuple(v.shape[1:]), v.dtype) for name, v in named_tensors(form).items()}
        time = Input("time", tuple(loop.times.shape[1:]), loop.times.dtype)
        step = _program(
            loop,
            lambda given, noise: loop.draw_and_step(form, given, conditions, noise),
            {**state, "s": time, "t": time, **conditions},
        )
    return SamplerPrograms(start, step, loop.times, first)


class _Loop(ModelWrapper):
    """The loop of a sampler in pieces; as a model it keeps its outputs.

    Arguments:
        model: The model.
        sampler: The sampler.
        times: Times of the states, (n + 1, k).
        dtype: Floating dtype of the beliefs.
    """

    def __init__(self, model: Model, sampler: Sampler[Any], times: Tensor, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.sampler, self.times, self.dtype = sampler, times, dtype
        self.outputs: list[Output] = []
        self.evaluations = 0  # of the start

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        output: Output = super().output(params, t, condition, **told)
        self.outputs.append(output)
        return output

    def begin(self, rows: int) -> Any:
        """The state at the prior."""
        return self.sampler.init(self, rows, device=torch.device("cpu"), dtype=self.dtype)

    def step(self, state: Any, number: int, condition: Condition) -> Any:
        """The step with a number; beyond the last one, time stands still."""
        last = len(self.times) - 1
        s, t = self.times[min(number, last)], self.times[min(number + 1, last)]
        return self.sampler.step(self, state, s, t, condition)

    def settle(self, condition: Condition) -> tuple[int, Any]:
        """The number of the first step from which on states have one form, and a state of this form.

        Raises:
            ConfigError: If there is no such step.
        """
        with GivenDraws(_Noise()):
            state = self.begin(ROWS)
            for number in range(3):
                self.evaluations, before = len(self.outputs), len(self.outputs)
                after = self.step(state, number, condition)
                if len(self.outputs) > before:
                    try:
                        _filled(self.step(_filled(state, after, ROWS), number + 1, condition), after, ROWS)
                        return number, after
                    except _OtherFormError:
                        pass
                state = after
        raise ConfigError("the state of the sampler changes its form at every step, so the steps are not one program")

    def start(self, first: int, form: Any, given: Tensors, conditions: Collection[str]) -> Tensors:
        """The state before the first step of the loop."""
        condition = {name: given[name] for name in conditions if name in given}
        state = self.begin(given["rows"].shape[0])
        for number in range(first):
            state = self.step(state, number, condition)
        return named_tensors(_filled(state, form, given["rows"].shape[0]))

    def draw_and_step(self, form: Any, given: Tensors, conditions: Collection[str], noise: _Noise) -> Tensors:
        """A draw of the output, and the next state."""
        self.outputs.clear()
        condition = {name: given[name] for name in conditions}
        state = self.sampler.step(self, with_tensors(form, given), given["s"], given["t"], condition)
        noise.prefix, noise.count = "last", 0
        return {**named_tensors(self.outputs[0].sample(), "x"), **named_tensors(state)}


class _Function(nn.Module):
    """A function of named tensors as a module of tensors in order."""

    def __init__(self, loop: _Loop, function: Callable[[Tensors, _Noise], Tensors], names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.function, self.names = loop.model, function, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, tensors, strict=True))
        noise = _Noise(given)
        with GivenDraws(noise):
            return tuple(self.function(given, noise).values())


def _program(loop: _Loop, function: Callable[[Tensors, _Noise], Tensors], inputs: Mapping[str, Input]) -> Program:
    """Traces a function of named tensors, and of the random numbers that it draws."""
    noise = _Noise()
    examples = {name: one.example() for name, one in inputs.items()}
    with GivenDraws(noise):
        outputs = list(function(examples, noise))
    inputs = {**inputs, **noise.inputs}
    rows = torch.export.Dim("rows", min=1)
    traced = torch.export.export(
        _Function(loop, function, list(inputs)),
        tuple(one.example() for one in inputs.values()),
        dynamic_shapes=(tuple({} if one.kind == "time" else {0: rows} for one in inputs.values()),),
    )
    return Program(traced, inputs, outputs)


# Values of tensors: attrs classes and mappings


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if not attrs.has(type(value)):
        return {}
    return {field.alias: getattr(value, field.name) for field in attrs.fields(type(value)) if field.init}


def _below(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def named_tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in a value, by dotted names."""
    if isinstance(value, Tensor):
        return {name: value}
    found: dict[str, Tensor] = {}
    for key, inner in _fields(value).items():
        found.update(named_tensors(inner, _below(name, key)))
    return found


def with_tensors(form: Any, tensors: Tensors, name: str = "") -> Any:
    """A value of the same form as another, with other tensors."""
    if isinstance(form, Tensor):
        return tensors[name]
    fields = {key: with_tensors(inner, tensors, _below(name, key)) for key, inner in _fields(form).items()}
    return form if not fields else fields if isinstance(form, Mapping) else type(form)(**fields)


class _OtherFormError(Exception):
    """A value does not fit into a form."""


def _filled(value: Any, form: Any, rows: int) -> Any:
    """A value in the form of another: with numbers as tensors, and 0 where there is no tensor yet.

    Raises:
        _OtherFormError: If it does not fit.
    """
    if isinstance(form, Tensor):
        shape = (rows, *form.shape[1:])
        if value is None or isinstance(value, float):
            return torch.full(shape, value or 0.0, dtype=form.dtype)
        if isinstance(value, Tensor) and value.dtype == form.dtype:
            wide = expand(value, form)
            if all(own in (1, size) for own, size in zip(wide.shape[1:], shape[1:], strict=True)):
                return wide.expand(shape)
    elif type(value) is type(form):
        if not _fields(form) and value == form:
            return form
        if _fields(form) and _fields(value).keys() == _fields(form).keys():
            fields = {key: _filled(_fields(value)[key], inner, rows) for key, inner in _fields(form).items()}
            return fields if isinstance(form, Mapping) else type(form)(**fields)
    raise _OtherFormError
