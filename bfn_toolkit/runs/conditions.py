"""Conditions that a run is asked for, held against what its network reads."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable

from bfn_toolkit.errors import BFNWarning, ConfigError, did_you_mean
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.registry.registry import default_registry


def unread(network: NetworkBuilder, names: Iterable[str]) -> list[str]:
    """Those of some conditions that a network says it does not read."""
    read = network.conditions
    return [] if read is None else [name for name in names if name not in read]


def warn_of_unread(network: NetworkBuilder, names: Iterable[str]) -> None:
    """Warns of the conditions of data that a network is about to learn without."""
    missed = unread(network, names)
    if missed:
        words = f"the network {_called(network)} does not read the condition {', '.join(missed)} of the data"
        warnings.warn(f"{words}, so samples cannot follow it{_instead(network, missed)}", BFNWarning, stacklevel=2)


def check_conditions(network: NetworkBuilder, asked: Iterable[str], told: Collection[str]) -> None:
    """Checks that each condition that is asked for is one of the data's, and is read.

    Arguments:
        network: The configuration of the network.
        asked: Names that are to have values.
        told: Names that the data had in training.
    Raises:
        ConfigError: If one is neither.
    """
    read = network.conditions
    for name in asked:
        if name not in told:
            has = f"has {', '.join(told)}" if told else "has none"
            reads = "" if read is None else f" and the network reads {', '.join(read) or 'none'}"
            raise ConfigError(f"no condition is named '{name}'; the data set {has}{reads}.{did_you_mean(name, told)}")
        if unread(network, [name]):
            raise ConfigError(
                f"the network {_called(network)} of this run does not read the condition '{name}', so its samples "
                f"cannot follow it{_instead(network, [name])}"
            )


def _called(network: NetworkBuilder) -> str:
    try:
        return f"'{default_registry().name_of('network', type(network))}'"
    except ConfigError:
        return type(network).__name__


def _instead(network: NetworkBuilder, names: Collection[str]) -> str:
    """The line to write for a network that reads the conditions, if one is installed."""
    entries = [registered for registered in default_registry().entries() if registered.kind == "network"]
    able = [
        registered
        for registered in entries
        if any(set(names) <= set(example.conditions or ()) for example in registered.entry.examples)
    ]
    if any(isinstance(network, registered.entry.build) for registered in able):
        return "; it does with other options, which the data set fills in where they are left out"
    return f"; train with: --network {able[0].name}" if able else ""
