"""Parts as the source of their plugins states them, read without importing the plugins.

Importing a plugin imports torch, which takes seconds; a list of parts and completions in a shell need not wait for it.
What cannot be read from the source is left out: a name that is computed, a class that a function makes.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import attrs

from bfn_toolkit.registry.hookspecs import KINDS
from bfn_toolkit.registry.registry import Plugin
from bfn_toolkit.untrusted import open_regular

MOST = 2**20  # bytes of a source file
DEEPEST = 8  # imports from a name to its class
Class: TypeAlias = "tuple[str, ast.ClassDef]"  # with the module that defines it


@attrs.frozen
class Option:
    """A field of a class.

    Arguments:
        type: Its annotation as source text.
        kind: Kind of the part that it holds; "" for other values.
    """

    type: str
    kind: str = ""


@attrs.frozen
class Outline:
    """An entry of a plugin.

    Arguments:
        kind: Kind of the part.
        name: Its plain name.
        plugin: The plugin.
        docstring: Docstring of the class.
    """

    kind: str
    name: str
    plugin: Plugin
    docstring: str
    _found: Class = attrs.field(repr=False)

    @property
    def options(self) -> dict[str, Option]:
        """Fields of the class and of its bases, by name."""
        return _options(self._found)


def outlines(plugin: Plugin, kinds: Iterable[str] = KINDS) -> Iterator[Outline]:
    """Yields the entries of these kinds in the source of a plugin; none if it cannot be read."""
    for kind in kinds:
        hook = KINDS[kind]
        found = _find(plugin.module, hook) if hook.encode() in _content(_source(plugin.module)) else None
        if found is None:
            continue
        module, function = found
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Entry":
                given = {word.arg: word.value for word in call.keywords}
                given |= dict(zip(("name", "build"), call.args, strict=False))
                name, built = _text(given.get("name")), _class(module, given.get("build"))
                if name and built is not None:
                    yield Outline(kind, name, plugin, ast.get_docstring(built[1]) or "", built)


def options_of_source(module: str, name: str) -> dict[str, Option]:
    """Returns the fields of an attrs class in a module; {} if it cannot be read."""
    found = _class(module, ast.Name(name))
    return {} if found is None else _options(found)


def _options(found: Class, depth: int = 0) -> dict[str, Option]:
    module, definition = found
    options: dict[str, Option] = {}
    for base in _bases(found):
        if depth < DEEPEST:
            options |= _options(base, depth + 1)
    if not any(
        re.search(r"\b(frozen|define|attrs|s)\b", ast.unparse(decorator)) for decorator in definition.decorator_list
    ):
        return options
    for statement in definition.body:
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        text, value = ast.unparse(statement.annotation), statement.value
        given = {word.arg: word.value for word in value.keywords} if isinstance(value, ast.Call) else {}
        name = _text(given.get("alias")) or statement.target.id.lstrip("_")
        options.pop(name, None)  # a field that is defined again stands where it is defined
        init = given.get("init")
        if "ClassVar" not in text and not (isinstance(init, ast.Constant) and init.value is False):
            stated = given.get("metadata")
            kinds = zip(stated.keys, stated.values, strict=True) if isinstance(stated, ast.Dict) else ()
            kind = next((_text(kind) for key, kind in kinds if _text(key) == "kind"), "")
            options[name] = Option(text, kind or _kind(module, statement.annotation))
    return options


def _text(expression: ast.expr | None) -> str:
    """A text that is written out, or ""."""
    found = expression.value if isinstance(expression, ast.Constant) else None
    return found if isinstance(found, str) else ""


def _kind(module: str, annotation: ast.expr) -> str:
    """Kind of the part that an annotation stands for, from the ``kind`` of its class or a base of it."""
    found = _class(module, annotation)
    classes = [found] if found else []
    for _ in range(DEEPEST):
        for one in classes:
            for statement in one[1].body:
                if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "kind":
                    kind = _text(statement.value)
                    return kind if kind in KINDS else ""
        classes = [base for one in classes for base in _bases(one)]
    return ""


def _bases(found: Class) -> list[Class]:
    """The bases of a class whose source is found, those of the last one first."""
    module, definition = found
    bases = (_class(module, base) for base in reversed(definition.bases))
    return [base for base in bases if base is not None and base[1] is not definition]


def _class(module: str, expression: ast.expr | None) -> Class | None:
    """The class that an expression such as Circle or Family[P] names."""
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    found = _find(module, expression.id) if isinstance(expression, ast.Name) else None
    return (found[0], found[1]) if found and isinstance(found[1], ast.ClassDef) else None


@cache
def _find(module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The class or function that a name of a module means, and its module, which this one may import from."""
    for statement in _statements(module):
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)) and statement.name == name:
            return module, statement
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and any(ast.unparse(t) == name for t in targets):
            return _class(module, statement.value)  # an alias
        if isinstance(statement, ast.ImportFrom) and depth < DEEPEST:
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    return _find(_absolute(module, statement), alias.name, depth + 1)
    return None


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    """The module that an import statement names."""
    if not statement.level:
        return statement.module or ""
    path = _source(module)
    package = module.split(".") + ["."] * (path is not None and path.stem == "__init__")
    return ".".join([*package[: len(package) - statement.level], *filter(None, [statement.module])])


@cache
def _statements(module: str) -> Sequence[ast.stmt]:
    """Statements of a module and, beneath, of the stub that lists what it loads lazily; none if it cannot be read."""
    path = _source(module)
    if path is None:
        return ()
    statements: list[ast.stmt] = []
    for file in (path, path.with_suffix(".pyi")):
        try:
            statements += ast.parse(_content(file)).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return statements


@cache
def _content(path: Path | None) -> bytes:
    """The content of a source file; nothing if it cannot be read."""
    try:
        if path is None or path.stat().st_size > MOST:
            return b""
        with open_regular(path) as file:
            return file.read(MOST)
    except OSError:
        return b""


@cache
def _source(module: str) -> Path | None:
    """The source file of a module.  Python looks up top-level modules alone without importing anything."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except Exception:  # of a finder that some distribution installed
        return None
    if spec is None or not isinstance(spec.origin, str):
        return None
    path = Path(spec.origin)
    for name in inner:
        folder = path.parent / name
        path = folder / "__init__.py" if (folder / "__init__.py").exists() else path.parent / f"{name}.py"
    return path if path.suffix in importlib.machinery.SOURCE_SUFFIXES else None
