"""A new plugin: a complete package with one module, its tests and its entry point.

The package comes from ``templates/``: plain files in which ``my-part`` stands for the name, ``my_part`` for the name as
Python writes it, ``MyPart`` for the class and ``my-kind`` for the kind.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from bfn_toolkit.errors import ConfigError, ResourceError
from bfn_toolkit.registry.hookspecs import NAME
from bfn_toolkit.registry.registry import Registry

TEMPLATES = Path(__file__).with_name("templates")
SCAFFOLDS = ("network", "family", "dataset", "sampler")


def render(name: str, kind: str) -> Mapping[str, str]:
    """Returns the files of a new plugin, by their paths in its folder.

    Arguments:
        name: Kebab-case name of the part.
        kind: One of :data:`SCAFFOLDS`.
    Raises:
        ConfigError: If there is no template of the kind, or the name cannot be that of a part or of its class.
    """
    _check_words(name, kind)
    snake, cls = name.replace("-", "_"), "".join(word.capitalize() for word in name.split("-"))
    words = {"my-part": name, "my_part": snake, "MyPart": cls, "my-kind": kind}
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": f"{kind}/README.md",
        f"bfn_{snake}.py": f"{kind}/module.py",
        f"tests/test_{snake}.py": f"{kind}/tests.py",
    }
    templates = {
        path: (TEMPLATES / f"{source}.template").read_text(encoding="utf-8") for path, source in sources.items()
    }
    used = {word for path, text in templates.items() if path.endswith(".py") for word in _names(text)}
    if cls in used or keyword.iskeyword(cls) or hasattr(builtins, cls):
        raise ConfigError(f"'{name}' would name a class {cls}, but its module needs that name; choose another")
    return {path: re.sub("|".join(words), lambda match: words[match[0]], text) for path, text in templates.items()}


def new_plugin(name: str, kind: str, out: Path, registry: Registry, *, force: bool = False) -> list[Path]:
    """Writes the package of a new plugin.

    Arguments:
        name: Kebab-case name of the part.
        kind: One of :data:`SCAFFOLDS`.
        out: Folder to make.
        registry: Registry that knows which names are taken.
        force: Whether to write into a folder that is not empty; files of other names are left alone.
    Returns:
        The files that were written.
    Raises:
        ConfigError: If the name or the folder is taken, or the name is malformed.
        ResourceError: If a file cannot be written.
    """
    _check_words(name, kind)
    _check_not_installed(name, registry, own=f"bfn-{name}" if force else None)
    files = render(name, kind)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} exists and is not a directory; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ConfigError(f"{out} is not empty; choose another --out, or write into it with --force")
    written = []
    for place, text in files.items():
        path = out / place
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of a link, and not the file that it leads to
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ResourceError(f"cannot write {path}: {error.strerror or error}") from error
        written.append(path)
    return written


def _check_words(name: str, kind: str) -> None:
    if kind not in SCAFFOLDS:
        raise ConfigError(f"expected one of {', '.join(SCAFFOLDS)}, got {kind!r}")
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"expected lower-case letters, digits and single hyphens, such as my-{kind}, got {name!r}")


def _names(code: str) -> Iterator[str]:
    """Names in Python code, outside comments and strings."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return (token.string for token in tokens if token.type == tokenize.NAME)


def _check_not_installed(name: str, registry: Registry, own: str | None) -> None:
    """Checks that no part, plugin or module has the name, except in the distribution ``own``."""
    for entry in registry.entries():
        if entry.name == name and entry.distribution != own:
            raise ConfigError(f"the name '{name}' is taken by the {entry.kind} of {entry}; choose another")
    for plugin in (*registry.plugins, *registry.disabled):
        if plugin.entry_point == name and plugin.distribution != own:
            raise ConfigError(f"the name '{name}' is taken by the plugin {plugin}; choose another")
    module = f"bfn_{name.replace('-', '_')}"
    known = {plugin.module for plugin in registry.plugins if plugin.distribution == own}
    if module not in known and importlib.util.find_spec(module) is not None:
        raise ConfigError(f"the name '{name}' is taken: a module {module} is installed; choose another")
