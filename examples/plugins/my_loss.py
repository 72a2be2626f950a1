r"""absolute-error: a loss for bfn-toolkit, and times for it that come more often at one end.

.. math:: L(x) = E_t \, E_{\theta \sim p_F(\cdot \mid x; t)} \, \lVert x - \hat x \rVert_1, \qquad
          \hat x = E_{p_O(\cdot \mid \theta; t)} \, x

A loss in nats weighs an error of the output by the accuracy of the messages, and squares it; this one does neither, so
that outliers count less.  It is not a likelihood.
"""

import attrs
from attrs import field
from torch import Tensor

from bfn_toolkit import (
    Condition,
    Entry,
    Family,
    Loss,
    Model,
    TimeDistribution,
    Times,
    UniformTimes,
    draw_times,
    hookimpl,
    validators,
)


@attrs.frozen
class PowerTimes(TimeDistribution):
    r"""Times with the density :math:`p t^{p - 1}`, and the weights that make up for it.

    Arguments:
        power: p; above 1 there are more late times, below 1 more early ones.
    """

    power: float = field(default=1.5, validator=validators.number(gt=0, lt=2))

    def draw(self, family: Family, x: Tensor) -> Times:
        """Inverts the distribution function, t^p, at the even lattice of uniform times."""
        t = draw_times(x) ** (1.0 / self.power)
        return Times(t, weight=t ** (1.0 - self.power) / self.power)


@attrs.frozen
class AbsoluteError(Loss):
    """Absolute error of the output's mean, summed over the sites of real numbers.

    Arguments:
        times: Distribution of the times.
    """

    times: TimeDistribution = field(factory=UniformTimes, validator=validators.instance_of(TimeDistribution))

    def __call__(self, model: Model, x: Tensor, condition: Condition | None = None) -> Tensor:
        """One number for each example, with shape (B,)."""
        drawn = self.times.draw(model.family, x)
        output = model.output(model.family.flow(x, drawn.t), drawn.t, condition)
        return drawn.weighted((x - output.mean).abs().flatten(1).sum(1))


@hookimpl
def bfn_losses() -> list[Entry]:
    """The loss."""
    return [Entry("absolute-error", AbsoluteError, examples=(AbsoluteError(), AbsoluteError(PowerTimes(0.7))))]


@hookimpl
def bfn_time_distributions() -> list[Entry]:
    """The times."""
    return [Entry("power", PowerTimes, examples=(PowerTimes(), PowerTimes(0.7)))]
