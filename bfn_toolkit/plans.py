"""Plans of samples: how many, by which sampler, and under which conditions and known values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from bfn_toolkit.blocks import MOST
from bfn_toolkit.conditions import check_conditions, seen_in, unread
from bfn_toolkit.errors import ConfigError, DataError
from bfn_toolkit.families import Family
from bfn_toolkit.known import Given
from bfn_toolkit.randomness import seeded
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs import Run
from bfn_toolkit.samplers import Sampler
from bfn_toolkit.solvers import default_sampler

STEPS = 100  # of a sample, unless the family is tied to a number


@attrs.frozen
class SamplePlan:
    """How many samples to draw, and how.

    Arguments:
        n: Number of samples.
        steps: Number of messages.
        sampler: Name of the sampler; None for what :func:`~bfn_toolkit.default_sampler` chooses.
        seed: Of the draws.
        condition: Values of conditions by name, one for all samples; None for going without the condition.
        guidance: Weight of :class:`~bfn_toolkit.Guided`.
        known: File of known values (:func:`read_known`).
    """

    n: int = 1000
    steps: int = STEPS
    sampler: str | None = None
    seed: int = 0
    condition: Mapping[str, float | None] = attrs.field(factory=dict)
    guidance: float = 0.0
    known: Path | None = None

    def choose(self, family: Family[Any]) -> tuple[str, Sampler[Any], str]:
        """Name of the sampler for a family, the sampler, and why it is this one."""
        registry = default_registry()
        if self.sampler is not None:
            return self.sampler, registry.get("sampler", self.sampler).entry.build(), "because it was asked for"
        sampler, reason = default_sampler(family, self.steps)
        return registry.name_of("sampler", type(sampler)), sampler, reason


def conditions_of(run: Run, plan: SamplePlan, rows: range) -> dict[str, Tensor]:
    """Conditions that the plan states, and of training rows those that it leaves open, block by block."""
    network = run.experiment.network
    seen = seen_in(run.split("train").condition) if run.seen is None else run.seen
    heard = {name: facts for name, facts in seen.items() if not unread(network, [name])}
    check_conditions(network, plan.condition or (seen if plan.guidance and not heard else ()), seen)
    left = [name for name in heard if name not in plan.condition]
    conditions = {}
    if left:
        try:
            told = run.split("train").condition
        except DataError as error:
            options = " ".join(f"--condition {name}=none" for name in left)
            raise DataError(f"conditions without a value are drawn from the data; add: {options}. {error}") from error
        index = _training_rows(len(told[left[0]]), plan.seed, rows)
        conditions = {name: told[name][index] for name in left}
    for name, value in plan.condition.items():
        if value is not None:
            conditions[name] = heard[name].constant(name, value, len(rows))
    return conditions


def _training_rows(n: int, seed: int, rows: range) -> Tensor:
    """Numbers of training rows, drawn in blocks of their own, so that a batch has what all of the samples have."""
    drawn = []
    for block in range(rows.start // MOST, (rows.stop - 1) // MOST + 1):
        with seeded(seed, "conditions", block):
            drawn.append(torch.randint(n, (MOST,)))
    return torch.cat(drawn)[rows.start % MOST :][: len(rows)]


def read_known(path: Path) -> Given:
    """Known values from an array (.npy), or from tensors by the names of the parts (.safetensors).

    A number is unknown where it is NaN, a class where it is negative.

    Raises:
        ConfigError: If it is no such file.
    """
    try:
        if path.suffix == ".npy":
            return _with_mask(torch.from_numpy(np.load(path, allow_pickle=False)))
        if path.suffix == ".safetensors":
            parts = {name: _with_mask(part) for name, part in load_tensors(path).items()}
            return parts.get("samples", parts)  # as samples without parts are written
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ConfigError(f"cannot read known values from {path}: {error}") from error
    raise ConfigError(f"known values are read from .npy or .safetensors, found '{path.name}'")


def _with_mask(values: Tensor) -> tuple[Tensor, Tensor]:
    if values.is_floating_point():
        return values, ~values.isnan()
    return values.long(), values >= 0
