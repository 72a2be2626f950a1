r"""redraw: a sampler for bfn-toolkit that draws new beliefs at each time, from the flow of its last guess.

.. math:: x' \sim p_O(\cdot \mid \theta_{i-1}; t_{i-1}), \qquad \theta_i \sim p_F(\cdot \mid x'; t_i)

The ancestral sampler sends one more message about the guess; this one forgets all earlier messages.  Both are exact for
every number of steps if the output is.

Source: "end_back" of MolCRAFT (Qu et al. 2024, arXiv 2404.12141).
"""

import attrs
import torch
from torch import Tensor

from bfn_toolkit import Condition, Entry, Model, Sampler, SamplerState, hookimpl


@attrs.frozen
class Redraw(Sampler[SamplerState]):
    """Draws new beliefs at each step, for data that are one tensor."""

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        """The prior."""
        return SamplerState(model.family.prior(batch_size, device=device, dtype=dtype))

    def step(
        self, model: Model, state: SamplerState, s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> SamplerState:
        """One draw of the output, then a draw of its flow."""
        x = model.output(state.params, s, condition).sample()
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return SamplerState(model.family.flow(x, t.to(x.device, dtype).expand(len(x))))


@hookimpl
def bfn_samplers() -> list[Entry]:
    """The sampler."""
    return [Entry("redraw", Redraw, examples=(Redraw(),))]
