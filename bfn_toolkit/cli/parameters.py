"""How the command line reads its options: strictly, as configurations are read."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import click


class Integer(click.IntRange):
    """Integers in a range, in the digits 0 to 9: ``int`` would take 1_0, and the digits of other scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The integer."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,30}", value):
            self.fail(f"{value!r} is not a valid integer.", param, ctx)
        return super().convert(value, param, ctx)


class PathType(click.ParamType[Any]):
    """Paths that the system could have: not empty, as one from a variable that is not set, and not too long."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        if not str(value):
            self.fail("expected a path, got nothing.", param, ctx)
        try:
            os.lstat(value)
        except ValueError:
            self.fail(f"expected a path, got {str(value)[:40]!r} with a NUL character.", param, ctx)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                self.fail(f"{str(value)[:40]!r}... of {len(str(value))} characters is too long a path.", param, ctx)
        return Path(value)


class Command(click.Command):
    """A command of which no option is given twice, where only one of its values would count."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments as click does.

        Raises:
            UsageError: If an option is given twice.
        """
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for param in order:
            if isinstance(param, click.Option) and order.count(param) > 1 and not (param.multiple or param.is_flag):
                raise click.UsageError(f"{param.opts[-1]}: given twice", ctx)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """Commands of this kind."""

    command_class = Command


PATH, POSITIVE, SEED = PathType(), Integer(min=1), Integer(min=0, max=2**63 - 1)
