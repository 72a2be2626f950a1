"""Options of an experiment on the command line, and the file among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bfn_toolkit.errors import ConfigError


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Dotted keys and values from ``--network.width 256`` or ``--network.width=256``.

    Raises:
        ConfigError: If a value is missing or an argument is no option.
    """
    overrides, rest = [], list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise ConfigError(f"unexpected argument '{token}'; options are written --network.width 256")
        key, equals, value = token[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value")
            value = rest.pop(0)
        overrides.append((key, value))
    return overrides


def file_and_options(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The one word that is neither an option of the experiment nor the value of one, and the other words."""
    i = 0
    while i < len(words) and words[i].startswith("--"):
        i += 1 if "=" in words[i] else 2
    if i >= len(words):
        raise ConfigError("name the file to import: bfn import-checkpoint FILE --out RUN")
    return Path(words[i]), [*words[:i], *words[i + 1 :]]
