"""Parts as their sources state them, beside the parts that are imported."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from bfn_toolkit.config.schema import fields_of, kind_of
from bfn_toolkit.registry.outline import outlines
from bfn_toolkit.registry.registry import Plugin, default_registry


def test_the_outline_of_every_built_in_is_true() -> None:
    registry = default_registry()
    built_in = [plugin for plugin in registry.plugins if plugin.distribution == "bfn-toolkit"]
    found = {
        (part.kind, part.name): (part.docstring, {name: option.kind for name, option in part.options.items()})
        for plugin in built_in
        for part in outlines(plugin)
    }
    real = {
        (part.kind, part.name): (
            inspect.cleandoc(part.entry.build.__doc__ or ""),
            {name: kind_of(type_) or "" for name, (_, type_) in fields_of(part.entry.build).items()},
        )
        for part in registry.entries(built_in)
    }
    assert found == real


SOURCES = {
    "aliases": (
        "import attrs\nfrom bfn_toolkit import Entry, Siren as Base, hookimpl\nMine = Base\n"
        "@attrs.frozen\nclass Named:\n    'Named.'\n    size: int = attrs.field(alias='wide')\n"
        "    _low: 'int' = 0\n"
        "    hidden: int = attrs.field(init=False)\n"
        "@hookimpl\ndef bfn_networks():\n    name = 'computed'\n"
        "    return [Entry(name, Named), Entry(build=Named, name='named'), Entry('lost', make())]\n",
        {"named": ["wide", "low"]},
    ),
    "syntax": ("def bfn_networks(:\n", {}),
    "bytes": ("bfn_networks \x00", {}),
    "loop": ("from outlined import bfn_networks\n", {}),
    "own-base": (
        "import attrs\n@attrs.frozen\nclass A(A):\n    x: int = 0\ndef bfn_networks():\n    return [Entry('a', A)]\n",
        {"a": ["x"]},
    ),
    "deep": (f"bfn_networks = {'(' * 5000}", {}),
    "nothing": ("", {}),
}


@pytest.mark.parametrize("case", SOURCES)
def test_sources_of_any_form_are_read(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, expected = SOURCES[case]
    module = f"outlined_{case.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(source.replace("outlined", module))
    monkeypatch.syspath_prepend(tmp_path)
    plugin = Plugin("other", "1", case, module, lambda: pytest.fail("it was imported"))
    assert {part.name: list(part.options) for part in outlines(plugin)} == expected
    assert module not in sys.modules


@pytest.mark.parametrize(
    "module", ["no_such_module", "no_such.module", "sys", "", "..", "os.path", "bfn_toolkit.nothing"]
)
def test_modules_without_a_source_have_no_parts(module: str) -> None:
    assert list(outlines(Plugin("other", "1", "x", module, lambda: None))) == []
