"""Networks of experiments that are not trusted: none is built before its size is compared with that of its weights.

A line such as ``width = 100000`` is short, and its network takes gigabytes; ``depth = 1000000`` takes minutes.  So a
network is first built on the meta device, where tensors take no memory, and only as far as the weights in a file reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from bfn_toolkit.errors import BFNError, RunDirectoryError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs.checkpoints import CHECKPOINTS
from bfn_toolkit.runs.model_files import WEIGHTS
from bfn_toolkit.self_conditioning import estimate_io
from bfn_toolkit.storage.files import NEXT, shown_size
from bfn_toolkit.untrusted import open_regular, tensors_header

TIMES = 4  # by which a network may be larger than its weights while it is built, as weights may be made twice
SPARE_BYTES, SPARE_TENSORS = 2**27, 2000  # beyond that: buffers that are not saved, such as masks
MODULES = 16  # for each tensor


@attrs.frozen
class Size:
    """Size of the weights in a file.

    Arguments:
        path: The file.
        size: Number of bytes of its tensors.
        tensors: Their number.
    """

    path: Path
    size: int
    tensors: int

    @classmethod
    def of(cls, path: Path) -> Size | None:
        """The size in the header of a safetensors file; None if it cannot be read, which loading reports."""
        try:
            with open_regular(path, follow=False) as file:
                size = path.stat().st_size
                table = tensors_header(file, size)
        except (OSError, ValueError, RecursionError):
            return None
        return cls(path, size, len(table))


def saved_sizes(run: Path) -> list[Size]:
    """Sizes of the weights in a run directory: of its model and of its checkpoints."""
    files = [run / WEIGHTS, run / f"{NEXT}{WEIGHTS}", *sorted(run.glob(f"{CHECKPOINTS}/*/weights.safetensors"))]
    return [size for size in map(Size.of, files) if size is not None]


def build(family: Any, builder: Any, within: Sequence[Size] | None = None, device: str = "cpu") -> nn.Module:
    """The network of a builder for a family, with fresh weights; it draws nothing from the caller's generator.

    Arguments:
        family: The family.
        builder: The builder of the network.
        within: Sizes of weights, of the largest of which it may be; None if it is trusted.
        device: Device of the network.
    Raises:
        RunDirectoryError: If it is larger, or cannot be built.
    """
    io = estimate_io(family) if builder.self_conditioning else family.network_io

    def made(device: str) -> nn.Module:
        with seeded(0, "weights"), torch.device(device):
            network: nn.Module = builder.build(io)
        return network

    if within is None:
        return made(device)
    largest = max(within, key=lambda one: one.size, default=Size(Path(WEIGHTS), 0, 0))
    with _limited(largest):
        try:
            network = made("meta")
        except BFNError:
            raise
        except Exception:  # a network may compute while it is built, which fails on the meta device
            network = None
        if network is not None and device == "meta":
            return network
        try:
            return made("cpu").to(device) if device == "meta" else made(device)
        except BFNError:
            raise
        except Exception as error:
            raise RunDirectoryError(
                f"{largest.path}: its network cannot be built: {type(error).__name__}: {error}"
            ) from error


@contextmanager
def _limited(file: Size) -> Iterator[None]:
    """Scope in which modules get no more tensors than the weights in a file have, and some to spare."""
    most = {"size": TIMES * file.size + SPARE_BYTES, "tensors": TIMES * file.tensors + SPARE_TENSORS}
    most["modules"] = MODULES * most["tensors"]
    found = dict.fromkeys(most, 0)

    def take(what: str, number: int) -> None:
        found[what] += number
        if found[what] > most[what]:
            raise RunDirectoryError(
                f"{file.path} holds {file.tensors:,} tensors, {shown_size(file.size)} in all, and the network that is "
                f"described beside it has at least {found['tensors']:,} tensors, {shown_size(found['size'])}, in "
                f"{found['modules']:,} modules: the description is not that of these weights"
            )

    def tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is not None and not nn.parameter.is_lazy(value):
            take("tensors", 1)
            take("size", value.numel() * value.element_size())

    hooks = (
        register_module_parameter_registration_hook(tensor),
        register_module_buffer_registration_hook(tensor),
        register_module_module_registration_hook(lambda *_: take("modules", 1)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
