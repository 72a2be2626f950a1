"""What all tests share: hypothesis profiles, one thread, and torch's generator in hypothesis's hands."""

import os
import signal

import pytest
import torch
from hypothesis import register_random, settings

from bfn_toolkit.registry import default_registry
from bfn_toolkit.reports import report

# Laws draw tensors, which takes milliseconds that vary with the load of the machine: no deadline in either profile.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as in the background of a script; training then does not hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # the tests run side by side, and sums come out in one order


class TorchRandom:
    """torch's CPU generator behind the interface of ``random.Random`` that hypothesis asks for."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def getstate(self) -> torch.Tensor:
        return torch.default_generator.get_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.default_generator.set_state(state)


TORCH_RANDOM = TorchRandom()  # hypothesis keeps a weak reference
register_random(TORCH_RANDOM)


@pytest.fixture(scope="session", autouse=True)
def every_plugin_is_loaded() -> None:
    """Loads the plugins before any test: one that breaks files or numbers must not be the first to import them."""
    default_registry().entries()
    assert not default_registry().failures


@pytest.fixture(scope="session", autouse=True)
def reports_take_a_second() -> None:
    """At least one second in place of five; the tests of the budget give times of their own."""
    report.LEAST_SECONDS = 1.0
