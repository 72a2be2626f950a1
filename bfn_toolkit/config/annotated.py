"""An experiment as TOML in which a comment describes each field, from the docstrings of the classes."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import attrs
import tomli_w

from bfn_toolkit.config.layers import Configuration, dotted
from bfn_toolkit.config.schema import NONE, default_of, fields_of, kind_of, words
from bfn_toolkit.config.structure import METADATA, Table, tables_of
from bfn_toolkit.config.toml_files import Key
from bfn_toolkit.config.unstructure import plain_value
from bfn_toolkit.errors import BFNError
from bfn_toolkit.registry.registry import Registry

WIDTH = 110
HEADINGS = r"(?:Arguments|Args|Attributes|Parameters|Fields):"
_ROLE = re.compile(r":[\w:]+:`~?(?:[\w.]*\.)?([^`<]+?)(?: <[^`>]*>)?`")


def annotated(cls: type[Any], configuration: Configuration, registry: Registry) -> str:
    """Returns the TOML of an attrs value with the description, the type and the default of each field.

    Lines that begin with ``# NAME =`` are not set: their values are None, missing, or follow from the data.  The file
    of a dataset may be missing.

    Raises:
        ConfigErrors: All mistakes in the configuration together.
        PluginError: If a part cannot be loaded.
    """
    tables = tables_of(cls, configuration, registry)
    shown = [key for key in tables if all(isinstance(part, str) for part in key)]
    # A table of parts, such as those of a product, is written as the tables of the parts.
    above = {key[:n] for key in shown for n in range(1, len(key) + 1)}
    blocks = ("\n".join(_table(key, tables[key], above, registry)) for key in shown)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(key: Key, table: Table, above: set[Key], registry: Registry) -> Iterator[str]:
    if key:
        yield from _comment(first_sentence(table.cls) or table.cls.__name__)
        yield f"[{dotted(key)}]"
    if table.registered is not None:
        yield f"name = {inline(registry.name_of(table.registered.kind, table.cls))}"
    for field in options_of_class(table.cls, registry):
        if (*key, field.name) not in above:
            yield from _comment(field.description, f"[{field.form}]")
            yield _line(field, table, registry)


def _line(field: Option, table: Table, registry: Registry) -> str:
    """The line that sets a field, as a comment if it is not set."""
    key, name = dotted((field.name,)), field.name
    given = table.node.value.get(name)
    value = table.values.get(name, field.value)
    from_data = (given is not None and given.place == METADATA) or (given is None and table.metadata is None)
    if value is attrs.NOTHING and table.built is not None:  # a default that follows from other fields
        value, from_data = getattr(table.built, field.attribute), True
    if value is attrs.NOTHING:
        return f"# {key} = ..."
    if value is None:
        none = inline(NONE) if field.may_be_none else "..."
        return f"{'# ' if field.value is None or none == '...' else ''}{key} = {none}"
    return f"{'# ' if from_data else ''}{key} = {inline(plain_value(value, registry))}"


@attrs.frozen
class Option:
    """A field of a class, as a configuration has it.

    Arguments:
        name: Its key.
        attribute: Its name in Python.
        type: Its type in words.
        default: Its default as TOML or in words; "" if there is none.
        description: Its description in the docstring of its class, or "".
        value: Its default; attrs.NOTHING if there is none.
        may_be_none: Whether "none" stands for None.
    """

    name: str
    attribute: str
    type: str
    default: str
    description: str
    value: Any = attrs.field(repr=False, eq=False)
    may_be_none: bool = False

    @property
    def form(self) -> str:
        """Type and default in words."""
        return f"{self.type}; {f'default: {self.default}' if self.default else 'required'}"


def options_of_class(cls: type[Any], registry: Registry) -> Iterator[Option]:
    """Yields the options of a class.

    Raises:
        PluginError: If its annotations name types that cannot be found.
    """
    texts = descriptions(cls)
    for name, (field, type_) in fields_of(cls).items():
        value, default = default_of(field), ""
        members = get_args(type_)
        if value is None:
            default = NONE
        elif value is not attrs.NOTHING:
            try:
                default = inline(plain_value(value, registry, kind_of(type_)))
            except BFNError:
                default = type(value).__name__  # a part without a name
        elif field.default is not attrs.NOTHING:
            default = "follows from other fields"
        may_be_none = types.NoneType in members and str not in members
        yield Option(name, field.name, words(type_), default, texts.get(field.name, ""), value, may_be_none)


def descriptions(cls: type[Any]) -> dict[str, str]:
    """Returns the descriptions of fields in the section "Arguments:" of a class and, beneath, of its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= parse_arguments(vars(base).get("__doc__") or "")
    return found


def parse_arguments(docstring: str) -> dict[str, str]:
    """Returns names and descriptions in the section "Arguments:" (or "Args:", ...) of a docstring."""
    section = re.search(rf"^{HEADINGS}\s*\n((?:[ \t]+\S.*\n|[ \t]*\n)+)", f"{inspect.cleandoc(docstring)}\n", re.M)
    found: dict[str, str] = {}
    if section:
        for item in re.split(r"^(?=\S)", textwrap.dedent(section[1]), flags=re.M):
            name, colon, text = item.partition(":")
            name = name.partition("(")[0].strip(" `*")
            if colon and name.isidentifier():
                found[name] = plain_text(text)
    return found


def first_sentence(thing: Any) -> str:
    """Returns the first sentence of a docstring, or of the docstring of a class."""
    text = thing if isinstance(thing, str) else vars(thing).get("__doc__") or ""
    paragraph = plain_text(inspect.cleandoc(text).partition("\n\n")[0])
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph, maxsplit=1)[0]


def plain_text(text: str) -> str:
    """Returns reStructuredText without its roles and quotes, in one line."""
    return " ".join(_ROLE.sub(r"\1", text).replace("``", "").split())


def inline(value: Any) -> str:
    """Returns a plain value as TOML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{dotted((key,))} = {inline(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inline, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _comment(*texts: str) -> list[str]:
    """Texts as comments: in one line, or each in lines of its own."""
    line = f"# {' '.join(filter(None, texts))}"
    if len(line) <= WIDTH:
        return [line]
    wrapped = (textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False) for text in texts)
    return [f"# {line}" for lines in wrapped for line in lines]
