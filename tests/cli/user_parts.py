"""Parts of a user that fail where the variable FAULT says: place:what, or place:none to return nothing."""

# mypy: ignore-errors
import os
import sys
from typing import ClassVar

import attrs
import torch

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import ContinuousTimeLoss, Entry, NetworkBuilder, hookimpl

FAULTS = {
    "key": lambda: {}["missing"],
    "zero": lambda: 1 / 0,
    "torch": lambda: torch.zeros(3) @ torch.zeros(4),
    "attribute": lambda: None.value,
    "exit": lambda: sys.exit(3),
    "stop": lambda: next(iter(())),
    "recursion": lambda: FAULTS["recursion"](),
    "file": lambda: os.stat("/nowhere"),
}


def fault(place):
    where, _, what = os.environ.get("FAULT", "").partition(":")
    if where == place and what in FAULTS:
        FAULTS[what]()


def returned(place, value):
    return None if os.environ.get("FAULT") == f"{place}:none" else value


class Net(torch.nn.Module):
    def __init__(self, io):
        super().__init__()
        fault("build")
        self.inner = Siren(width=4, depth=1).build(io)

    def forward(self, features, t, /, **condition):
        if os.environ.get("FAULT") == "speech":
            print("at run time")
            os.write(1, b"by a descriptor\\\\n")
        fault("forward")
        return returned("forward", self.inner(features, t))


@attrs.frozen
class UserNetwork(NetworkBuilder):
    conditions = ()

    def build(self, io):
        return returned("build", Net(io))


@attrs.frozen
class UserFamily(Gaussian):
    def features(self, params):
        fault("features")
        return returned("features", super().features(params))


@attrs.frozen
class UserData(GaussianMixture):
    @property
    def metadata(self):
        fault("metadata")
        return super().metadata

    def split(self, name):
        fault("split")
        return returned("split", super().split(name))


@attrs.frozen
class UserLoss(ContinuousTimeLoss):
    calls: ClassVar[list] = []

    def __call__(self, *arguments, **told):
        if torch.is_grad_enabled():
            self.calls.append(None)
            if len(self.calls) > 2:
                fault("later")
            fault("loss")
        return returned("loss", super().__call__(*arguments, **told))


@hookimpl
def bfn_networks():
    return [Entry("user-network", UserNetwork)]


@hookimpl
def bfn_families():
    return [Entry("user-family", UserFamily)]


@hookimpl
def bfn_datasets():
    return [Entry("user-data", UserData)]


@hookimpl
def bfn_losses():
    return [Entry("user-loss", UserLoss)]
