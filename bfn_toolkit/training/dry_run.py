"""Dry runs: the size of a training, measured in a few steps that leave nothing behind."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.loader import batches
from bfn_toolkit.data.rows import sent
from bfn_toolkit.errors import is_out_of_memory, out_of_memory
from bfn_toolkit.training.step import TrainStep
from bfn_toolkit.training.trainer import prepared

BRIEF = 0.25  # seconds; after a shorter step, one of twice the rows follows, for a better estimate


@attrs.frozen
class DryRun:
    """Measurements of a training.

    Arguments:
        parameters: Number of trainable parameters.
        weights: Bytes of the weights and buffers.
        gradients: Bytes of the gradients.
        optimizer: Bytes of the optimiser's state.
        average: Bytes of the moving average of the weights.
        peak: Largest memory so far, in bytes: that of the process, or on a GPU what torch has allocated there.
        device: Name of the device.
        rows: Number of rows of the step that was timed.
        seconds: Its time.
        batch: Number of rows of a step of the training.
        steps: Number of steps of the training.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    peak: int
    device: str
    rows: int
    seconds: float
    batch: int
    steps: int

    @property
    def total_seconds(self) -> float:
        """Estimate of the time of all steps, which counts the time of a row as the same in a larger batch."""
        return self.steps * self.seconds * self.batch / self.rows


def dry_run(experiment: Experiment) -> DryRun:
    """Prepares a training in memory and measures an optimiser step.

    The first step, of one row, is slower than others, so that one of two rows follows; and while a step takes less than
    a quarter of a second, one of twice as many rows, up to the batch of the training.

    Raises:
        ConfigError, DataError, NonFiniteError, ResourceError: As :func:`~bfn_toolkit.train`.
    """
    step, data = prepared(experiment)
    training, device = experiment.training, step.device
    batch = min(training.batch_size, len(data))
    rows, seconds, number = min(training.accumulate, batch), 0.0, 0
    while True:
        number += 1
        few = sent(next(batches(data, rows, seed=experiment.seed)), device)
        try:
            seconds = _timed(step, few, number)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if number == 1:
                raise out_of_memory(error, f"in a step of {rows} rows", step.memory_advice(batch)) from error
            rows //= 2
            break
        if number > 1 and (seconds > BRIEF or rows == batch):
            break
        rows = min(2 * rows, batch)
    average = [] if step.ema is None else _tensors(step.ema.module)
    state = (value for values in step.optimizer.state.values() for value in values.values())
    return DryRun(
        sum(parameter.numel() for parameter in step.parameters),
        _bytes(_tensors(step.unwrapped)),
        _bytes(p.grad for p in step.parameters if p.grad is not None),
        _bytes(value for value in state if isinstance(value, Tensor)),
        _bytes(average),
        _peak(device),
        str(device),
        rows,
        seconds,
        batch,
        training.steps,
    )


def _timed(step: TrainStep, batch: Batch, number: int) -> float:
    start = time.perf_counter()
    loss, _ = step.step(batch, number)
    loss.item()  # waits for the device
    return time.perf_counter() - start


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage would count the parent's memory too
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        return 1024 * int(found[1]) if found else 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
