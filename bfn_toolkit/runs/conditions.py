"""Checks of conditions against those that the data have and the network reads."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable

from bfn_toolkit.data.codec import Codec
from bfn_toolkit.errors import BFNWarning, ConfigError, did_you_mean
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.registry.registry import default_registry


def unread(network: NetworkBuilder, names: Iterable[str]) -> list[str]:
    """Returns the conditions that a network does not read."""
    read = network.conditions
    return [] if read is None else [name for name in names if name not in read]


def warn_of_unread(network: NetworkBuilder, names: Iterable[str]) -> None:
    """Warns of conditions of the data that a network does not read."""
    missed = unread(network, names)
    if missed:
        words = f"the network {_called(network)} does not read the condition {', '.join(missed)} of the data"
        warnings.warn(f"{words}, so samples cannot follow it{_instead(network, missed)}", BFNWarning, stacklevel=2)


def check_conditions(network: NetworkBuilder, requested: Iterable[str], available: Collection[str]) -> None:
    """Checks that the data have each requested condition, and that the network reads it.

    Arguments:
        network: The configuration of the network.
        requested: Names of the conditions of samples.
        available: Names of the conditions of the training rows.
    Raises:
        ConfigError: If the data lack one, or the network does not read it.
    """
    read = network.conditions
    for name in requested:
        if name not in available:
            has = f"has {', '.join(available)}" if available else "has none"
            reads = "" if read is None else f" and the network reads {', '.join(read) or 'none'}"
            hint = did_you_mean(name, available)
            raise ConfigError(f"no condition is named '{name}'; the data set {has}{reads}.{hint}")
        if unread(network, [name]):
            raise ConfigError(
                f"the network {_called(network)} of this run does not read the condition '{name}', so its samples "
                f"cannot follow it{_instead(network, [name])}"
            )


def is_on_column(codec: Codec, condition: str) -> bool:
    """Whether a condition is about a column of a table: of a codec with regions, or by its operator."""
    return type(codec).region is not Codec.region or re.match(r"[^=]*(!=|<|>)", condition) is not None


def _called(network: NetworkBuilder) -> str:
    try:
        return f"'{default_registry().name_of('network', type(network))}'"
    except ConfigError:
        return type(network).__name__


def _instead(network: NetworkBuilder, conditions: Collection[str]) -> str:
    """Advice on the installed networks that read the conditions."""
    entries = [registered for registered in default_registry().entries() if registered.kind == "network"]
    able = [
        registered
        for registered in entries
        if any(
            set(conditions) <= set(example.conditions or ()) and example.base is example  # no adapters of another
            for example in registered.entry.examples
        )
    ]
    if any(isinstance(network, registered.entry.build) for registered in able):
        return "; it does with other options: leave them out, and the data set fills them in"
    names = " or ".join(registered.name for registered in able)
    return f"; train with --network and the one that fits the data: {names}" if able else ""
