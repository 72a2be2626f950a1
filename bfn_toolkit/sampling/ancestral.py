"""The ancestral sampler."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from bfn_toolkit.model import Model
from bfn_toolkit.sampling.sampler import Sampler, SamplerState


@attrs.frozen
class AncestralSampler(Sampler[SamplerState]):
    """The paper's sampler: the reference that the others are held against."""

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        """The prior."""
        return SamplerState(model.family.prior(batch_size, device=device, dtype=dtype))

    def step(self, model: Model, state: SamplerState, s: Tensor, t: Tensor, **condition: Tensor) -> SamplerState:
        """One draw of the output, one message, one update."""
        family = model.family
        x = model.output(state.params, s, **condition).sample()
        return SamplerState(family.draw_update(state.params, x, family.accuracy(s, t)))
