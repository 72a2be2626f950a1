"""``python -m benchmarks.memory``: the largest resident memory of a training, of its own and with the data on disk.

The file is sparse, so it takes no space on disk; what is read of it passes through memory as that of any file does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.lib.format import open_memmap

from bfn_gaussian import Gaussian
from bfn_mlp import MLP
from bfn_toolkit import ArrayRows, Batch, ContinuousTimeLoss, Dataset, Experiment, Rows, Split, Training, train

GIGA, NUMBERS = 2**30, 3072  # bytes; and those of an image of 3 x 32 x 32


@attrs.frozen(eq=False)
class Bytes(Dataset):
    """Rows of bytes, of which every tenth is held out."""

    x: Any

    @property
    def site_shape(self) -> tuple[int, ...]:
        return (NUMBERS,)

    def rows(self, name: Split) -> Rows:
        numbers = torch.arange(len(self.x), dtype=torch.int32)
        return ArrayRows(self.x, index=numbers[numbers % 10 > 0] if name == "train" else numbers[::10])

    def prepare(self, batch: Batch) -> Batch:
        return attrs.evolve(batch, x=batch.x.float() / 127.5 - 1.0)


def resident(reset: bool = False) -> int:
    """Largest resident memory of this process in bytes, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def trained(x: Any, steps: int) -> int:
    """Largest resident memory of a training on these rows."""
    resident(reset=True)
    training = Training(steps=steps, batch_size=64, validate_every=0, device="cpu")
    train(Experiment(Bytes(x), Gaussian((NUMBERS,)), MLP(width=8), ContinuousTimeLoss(), training))
    return resident()


def measured(mapped: float, held: float) -> dict[str, float]:
    """Resident memory of trainings, measured in a fresh interpreter.

    Arguments:
        mapped: Gigabytes of a memory map.
        held: Gigabytes of data in memory.
    Returns:
        ``process``, that of a training on the map, in gigabytes; ``mapped`` and ``held``, what is beyond that of a
        small training, as multiples of the data as they are stored.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--mapped", str(mapped), "--held", str(held)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--mapped", type=float, default=10.0, help="gigabytes of a memory map")
    parser.add_argument("--held", type=float, default=0.5, help="gigabytes in memory")
    parser.add_argument("--steps", type=int, default=200, help="steps of each training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = trained(torch.zeros(1000, NUMBERS, dtype=torch.uint8), options.steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        open_memmap(path, mode="w+", dtype=np.uint8, shape=(int(options.mapped * GIGA) // NUMBERS, NUMBERS)).flush()
        x: Any = np.load(path, mmap_mode="r")
        process = trained(x, options.steps)
        mapped = (process - small) / x.nbytes
    x = torch.ones(int(options.held * GIGA) // NUMBERS, NUMBERS, dtype=torch.uint8)
    held = (trained(x, options.steps) - small) / x.nbytes
    print(json.dumps({"process": process / GIGA, "mapped": mapped, "held": held}))


if __name__ == "__main__":
    main()
