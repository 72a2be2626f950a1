"""Laws of networks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from bfn_toolkit.errors import ConfigError
from bfn_toolkit.network_io import NetworkIO, PartIO
from bfn_toolkit.networks import ConditionSignature, NetworkBuilder
from bfn_toolkit.registry.global_state import SHARED, all_states, torch_states, watched
from bfn_toolkit.testing.devices import on_meta
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law, round_trip

SHAPES = ((1,), (5,), (2, 3))
SIZES = ((1, 1), (2, 3))  # features F and raw numbers R of a site
_LABEL = PartIO((), (), 3, 3, "classes", 3)


def points(count: int) -> NetworkIO:
    """Points of a set in space, each with a class."""
    position = PartIO((count, 3), ("set", "channel"))
    return NetworkIO(parts={"position": position, "type": PartIO((count,), ("set",), 3, 3, "classes", 3)})


PRODUCTS = (
    points(4),
    NetworkIO(parts={"image": PartIO((8, 8), ("height", "width"), 1, 2), "label": _LABEL}),
    NetworkIO(parts={"mass": PartIO((), (), 1, 2), "width": PartIO((2,), ("column",), 1, 2), "sex": _LABEL}),
)
ROWS = 16
CLOSE = 1e-4  # tolerance in float32, relative to the largest number
TIMES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0)


def _network(builder: NetworkBuilder, io: NetworkIO, seed: int = 0) -> nn.Module:
    """A network whose weights are moved, because a layer that starts at zero hides its inputs."""
    with seeded(seed, "network"):
        network = builder.build(io).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.sin(torch.arange(weight.numel(), dtype=weight.dtype)).reshape(weight.shape))
    return network


def _networks(builder: NetworkBuilder) -> list[tuple[NetworkIO, nn.Module]]:
    """Networks of several sizes: those of the builder's ``example_shapes``, or all that it does not refuse.

    Raises:
        ConfigError: If it refuses all of them.
    """
    declared = getattr(builder, "example_shapes", None)
    sizes = [NetworkIO(shape, features, raw) for shape in declared or SHAPES for features, raw in SIZES]
    networks = [(io, _network(builder, io)) for io in sizes] if declared else _served(builder, sizes)
    networks += _served(builder, PRODUCTS)
    if not networks:
        raise ConfigError(f"{type(builder).__name__} refuses all sizes; state some that it serves as example_shapes")
    return networks


def _served(builder: NetworkBuilder, sizes: Iterable[NetworkIO]) -> list[tuple[NetworkIO, nn.Module]]:
    """Networks for the sizes that a builder does not refuse; a refusal is a ValueError with words."""
    networks = []
    for io in sizes:
        try:
            networks.append((io, _network(builder, io)))
        except ValueError as error:
            if not str(error):
                raise
    return networks


def _inputs(io: NetworkIO, rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    with seeded(seed, "inputs"):
        return torch.randn(rows, *io.site_shape, io.in_features), torch.rand(rows)


def _raw(judge: Judge, network: nn.Module, io: NetworkIO, *inputs: Tensor, **condition: Tensor) -> Tensor:
    """Finite raw numbers; a network that raises, or returns something else, breaks the law in words."""
    place = f"for {io}, {len(inputs[0])} rows" + (f" and the condition {', '.join(condition)}" if condition else "")
    try:
        raw = network(*inputs, **condition)
    except Exception as error:
        reason = (str(error).splitlines() or ["no words"])[0]
        judge.broken(f"forward raises {type(error).__name__} ({reason}) {place}", "raw numbers")
    judge.true(isinstance(raw, Tensor), f"a {type(raw).__name__} {place}", "a tensor of raw numbers")
    judge.true(bool(torch.isfinite(raw).all()), f"numbers that are not finite {place}", "finite numbers")
    return raw  # type: ignore[no-any-return]


def _fits(judge: Judge, raw: Tensor, io: NetworkIO, rows: int) -> None:
    """Breaks the law unless raw numbers have the right shape."""
    expected = (rows, *io.site_shape, io.out_features)
    judge.true(raw.shape == expected, f"shape {tuple(raw.shape)} for {io}, {rows} rows", f"(B, *site, R) = {expected}")


def _same(judge: Judge, a: Tensor, b: Tensor, what: str, tolerance: float = CLOSE) -> None:
    """Breaks the law, in words, unless two results agree within the tolerance, relative to the largest number."""
    judge.true(a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)} where {what}", "one shape")
    scale = 1.0 + float(a.detach().abs().max())
    error = float((a - b).detach().abs().max()) / scale
    judge.true(error <= tolerance, f"{what} (by {error:.2g} of the largest number)", f"at most {tolerance:g}")
    judge.error(error, max(tolerance, 1e-300))


def _values(builder: NetworkBuilder, name: str, dtype: torch.dtype, value: float | None = None) -> Tensor:
    """Values of a condition (ROWS, *shape): one number everywhere, or 0 and 1 in turns."""
    turns = (torch.arange(ROWS) % 2).to(dtype) if value is None else torch.full((ROWS,), value, dtype=dtype)
    shape = builder.condition_shapes.get(name, ())
    return turns.reshape(ROWS, *(1 for _ in shape)).expand(ROWS, *shape).clone()


def _form(builder: NetworkBuilder, network: nn.Module, io: NetworkIO, name: str) -> torch.dtype | None:
    """The dtype with which the network reads a condition; None if it refuses both."""
    for dtype in (torch.int64, torch.float32):
        try:
            network(*_inputs(io), **{name: _values(builder, name, dtype)})
        except Exception:
            continue
        return dtype
    return None


def _told(builder: NetworkBuilder, network: nn.Module, io: NetworkIO) -> dict[str, Tensor]:
    """The declared conditions that it reads in their stated shape, or as one number per row: 0 and 1 in turns."""
    forms = {name: _form(builder, network, io, name) for name in builder.conditions or ()}
    return {name: _values(builder, name, dtype) for name, dtype in forms.items() if dtype is not None}


@law("network", "features (B, *site, F) and t (B,) give finite raw numbers (B, *site, R)")
def check_network_fits_its_sizes(builder: NetworkBuilder) -> float:
    """The network works for every site shape that it does not refuse, batch size, F and R, and without conditions."""
    judge = Judge(check_network_fits_its_sizes, builder)
    for io, network in _networks(builder):
        for rows in (1, 3, 37):
            _fits(judge, _raw(judge, network, io, *_inputs(io, rows)), io, rows)
    return judge.figure


def _any_shape(builder: Any) -> bool:
    return () in getattr(builder, "example_shapes", ((),))


@law("network", "features (B, F) of a product give raw numbers (B, R), or build raises ValueError", applies=_any_shape)
def check_network_serves_products(builder: NetworkBuilder) -> float:
    """A product whose parts share no axis has one site of shape (), with the features of all parts."""
    judge = Judge(check_network_serves_products, builder)
    for io, network in _served(builder, [NetworkIO((), 5, 7)]):
        for rows in (1, ROWS):
            _fits(judge, _raw(judge, network, io, *_inputs(io, rows)), io, rows)
    return judge.figure


@law("network", "raw numbers and their gradients are finite for every t, both ends among them, and for features of 0")
def check_network_is_finite_at_all_times(builder: NetworkBuilder) -> float:
    """Sampling starts at t = 0, where the beliefs are the prior, and ends at t = 1."""
    judge = Judge(check_network_is_finite_at_all_times, builder)
    t = torch.tensor([0.0, 2.0**-24, 1e-6, 1e-3, 0.5, 1.0 - 2.0**-24, 1.0])
    for io, network in _networks(builder):
        some, _ = _inputs(io, len(t))
        for features, what in ((some, "random features"), (torch.zeros_like(some), "features of 0")):
            for time in t.tolist():
                finite = bool(torch.isfinite(network(features, torch.full_like(t, time))).all())
                judge.true(finite, f"not finite at t = {time:g} with {what} for {io}", "finite")
            network.zero_grad()
            raw = _raw(judge, network, io, features, t)
            if raw.requires_grad:
                torch.autograd.backward(raw.square().sum())
            for name, weight in network.named_parameters():
                finite = weight.grad is None or bool(torch.isfinite(weight.grad).all())
                judge.true(finite, f"the gradient of {name} is not finite with {what} for {io}", "finite")
    return judge.figure


@law("network", "row i of the result depends on row i of the arguments alone, in eval mode")
def check_network_rows_are_independent(builder: NetworkBuilder) -> float:
    """A sample does not depend on the other rows of its batch (float32, 1e-4 of the scale)."""
    judge = Judge(check_network_rows_are_independent, builder)
    for io, network in _networks(builder):
        inputs, condition = _inputs(io), _told(builder, network, io)
        whole, index = _raw(judge, network, io, *inputs, **condition), torch.tensor([11, 4, 7])
        chosen = {name: value[index] for name, value in condition.items()}
        some = _raw(judge, network, io, *(value[index] for value in inputs), **chosen)
        _same(judge, whole[index], some, f"rows 11, 4 and 7 of a batch differ from the same rows alone for {io}")
    return judge.figure


@law(
    "network",
    "row i of the result depends on row i of the arguments alone, in train mode",
    applies=lambda builder: not getattr(builder, "uses_batch_statistics", False),
)
def check_network_rows_are_independent_in_training(builder: NetworkBuilder) -> float:
    """Every row has a time of its own in training, so that statistics over the batch would mix the times.

    Draws, such as those of dropout, are repeated from one seed.
    """
    judge = Judge(check_network_rows_are_independent_in_training, builder)
    others = torch.arange(ROWS) != 5
    for io, network in _networks(builder):
        inputs, condition = _inputs(io), _told(builder, network, io)
        changed = [value.clone() for value in inputs]
        changed[0][5], changed[1][5] = 3.0 - changed[0][5], 1.0 - changed[1][5]
        results, weights = [], copy.deepcopy(network.state_dict())
        for arguments in (inputs, changed):
            network.load_state_dict(weights)
            with seeded(0, "training"):
                results.append(_raw(judge, network.train(), io, *arguments, **condition)[others])
        _same(judge, results[0], results[1], f"another row 5 changes other rows in train mode for {io}")
    return judge.figure


def _reads_time(builder: NetworkBuilder) -> bool:
    return not builder.time_free


@law("network", "raw differs between any two of 13 times, which are 0.01 apart near 0 and 1", applies=_reads_time)
def check_network_sees_the_time(builder: NetworkBuilder) -> float:
    """A network that ignores t, or confuses two times, cannot know how accurate the beliefs are."""
    judge = Judge(check_network_sees_the_time, builder)
    for io, network in _networks(builder):
        features, t = _inputs(io)
        raws = [_raw(judge, network, io, features, torch.full_like(t, time)).detach() for time in TIMES]
        least = 1e-6 * float(torch.stack(raws).abs().max())
        for i, j in combinations(range(len(TIMES)), 2):
            change = float((raws[i] - raws[j]).abs().max())
            judge.true(change > least, f"no change from t = {TIMES[i]:g} to t = {TIMES[j]:g} for {io}", "a change")
    return judge.figure


@law("network", "each feature of each site moves some raw number, and each site has raw numbers of its own that move")
def check_network_sees_every_number(builder: NetworkBuilder) -> float:
    """A network that overlooks a site or a feature loses what the messages told of it."""
    judge = Judge(check_network_sees_every_number, builder)
    for io, network in _networks(builder):
        features, t = _inputs(io)
        leaf = features.clone().requires_grad_()
        raw = _raw(judge, network, io, leaf, t)
        if raw.shape != (ROWS, *io.site_shape, io.out_features):
            continue  # network-fits-its-sizes says so
        moved = torch.zeros_like(features)
        if raw.requires_grad:
            weights = torch.linspace(1.0, 2.0, raw[0].numel()).reshape(raw.shape[1:])
            (gradient,) = torch.autograd.grad((weights * raw).sum(), leaf, allow_unused=True)
            moved = moved if gradient is None else gradient
        for index in (moved == 0).all(0).nonzero().tolist():  # rounding of features has no gradient, but a change
            other = features.clone()
            other[(slice(None), *index)] = 1.0 - 2.0 * other[(slice(None), *index)]
            seen = not torch.equal(_raw(judge, network, io, other, t), raw)
            place = f"feature {index[-1]} of site {tuple(index[:-1])}"
            judge.true(seen, f"{place} changes no raw number for {io}", "a change")
        change = (_raw(judge, network, io, _inputs(io, seed=1)[0], t) - raw).detach().abs().amax((0, -1))
        still = (change == 0).nonzero().tolist()
        judge.true(not still, f"no raw number of site {still and tuple(still[0])} depends on the features", "a change")
        sites = raw.detach().reshape(ROWS, -1, io.out_features)
        alike = sites.shape[1] > 1 and torch.equal(sites, sites[:, :1].expand_as(sites))
        judge.true(not alike, f"all sites have the same raw numbers for {io}", "raw numbers of their own")
    return judge.figure


def _says(builder: NetworkBuilder) -> bool:
    return builder.conditions is not None


@law("network", "raw depends on each condition that is declared, and on no other", applies=_says)
def check_declared_conditions_are_read(builder: NetworkBuilder) -> float:
    """The declaration ``conditions`` decides which conditions are refused, so it must be true.

    A condition is tried as a class and as a number for each example, or in the shape that ``condition_shapes`` states,
    each number of it by itself; conditions of another form are not tested.  With a field ``labels``, each label 0...K-1
    is tried.
    """
    judge = Judge(check_declared_conditions_are_read, builder)
    declared = set(builder.conditions or ())
    for io, network in _networks(builder):
        inputs = _inputs(io)
        silent = _raw(judge, network, io, *inputs)
        for name in sorted(declared | {"label", "another"}):
            takes = _lets_through(network, name)
            judge.true(takes or name not in declared, f"forward has no argument '{name}' for {io}", "one")
            dtype = _form(builder, network, io, name) if takes else None
            stated = name in builder.condition_shapes
            judge.true(dtype is not None or not stated, f"forward refuses the stated shape of '{name}' for {io}", "raw")
            if dtype is None:
                continue
            values = [_values(builder, name, dtype, value) for value in (0, 1)]
            zero, one = (_raw(judge, network, io, *inputs, **{name: value}) for value in values)
            effect = f"'{name}' {'changes nothing' if torch.equal(zero, one) else 'changes raw'} for {io}"
            if name in declared:
                judge.true(not torch.equal(zero, one), effect, "a change")
                if name == "label":
                    _labels(judge, builder, network, io)
                for number in range(values[0][0].numel() if stated else 0):
                    changed = values[0].clone()
                    changed.view(ROWS, -1)[:, number] = 1
                    moved = _raw(judge, network, io, *inputs, **{name: changed})
                    judge.true(not torch.equal(zero, moved), f"number {number} of '{name}' is not read", "a change")
            else:
                judge.true(torch.equal(zero, one) and torch.equal(zero, silent), effect, "no change")
    return judge.figure


def _labels(judge: Judge, builder: NetworkBuilder, network: nn.Module, io: NetworkIO) -> None:
    """Tries every label of a network with a field ``labels``, all on the same features and time."""
    count = getattr(builder, "labels", None)
    if not isinstance(count, int) or not 1 < count <= 1000:
        return
    features, t = (value[:1].expand(count, *value.shape[1:]) for value in _inputs(io))
    raw = _raw(judge, network, io, features, t, label=torch.arange(count)).detach()
    different = len(torch.unique(raw.flatten(1), dim=0))
    judge.true(different == count, f"{different} results for {count} labels and {io}", "one for each label")


def _lets_through(network: nn.Module, name: str) -> bool:
    """Whether the signature of ``forward`` has room for a condition."""
    parameters = list(inspect.signature(network.forward).parameters.values())[2:]
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


@law("network", "a condition that it does not read changes nothing: labels, numbers or vectors of other data")
def check_unknown_conditions_are_ignored(builder: NetworkBuilder) -> float:
    """One network runs on data with and without conditions.

    The toolkit passes on what ``forward`` names, and all that it does not know where ``forward`` has ``**condition``.
    """
    judge = Judge(check_unknown_conditions_are_ignored, builder)
    name = "condition_of_other_data"
    for io, network in _networks(builder):
        silent = _raw(judge, network, io, *_inputs(io))
        if not ConditionSignature.of(network, None).reads(name):
            continue
        for value in (torch.arange(ROWS), torch.linspace(-1.0, 1.0, ROWS), torch.ones(ROWS, 3)):
            raw = _raw(judge, network, io, *_inputs(io), **{name: value})
            _same(judge, silent, raw, f"a condition of shape {tuple(value.shape)} changes the numbers for {io}")
    return judge.figure


@law("network", "in eval mode, the same arguments give the same numbers, whatever it was asked before")
def check_network_is_a_function(builder: NetworkBuilder) -> float:
    """Nothing is drawn, and nothing is kept from an earlier call: neither a time nor a batch."""
    judge = Judge(check_network_is_a_function, builder)
    for io, network in _networks(builder):
        inputs, condition = _inputs(io), _told(builder, network, io)
        fresh = _network(builder, io)
        fresh.load_state_dict(network.state_dict())
        for seed, rows in ((1, ROWS), (2, 3)):
            _raw(judge, network, io, *_inputs(io, rows, seed))
        first, second, new = (_raw(judge, net, io, *inputs, **condition) for net in (network, network, fresh))
        _same(judge, first, second, f"two calls give different numbers for {io}")
        _same(judge, first, new, f"earlier calls change the numbers for {io}")
        with torch.inference_mode():
            quick = _raw(judge, network, io, *inputs, **condition)
        _same(judge, first, quick.clone(), f"inference mode changes the numbers for {io}")
    return judge.figure


@law("network", "no call changes features, t or a condition")
def check_network_leaves_its_arguments_alone(builder: NetworkBuilder) -> float:
    """Features and times are used again by samplers and losses."""
    judge = Judge(check_network_leaves_its_arguments_alone, builder)
    for io, network in _networks(builder):
        inputs, condition = _inputs(io), _told(builder, network, io)
        for mode in (False, True):
            arguments = {"features": inputs[0], "t": inputs[1], **condition}
            before = {name: value.clone() for name, value in arguments.items()}
            with torch.no_grad():  # a change in place of what needs a gradient is an error of its own
                _raw(judge, network.train(mode), io, *inputs, **condition)
            for name, value in arguments.items():
                judge.true(torch.equal(value, before[name]), f"forward changes {name} for {io}", "no change")
    return judge.figure


@law("network", "a call leaves the state of the process alone: torch's settings, and in eval mode every seed")
def check_network_leaves_global_state_alone(builder: NetworkBuilder) -> float:
    """A dtype, a grad mode or a seed that a network sets is that of every other part from then on."""
    judge = Judge(check_network_leaves_global_state_alone, builder)
    for io, network in _networks(builder):
        inputs, condition = _inputs(io), _told(builder, network, io)
        for mode, states in ((False, all_states()), (True, (*SHARED, *torch_states()))):
            with watched(states) as changed:
                _raw(judge, network.train(mode), io, *inputs, **condition)
            judge.true(not changed, f"forward changes {', '.join(changed)} for {io}", "no change")
    return judge.figure


@law("network", "with weights and arguments on a device, raw is on that device")
def check_network_moves_to_a_device(builder: NetworkBuilder) -> float:
    """Constants are buffers, or made where the arguments are; a tensor as a plain attribute stays on the CPU."""
    judge = Judge(check_network_moves_to_a_device, builder)
    for io, network in _networks(builder):
        condition = {name: value.to("meta") for name, value in _told(builder, network, io).items()}
        _raw(judge, network, io, *_inputs(io))
        features, t = (value.to("meta") for value in _inputs(io))
        moved = network.to("meta")
        try:
            raw = on_meta(partial(moved, features, t, **condition))
        except RuntimeError as error:
            judge.broken(f"two devices for {io}: {str(error).splitlines()[0]}", "the device of the weights")
        judge.true(raw is None or raw.device.type == "meta", f"raw on the CPU for {io}", "the device of the weights")
    return judge.figure


@law("network", "the gradient of a sum of squares reaches every parameter, and is finite")
def check_gradients_reach_every_parameter(builder: NetworkBuilder) -> float:
    """No parameter is dead, with conditions or without; weights are moved first, because some layers start at zero.

    Parameters with ``requires_grad = False`` are not trained, and left out.
    """
    judge = Judge(check_gradients_reach_every_parameter, builder)
    for io, network in _networks(builder):
        for condition in ({}, _told(builder, network, io)):  # what stands for a missing condition is reached without
            raw = _raw(judge, network, io, *_inputs(io), **condition)
            judge.true(raw.requires_grad, f"raw has no gradient for {io}", "a gradient")
            torch.autograd.backward(raw.square().sum())
        for name, weight in network.named_parameters():
            if not weight.requires_grad:
                continue
            reached = weight.grad is not None and bool((weight.grad != 0).any() & torch.isfinite(weight.grad).all())
            judge.true(
                reached, f"{name} has gradient {None if weight.grad is None else 'zero or not finite'}", "reached"
            )
    return judge.figure


@law("network", "a network with the state_dict of another is that network")
def check_state_dict_is_complete(builder: NetworkBuilder) -> float:
    """A checkpoint determines the network completely, by its parameters and buffers."""
    judge = Judge(check_state_dict_is_complete, builder)
    for io, network in _networks(builder):
        another = _network(builder, io, seed=1)
        another.load_state_dict(copy.deepcopy(network.state_dict()))
        a, b = (_raw(judge, net, io, *_inputs(io)) for net in (network, another))
        _same(judge, a, b, f"a loaded network gives other numbers for {io}", 0.0)
    return judge.figure


@law(
    "network",
    "a network of base with the weights of base_state gives the same raw numbers",
    applies=lambda builder: builder.base is not builder,
)
def check_adapters_merge(builder: NetworkBuilder) -> float:
    """A network with adapters is one without them, of the tensors that base_names states (float32, 1e-4)."""
    judge = Judge(check_adapters_merge, builder)
    for io, network in _networks(builder):
        merged = _network(builder.base, io)
        merged.load_state_dict(builder.base_state(network))
        names = builder.base_names(network)
        known = names.keys() == merged.state_dict().keys() and network.state_dict().keys() >= {*names.values()}
        judge.true(known, f"base_names are not those of the tensors for {io}", "all of base, by names of the network")
        a, b = (_raw(judge, net, io, *_inputs(io)) for net in (network, merged))
        _same(judge, a, b, f"the merged network gives other numbers for {io}")
    return judge.figure


@law("network", "the weights are drawn from torch's generator alone")
def check_weights_are_a_function_of_the_seed(builder: NetworkBuilder) -> float:
    """Two builds from one seed give equal networks."""
    judge = Judge(check_weights_are_a_function_of_the_seed, builder)
    for (io, a), (_, b) in zip(_networks(builder), _networks(builder), strict=True):
        one, two = (_raw(judge, net, io, *_inputs(io)) for net in (a, b))
        _same(judge, one, two, f"two networks from one seed differ for {io}", 0.0)
    return judge.figure


@law("network", "repr, pickle and TOML give back an equal builder")
def check_network_builder_round_trips(builder: NetworkBuilder) -> float:
    """The configuration of a network is a value."""
    return round_trip(Judge(check_network_builder_round_trips, builder))
