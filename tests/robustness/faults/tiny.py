"""The smallest experiments that have everything: dropout, shuffled rows, average, schedule, pieces, learned times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import ContinuousTimeLoss, Experiment, ImportanceTimes, Loss, Training, seeded
from bfn_toolkit.bfn import BFN
from bfn_toolkit.runs.checkpoints import find_checkpoint
from bfn_toolkit.storage.folders import read_folder


def experiment(loss: Loss | None = None, **training: object) -> Experiment:
    """180 rows and a network of a few hundred weights."""
    return Experiment(
        dataset=GaussianMixture(count=50),
        family=Gaussian(),
        network=Siren(width=8),
        loss=loss or ContinuousTimeLoss("unit"),
        training=Training(**{"steps": 6, "device": "cpu", **training}),
    )


def with_everything(**training: object) -> Experiment:
    """24 steps in which each kind of state matters: 5 batches an epoch, so that most cuts are within one."""
    options = {
        "steps": 24,
        "batch_size": 32,
        "accumulate": 2,
        "ema_decay": 0.9,
        "warmup": 5,
        "validate_every": 7,
        "optimizer": "adamw",
        **training,
    }
    loss = ContinuousTimeLoss("unit", ImportanceTimes(8))
    return attrs.evolve(experiment(loss, **options), network=MLP(width=8, depth=1, dropout=0.3))


def state_of(run: Path) -> Mapping[str, Any]:
    """What the last checkpoint of a run holds: bytes of the tensors, and the other state without the times."""
    listed, passed = find_checkpoint(run)
    assert listed is not None
    assert passed == []
    _, files = read_folder(listed.path)
    state = json.loads(files.pop("state.json"))
    for name in ("seconds", "experiment"):  # the experiments differ in when they save
        del state[name]
    return {"step": listed.step, "valid_loss": listed.valid_loss, "state": state, **files}


def samples_of(model: BFN, n: int = 8) -> Tensor:
    """A few samples."""
    with seeded(0, "samples"):
        drawn = model.sample(n, n_steps=4)
    assert isinstance(drawn, Tensor)
    return drawn


def equal_states(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two states are the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
