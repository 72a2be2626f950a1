r"""Directions: angles, unit vectors and rotations, each a Gaussian channel with a one-shot flow (plugin).

Let phi embed a direction in R^d so that :math:`|\phi|^2` is constant.  Then the channel's likelihood is
:math:`e^{y \cdot \phi(x)}` up to a factor that does not depend on x, and beliefs that start uniform stay in one
exponential family:

.. math:: v \mid x \sim N(B \phi(x), B I), \qquad p(x \mid v) = e^{v \cdot \phi(x)} / Z(v)

================== =============== ======================================================================
family             phi(x)          beliefs
================== =============== ======================================================================
:class:`Circle`    (cos x, sin x)  von Mises (:class:`~bfn_directional.beliefs.Angular`)
:class:`Sphere`    x               von Mises-Fisher (:class:`~bfn_directional.beliefs.VonMisesFisher`)
:class:`Rotations` R in R^9        matrix Fisher (:class:`~bfn_directional.matrix_fisher.MatrixFisher`)
================== =============== ======================================================================

The output is a mixture of distributions of the same family (:mod:`bfn_directional.outputs`): the beliefs, tilted by the
network's raw numbers.  If these are 0, a single component has no tilt; several components have different tilts, because
equal ones would stay equal.  Several components matter for few steps; the continuous-time loss sees only the mean of
phi, and one component can have any mean.

Source: the channel is the limit of many messages of CrysBFN (arXiv 2502.02016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.distributions import Distribution, Independent

from bfn_directional.beliefs import Angular, Belief, VonMisesFisher
from bfn_directional.matrix_fisher import MatrixFisher
from bfn_directional.outputs import BeliefMixture
from bfn_toolkit import (
    ChannelFamily,
    ConfigError,
    Entry,
    GeometricSchedule,
    NetworkIO,
    Output,
    as_axes,
    as_shape,
    check_axes,
    check_site_shape,
    check_values,
    expand,
    fit,
    hookimpl,
    validators,
)


@attrs.frozen(eq=False)
class DirectionalParams:
    """Beliefs p(x | v) at each site, independent.

    Arguments:
        v: Sum of the messages, with shape (B, *sites, d).
        accuracy: Their total accuracy B, with shape (B,), or (B, *sites) if sites differ.
    """

    v: Tensor
    accuracy: Tensor


@attrs.frozen
class Directional(ChannelFamily[DirectionalParams]):
    """Base of circle, sphere and rotations, which differ in the class of the beliefs.

    Data have shape (B, *sites, *event), where an event is one direction: a number, a vector or a matrix.  Networks see
    all of (*sites, *event) as site shape, so each coordinate of a vector is a site to them.  Times, accuracies and
    masks are the same along an event; of one with a value for each coordinate, the first counts.

    Arguments:
        site_shape: Shape of one example, (*sites, *event).
        sigma_1: Resolution of the beliefs at t = 1 in radians; the accuracy there is sigma_1^-2 - 1.
        components: Number K of components of the output at each site.
        axes: Names of the axes of the site shape (:class:`~bfn_toolkit.PartIO`); empty if they have none.
    """

    belief: ClassVar[type[Belief]]
    event: ClassVar[tuple[int, ...]] = ()
    domain: ClassVar[str] = "angles"

    site_shape: tuple[int, ...] = field(
        default=attrs.Factory(lambda self: self.event or (1,), takes_self=True), converter=as_shape
    )
    sigma_1: float = field(default=0.1, validator=validators.number(ge=1e-4, lt=1))
    components: int = field(default=1, validator=validators.integer(ge=1))
    axes: tuple[str, ...] = field(default=(), kw_only=True, converter=as_axes, validator=check_axes)
    schedule: GeometricSchedule = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "schedule", GeometricSchedule(self.sigma_1))

    @site_shape.validator
    def _check_site_shape(self, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
        check_site_shape(self, attribute, value)
        if value[len(value) - len(self.event) :] != self.event:
            end = ", ".join(map(str, self.event))
            raise ValueError(f"site_shape must end in {end} for {type(self).__name__}, got {value}")

    @property
    def sites(self) -> tuple[int, ...]:
        """The site shape without the event."""
        return self.site_shape[: len(self.site_shape) - len(self.event)]

    @property
    def network_io(self) -> NetworkIO:
        """A raw number per coordinate and component; with several components also weights, summed over coordinates."""
        weights = self.components if self.components > 1 else 0
        raw = self.channels * self.components + weights
        return NetworkIO(self.site_shape, self.channels, raw, self.axes, "direction")

    @property
    def site_times(self) -> bool:  # noqa: D102
        return True

    def embed(self, x: Tensor) -> Tensor:
        """phi(x)."""
        return self.belief.embed(x).reshape(*x.shape, self.channels)

    def mean_embedding(self, output: Output) -> Tensor:
        """E[phi], in closed form."""
        if not isinstance(output, BeliefMixture):
            return super().mean_embedding(output)
        return output.expectation.reshape(-1, *self.site_shape, self.channels)

    def natural_params(self, params: DirectionalParams) -> tuple[Tensor, Tensor]:
        """Returns v and B."""
        return params.v.reshape(-1, *self.site_shape, self.channels), params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> DirectionalParams:
        """Stores v and B."""
        accuracy = accuracy if accuracy.ndim < 2 else fit(accuracy, 1 + len(self.sites))
        return DirectionalParams(v.reshape(v.shape[0], *self.sites, -1), accuracy)

    def input(self, params: DirectionalParams) -> Distribution:
        """p(x | v) at each site."""
        belief: Any = self.belief(params.v)
        return Independent(belief, params.v.ndim - 2, validate_args=False)

    def features(self, params: DirectionalParams) -> Tensor:
        """E[phi] under the beliefs: within the unit ball, and 0 where nothing is known."""
        return self.belief(params.v).expectation.reshape(-1, *self.site_shape, self.channels)

    def output(self, raw: Tensor, params: DirectionalParams) -> Output:
        """The beliefs, tilted by the raw numbers times sqrt(1 + B), which is about one standard deviation."""
        k, v = self.components, params.v
        raw = raw.reshape(*v.shape[:-1], -1, raw.shape[-1])  # (B, *sites, coordinates, R)
        tilt = raw[..., : k * self.channels].reshape(*raw.shape[:-1], k, self.channels).movedim(-2, -3).flatten(-2)
        logits = raw[..., k * self.channels :].sum(-2) if k > 1 else torch.zeros_like(v[..., :1])
        if k > 1:
            tilt = tilt + _spread(k, v.shape[-1], v)
        scale = expand((1.0 + params.accuracy).sqrt(), tilt)
        return BeliefMixture(self.belief, logits, v.unsqueeze(-2) + scale * tilt)

    def loss_weight(self, t: Tensor) -> Tensor:
        """Factor that scales the loss rate of the beliefs alone, alpha / (1 + B) / 2, to 1."""
        return 2.0 * (1.0 + self.schedule.beta(t)) / self.schedule.alpha(t)

    def check_data(self, x: Tensor) -> None:
        """Checks shape, floating dtype, finite values, and that :meth:`_fault` is at most 1e-3."""
        super().check_data(x)
        check_values(self, x, self._fault(x) > 1e-3, self.domain)

    def _fault(self, x: Tensor) -> Tensor:
        """Distance of the data from the domain, at each of the sites."""
        return torch.zeros_like(x)


def _spread(k: int, d: int, like: Tensor) -> Tensor:
    """K different vectors of d numbers; components that start equal would always get equal gradients."""
    number = torch.arange(1, k * d + 1, device=like.device, dtype=like.dtype).reshape(k, d)
    return (2.399963 * number).sin()  # by the golden angle


@attrs.frozen
class Circle(Directional):
    """Angles in radians; any real number is accepted, and samples are in [-pi, pi].

    Arguments:
        site_shape: Shape of one example, with one angle at each site.
        sigma_1: Resolution of the beliefs at t = 1 in radians.
        components: Number K of components of the output at each site.

    >>> circle = Circle(site_shape=(1,))
    >>> belief = circle.update(circle.prior(1), torch.tensor([[[0.0, 3.0]]]), torch.tensor([2.0]))
    >>> circle.input(belief).mean
    tensor([[1.5708]])
    """

    belief: ClassVar[type[Belief]] = Angular
    channels: ClassVar[int] = 2


@attrs.frozen
class Sphere(Directional):
    """Unit vectors in three dimensions.

    Arguments:
        site_shape: Shape of one example, (*sites, 3).
        sigma_1: Resolution of the beliefs at t = 1 in radians, along each tangent.
        components: Number K of components of the output at each site.

    >>> sphere = Sphere()
    >>> belief = sphere.update(sphere.prior(1), torch.tensor([[[0.0], [0.0], [3.0]]]), torch.tensor([2.0]))
    >>> sphere.input(belief).mean
    tensor([[0., 0., 1.]])
    """

    belief: ClassVar[type[Belief]] = VonMisesFisher
    event: ClassVar[tuple[int, ...]] = (3,)
    channels: ClassVar[int] = 1
    domain: ClassVar[str] = "unit vectors"

    def _fault(self, x: Tensor) -> Tensor:
        fault: Tensor = (torch.linalg.vector_norm(x, dim=-1) - 1.0).abs()
        return fault


@attrs.frozen
class Rotations(Directional):
    """Rotations in three dimensions, as matrices.

    Arguments:
        site_shape: Shape of one example, (*sites, 3, 3).
        sigma_1: Resolution of the beliefs at t = 1; the angle about any axis has standard deviation sigma_1 / sqrt(2).
        components: Number K of components of the output at each site.

    >>> rotations = Rotations()
    >>> belief = rotations.update(rotations.prior(1), torch.eye(3).reshape(1, 3, 3, 1), torch.tensor([2.0]))
    >>> rotations.input(belief).mean
    tensor([[[1., 0., 0.],
             [0., 1., 0.],
             [0., 0., 1.]]])
    """

    belief: ClassVar[type[Belief]] = MatrixFisher
    event: ClassVar[tuple[int, ...]] = (3, 3)
    channels: ClassVar[int] = 1
    domain: ClassVar[str] = "rotation matrices"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.sigma_1 < 0.01:
            raise ConfigError(f"Rotations needs sigma_1 of at least 0.01, got {self.sigma_1}")

    def _fault(self, x: Tensor) -> Tensor:
        identity = torch.eye(3, device=x.device, dtype=x.dtype)
        fault: Tensor = (x.mT @ x - identity).abs().amax((-2, -1))
        return torch.where(torch.linalg.det(x) < 0.0, 2.0, fault)


@hookimpl
def bfn_families() -> Sequence[Entry]:
    """The families."""
    return [
        Entry("circle", Circle, (Circle(), Circle(site_shape=(2, 2), sigma_1=0.2, components=3))),
        Entry("sphere", Sphere, (Sphere(), Sphere(site_shape=(2, 3), sigma_1=0.2, components=3))),
        Entry("rotations", Rotations, (Rotations(sigma_1=0.2, components=2),)),
    ]
