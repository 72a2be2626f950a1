"""Installed parts: a line for each, or everything about one."""

from __future__ import annotations

import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from bfn_toolkit.config.annotated import HEADINGS, first_sentence, options_of_class, plain_text
from bfn_toolkit.config.layers import Node, Place, merged, placed, preset_text
from bfn_toolkit.config.schema import ANY_OF, fields_of, kind_of
from bfn_toolkit.config.structure import default_config
from bfn_toolkit.errors import BFNError, PluginError, UnknownPlugin, did_you_mean
from bfn_toolkit.registry.hookspecs import KINDS
from bfn_toolkit.registry.outline import outlines
from bfn_toolkit.registry.registry import BUILT_IN, Plugin, Registered, Registry

_USES = {
    "dataset": "bfn train --dataset {}",
    "family": "bfn train --family {}",
    "network": "bfn train --network {}",
    "loss": "bfn train --loss {}",
    "sampler": "bfn sample RUN --sampler {}",
}


def part_lines(registry: Registry) -> list[dict[str, str]]:
    """Returns kind, name, module, distribution, version and description of every part, by kind and name.

    The built-ins are read from their sources, without importing them.  All other plugins are loaded, which shows
    whether they can be (:attr:`Registry.failures`).
    """
    found = [line for plugin in registry.plugins for line in _lines(plugin, registry)]
    order = list(KINDS)
    return sorted(found, key=lambda line: (order.index(line["kind"]), line["name"], line["distribution"]))


def _lines(plugin: Plugin, registry: Registry) -> Iterator[dict[str, str]]:
    about = {"module": plugin.module, "distribution": plugin.distribution, "version": plugin.version}
    if plugin.distribution == BUILT_IN:
        sources = [(part.kind, part.name, part.docstring) for part in outlines(plugin)]
    else:
        entries = registry.entries([plugin])
        sources = [(part.kind, part.name, _docstring(part.entry.build)) for part in entries]
    for kind, name, docstring in sources:
        yield {"kind": kind, "name": name, **about, "description": first_sentence(docstring)}


def part_details(name: str, registry: Registry) -> list[dict[str, Any]]:
    """Returns descriptions of the components with a name, which may be ``distribution:name``.

    Raises:
        PluginError: If its plugin could not be loaded.
        UnknownPlugin: If there is none.
    """
    entries = registry.entries()
    found = [part for part in entries if name in (part.name, part.qualified_name)]
    if not found:
        for failure in registry.failures:
            if failure.entry_point == name:
                raise PluginError(f"{name} of {failure.distribution} could not be loaded: {failure.reason}")
        known = sorted({part.name for part in entries})
        raise UnknownPlugin(f"no component is named '{name}'.{did_you_mean(name, known)} bfn plugins lists all")
    return [
        {
            "kind": part.kind,
            "name": part.name,
            "module": part.module,
            "distribution": part.distribution,
            "version": part.version,
            "docstring": _about(part.entry.build),
            "options": [
                {"name": option.name, "type": option.type, "default": option.default, "description": option.description}
                for option in options_of_class(part.entry.build, registry)
            ],
            "fits": list(_fits(part, entries, registry)),
        }
        for part in found
    ]


def _docstring(cls: type[Any]) -> str:
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def _about(cls: type[Any]) -> str:
    """The docstring of a class without its section "Arguments:" and without markup."""
    text = re.split(rf"^{HEADINGS}\s*$", _docstring(cls), maxsplit=1, flags=re.M)[0]
    paragraphs = (textwrap.fill(plain_text(part), 100) if part[:1].strip() else part for part in text.split("\n\n"))
    return "\n\n".join(paragraphs).strip()


def _fits(part: Registered, entries: tuple[Registered, ...], registry: Registry) -> Iterator[str]:
    """Lines about what a part goes with: the command, the fields that hold it, and the data sets that choose it."""
    if part.kind in _USES:
        yield _USES[part.kind].format(part.name)
    for other in entries:
        for name, (_, type_) in fields_of(other.entry.build).items():
            declared = get_origin(type_) or type_
            any_ = declared is ANY_OF.get(part.kind) or getattr(declared, "_is_protocol", False)
            if kind_of(type_) == part.kind and (any_ or issubclass(part.entry.build, declared)):
                yield f"{name} of the {other.kind} {other.name}"
    if part.kind == "dataset":
        yield "by default with " + ", ".join(f"{kind} {name}" for kind, name in _companions(part, registry).items())
    elif part.kind in ("family", "network", "loss"):
        datasets = [one for one in entries if one.kind == "dataset"]
        names = [one.name for one in datasets if _companions(one, registry).get(part.kind) == part.name]
        if names:
            yield f"the default for the data sets {', '.join(sorted(names))}"
    if part.kind == "network" and part.entry.examples:
        conditions = part.entry.examples[0].conditions
        names = ["any"] if conditions is None else sorted(conditions)
        yield f"reads the conditions {', '.join(names)}" if names else "reads no conditions"


def _companions(dataset: Registered, registry: Registry) -> dict[str, str]:
    """Preset, family, network and loss that a dataset chooses, by name."""
    node = placed({"name": registry.name_of("dataset", dataset.entry.build)}, ("dataset",), Place())
    try:
        suited = dict(default_config(node, registry, lenient=True))
    except BFNError:
        return {}
    preset = suited.pop("preset", None)
    layers = [tomllib.loads(preset_text("default")), *([tomllib.loads(preset_text(str(preset)))] if preset else [])]
    tree = Node((), {}, Place())
    for layer in (*layers, suited):
        tree = merged(tree, placed(layer, (), Place()))
    names: Mapping[str, Any] = tree.plain()
    found = {"preset": str(preset)} if preset else {}
    for kind in ("family", "network", "loss"):
        value = names.get(kind)
        found[kind] = value["name"] if isinstance(value, Mapping) else str(value)
    return found
