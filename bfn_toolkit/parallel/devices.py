"""Device and precision of a job, and the engine that spreads it over processes (accelerate)."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from bfn_toolkit.errors import ConfigError, ResourceError
from bfn_toolkit.parallel import environment, processes
from bfn_toolkit.validators import not_one_of

if TYPE_CHECKING:
    from accelerate import Accelerator

WAITING = 10.0  # seconds for other processes, after which a process says that it waits for them
_making = threading.Lock()  # accelerate reads the environment and keeps a state, both of the whole process


class Wishes(Protocol):
    """Options of a job that decide where it runs: those of ``training`` in an experiment."""

    @property
    def device(self) -> str:
        """Name of the device."""

    @property
    def precision(self) -> str:
        """Precision of the network: "fp32", "bf16" or "fp16"."""

    @property
    def parallel(self) -> str:
        """Placement of the weights: "ddp" or "fsdp"."""

    @property
    def timeout(self) -> float:
        """Seconds that processes wait for each other."""

    @property
    def trackers(self) -> Sequence[str]:
        """Experiment trackers of accelerate."""


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first CUDA device, or else the CPU.

    Raises:
        ResourceError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    found += ["mps"] * torch.backends.mps.is_available()
    if device.type not in {f.split(":")[0] for f in found} or (device.index is not None and name not in found):
        raise ResourceError(f"there is no device '{name}'; found: {', '.join(found)}; write one of these, or auto")
    return device


def make_accelerator(training: Wishes, folder: Path | None = None) -> Accelerator:
    """The engine for this job.  Under torchrun it joins the group of processes, each on a device of its own.

    Arguments:
        training: Options of the job.
        folder: Folder for experiment trackers that write files.

    Raises:
        ConfigError: If the device is one that several processes cannot share.
        ResourceError: If the device is missing, or cannot compute in the precision.
    """
    place, (_, size) = resolve_device(training.device), environment.place()
    several = size > 1
    if several and place.index is not None:
        raise ConfigError(f'training.device: {training.device} is one device, for several processes; write "cuda"')
    if training.precision == "fp16" and place.type != "cuda":
        raise ResourceError(f'training.precision: fp16 needs a CUDA device, found {place.type}; use "bf16"')
    sharded = training.parallel == "fsdp"
    if sharded and not several:
        raise ConfigError('training.parallel: "fsdp" shards the weights over processes; start several: --processes 2')
    _check_trackers(training.trackers)
    if said := environment.ignored():
        processes.warn(said)
    own = {} if several else {"ACCELERATE_TORCH_DEVICE": str(place)}
    with _making, environment.own_variables(**own), _told_of_waiting(size), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm in a notebook, which accelerate only imports
        from accelerate import Accelerator, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState

        # accelerate keeps one state for all jobs of a process; each job gets a copy of its own.
        AcceleratorState._reset_state(reset_partial_state=processes.world_size() == 1)
        accelerator = Accelerator(
            cpu=place.type == "cpu",
            mixed_precision={"fp32": "no"}.get(training.precision, training.precision),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=training.timeout))],
            log_with=list(training.trackers) or None,
            project_dir=None if folder is None else str(folder),
            fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=False) if sharded else None,
        )
        for state in (accelerator.state, accelerator.gradient_state):
            state.__dict__ = dict(state.__dict__)
    return accelerator


@contextmanager
def _told_of_waiting(size: int) -> Iterator[threading.Timer]:
    """Scope that says what this process waits for, if it takes long to meet the others of its job."""

    def tell() -> None:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        with suppress(Exception):  # as where a warning is an error
            processes.warn(f"waiting at {where} for {size - 1} other processes; to work alone: unset WORLD_SIZE")

    timer = threading.Timer(WAITING, tell)
    timer.daemon = True
    if size > 1:
        timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def _check_trackers(names: Sequence[str]) -> None:
    if not names:
        return
    from accelerate.tracking import LoggerType, get_available_trackers

    known = [str(name) for name in LoggerType.list() if str(name) != "all"]
    for name in names:
        if name not in known:
            raise ConfigError(f"training.trackers: {not_one_of(name, known)}")
        if name not in map(str, get_available_trackers()):
            raise ResourceError(f"training.trackers: {name} is not installed; write: pip install {name}")
