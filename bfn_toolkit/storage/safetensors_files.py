"""Tensors in safetensors files; no file is trusted when it is read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor
from torch.nn.parameter import is_lazy

from bfn_toolkit.errors import ConfigError, NonFiniteError, RunDirectoryError
from bfn_toolkit.untrusted import tensors_header

State = Mapping[str, Tensor]


def cpu_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the tensors of a state on the CPU, each in its own memory."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def check_savable(state: State) -> None:
    """Checks, before a training, that a state can be written and read again.

    Raises:
        ConfigError: If a tensor has no shape or no memory yet, is not dense, has a dtype or a name that safetensors
            does not hold, or has several numbers in one place.
    """
    for name, value in state.items():
        shown = ascii(name)[1:-1][:200]
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"network: its state has a {type(value).__name__} ({shown}), and only tensors are saved; write numbers "
                "as a buffer in place of get_extra_state"
            )
        if name == "__metadata__" or (not name.isascii() and _has_surrogates(name)):
            raise ConfigError(f"network: a tensor cannot be saved under the name {shown!r}; give it another name")
        if is_lazy(value):
            raise ConfigError(
                f"network: {name} is of a lazy layer, which has no weights before its first call, so they cannot be "
                "saved or loaded; write nn.Linear(in_features, out_features) in place of nn.LazyLinear(out_features)"
            )
        if value.layout == torch.strided and _is_expanded(value):
            raise ConfigError(
                f"network: {name} is an expanded tensor, which has several numbers in one place of memory, so it can "
                "neither be trained nor loaded; write .clone() behind .expand(...)"
            )
        if value.layout != torch.strided or not _comes_back(value.dtype):
            raise ConfigError(
                f"network: {name} is {value.dtype} ({value.layout}), which a safetensors file does not hold; "
                "write it as a dense tensor of float32, int64 or another of its dtypes"
            )


def _is_expanded(value: Tensor) -> bool:
    return any(n > 1 and stride == 0 for n, stride in zip(value.shape, value.stride(), strict=True))


def _has_surrogates(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)


@cache
def _comes_back(dtype: torch.dtype) -> bool:
    """Whether safetensors reads what it writes: version 0.8 writes float8_e8m0fnu, and cannot read it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of experimental and deprecated dtypes
            return load_tensors(save_tensors({"x": torch.empty(2, dtype=dtype)}))["x"].dtype == dtype
    except (LookupError, NotImplementedError, RuntimeError, SafetensorError, TypeError, ValueError):
        return False


def dumps(state: State, *, finite: bool = True) -> bytes:
    """Content of a safetensors file.

    Raises:
        ConfigError: If it could not be read again (:func:`check_savable`).
        NonFiniteError: If ``finite``, and a weight is NaN or infinite.
    """
    check_savable(state)
    bad = [name for name, value in state.items() if count_nonfinite(value)] if finite else []
    if bad:
        raise NonFiniteError(f"weights that are not finite are not saved: {', '.join(bad[:5])}")
    return save_tensors(cpu_state(state))


def count_nonfinite(value: Tensor) -> int:
    """Number of entries of a tensor that are NaN or infinite."""
    value = value.float() if value.is_floating_point() and value.itemsize == 1 else value  # no isfinite of float8
    return int((~torch.isfinite(value)).sum())


def loads(
    content: bytes, path: Path, expected: State | None = None, *, allow_nonfinite: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    They take no more memory than the file, because safetensors checks the claims of its header.

    Arguments:
        content: The file.
        path: Name of the file, for messages.
        expected: Tensors with the expected names, shapes and dtypes; they may be on the meta device.
        allow_nonfinite: Whether to accept NaN and infinities.
    Raises:
        RunDirectoryError: If it is not such a file, or does not fit.
    """
    try:
        tensors_header(io.BytesIO(content), len(content))
        state: dict[str, Tensor] = load_tensors(content)
    except (
        ArithmeticError,
        LookupError,
        RecursionError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        pickled = content[:4] == b"PK\x03\x04" or content[:2] == b"\x80\x02"
        hint = "; it looks like a pickle: bfn import-checkpoint reads those without executing them" if pickled else ""
        raise RunDirectoryError(f"{path} is not a safetensors file: {str(error)[:200]}{hint}") from None
    if expected is not None:
        check_fit(path, shape_mismatches(expected, state))
    if expected is not None and not allow_nonfinite:
        bad = {name: count_nonfinite(value) for name, value in state.items()}
        check_fit(path, [f"{name}: {n} values are not finite (see --allow-nonfinite)" for name, n in bad.items() if n])
    return state


def shape_mismatches(expected: State, found: State) -> list[str]:
    """A line for each tensor that is missing, unknown, or of another dtype or shape than expected.

    Raises:
        ConfigError: If an expected tensor has no shape, as in a lazy layer, or could not be in a file.
    """
    check_savable(expected)
    wrong = [f"{name}: missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name}: unknown" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if want.shape != have.shape or want.dtype != have.dtype:
            wrong.append(f"{name}: {have.dtype} {tuple(have.shape)}, expected {want.dtype} {tuple(want.shape)}")
    return wrong


def check_fit(path: Path, wrong: list[str]) -> None:
    """Raises an error with the first five mismatches of a file, if there are any.

    Raises:
        RunDirectoryError: If there are any.
    """
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise RunDirectoryError(f"{path} does not fit the network: {'; '.join(sorted(wrong)[:5])}{more}")
