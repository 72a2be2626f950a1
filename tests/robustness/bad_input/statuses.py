"""E: every exit status."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import re
import signal
from collections.abc import Iterator

import pytest
from faults import parts

from bad_input.cases import Case, case
from bad_input.configurations import as_it_is
from bad_input.data import SMALL
from bfn_toolkit.errors import OutOfStepError

HALVED = """
import attrs
from bfn_gaussian import Gaussian

@attrs.frozen
class Halved(Gaussian):
    def kl_rate(self, x, output):
        return Gaussian.kl_rate(self, x, output) / 2
"""
CHECK = "check broken.py:Halved --law loss-rate-is-the-limit-of-the-step-loss"


@contextlib.contextmanager
def faulty() -> Iterator[None]:
    """The parts of tests/robustness/faults are known by name."""
    parts.register()
    yield


@contextlib.contextmanager
def fault_of_ours() -> Iterator[None]:
    """The registry divides by zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bfn_toolkit.registry.registry.default_registry", functools.partial(operator.truediv, 1, 0))
        yield


def out_of_step() -> None:
    raise OutOfStepError("the processes do not have the same weights")


def _broken(printed: str) -> None:
    if json.loads(printed)["passed"] is not False:
        raise ValueError("expected a law that does not hold")


def faults(id: str, options: str, status: int, *words: str | re.Pattern[str]) -> Case:
    """Training until something happens."""
    line = f"train --loss faulty {options} {SMALL} --training.lr 0.001".replace("steps 1", "steps 3")
    return case(id, line, status, *words, around=faulty)


CASES: list[Case] = [
    case("E0-help", "--help", 0, prints=len),
    case("E0-version", "--version", 0, prints=len),
    case("E1-a-law-is-broken", f"{CHECK} --json", 1, files={"broken.py": HALVED}, prints=_broken),
    case("E2-usage", "--no-such-option", 2, "no such option"),
    case("E3-data", f"train --dataset array --dataset.path missing.csv {SMALL}", 3, "missing.csv"),
    case("E4-run", "plot .", 4, "not a run directory"),
    case("E5-plugin-is-missing", "check broken.py", 5, "broken", files={"broken.py": "1 / 0"}),
    faults("E6-loss-is-nan", "--loss.fault loss --loss.step 2", 6, "step 2: the loss is nan", "Lower training.lr"),
    faults("E6-gradient-is-nan", "--loss.fault gradient --loss.step 2", 6, "step 2: ", "first in the gradient"),
    case("E6-out-of-step", out_of_step, 6, "weights"),
    case("E7-device", "train --training.device cuda:77", 7, "found: cpu"),
    case("E7-device-of-a-sample", "sample run --device mps", 7, "found: cpu", run=as_it_is),
    case("E7-half-precision-of-the-cpu", "train --training.precision fp16 --training.device cpu", 7, "fp16 needs"),
    case("E70-fault-of-ours", "plugins", 70, "Traceback", "ZeroDivisionError", "report it", around=fault_of_ours),
    faults("E5-fault-of-a-part", "--loss.fault raise --loss.step 1", 5, "loss 'faulty'", "ZeroDivisionError: injected"),
    *(
        faults(
            f"E{128 + number}-{number.name}",
            f"--loss.fault signal --loss.step 2 --loss.number {int(number)}",
            128 + number,
            "continue with: bfn train --resume run",
        )
        for number in (signal.SIGINT, signal.SIGTERM)
    ),
]
