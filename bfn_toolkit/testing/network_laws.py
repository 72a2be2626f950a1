"""Laws of networks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bfn_toolkit.networks import NetworkBuilder, NetworkIO
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law, round_trip
SHAPES = ((1,), (5,), (2, 3))


def _networks(builder: NetworkBuilder) -> list[tuple[NetworkIO, nn.Module]]:
    """Networks for several sizes, or for the builder's ``example_shapes``."""
    networks = []
    for shape in getattr(builder, "example_shapes", SHAPES):
        for features, raw in ((1, 1), (2, 3)):
            io = NetworkIO(shape, features, raw)
            with seeded(0, "network"):
                networks.append((io, builder.build(io).eval()))
    return networks


def _stir(network: nn.Module) -> None:
    """Moves every weight, because a layer that starts at zero hides its inputs."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.sin(torch.arange(weight.numel(), dtype=weight.dtype)).reshape(weight.shape))


def _inputs(io: NetworkIO, rows: int = 16) -> tuple[Tensor, Tensor]:
    with seeded(0, "inputs"):
        return torch.randn(rows, *io.site_shape, io.in_features), torch.rand(rows)


@law("network", "features (B, *site, F) and t (B,) give finite raw numbers (B, *site, R)")
def check_network_fits_its_sizes(builder: NetworkBuilder) -> float:
    """The network works for every declared site shape, batch size, F and R."""
    judge = Judge(check_network_fits_its_sizes, builder)
    for io, network in _networks(builder):
        for rows in (1, 16):
            raw = network(*_inputs(io, rows))
            judge.true(
                raw.shape == (rows, *io.site_shape, io.out_features),
                f"shape {tuple(raw.shape)} for {io}",
                "(B, *site, R)",
            )
            judge.true(bool(torch.isfinite(raw).all()), f"not finite for {io}", "finite")
    return judge.figure


@law("network", "row i of the result depends on row i of the arguments alone, in eval mode")
def check_network_rows_are_independent(builder: NetworkBuilder) -> float:
    """A sample does not depend on the other rows of its batch (float32, 1e-4 of the scale)."""
    judge = Judge(check_network_rows_are_independent, builder)
    for io, network in _networks(builder):
        features, t = _inputs(io)
        whole, index = network(features, t).detach(), torch.tensor([11, 3, 7])
        some = network(features[index], t[index]).detach()
        judge.close(some, whole[index], 1e-4 * (1.0 + float(whole.abs().max())))
    return judge.figure


@law("network", "raw depends on t")
def check_network_sees_the_time(builder: NetworkBuilder) -> float:
    """A network that ignores t cannot know how accurate the beliefs are."""
    judge = Judge(check_network_sees_the_time, builder)
    for io, network in _networks(builder):
        _stir(network)
        features, t = _inputs(io)
        change = (network(features, t) - network(features, 1.0 - t)).abs().max()
        judge.true(bool(change > 0), f"no change for {io}", "a change")
    return judge.figure


def _says(builder: NetworkBuilder) -> bool:
    return builder.conditions is not None


@law("network", "raw depends on each condition that is declared, and on no other", applies=_says)
def check_declared_conditions_are_read(builder: NetworkBuilder) -> float:
    """The declaration ``conditions`` decides which conditions are refused, so it must be true.

    A condition is tried as a class and as a number for each example; conditions of another form are not tested.
    """
    judge = Judge(check_declared_conditions_are_read, builder)
    declared = set(builder.conditions or ())
    for io, network in _networks(builder):
        _stir(network)
        arguments = _inputs(io)
        silent = network(*arguments)
        for name in sorted(declared | {"label", "another"}):
            for dtype in (torch.int64, torch.float32):
                values = [torch.full((len(silent),), value, dtype=dtype) for value in (0, 1)]
                try:
                    zero, one = (network(*arguments, **{name: value}) for value in values)
                except Exception:
                    continue
                effect = f"'{name}' {'changes nothing' if torch.equal(zero, one) else 'changes raw'} for {io}"
                if name in declared:
                    judge.true(not torch.equal(zero, one), effect, "a change")
                    break
                judge.true(torch.equal(zero, one) and torch.equal(zero, silent), effect, "no change")
    return judge.figure


@law("network", "the gradient of a sum of squares reaches every parameter, and is finite")
def check_gradients_reach_every_parameter(builder: NetworkBuilder) -> float:
    """No parameter is dead; weights are moved first, because some layers start at zero."""
    judge = Judge(check_gradients_reach_every_parameter, builder)
    for io, network in _networks(builder):
        _stir(network)
        network(*_inputs(io)).square().sum().backward()
        for name, weight in network.named_parameters():
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
        with seeded(1, "another"):
            another = builder.build(io).eval()
        another.load_state_dict(copy.deepcopy(network.state_dict()))
        judge.close(another(*_inputs(io)), network(*_inputs(io)), 0.0)
    return judge.figure


@law("network", "the weights are drawn from torch's generator alone")
def check_weights_are_a_function_of_the_seed(builder: NetworkBuilder) -> float:
    """Two builds from one seed give equal networks."""
    judge = Judge(check_weights_are_a_function_of_the_seed, builder)
    for (io, a), (_, b) in zip(_networks(builder), _networks(builder), strict=True):
        judge.close(a(*_inputs(io)), b(*_inputs(io)), 0.0)
    return judge.figure


@law("network", "repr, pickle and TOML give back an equal builder")
def check_network_builder_round_trips(builder: NetworkBuilder) -> float:
    """The configuration of a network is a value."""
    return round_trip(Judge(check_network_builder_round_trips, builder))
