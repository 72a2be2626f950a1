"""Errors that a user can cause, each with its exit status on the command line.

Every message says what was expected, what was found and, if possible, the line to write instead.
Any other exception is a bug of the toolkit (exit status 70).

====== ===================================== =======================
status meaning                               class
====== ===================================== =======================
2      usage or configuration                :class:`ConfigError`
3      data                                  :class:`DataError`
4      run directory or model file           :class:`RunDirectoryError`
5      plugin                                :class:`PluginError`
6      non-finite numbers                    :class:`NonFiniteError`
6      processes with different numbers      :class:`OutOfStepError`
7      resources (device, disk, permission)  :class:`ResourceError`
====== ===================================== =======================
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BFNError(Exception):
    """Root of the errors that bfn-toolkit raises on purpose."""

    exit_status = 2


class BFNWarning(UserWarning):
    """A warning for the user; the work continues."""


class ConfigError(BFNError, ValueError):
    """A value in a configuration, an option or an argument is wrong."""


class StepCountError(ConfigError):
    """The family does not allow this number of steps."""


class UnknownPlugin(ConfigError):  # noqa: N818 - the name that the documentation uses
    """No plugin of this kind has this name."""


class DataError(BFNError, ValueError):
    """The data are empty, malformed or outside the domain of the family."""

    exit_status = 3


class RunDirectoryError(BFNError):
    """A run directory or a model file is missing, damaged or not what it claims to be."""

    exit_status = 4


class PluginError(BFNError):
    """A plugin could not be loaded, or broke the contract of its interface."""

    exit_status = 5


class NonFiniteError(BFNError, ArithmeticError):
    """A loss, a gradient or a weight is NaN or infinite."""

    exit_status = 6


class OutOfStepError(BFNError):
    """The processes of a job do not hold the same numbers."""

    exit_status = 6


class ResourceError(BFNError):
    """A device, disk space or a permission is missing."""

    exit_status = 7


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'nearest'?" (with its leading blank), or "" if no known name is close."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
