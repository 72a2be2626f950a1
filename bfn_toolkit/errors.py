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

import errno
import re
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""The text with escapes (``\x1b``, ``\u202e``) for all that a terminal would obey or hide, but line ends and tabs.

    Names of columns, classes and files, and texts in files, come from strangers.
    """
    return text if _PLAIN.fullmatch(text) else "".join(map(_shown, text))


_PLAIN = re.compile(r"[ -~\n\t]*")


def _shown(character: str) -> str:
    plain = character in "\n\t" or character.isprintable()
    return character if plain else character.encode("unicode_escape").decode()


class BFNError(Exception):
    """Root of the errors that bfn-toolkit raises on purpose."""

    exit_status = 2

    def __str__(self) -> str:
        return printable(super().__str__())


class BFNWarning(UserWarning):
    """A warning for the user; the work continues."""

    def __str__(self) -> str:
        return printable(super().__str__())


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


_NO_MEMORY = (
    "out of memory",  # CUDA, HIP, XPU and MPS
    "DefaultCPUAllocator",
    "bad_alloc",
    "Cannot allocate memory",
    "Invalid buffer size",  # MPS
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "Storage size calculation overflowed",
    "can't start new thread",
    "failed to map segment",  # of a library
)
_SHORT = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or a thread's share of it, is missing."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (RuntimeError, ImportError)) and any(sign in str(error) for sign in _NO_MEMORY)


def out_of_memory(error: BaseException, where: str, advice: str) -> ResourceError:
    """The toolkit's error for one that :func:`is_out_of_memory`, with its first line."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ResourceError(f"out of memory {where}: {reason}; {advice}")


def shortage(error: BaseException) -> ResourceError | None:
    """The toolkit's error for memory, disk space or files that are used up wherever that is noticed; else None."""
    if is_out_of_memory(error):
        return out_of_memory(error, "in this command", "ask for less at a time, or use a machine with more memory")
    if isinstance(error, OSError) and error.errno in _SHORT:
        return ResourceError(f"{error}; free some space, or write elsewhere")
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'nearest'?" (with its leading blank), or "" if no known name is close."""
    close = nearest(name, known)
    return f" Did you mean '{close}'?" if close is not None else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: one with a slip of the fingers, or one of which ``name`` is a word.

    A short name must be nearly right ("gpu" is not "cpu"), because few slips turn any short name into any other.
    """
    wanted = _plain(name)
    if not 1 < len(wanted) <= 100:
        return None
    found = ((_distance(wanted, _plain(other)), other) for other in known)
    alike = [(far, other[:1] != name[:1], other) for far, other in found if far is not None]
    return min(alike)[2] if alike else None


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")


def _distance(name: str, other: str) -> float | None:
    """Number of slips between two names, or more if one is a word of the other; None if they are not alike."""
    shortest, longest = sorted((len(name), len(other)))
    most = (shortest + 2) // 4 if shortest > 1 else -1
    slips = _slips(name, other, most)
    same_start = name[:1] == other[:1] or name[:2] == other[1::-1] or name == other[1:]
    same_letters = set(name) == set(other) or len(name) != len(other)
    if slips <= most and (same_start or (slips == 1 and longest > 5)) and (same_letters or longest > 3):
        return slips
    is_word = len(name) > 2 and (other.startswith(name) or name in re.split(r"[-:.]", other))
    return most + longest if is_word else None


def _slips(name: str, other: str, most: int) -> int:
    """Number of letters to add, drop, replace or swap with the next; ``most + 1`` stands for all larger ones."""
    if abs(len(name) - len(other)) > most:
        return most + 1
    before, row = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, letter in enumerate(name, 1):
        above, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            best = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and name[i - 2] == wanted:
                best = min(best, above[j - 2] + 1)
            row.append(best)
        if min(*row, *before) > most:
            break
    return min(row[-1], most + 1) if len(row) == len(other) + 1 and i == len(name) else most + 1
