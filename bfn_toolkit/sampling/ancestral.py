r"""The ancestral sampler: the messages of a sender who knows a sample of the output distribution.

.. math::
    x' \sim p_O(\cdot \mid \theta_{i-1}; t_{i-1}), \quad y \sim p_S(\cdot \mid x'; \alpha_i), \quad
    \theta_i = h(\theta_{i-1}, y, \alpha_i), \qquad i = 1..n

It is exact in distribution for every n if the output distribution is.  At the end x is drawn from the output at t = 1.

Source: Graves et al. 2023, algorithms 3 and 9.
"""

from __future__ import annotations

import attrs
import torch

from bfn_toolkit.model import Condition, Model
from bfn_toolkit.sampling.sampler import Sampler, SamplerState
from bfn_toolkit.shapes import Times


@attrs.frozen
class AncestralSampler(Sampler[SamplerState]):
    """The paper's sampler, the reference for all others."""

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        """The prior."""
        return SamplerState(model.family.prior(batch_size, device=device, dtype=dtype))

    def step(
        self, model: Model, state: SamplerState, s: Times, t: Times, condition: Condition | None = None
    ) -> SamplerState:
        """One draw of the output, one message, one update."""
        family = model.family
        output = state.output(model, s, condition)
        params = family.draw_update(state.params, output.sample(), family.accuracy(s, t))
        return SamplerState(params, previous=output if model.self_conditioning else None)
