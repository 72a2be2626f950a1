"""Where numbers come from: machine, versions, plugins and data, as runs and models record them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit import processes
from bfn_toolkit.datasets import Batch
from bfn_toolkit.experiment import Experiment
from bfn_toolkit.fields import parts_of
from bfn_toolkit.registry import Registry, default_registry
from bfn_toolkit.shapes import Data, leaves

SAMPLE = 2**20  # rows of data that are looked at, at equal distances, where there are more


def environment(device: torch.device) -> dict[str, Any]:
    """What the bits of a result depend on besides the experiment."""
    return {
        "bfn-toolkit": version("bfn-toolkit"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two environments, in words."""
    return [f"{key}: {before.get(key)} then, {now.get(key)} now" for key in now if before.get(key) != now[key]]


def providers(experiment: Experiment, registry: Registry | None = None) -> dict[str, dict[str, str]]:
    """Who provides each part of an experiment: name, distribution and version by the part's key.

    Raises:
        ConfigError: If a part has no name in the registry.
    """
    return {
        key: {"name": part.name, "distribution": part.distribution, "version": part.version}
        for key, part in parts_of(experiment, registry or default_registry())
    }


def fingerprint(*batches: Batch) -> str:
    """A digest of data: of all of them, or of about a million rows where there are more."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, tensor in [("x", batch.x), *sorted(batch.condition.items())]:
            for leaf in _named(name, tensor):
                digest.update(leaf)
    return digest.hexdigest()


def _named(name: str, x: Data) -> Iterator[bytes]:
    for tensor in leaves(x):
        rows: Tensor = tensor[:: max(1, len(tensor) // SAMPLE)].detach().cpu().contiguous()
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield rows.view(torch.uint8).numpy().tobytes() if rows.ndim else b""
