"""Fake distributions: a dist-info directory and modules, in a directory on sys.path."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

BUILT_IN = "bfn-toolkit"


def plugin_source(kind_hook: str, name: str, *, before: str = "") -> str:
    """A plugin with one part of one name."""
    return textwrap.dedent(before) + textwrap.dedent(f"""
        import attrs
        from bfn_toolkit.registry.hookspecs import Entry, hookimpl

        @attrs.frozen
        class Part:
            width: int = 1

        @hookimpl
        def {kind_hook}():
            return [Entry("{name}", Part, (Part(),))]
    """)


class FakeDists:
    """Writes distributions into a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: set[str] = set()

    def __call__(
        self,
        distribution: str,
        entry_points: Mapping[str, str],
        modules: Mapping[str, str],
        *,
        version: str = "1.0",
    ) -> None:
        info = self.root / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {value}\n" for name, value in entry_points.items()]
        known = info / "entry_points.txt"
        known.write_text((known.read_text() if known.exists() else "[bfn_toolkit]\n") + "".join(lines))
        for name, source in modules.items():
            (self.root / f"{name}.py").write_text(textwrap.dedent(source))
            self.modules.add(name)
        importlib.invalidate_caches()

    def part(self, distribution: str, entry_point: str, hook: str, name: str, *, before: str = "") -> str:
        """Writes a distribution with one part, or adds the part; returns the name of its module."""
        module = f"fake_{distribution}_{entry_point}".replace("-", "_")
        self(distribution, {entry_point: module}, {module: plugin_source(hook, name, before=before)})
        return module


def fake_dists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDists]:
    """Makes distributions on sys.path; the built-ins of an installed bfn-toolkit are out of sight.

    For a test module: ``fake_dist = pytest.fixture(fake_dists)``.
    """
    root, shadow = tmp_path / "site", tmp_path / "shadow"
    root.mkdir()
    shadow.mkdir()
    FakeDists(shadow)(BUILT_IN, {}, {})
    monkeypatch.setattr(sys, "path", [str(root), str(shadow), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("BFN_DISABLE_PLUGINS", raising=False)
    fakes = FakeDists(root)
    yield fakes
    for name in fakes.modules:
        sys.modules.pop(name, None)
