"""Completion of words in a shell: names of parts, fields of the experiment, presets, run directories.

Plugins are read from their sources (:mod:`bfn_toolkit.registry.outline`), so that nothing waits for torch.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfn_toolkit.cli.display import echo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bfn_toolkit.registry.outline import Option, Outline

MOST = 1000  # folders that are looked at
_TABLES = ("dataset", "family", "network", "loss")
_DEVICES = ("auto", "cpu", "cuda", "mps")


def names_of_kind(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Returns the completion of an option that takes a part of a kind."""
    return lambda ctx, param, incomplete: _beginning(incomplete, (part.name for part in _parts(kind)))


def complete_parts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of all parts."""
    from bfn_toolkit.registry.hookspecs import KINDS

    return _beginning(incomplete, (part.name for kind in KINDS for part in _parts(kind)))


def complete_presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of the presets."""
    from bfn_toolkit.config.layers import presets

    return _beginning(incomplete, presets())


def complete_devices(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of devices."""
    return _beginning(incomplete, _DEVICES)


def complete_runs(incomplete: str) -> list[CompletionItem[Any]]:
    """Returns the models of zoos and the run directories, at most three folders down, that begin so; else folders."""
    from click.shell_completion import CompletionItem

    start = os.path.dirname(incomplete)
    found = itertools.islice(_folders(Path(start or "."), 3), MOST)
    runs = (path for path in found if os.path.lexists(path / "experiment.toml"))
    names = [*(_typed(path, incomplete) for path in runs), *(_zoo_models() if incomplete else ())]
    items = [CompletionItem(name) for name in _beginning(incomplete, names)]
    return items or [CompletionItem(incomplete, type="dir")]


def complete_zoo(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Returns the models of the installed zoos."""
    return _beginning(incomplete, _zoo_models())


def _zoo_models() -> list[str]:
    from bfn_toolkit.errors import BFNError
    from bfn_toolkit.sharing.zoo import zoos

    try:
        return [f"{zoo.name}:{name}" for zoo in zoos().values() for name in zoo.models]
    except BFNError:
        return []


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inner = sorted(Path(entry) for entry in itertools.islice(os.scandir(folder), MOST) if entry.is_dir())
    except OSError:
        return
    yield from inner
    for path in inner:
        if depth > 1 and not path.name.startswith("."):
            yield from _folders(path, depth - 1)


def _typed(path: Path, incomplete: str) -> str:
    """A path as the user began to write it."""
    return f"./{path}" if incomplete.startswith("./") else str(path)


class FieldsCommand(click.Command):
    """Completion of a command whose further options are the fields of the experiment."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        """Returns options, also dotted ones, or the values of the option before."""
        from click.shell_completion import CompletionItem

        last = ctx.args[-1] if ctx.args else ""
        if last.startswith("--") and "=" not in last and not incomplete.startswith("-"):
            return _values(last[2:], ctx, incomplete)
        if not incomplete.startswith("-"):
            return [CompletionItem(incomplete, type="file")]
        given = {word.partition("=")[0] for word in ctx.args}
        fields = (f"--{key}" for key in _fields(ctx, incomplete[2:]) if f"--{key}" not in given)
        return super().shell_complete(ctx, incomplete) + [CompletionItem(key) for key in _beginning(incomplete, fields)]


def _values(key: str, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
    """Values of a field."""
    from click.shell_completion import CompletionItem

    from bfn_toolkit.config.layers import SHORT

    key = ".".join(map(str, SHORT.get(key.replace("-", "_"), (key,))))
    option = _fields(ctx, key).get(key)
    if option is None:
        return []
    if "Path" in option.type:
        return [CompletionItem(incomplete, type="file")]
    names: Sequence[str] = [part.name for part in _parts(option.kind)] if option.kind else []
    if key == "training.device":
        names = _DEVICES
    elif choices := re.search(r"Literal\[(.*?)\]", option.type):
        names = [str(value) for value in ast.literal_eval(f"[{choices[1]}]")]
    elif re.search(r"\bbool\b", option.type):
        names = ["true", "false"]
    return [CompletionItem(name) for name in _beginning(incomplete, names)]


def _fields(ctx: click.Context, wanted: str) -> dict[str, Option]:
    """Fields of the experiment that the words so far describe, by dotted key, in the tables that may be wanted."""
    from bfn_toolkit.config.layers import SHORT
    from bfn_toolkit.registry.outline import Option, options_of_source

    chosen = _chosen(ctx)
    fields = {name: Option("str", name) for name in _TABLES} | {"seed": Option("int")}
    fields |= {name.replace("_", "-"): Option("") for name in SHORT}

    def add(key: str, options: Mapping[str, Option]) -> None:
        for name, option in options.items():
            fields[f"{key}.{name}"] = option
            if option.kind and key.count(".") < 2:
                add_part(f"{key}.{name}", option.kind)

    def add_part(key: str, kind: str) -> None:
        named = chosen.get(key)
        for part in _parts(kind):
            if named in (None, part.name):
                add(key, part.options)

    def is_wanted(table: str) -> bool:
        return len(wanted) > 0 and (table.startswith(wanted) or wanted.startswith(f"{table}."))

    if is_wanted("training"):
        add("training", options_of_source("bfn_toolkit.config.experiment", "Training"))
    for table in filter(is_wanted, _TABLES):
        add_part(table, table)
    return fields


def _chosen(ctx: click.Context) -> dict[str, str]:
    """Names of the parts that options, a file and a preset choose, by dotted key."""
    from bfn_toolkit.config.layers import Configuration, Node
    from bfn_toolkit.errors import BFNError

    configuration = Configuration()
    preset, config = ctx.params.get("preset"), ctx.params.get("config")
    before = ["", *ctx.args]
    paths = [w for b, w in zip(before, ctx.args, strict=False) if w[:1] != "-" and (b[:2] != "--" or "=" in b)]
    try:
        if not (preset or config or paths):
            configuration.add_preset("default")
        if preset:
            configuration.add_preset(preset)
        if config:
            configuration.add_file(Path(config))
    except BFNError:
        pass
    pairs = zip(ctx.args, ctx.args[1:], strict=False)
    configuration.add_options({(key[2:], value) for key, value in pairs if key.startswith("--") and "=" not in key})
    chosen: dict[str, str] = {}

    def walk(node: Node) -> None:
        value, key = node.value, ".".join(map(str, node.key))
        if isinstance(value, str):
            chosen[key.removesuffix(".name")] = str(value)
        elif isinstance(value, Mapping):
            for part in value.values():
                walk(part)

    walk(configuration.tree)
    return chosen


def _beginning(incomplete: str, names: Any) -> list[str]:
    """Different names with this beginning, in order."""
    return sorted({name for name in names if name.startswith(incomplete)})


@click.command(
    epilog="""\b
Examples; run one of them once, for all new shells:
  bfn completion bash > ~/.local/share/bash-completion/completions/bfn
  bfn completion zsh > "${fpath[1]}/_bfn"
  bfn completion fish > ~/.config/fish/completions/bfn.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a SHELL complete commands, options, fields, and names of components and runs."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    echo(found(ctx.find_root().command, {}, "bfn", "_BFN_COMPLETE").source(), nl=False)


@cache
def _parts(kind: str) -> Sequence[Outline]:
    from bfn_toolkit.registry.outline import outlines
    from bfn_toolkit.registry.registry import default_registry

    return [part for plugin in default_registry().plugins for part in outlines(plugin, [kind])]
