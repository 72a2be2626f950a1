"""Kills a training at random moments, again and again, and compares its end with that of one that nobody killed.

From the root of the repository, for as many kills as there is time for::

    PYTHONPATH=tests python -m faults.kill_and_resume --kills 200
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from bfn_toolkit import Experiment, train
from bfn_toolkit.runs.checkpoints import find_checkpoint
from bfn_toolkit.training.trainer import resume
from faults.crashes import forked
from faults.tiny import state_of, with_everything


@attrs.frozen
class Kill:
    """What a kill left.

    Arguments:
        seconds: After how long it came.
        step: Step of the last checkpoint that verifies; 0 for none.
    """

    seconds: float
    step: int


def killed(seconds: float, work: Callable[[], object]) -> bool:
    """Runs ``work`` in a child that is killed after a while; whether it came to that."""

    def timed() -> None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()

    status = forked(timed)
    assert status in (0, -signal.SIGKILL), f"the child ended with {status}"
    return status != 0


def kill_and_resume(experiment: Experiment, run: Path, kills: int, longest: float, seed: int = 0) -> Iterator[Kill]:
    """Trains with so many kills, and then to the end."""
    chooser = random.Random(seed)
    before = 0
    for _ in range(kills):
        seconds = chooser.uniform(0.0, longest)
        begun = (run / "experiment.toml").exists()
        if not killed(seconds, lambda: resume(run) if begun else train(experiment, run, force=True)):  # noqa: B023
            return
        found, passed = find_checkpoint(run) if run.exists() else (None, [])
        assert passed == [], passed
        step = 0 if found is None else found.step
        assert step >= before, f"step {step} after {before}"
        before = step
        yield Kill(seconds, step)
    resume(run)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    experiment = with_everything(steps=options.steps, checkpoint_every=3)
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        train(experiment, Path(folder, "whole"))
        took = time.monotonic() - start
        for number, kill in enumerate(
            kill_and_resume(experiment, Path(folder, "run"), options.kills, 4.0 * took / options.kills, options.seed), 1
        ):
            print(f"kill {number} after {kill.seconds:.3f} s: the last checkpoint is of step {kill.step}")
        resume(Path(folder, "run"))
        assert state_of(Path(folder, "run")) == state_of(Path(folder, "whole"))
        for name in ("metrics.jsonl", "model.safetensors"):
            assert Path(folder, "run", name).read_bytes() == Path(folder, "whole", name).read_bytes(), name
    print("the end is the same, bit for bit")


if __name__ == "__main__":
    main()
