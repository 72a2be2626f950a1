r"""The churn sampler: an ancestral sampler that forgets a little before each step, so that early guesses are revised.

A step from s to t first goes back to a time r, and then sends one message from there:

.. math::
    r = s \, e^{-c (t - s)}, \qquad
    \theta_r \sim p(\theta_r \mid \theta_s), \qquad
    x' \sim p_O(\cdot \mid \theta_r; r), \quad y \sim p_S(\cdot \mid x'; \beta(t) - \beta(r)), \quad
    \theta_t = h(\theta_r, y, \beta(t) - \beta(r)) .

Going back (:meth:`~bfn_toolkit.Family.forget`) keeps the law of the beliefs right, whatever the data.  So, like the
ancestral sampler, this one is exact for every n if the output is the exact posterior.  If the output only has the exact
distribution of each site, both are exact in the limit of many steps, at any rate c.  The rate matters where the output
has errors: what was drawn early, from a wrong output, can be drawn again.

For masked diffusion, going back is *remasking*: under the log-linear schedule, each known site is masked again with
probability 1 - e^(-c (t - s)) in each step.  For a Gaussian channel it adds noise.

Source: the churn of Karras et al. 2022 (arXiv 2206.00364), algorithm 2; remasking as in ReMDM (Wang et al. 2025,
arXiv 2503.00307), there in one move with the step.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import validators
from bfn_toolkit.model import Condition, Model
from bfn_toolkit.sampling.ancestral import AncestralSampler
from bfn_toolkit.sampling.sampler import Sampler, SamplerState
from bfn_toolkit.shapes import Times


@attrs.frozen
class ChurnSampler(Sampler[SamplerState]):
    """Ancestral sampler that forgets before each step; for families with :meth:`~bfn_toolkit.Family.forget`.

    Arguments:
        churn: Rate c: how much of the time passed is forgotten while one unit of time passes; 0 for the ancestral
            sampler.
    """

    churn: float = field(default=1.0, validator=validators.number(ge=0, le=1000))

    def init(self, model: Model, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> SamplerState:
        """The prior."""
        return AncestralSampler().init(model, batch_size, device=device, dtype=dtype)

    def step(
        self, model: Model, state: SamplerState, s: Times, t: Times, condition: Condition | None = None
    ) -> SamplerState:
        """Back to r, then an ancestral step to t."""
        family = model.family
        back = {part.name: self._back(*part.values) for part in family.walk(s, t)}
        r = family.join(back) if isinstance(s, Mapping) else next(iter(back.values()))
        before = family.forget(state.params, family.accuracy(r, s))
        return AncestralSampler().step(model, attrs.evolve(state, params=before), r, t, condition)

    def _back(self, s: Tensor, t: Tensor) -> Tensor:
        return s * torch.exp(-self.churn * (t - s))
