"""Laws of networks about further inputs: masks, times by site, sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bfn_toolkit.network_io import NetworkIO, Numbers
from bfn_toolkit.networks import ConditionSignature, NetworkBuilder
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law
from bfn_toolkit.testing.network_laws import ROWS, TIMES, _inputs, _network, _networks, _raw, _same, points

SEQUENCES = [NetworkIO((length,), 2, 3, ("sequence",)) for length in (3, 5)]
LONGER = ((points(4), points(6)), tuple(SEQUENCES))  # data that grow, and the longer ones


def _takes_mask(builder: NetworkBuilder) -> bool:
    try:
        return all(ConditionSignature.of(network, builder).reads_mask for _, network in _networks(builder))
    except Exception:  # the other laws report it
        return False


def _spread(io: NetworkIO, sites: dict[str, Tensor], which: Numbers) -> Tensor:
    """A value for each number of the network, from one for each site."""
    parts = {name: (*sites[name].shape, getattr(part, which)) for name, part in io.parts.items()}
    return io.join({name: sites[name].unsqueeze(-1).expand(shape) for name, shape in parts.items()})


def _sites(io: NetworkIO) -> dict[str, Tensor]:
    """Sites with data by part, at random, but all in row 0 and none in row 1."""
    with seeded(0, "mask"):
        sites = {name: torch.rand(ROWS, *part.shape) < 0.6 for name, part in io.parts.items()}
    for there in sites.values():
        there[0], there[1] = True, False
    return sites


@law(
    "network",
    "features at masked sites change no bit of raw at the others; a mask of True changes nothing",
    applies=_takes_mask,
)
def check_network_does_not_see_masked_sites(builder: NetworkBuilder) -> float:
    """The number to which a batch was padded is no part of the data; NaN there is no exception.

    Raw numbers stay finite everywhere, also for a row without any data.
    """
    judge = Judge(check_network_does_not_see_masked_sites, builder)
    for io, network in _networks(builder):
        (features, t), sites = _inputs(io), _sites(io)
        mask, present = _spread(io, sites, "in_features"), _spread(io, sites, "out_features")
        clean = _masked(judge, network, io, torch.where(mask, features, 0.0), t, mask)
        for garbage in (7.0, 1e30, torch.nan, torch.inf):
            raw = _masked(judge, network, io, torch.where(mask, features, garbage), t, mask)
            same = torch.equal(raw[present], clean[present])
            judge.true(same, f"{garbage:g} at masked sites changes raw at others for {io}", "no change")
        everywhere = _masked(judge, network, io, features, t, torch.ones_like(mask))
        _same(judge, everywhere, _raw(judge, network, io, features, t), f"a mask of True changes raw for {io}")
    return judge.figure


def _masked(judge: Judge, network: nn.Module, io: NetworkIO, *inputs: Tensor) -> Tensor:
    features, t, mask = inputs
    return _raw(judge, network, io, features, t, mask=mask)


@law(
    "network",
    "where the weights fit longer data too, masked points at the end change raw by rounding at most",
    applies=_takes_mask,
)
def check_padding_changes_nothing(builder: NetworkBuilder) -> float:
    """A result must not depend on the longest example of its batch (float32, 1e-4 of the scale)."""
    judge = Judge(check_padding_changes_nothing, builder)
    for short, long in LONGER:
        try:
            network, wider = _network(builder, short), _network(builder, long)
            wider.load_state_dict(network.state_dict())
        except (ValueError, RuntimeError):  # refused, or weights of a length
            continue
        features, t = _inputs(short)
        with seeded(0, "padding"):
            wide = {name: torch.randn(ROWS, *part.shape, part.in_features) for name, part in long.parts.items()}
        there = {name: torch.zeros(ROWS, *part.shape, dtype=torch.bool) for name, part in long.parts.items()}
        for name, part in short.split(features).items():
            wide[name][:, : part.shape[1]] = part
            there[name][:, : part.shape[1]] = True
        mask = _spread(long, there, "in_features")
        raw = long.split(_masked(judge, wider, long, long.join(wide), t, mask), "out_features")
        for name, part in short.split(_raw(judge, network, short, features, t), "out_features").items():
            _same(judge, raw[name][:, : part.shape[1]], part, f"padding changes raw for {short}")
    return judge.figure


@law(
    "network",
    "equal times of all features give what one time gives, and the time of each site matters",
    applies=lambda builder: builder.site_times,
)
def check_equal_site_times_are_one_time(builder: NetworkBuilder) -> float:
    """A network that states ``site_times`` reads times (B,) or (B, *site, F), of which the first are a special case."""
    judge = Judge(check_equal_site_times_are_one_time, builder)
    for io, network in _networks(builder):
        features, t = _inputs(io)
        sites = {name: t.reshape(-1, *(1 for _ in p.shape)).expand(ROWS, *p.shape) for name, p in io.parts.items()}
        raw = _raw(judge, network, io, features, _spread(io, sites, "in_features"))
        _same(judge, raw, _raw(judge, network, io, features, t), f"equal times of all features change raw for {io}")
        if builder.time_free:
            continue
        for name, part in io.parts.items():
            for site in range(part.sites):
                other = sites[name].clone()
                other.view(ROWS, -1)[:, site] = 1.0 - other.reshape(ROWS, -1)[:, site]
                moved = _raw(judge, network, io, features, _spread(io, {**sites, name: other}, "in_features"))
                judge.true(not torch.equal(moved, raw), f"the time of site {site} of '{name}' is not read", "a change")
    return judge.figure


@law("network", "raw is the same at all times", applies=lambda builder: builder.time_free)
def check_time_free_networks_ignore_the_time(builder: NetworkBuilder) -> float:
    """A network that states ``time_free`` does not read the times, so a sampler may leave them out of account."""
    judge = Judge(check_time_free_networks_ignore_the_time, builder)
    for io, network in _networks(builder):
        features, t = _inputs(io)
        first = _raw(judge, network, io, features, t)
        for time in TIMES:
            same = torch.equal(first, _raw(judge, network, io, features, torch.full_like(t, time)))
            judge.true(same, f"raw changes with the time {time:g} for {io}", "no change")
    return judge.figure


@law("network", "permuted points of a set give permuted raw numbers", applies=lambda builder: builder.permutes_sets)
def check_network_permutes_sets(builder: NetworkBuilder) -> float:
    """The order in which a file lists the atoms means nothing (float32, 1e-4 of the scale)."""
    judge = Judge(check_network_permutes_sets, builder)
    for count in (2, 5):
        io, order = points(count), torch.arange(count).roll(1)
        network, (features, t) = _network(builder, io), _inputs(io)
        raw = _raw(judge, network, io, features, t)
        permuted = _raw(judge, network, io, _permuted(io, features, "in_features", order), t)
        _same(judge, permuted, _permuted(io, raw, "out_features", order), f"another order changes the points of {io}")
    return judge.figure


def _permuted(io: NetworkIO, wire: Tensor, which: Numbers, order: Tensor) -> Tensor:
    """The points in another order."""
    parts = io.split(wire, which)
    return io.join({name: part[:, order] for name, part in parts.items()})
