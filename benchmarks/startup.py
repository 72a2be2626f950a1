"""Start-up: CPU time of fresh interpreters, and what they import."""

from __future__ import annotations

import resource
import subprocess
import sys

COMMANDS: dict[str, tuple[str, ...]] = {
    "pass": ("-c", "pass"),
    "--help": ("-m", "bfn_toolkit", "--help"),
    "--version": ("-m", "bfn_toolkit", "--version"),
}
IMPORTS: dict[str, tuple[str, ...]] = {
    "torch": ("-c", "import torch"),
    "bfn_toolkit": ("-c", "import bfn_toolkit"),
    # The names are loaded on first use; these two need all that a training step needs.
    "in use": ("-c", "from bfn_toolkit import BFN, train; from bfn_gaussian import Gaussian"),
}
UNWANTED = ("matplotlib", "torch._dynamo", "sklearn")

LOSS_AND_SAMPLE = """
import torch
from bfn_toolkit import BFN, ContinuousTimeLoss
from bfn_gaussian import Gaussian
from bfn_siren import Siren
model = BFN(Gaussian(), Siren(width=8))
ContinuousTimeLoss()(model, torch.zeros(4, 1)).mean().backward()
model.sample(2, n_steps=2)
"""
TRAINING_STEP = """
import torch
from bfn_toolkit import BFN, Batch, ContinuousTimeLoss
from bfn_toolkit.config.experiment import Training
from bfn_toolkit.training.trainer import TrainStep
from bfn_gaussian import Gaussian
from bfn_siren import Siren
training = Training(optimizer="adam", ema_decay=0.9)
loop = TrainStep(BFN(Gaussian(), Siren(width=8)), ContinuousTimeLoss(), training, seed=0)
loop.step(Batch(torch.zeros(4, 1)), 1)
"""


def child_time(arguments: tuple[str, ...]) -> float:
    """CPU nanoseconds, of user and system, of one run of the interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e9 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def imported(code: str, names: tuple[str, ...] = UNWANTED) -> list[str]:
    """Which of the modules a fresh interpreter has imported after running the code."""
    report = f"{code}\nimport sys\nprint('imported:', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1].split()[1:]
