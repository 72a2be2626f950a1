r"""spins: data of -1 and +1, a distribution family for bfn-toolkit.

The family is the Gaussian channel of :math:`\phi(x) = x`.  Since :math:`x^2 = 1`, the likelihood of the messages v is
:math:`e^{v x}` up to a factor common to both spins, so

.. math::
    y \sim N(\alpha x, \alpha), \qquad v' = v + y, \qquad
    p(x \mid v) = \frac{e^{v x}}{e^v + e^{-v}} = \sigma(2 v x), \qquad E[x] = \tanh v .
"""

from collections.abc import Sequence

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn.functional import logsigmoid

from bfn_toolkit import ChannelFamily, DataError, Entry, Finite, NetworkIO, QuadraticSchedule, as_shape, hookimpl


class Spin(Distribution):
    """p(x) = sigma(2 v x) for x = -1 and x = +1."""

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[x] = tanh v."""
        return self.v.tanh()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats."""
        return logsigmoid(2.0 * self.v * value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + batch shape."""
        up = torch.sigmoid(2.0 * self.v).expand(*sample_shape, *self.v.shape)
        return 2.0 * torch.bernoulli(up) - 1.0


@attrs.frozen(eq=False)
class SpinParams:
    """Beliefs about spins: the sum of the messages, and their total accuracy."""

    v: Tensor  # (B, *site)
    accuracy: Tensor  # (B,), or (B, *site) if sites differ


@attrs.frozen
class Spins(ChannelFamily[SpinParams]):
    """Spins; with the default schedule the last beliefs are wrong for one spin in 44.

    Arguments:
        site_shape: Shape of one example.
        schedule: Accuracy schedule.
    """

    site_shape: tuple[int, ...] = field(default=(1,), converter=as_shape)
    schedule: QuadraticSchedule = field(factory=lambda: QuadraticSchedule(beta_1=4.0))
    channels = 1
    site_times = True

    @property
    def network_io(self) -> NetworkIO:
        """One feature and one raw number for each spin."""
        return NetworkIO(self.site_shape, in_features=1, out_features=1)

    def embed(self, x: Tensor) -> Tensor:
        """phi(x) = x."""
        return x.unsqueeze(-1)

    def natural_params(self, params: SpinParams) -> tuple[Tensor, Tensor]:
        """The beliefs are the coordinates of the channel."""
        return params.v.unsqueeze(-1), params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> SpinParams:
        """The coordinates of the channel are the beliefs."""
        return SpinParams(v.squeeze(-1), accuracy)

    def input(self, params: SpinParams) -> Distribution:
        """sigma(2 v x) at each site."""
        return Independent(Spin(params.v), len(self.site_shape), validate_args=False)

    def features(self, params: SpinParams) -> Tensor:
        """The mean, in [-1, 1]."""
        return self.input(params).mean.unsqueeze(-1)

    def output(self, raw: Tensor, params: SpinParams) -> Finite:
        """sigma(2 (v + raw) x): the network adds to the beliefs."""
        v = params.v.unsqueeze(-1) + raw
        return Finite(torch.tensor([-1.0, 1.0], dtype=v.dtype, device=v.device), torch.cat([-v, v], -1))

    def check_data(self, x: Tensor) -> None:
        """Checks the shape, and that every number is -1 or +1."""
        super().check_data(x)
        if not bool((x.abs() == 1).all()):
            raise DataError(f"Spins expects -1 and +1, found {float(x[x.abs() != 1][0]):g}")


@hookimpl
def bfn_families() -> list[Entry]:
    """The family."""
    return [Entry("spins", Spins, examples=(Spins(), Spins(site_shape=(2, 3), schedule=QuadraticSchedule(1.0))))]
