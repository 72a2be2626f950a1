"""The hooks of bfn-toolkit: all that a plugin needs to know.

A plugin is a module with some of the functions below, each marked ``@hookimpl``, and one entry point in the group
``bfn_toolkit``.  A hook only returns entries; none of them runs anything.

    @attrs.frozen
    class MyNetwork(NetworkBuilder):
        width: int = 128
        ...

    @hookimpl
    def bfn_networks():
        return [Entry("my-network", MyNetwork, examples=(MyNetwork(width=8),))]

    [project.entry-points.bfn_toolkit]      # in its pyproject.toml
    my-network = "my_module"

The module may state the version it was written for, ``BFN_HOOK_API = 1``.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import pluggy

from bfn_toolkit.validators import invalid

PROJECT = "bfn_toolkit"
HOOK_API = 1
NAME = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"  # of a part, in kebab case

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def _kebab_case(entry: Entry, field: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, str) and re.fullmatch(NAME, value)):
        raise invalid(
            entry, field, f"expected lower-case letters, digits and single hyphens, such as my-part, got {value!r}"
        )


def _attrs_class(entry: Entry, field: attrs.Attribute[Any], value: object) -> None:
    if not (isinstance(value, type) and attrs.has(value)):
        raise invalid(entry, field, f"expected an attrs class, got {value!r}; write @attrs.frozen above the class")


def _tuple(value: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(value)


def _instances(entry: Entry, field: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    for example in value:
        if not isinstance(example, entry.build):
            raise invalid(entry, field, f"expected instances of {entry.build.__name__}, got {example!r}")


@attrs.frozen
class Entry:
    """One component and its registered name.

    Arguments:
        name: Kebab-case name, by which configurations choose the component.
        build: An attrs class; its fields are the options of the component in a configuration.
        examples: Small instances, on which the conformance kit tests the component.
    """

    name: str = attrs.field(validator=_kebab_case)
    build: type[Any] = attrs.field(validator=_attrs_class)
    examples: Sequence[Any] = attrs.field(default=(), converter=_tuple, validator=_instances)


@hookspec
def bfn_families() -> Sequence[Entry]:
    """Distribution families: subclasses of :class:`bfn_toolkit.Family`."""


@hookspec
def bfn_networks() -> Sequence[Entry]:
    """Networks: subclasses of :class:`bfn_toolkit.NetworkBuilder`."""


@hookspec
def bfn_datasets() -> Sequence[Entry]:
    """Datasets: subclasses of :class:`bfn_toolkit.Dataset`."""


@hookspec
def bfn_samplers() -> Sequence[Entry]:
    """Samplers: subclasses of :class:`bfn_toolkit.Sampler`."""


@hookspec
def bfn_heads() -> Sequence[Entry]:
    """Output heads, a field of a family: subclasses of :class:`bfn_toolkit.OutputHead`."""


@hookspec
def bfn_losses() -> Sequence[Entry]:
    """Losses to train with: subclasses of :class:`bfn_toolkit.Loss`."""


@hookspec
def bfn_schedules() -> Sequence[Entry]:
    """Accuracy schedules, a field of a family: subclasses of :class:`bfn_toolkit.AccuracySchedule`."""


@hookspec
def bfn_grids() -> Sequence[Entry]:
    """Time grids, a field of a sampler: subclasses of :class:`bfn_toolkit.TimeGrid`."""


@hookspec
def bfn_time_distributions() -> Sequence[Entry]:
    """Distributions of the times of a loss, a field of it: subclasses of :class:`bfn_toolkit.TimeDistribution`."""


@hookspec
def bfn_codecs() -> Sequence[Entry]:
    """Codecs, which data sets return: subclasses of :class:`bfn_toolkit.Codec`."""


# Kind of part -> its hook.  The base class of each kind states it: ``kind: ClassVar[str] = "family"``.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "family": "bfn_families",
        "network": "bfn_networks",
        "dataset": "bfn_datasets",
        "sampler": "bfn_samplers",
        "head": "bfn_heads",
        "loss": "bfn_losses",
        "schedule": "bfn_schedules",
        "grid": "bfn_grids",
        "time-distribution": "bfn_time_distributions",
        "codec": "bfn_codecs",
    }
)
