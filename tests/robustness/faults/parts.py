"""Parts that fail when they are told to: a plugin (``faults``), for this process and for those that it starts."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from bfn_toolkit import (
    ArrayRows,
    Batch,
    ContinuousTimeLoss,
    Dataset,
    Entry,
    Loss,
    NetworkBuilder,
    NetworkIO,
    Rows,
    Split,
    hookimpl,
    seeded,
)
from bfn_toolkit.registry.registry import default_registry


@attrs.frozen(slots=False)
class FaultyLoss(Loss):
    """The continuous-time loss, until a step.

    Arguments:
        fault: What happens then: NaN in the "data", the "output of the network", the "loss" or the "gradient"; or this
            process may "raise", "kill" itself, "hang", or send itself a "signal".
        step: Which step of training, or which call without gradients where ``training`` is false.
        rank: The process to which it happens; -1 for all.
        row: Row of the batch with the NaN.
        training: Whether steps of training are meant.
        number: The signal.
    """

    fault: str = "none"
    step: int = 1
    rank: int = -1
    row: int = 0
    training: bool = True
    number: int = int(signal.SIGTERM)

    def __call__(self, model: Any, x: Tensor, condition: Any = None) -> Tensor:
        counted = torch.is_grad_enabled() == self.training
        self.__dict__["calls"] = calls = self.__dict__.get("calls", 0) + counted
        mine = self.rank in (-1, int(os.environ.get("RANK", "0")))
        due = counted and mine and (calls >= self.step if self._is_nan else calls == self.step)
        if due and not self._is_nan:
            self._happen()
        if due and self.fault == "data":
            x[self.row] = math.nan
        with self._nan_output(model.network) if due and self.fault == "output of the network" else nullcontext():
            losses = ContinuousTimeLoss("unit")(model, x, condition)
        if due and self.fault == "loss":
            losses = losses * self._mask(losses)
        if due and self.fault == "gradient":
            losses.register_hook(lambda gradient: gradient * math.nan)
        return losses

    @property
    def _is_nan(self) -> bool:
        return self.fault in ("data", "output of the network", "loss", "gradient")

    def _mask(self, like: Tensor) -> Tensor:
        mask = torch.ones_like(like)
        mask[self.row] = math.nan
        return mask

    @contextmanager
    def _nan_output(self, network: nn.Module) -> Iterator[None]:
        hook = network.register_forward_hook(lambda _, __, raw: raw * self._mask(raw), prepend=True)
        try:
            yield
        finally:
            hook.remove()

    def _happen(self) -> None:
        if self.fault == "raise":
            raise ZeroDivisionError("injected")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "signal":
            os.kill(os.getpid(), self.number)
        elif self.fault == "hang":
            time.sleep(600)


@attrs.frozen
class Hungry(NetworkBuilder):
    """A network that has no memory for more than so many rows at once, as torch's allocator of the CPU says it.

    Arguments:
        network: The network.
        rows: Rows that fit.
        rank: The process with so little memory; -1 for all.
    """

    network: NetworkBuilder
    rows: int = 2**31
    rank: int = -1

    def build(self, io: NetworkIO) -> nn.Module:
        inner, hungry = self.network.build(io), self

        class Module(nn.Module):
            def __init__(module) -> None:  # noqa: N805
                super().__init__()
                module.inner, module.refusals, module.most = inner, 0, 0

            def forward(module, features: Tensor, t: Tensor, **condition: Tensor) -> Any:  # noqa: N805
                mine = hungry.rank in (-1, int(os.environ.get("RANK", "0")))
                if mine and len(features) > hungry.rows:
                    module.refusals += 1
                    raise RuntimeError(
                        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                        "tried to allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
                    )
                module.most = max(module.most, len(features))
                return module.inner(features, t, **condition)

        return Module()


@attrs.frozen
class OwnRows(Dataset):
    """Rows that are drawn from a seed; of each process its own, where ``apart``.

    Arguments:
        n: Number of rows.
        apart: Whether processes have different rows, which is a mistake.
    """

    n: int = 60
    apart: bool = False

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (1,)

    @property
    def metadata(self) -> Mapping[str, object]:
        return {"site_shape": (1,)}

    def split(self, name: Split) -> Batch:
        with seeded(int(os.environ.get("RANK", "0")) if self.apart else 0, name):
            return Batch(torch.rand(self.n, 1) - 0.5)


@attrs.frozen
class StoredRows(Dataset):
    """Bytes (n, 4) in a memory-mapped file: every fourth row for validation, and each row reversed at random."""

    path: str = "x.npy"

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (4,)

    def rows(self, name: Split) -> Rows:
        x = np.load(self.path, mmap_mode="r")
        numbers = torch.arange(len(x))
        held_out = numbers % 4 == 3
        return ArrayRows(x, index=numbers if name == "all" else numbers[~held_out if name == "train" else held_out])

    def prepare(self, batch: Batch) -> Batch:
        x = batch.x.float() / 127.5 - 1.0
        backwards = torch.rand(len(x), 1, device=x.device) < 0.5
        return attrs.evolve(batch, x=torch.where(backwards, x.flip(1), x))


@hookimpl
def bfn_losses() -> Sequence[Entry]:
    """The loss."""
    return [Entry("faulty", FaultyLoss, (FaultyLoss(),))]


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data sets."""
    return [Entry("own-rows", OwnRows, (OwnRows(),)), Entry("stored-rows", StoredRows)]


def register() -> None:
    """Makes the parts known to this process, once."""
    registry = default_registry()
    if not any(entry.name == "faulty" for entry in registry.entries()):
        import faults.parts

        registry.register(faults.parts)
