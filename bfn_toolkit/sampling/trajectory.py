"""Trajectories: beliefs and outputs of a sampler from the prior to a sample.

A sampler keeps none of its states; a :class:`Trajectory` is a callback for its ``on_step`` that records the first few
rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.families import Family
from bfn_toolkit.outputs import Output
from bfn_toolkit.randomness import seeded
from bfn_toolkit.sampling.sampler import SamplerStep

ROWS = 64  # largest number of rows in a trajectory file
DRAWS = 16  # number of draws for an entropy


def beliefs_of(family: Family[Any], params: Any) -> tuple[Tensor, bool]:
    """Numbers that represent beliefs, with shape (B, *site) or (B, *site, F), and whether they are the mean.

    Beliefs about classes have no mean; they are represented by the features that the network sees.
    """
    try:
        mean = family.input(params).mean
    except NotImplementedError:  # torch raises this if a distribution has no mean
        mean = torch.full((), torch.nan)
    return (family.features(params), False) if mean.isnan().all() else (mean, True)


def entropy_of(output: Output, draws: int = DRAWS) -> Tensor:
    """Entropy of an output in nats per example, with shape (B,): the mean of -ln p_O(x) over draws of x.

    For a point it carries no information: NaN, or a constant if the :class:`~bfn_toolkit.Delta` has a ``std``.
    """
    mean = output.mean
    # The generator's state is restored, so that recording changes no sample.
    with seeded(0, "entropy", device=mean.device):
        try:
            return -torch.stack([output.log_prob(output.sample()) for _ in range(draws)]).mean(0)
        except ValueError:  # a point has no density
            return mean.new_full(mean.shape[:1], torch.nan)


class Trajectory:
    """Callback for ``on_step`` that records beliefs and outputs of the first rows.

    :attr:`arrays` holds by name: ``t`` with shape (E,) for E evaluations, ``beliefs`` (E, rows, ...) from
    :func:`beliefs_of`, ``output_mean`` (E, rows, *site) and ``output_entropy`` (E, rows) in nats.  For data with parts
    the last three names begin with the name of the part and a dot.

    Arguments:
        family: Family of the beliefs.
        rows: Number of rows.
    """

    def __init__(self, family: Family[Any], rows: int = ROWS) -> None:
        self.family, self.rows = family, rows
        self.arrays: dict[str, Tensor] = {}

    def __call__(self, step: SamplerStep) -> None:
        """Records an evaluation of the network."""
        if step.first >= self.rows:
            return
        self._place("t", (step.count,), torch.float64)[step.number - 1] = step.t
        for part in self.family.walk(step.params, step.output):
            params, output = part.values
            beliefs, _ = beliefs_of(part.family, params)
            for name, value in (
                ("beliefs", beliefs),
                ("output_mean", output.mean),
                ("output_entropy", entropy_of(output)),
            ):
                kept = value[: self.rows - step.first]
                array = self._place(part.prefix + name, (step.count, self.rows, *kept.shape[1:]), kept.dtype)
                array[step.number - 1, step.first : step.first + len(kept)] = kept

    def _place(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.arrays.setdefault(name, torch.zeros(shape, dtype=dtype))
