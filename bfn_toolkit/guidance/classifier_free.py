r"""Classifier-free guidance: a model wrapper that strengthens the effect of a condition.

A network trained both with and without its condition is two models in one.  *Classifier-free guidance* extrapolates
from the unconditional output beyond the conditional one,

.. math:: \tilde\eta = \eta_c + w \, (\eta_c - \eta_u),

where eta are the numbers of the output distribution that add up when evidence does:

================================= ==========================================================
output                            eta
================================= ==========================================================
:class:`~bfn_toolkit.Finite`      the logits: :math:`\tilde p \propto p_c^{1+w} / p_u^w`
:class:`~bfn_toolkit.Delta`       the point, which is linear in the score of the beliefs
normal mixtures, ``Binned``       logits and means, component by component; not the scales
:class:`~bfn_toolkit.JointOutput` part by part
others                            as registered with :func:`guide`
================================= ==========================================================

w = 0 is bit-identical to the conditional model, w = -1 is the unconditional one.  If both outputs are equal, w has no
effect, and a constant added to all logits stays a constant.  Samplers only use outputs, so guidance works with all.

Source: Ho and Salimans 2022 (arXiv 2207.12598), there with 1 + w for the score; on logits as in ChemBFN
(arXiv 2407.20294).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import attrs
from torch import Tensor

from bfn_toolkit.bfn import FlowModel
from bfn_toolkit.binned_outputs import Binned
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Delta, Finite, NormalMixture, Output, SiteNormalMixture
from bfn_toolkit.product_family import JointOutput
from bfn_toolkit.shapes import Times


def beyond(given: Tensor, free: Tensor, weight: float) -> Tensor:
    """Extrapolates: given + weight (given - free)."""
    return given + weight * (given - free)


@singledispatch
def guide(given: Any, free: Any, weight: float) -> Output:
    """Extrapolates from the unconditional output distribution beyond the conditional one.

    A plugin registers a rule for its own output class with ``guide.register``.

    Arguments:
        given: Output under the condition.
        free: Output without the condition, of the same class.
        weight: Guidance weight w.
    Raises:
        ConfigError: If no rule is registered for this class.
    """
    raise ConfigError(
        f"there is no guidance of {type(given).__name__} outputs; register a function of (given, free, weight) that "
        "returns one with bfn_toolkit.guide.register"
    )


@guide.register
def _(given: Finite, free: Any, weight: float) -> Output:
    return Finite(given.support, beyond(given.logits, free.logits, weight))


@guide.register
def _(given: Delta, free: Any, weight: float) -> Output:
    return attrs.evolve(given, value=beyond(given.value, free.value, weight))


@guide.register(NormalMixture)
@guide.register(SiteNormalMixture)
def _(given: Any, free: Any, weight: float) -> Output:
    logits, means = beyond(given.logits, free.logits, weight), beyond(given.means, free.means, weight)
    result: Output = attrs.evolve(given, logits=logits, means=means)
    return result


@guide.register
def _(given: Binned, free: Any, weight: float) -> Output:
    normals: Any = guide(given.normals, free.normals, weight)
    return attrs.evolve(given, normals=normals)


@guide.register
def _(given: JointOutput, free: Any, weight: float) -> Output:
    return JointOutput({name: guide(part, free[name], weight) for name, part in given.parts.items()})


class Guided(ModelWrapper, FlowModel):
    """Model under classifier-free guidance: two evaluations of the network for each evaluation of the sampler.

    Arguments:
        model: A model that also works without the guiding conditions: its network must read a missing condition as no
            information, and must have been trained that way (``label_dropout`` of the network ``mlp``).
        weight: Guidance weight w; 0 for no guidance.
        names: Names of the guiding conditions; None for all conditions.
    Raises:
        ConfigError: If the weight is not a finite number.

    >>> import torch
    >>> from bfn_gaussian import Gaussian
    >>> from bfn_mlp import MLP
    >>> from bfn_toolkit import BFN
    >>> bfn = BFN(Gaussian(site_shape=(2,)), MLP(width=16, labels=3))
    >>> Guided(bfn, 2.0).sample(5, n_steps=10, condition={"label": torch.full((5,), 1)}).shape
    torch.Size([5, 2])
    """

    def __init__(self, model: Model, weight: float, names: Iterable[str] | None = None) -> None:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise ConfigError(f"the weight of guidance must be a finite number, got {weight!r}")
        super().__init__(model)
        self.weight = float(weight)
        self.names = None if names is None else frozenset(names)

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        """Output extrapolated beyond the conditional one.

        Raises:
            ConfigError: If there is no guiding condition, or no guidance for this class of output.
        """
        given = self.model.output(params, t, condition, **told)
        if self.weight == 0.0:
            return given
        condition = condition or {}
        rest = {name: value for name, value in condition.items() if self.names is not None and name not in self.names}
        if len(rest) == len(condition):
            names = ["label"] if self.names is None else sorted(self.names)
            wanted = ", ".join(f"{name!r}: ..." for name in names)
            found = ", ".join(condition) or "none"
            raise ConfigError(
                f"guidance needs a guiding condition, found {found}; write sample(..., condition={{{wanted}}})"
            )
        return guide(given, self.model.output(params, t, rest, **told), self.weight)
