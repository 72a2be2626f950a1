"""Tensors in files: safetensors, of which everything is checked before anything as large as they say is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor

from bfn_toolkit.errors import NonFiniteError, RunDirectoryError
from bfn_toolkit.storage.files import MAX_JSON, parse_json

MAX_TENSORS = 100_000

State = Mapping[str, Tensor]


def cpu_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a state on the CPU, each with a memory of its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def dumps(state: State, *, finite: bool = True) -> bytes:
    """A safetensors file.

    Raises:
        NonFiniteError: If ``finite``, and a weight is not.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad and finite:
        raise NonFiniteError(f"weights that are not finite are not saved: {', '.join(bad[:5])}")
    return save_tensors(cpu_state(state))


def loads(
    content: bytes, path: Path, expected: State | None = None, *, allow_nonfinite: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file, after its header has been checked, and before anything is allocated.

    Arguments:
        content: The file.
        path: Its name, for messages.
        expected: Tensors of the names, shapes and dtypes that it must have.
        allow_nonfinite: Whether NaN and infinities may pass.
    Raises:
        RunDirectoryError: If it is no such file, or does not fit.
    """
    header = header_of(content, path)
    if expected is not None:
        check_fit(path, shape_mismatches(expected, header))
    try:
        state: dict[str, Tensor] = load_tensors(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise RunDirectoryError(f"{path} is not a safetensors file: {error}") from None
    if expected is not None and not allow_nonfinite:
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        bad = {name: int((~torch.isfinite(value)).sum()) for name, value in floating.items()}
        check_fit(path, [f"{name}: {n} values are not finite (see --allow-nonfinite)" for name, n in bad.items() if n])
    return state


def check_header(content: bytes, path: Path, expected: State) -> None:
    """Checks the header of a safetensors file alone; ``expected`` may be tensors without memory.

    Raises:
        RunDirectoryError: If it is no such file, or does not fit.
    """
    check_fit(path, shape_mismatches(expected, header_of(content, path)))


def shape_mismatches(expected: State, found: Mapping[str, tuple[Any, tuple[int, ...]]]) -> list[str]:
    """What differs between tensors and the dtypes and shapes that were found, a line for each."""
    wrong = [f"{name}: missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name}: unknown" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        want, (dtype, shape) = expected[name], found[name]
        if tuple(want.shape) != shape or dtype != want.dtype:
            wrong.append(f"{name}: {dtype} {shape}, expected {want.dtype} {tuple(want.shape)}")
    return wrong


def check_fit(path: Path, wrong: list[str]) -> None:
    """Raises what is wrong with a file, the first five.

    Raises:
        RunDirectoryError: If anything is.
    """
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise RunDirectoryError(f"{path} does not fit the network: {'; '.join(sorted(wrong)[:5])}{more}")


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def header_of(content: bytes, path: Path) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Dtype and shape of each tensor of a safetensors file."""

    def refuse(why: str) -> RunDirectoryError:
        pickled = content[:4] == b"PK\x03\x04" or content[:2] == b"\x80\x02"
        hint = "; it looks like a pickle: bfn import-checkpoint reads those, and executes nothing" if pickled else ""
        return RunDirectoryError(f"{path} is not a safetensors file: {why}{hint}")

    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MAX_JSON, len(content) - 8):
        raise refuse("its header does not fit")
    try:
        many = content.count(b"{", 8, 8 + length) > MAX_TENSORS + 2  # told before they are read, which takes seconds
        header = None if many else parse_json(content[8 : 8 + length])
        if not isinstance(header, dict):
            raise refuse(f"its header is no table of at most {MAX_TENSORS:,} tensors")
        header.pop("__metadata__", None)
        return {
            name: (_DTYPES.get(dtype := str(entry["dtype"]), dtype), tuple(map(int, entry["shape"])))
            for name, entry in header.items()
        }
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise refuse(f"its header is malformed ({error})") from None
