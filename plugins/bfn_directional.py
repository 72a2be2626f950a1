r"""Directions: angles, unit vectors and rotations, each a Gaussian channel with a one-shot flow (plugin).

Let phi embed a direction in R^d so that :math:`|\phi|^2` is constant.  The channel's likelihood is then
:math:`e^{y \cdot \phi(x)}` up to a factor without x, and beliefs that start uniform stay in one exponential family:

.. math:: v \mid x \sim N(B \phi(x), B I), \qquad p(x \mid v) = e^{v \cdot \phi(x)} / Z(v), \qquad
          E[\phi \mid v] = \nabla \ln Z(v)

================== =============== =============== =======================================
family             phi(x)          beliefs         Z(v)
================== =============== =============== =======================================
:class:`Circle`    (cos x, sin x)  von Mises       :math:`2 \pi I_0(\kappa)`
:class:`Sphere`    x               von Mises-      :math:`4 \pi \sinh(\kappa) / \kappa`
                                   Fisher
:class:`Rotations` R in R^9        matrix Fisher   :math:`\int e^{\mathrm{tr}(F^T R)} dR`
================== =============== =============== =======================================

The output is a mixture of the same family, the beliefs tilted by what the network returns (a lone component by nothing,
for 0; several by different vectors, because equal ones would stay equal):

.. math:: p_O(x) = \sum_k w_k \, p(x \mid v + u_k), \qquad
          p_R(y) = N(y; 0, \alpha I) \, e^{-\alpha |\phi|^2 / 2} \sum_k w_k \frac{Z(v + u_k + y)}{Z(v + u_k)}

That form is exact: if the data have the density :math:`\sum_k \pi_k \, p(x \mid u_k)`, so has their posterior, with
:math:`w_k \propto \pi_k Z(v + u_k) / Z(u_k)`.  The receiver is exact too, because p is conjugate to the sender, and the
likelihood bound is one of a density: no grid, no bins.  Several components matter where there are few steps; the
continuous-time loss sees the mean of phi alone, and one component can have any.

Source: the channel is the limit of many messages of CrysBFN (arXiv 2502.02016); Mardia and Jupp 2000 for the
distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import attrs
import torch
from attrs import field, validators
from torch import Tensor
from torch.distributions import Distribution, Independent

from bfn_toolkit import (
    ChannelFamily,
    ConfigError,
    DataError,
    Entry,
    GeometricSchedule,
    Kernel,
    NetworkIO,
    Output,
    VonMises,
    as_shape,
    expand,
    guide,
    hookimpl,
    per_example,
)

TINY = 1e-12  # a length below which there is no direction


class Belief(Protocol):
    r"""Distribution with density exp(v . phi(x)) / Z(v), for natural parameters v of shape (..., d).

    ``design`` gives n points with :math:`\sum_j \phi_j = 0` and :math:`\sum_j \phi_j \phi_j^T \propto I`.
    """

    square: ClassVar[float]  # |phi|^2
    design: ClassVar[tuple[Any, ...]]

    def __init__(self, v: Tensor) -> None: ...

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """phi(x), with shape (..., d)."""

    @property
    def mean(self) -> Tensor:
        """Mean direction, with the shape of the data."""

    @property
    def log_normaliser(self) -> Tensor:
        """ln Z(v), with shape (...)."""

    @property
    def expectation(self) -> Tensor:
        """E[phi], the gradient of ln Z, with shape (..., d)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, with shape (...)."""

    def sample(self) -> Tensor:
        """Draws with the shape of the data."""


class Angular(VonMises):
    """Beliefs about angles: von Mises, per radian."""

    square: ClassVar[float] = 1.0
    design: ClassVar[tuple[Any, ...]] = (0.0, 2.0 * math.pi / 3.0, 4.0 * math.pi / 3.0)

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """(cos x, sin x)."""
        return torch.stack([x.cos(), x.sin()], -1)

    @property
    def log_normaliser(self) -> Tensor:
        """Of 2 pi I_0."""
        kappa = self.concentration
        log_z: Tensor = kappa + torch.special.i0e(kappa).log() + math.log(2.0 * math.pi)
        return log_z

    @property
    def expectation(self) -> Tensor:
        """I_1 / I_0 along v."""
        kappa = self.concentration.clamp_min(1e-6)
        ratio: Tensor = torch.special.i1e(kappa) / torch.special.i0e(kappa) / kappa
        return self.v * ratio.unsqueeze(-1)


class VonMisesFisher(Distribution):
    """von Mises-Fisher distribution on the unit sphere in three dimensions, per unit of its surface.

    Arguments:
        v: Natural parameters with shape (..., 3), the concentration times the mean direction; zero is uniform.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes
    square: ClassVar[float] = 1.0
    design: ClassVar[tuple[Any, ...]] = tuple(
        tuple(sign / math.sqrt(3.0) for sign in signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    )

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape[:-1], v.shape[-1:], validate_args=False)

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """x itself."""
        return x

    @property
    def concentration(self) -> Tensor:
        """Length of v."""
        kappa: Tensor = torch.linalg.vector_norm(self.v, dim=-1)
        return kappa

    @property
    def mean(self) -> Tensor:
        """Mean direction; the first axis where v is zero."""
        kappa = self.concentration.unsqueeze(-1)
        first = torch.zeros_like(self.v)
        first[..., 0] = 1.0
        return torch.where(kappa > TINY, self.v / kappa.clamp_min(TINY), first)

    @property
    def log_normaliser(self) -> Tensor:
        """Of 4 pi sinh(kappa) / kappa."""
        return self.concentration + self._log_excess

    @property
    def _log_excess(self) -> Tensor:
        """ln Z - kappa."""
        kappa = self.concentration.clamp_min(1e-6)
        log_z: Tensor = (-torch.expm1(-2.0 * kappa) / (2.0 * kappa)).log()
        return log_z + math.log(4.0 * math.pi)

    @property
    def expectation(self) -> Tensor:
        """(coth(kappa) - 1 / kappa) along v, by its series where that would cancel."""
        kappa = self.concentration
        large, square = kappa.clamp_min(0.3), kappa.clamp_max(0.3).square()
        inner = 1.0 - square * (1.0 - square / 9.9) / 10.0
        series = (1.0 - square * (1.0 - square * inner * (2.0 / 21.0)) / 15.0) / 3.0
        closed = (1.0 / torch.tanh(large) - 1.0 / large) / large
        return self.v * torch.where(kappa < 0.3, series, closed).unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, without a difference of large numbers."""
        return -0.5 * self.concentration * (value - self.mean).square().sum(-1) - self._log_excess

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by inversion of the distribution of the cosine (Wood 1994); NaN where v is not finite."""
        with torch.no_grad():
            mean = self.mean.expand(*sample_shape, *self.v.shape)
            kappa = self.concentration.clamp_min(1e-6)
            u = torch.rand_like(mean[..., 0])
            drop = (-torch.log1p(u * torch.expm1(-2.0 * kappa)) / kappa).clamp_max(2.0).unsqueeze(-1)  # 1 - cosine
            z = torch.randn_like(mean)
            tangent = torch.nn.functional.normalize(z - (z * mean).sum(-1, keepdim=True) * mean, dim=-1)
            return torch.nn.functional.normalize((1.0 - drop) * mean + (drop * (2.0 - drop)).sqrt() * tangent, dim=-1)


@lru_cache(maxsize=8)
def _contour(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes z and weights of an inverse Laplace transform at 1, of those 28 nodes that have no conjugate among them.

    They go round the negative real axis, and converge like exp(-1.36 n) wherever on it the singularities are.

    Source: Dingfelder and Weideman 2015 (Numerical Algorithms 68, 167-183).
    """
    n = 28
    angle = (torch.arange(n // 2, dtype=torch.float64) + 0.5) * (2.0 * math.pi / n)
    turn = 0.6407 * angle
    z = n * (0.5017 * angle / turn.tan() - 0.6122 + 0.2645j * angle)
    slope = 0.5017 * (1.0 / turn.tan() - turn / turn.sin().square()) + 0.2645j
    return z.to(device), (-2j * z.exp() * slope).to(device)


def _proper_svd(f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations U and V and numbers s_1 >= s_2 >= |s_3| with F = U diag(s) V^T; zeros for what is not finite."""
    u, s, vt = torch.linalg.svd(_finite(f))
    signs = [torch.linalg.det(part).sign() for part in (u, vt)]
    last = torch.tensor([0.0, 0.0, 1.0], device=f.device, dtype=f.dtype)
    flip_u, flip_v = (1.0 + (sign.unsqueeze(-1) - 1.0) * last for sign in signs)
    return u * flip_u.unsqueeze(-2), s * flip_u * flip_v, (vt * flip_v.unsqueeze(-1)).mT


def _proper_singular_values(f: Tensor) -> Tensor:
    """The numbers s alone, in a third of the time."""
    f = _finite(f)
    s = torch.linalg.svdvals(f)
    return torch.cat([s[..., :2], s[..., 2:] * torch.linalg.det(f).sign().unsqueeze(-1)], -1)


def _finite(f: Tensor) -> Tensor:
    return torch.where(torch.isfinite(f).all(-1, keepdim=True).all(-2, keepdim=True), f, 0.0)


def _integrand(s: Tensor) -> tuple[Tensor, Tensor]:
    r"""Nodes z + d_i, with shape (..., 3, n), and what is to be summed over the nodes, of which the real part counts.

    A rotation as a quaternion q has a Bingham distribution, of which the normaliser is an inverse Laplace transform:

    .. math:: Z = \frac{1}{2 \pi i} \int e^{z + s_1 + s_2 + s_3} \frac{dz}{\sqrt{z (z + d_1) (z + d_2) (z + d_3)}},
              \qquad d_i = 2 (s_1 + s_2 + s_3 - s_i)

    Source: Kume and Wood 2005 for the integral.
    """
    z, weights = _contour(s.device)
    nodes = z + _decay(s).unsqueeze(-1)
    return nodes, weights * z.rsqrt() * nodes.rsqrt().prod(-2)


def _decay(s: Tensor) -> Tensor:
    """Numbers d: the quaternion has the density exp(-d . q^2), where q is its imaginary part."""
    return 2.0 * (s.sum(-1, keepdim=True) - s)


def _log_z(s: Tensor) -> Tensor:
    """Ln Z of a matrix Fisher distribution."""
    return s.sum(-1) + _integrand(s)[1].sum(-1).real.log()


def _slopes(s: Tensor) -> Tensor:
    """Derivatives of ln Z with respect to s: the means of the diagonal of U^T R V."""
    nodes, terms = _integrand(s)
    square = 0.5 * (terms.unsqueeze(-2) / nodes).sum(-1).real / terms.sum(-1, keepdim=True).real  # E[q_i^2]
    return 1.0 - _decay(square)


def _mean_rotation(f: Tensor) -> Tensor:
    u, s, v = _proper_svd(f)
    mean: Tensor = (u * _slopes(s).unsqueeze(-2)) @ v.mT
    return torch.where(torch.isfinite(f), mean, torch.nan)


class _Expectation(torch.autograd.Function):
    """E[R] as a function of F.

    Its derivative is the Hessian of ln Z, which is symmetric: so the gradient is a derivative along a direction, which
    is taken by central differences, to about 1e-8.  The derivative of a singular value decomposition would be infinite
    where two singular values are the same, as they are at the start.
    """

    @staticmethod
    def forward(ctx: Any, f: Tensor) -> Tensor:
        ctx.save_for_backward(f)
        return _mean_rotation(f)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (f,) = ctx.saved_tensors
        length = torch.linalg.matrix_norm(gradient, keepdim=True)
        step = 1e-3 * gradient / length.clamp_min(1e-300)
        change = _mean_rotation(f + step) - _mean_rotation(f - step)
        return change.mul_(length / 2e-3)


class _LogNormaliser(torch.autograd.Function):
    """ln Z as a function of F; its gradient is E[R]."""

    @staticmethod
    def forward(ctx: Any, f: Tensor) -> Tensor:
        ctx.save_for_backward(f)
        return _log_z(_proper_singular_values(f)) + 0.0 * f.sum((-2, -1))  # NaN stays NaN

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (f,) = ctx.saved_tensors
        mean: Tensor = _Expectation.apply(f)  # type: ignore[no-untyped-call]
        return gradient[..., None, None] * mean


def _tetrahedral() -> tuple[Any, ...]:
    """The 12 rotations of a tetrahedron: even permutations of the axes, with an even number of signs turned."""
    turns = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
    corners = [((a, 0.0, 0.0), (0.0, b, 0.0), (0.0, 0.0, c)) for a, b, c in turns]
    return tuple((*rows[shift:], *rows[:shift]) for rows in corners for shift in range(3))


class MatrixFisher(Distribution):
    """Matrix Fisher distribution on rotations, with respect to the uniform distribution (whose log-density is 0).

    Normaliser and moments are computed in float64, by quadrature: to 1e-11 for F of up to 2e4.

    Arguments:
        v: Natural parameters F, with shape (..., 9), row by row; zero is uniform.
    """

    arg_constraints = {}  # noqa: RUF012
    square: ClassVar[float] = 3.0
    design: ClassVar[tuple[Any, ...]] = _tetrahedral()

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape[:-1], torch.Size((3, 3)), validate_args=False)

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """The nine numbers of the matrix."""
        return x.flatten(-2)

    @property
    def _matrix(self) -> Tensor:
        return self.v.double().reshape(*self.v.shape[:-1], 3, 3)

    @property
    def mean(self) -> Tensor:
        """The rotation nearest to F; without a gradient."""
        u, _, v = _proper_svd(self._matrix.detach())
        return (u @ v.mT).to(self.v.dtype)

    @property
    def log_normaliser(self) -> Tensor:
        """Of the integral of exp(tr F^T R) over the uniform distribution."""
        log_z: Tensor = _LogNormaliser.apply(self._matrix)  # type: ignore[no-untyped-call]
        return log_z.to(self.v.dtype)

    @property
    def expectation(self) -> Tensor:
        """E[R]."""
        mean: Tensor = _Expectation.apply(self._matrix)  # type: ignore[no-untyped-call]
        return mean.flatten(-2).to(self.v.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats."""
        f = self._matrix
        log_z: Tensor = _LogNormaliser.apply(f)  # type: ignore[no-untyped-call]
        return ((f * value).sum((-2, -1)) - log_z).to(self.v.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by rejection, as a Bingham distribution of quaternions (Kent, Ganeiban and Mardia 2018)."""
        with torch.no_grad():
            u, s, v = _proper_svd(self._matrix)
            decay = _decay(s)
            decay = torch.cat([torch.zeros_like(decay[..., :1]), decay], -1).expand(*sample_shape, *s.shape[:-1], 4)
            draws = (u @ _rotation(_bingham(decay)) @ v.mT).to(self.v.dtype)
            return torch.where(torch.isfinite(self.v).all(-1)[..., None, None], draws, torch.nan)


def _bingham(decay: Tensor) -> Tensor:
    """Draws unit quaternions of density exp(-sum decay q^2), where the first decay is 0; under an angular Gaussian."""
    low, high = torch.ones_like(decay[..., :1]), torch.full_like(decay[..., :1], 4.0)
    for _ in range(40):  # sum 1 / (b + 2 decay) = 1 makes the envelope tight
        b = 0.5 * (low + high)
        above = (1.0 / (b + 2.0 * decay)).sum(-1, keepdim=True) > 1.0
        low, high = torch.where(above, b, low), torch.where(above, high, b)
    omega, peak = 1.0 + 2.0 * decay / b, (0.5 * (4.0 - b) + 2.0 * (b / 4.0).log()).squeeze(-1)
    q = torch.zeros_like(decay)
    waits = torch.ones_like(peak, dtype=torch.bool)
    for _ in range(200):  # more than a third are accepted: 1e-35 for one to be left
        z = torch.nn.functional.normalize(torch.randn_like(decay) / omega.sqrt(), dim=-1)
        square = z.square()
        log_ratio = 2.0 * (omega * square).sum(-1).log() - (decay * square).sum(-1) + peak
        q = torch.where(waits.unsqueeze(-1), z, q)
        waits = waits & (torch.rand_like(peak).log() > log_ratio)
        if not bool(waits.any()):
            break
    return q


def _rotation(q: Tensor) -> Tensor:
    """Rotation matrices of unit quaternions (..., 4), the real part first."""
    w, x, y, z = q.unbind(-1)
    rows = (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@attrs.frozen(eq=False)
class BeliefMixture:
    """Output distribution: at each site a mixture of beliefs.

    Arguments:
        belief: Class of the beliefs: :class:`Angular`, :class:`VonMisesFisher` or :class:`MatrixFisher`.
        logits: Unnormalised log-weights, with shape (B, *sites, K).
        v: Natural parameters, with shape (B, *sites, K, d).
    """

    belief: type[Belief]
    logits: Tensor
    v: Tensor

    def _chosen(self, choice: Tensor) -> Belief:
        index = choice[..., None, None].expand(*choice.shape, 1, self.v.shape[-1])
        return self.belief(self.v.gather(-2, index).squeeze(-2))

    @property
    def expectation(self) -> Tensor:
        """E[phi] at each site, with shape (B, *sites, d)."""
        return (self.logits.softmax(-1).unsqueeze(-1) * self.belief(self.v).expectation).sum(-2)

    @property
    def mean(self) -> Tensor:
        """Direction of E[phi]."""
        return self.belief(self.expectation).mean

    @property
    def mode(self) -> Tensor:
        """Mean direction of the component with the largest weight (the mode, where components do not overlap)."""
        return self._chosen(self.logits.argmax(-1)).mean

    def sample(self) -> Tensor:
        """Draws x, independent over the sites."""
        gumbel = -torch.empty_like(self.logits).exponential_().log()
        return self._chosen((self.logits + gumbel).argmax(-1)).sample()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per example."""
        terms = self.belief(self.v).log_prob(x.unsqueeze(self.v.ndim - 2))
        return per_example((self.logits.log_softmax(-1) + terms).logsumexp(-1))

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        r"""E[function(x)] of a function that is affine in phi, exact.

        By its values at the points of the design, with weights :math:`(1 + d / |\phi|^2 \; E[\phi] \cdot \phi_j) / n`
        (some may be negative).
        """
        mean, points = self.expectation, torch.tensor(self.belief.design, device=self.v.device, dtype=self.v.dtype)
        scale, terms = mean.shape[-1] / self.belief.square, []
        for point in points:
            value = function(point.expand(*mean.shape[:-1], *point.shape))
            weight = (1.0 + scale * (mean @ self.belief.embed(point))) / len(points)
            terms.append(expand(weight, value) * value)
        return torch.stack(terms).sum(0)

    def mix(self, kernel: Kernel) -> Distribution:
        """The receiver, exact, for the kernel of the channel: N(alpha phi(x), alpha I)."""
        variance = kernel(self.mode).variance
        return Receiver(self, kernel, variance.reshape(*self.v.shape[:-2], -1)[..., :1])


@guide.register
def _(given: BeliefMixture, free: Any, weight: float) -> Output:
    logits, v = given.logits + weight * (given.logits - free.logits), given.v + weight * (given.v - free.v)
    return attrs.evolve(given, logits=logits, v=v)


class Receiver(Distribution):
    """A :class:`BeliefMixture` seen through the channel.

    Arguments:
        output: The mixture.
        kernel: The sender as a function of the data.
        alpha: Accuracy of the message, with shape (B, *sites, 1).
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, output: BeliefMixture, kernel: Kernel, alpha: Tensor) -> None:
        self.output, self.kernel, self.alpha = output, kernel, alpha
        super().__init__(alpha.shape[:1], validate_args=False)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density in nats per example."""
        belief, v = self.output.belief, self.output.v
        y = y.reshape(*v.shape[:-2], v.shape[-1])
        noise = -0.5 * (y.square() / self.alpha + (2.0 * math.pi * self.alpha).log()).sum(-1)
        growth = belief(v + y.unsqueeze(-2)).log_normaliser - belief(v).log_normaliser
        mixture = (self.output.logits.log_softmax(-1) + growth).logsumexp(-1)
        return per_example(noise + mixture - 0.5 * belief.square * self.alpha.squeeze(-1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by ancestry, with shape sample_shape + (B, *site, d)."""
        draws = [self.kernel(self.output.sample()).sample() for _ in range(math.prod(sample_shape))]
        return torch.stack(draws).reshape(*sample_shape, *draws[0].shape)


@attrs.frozen(eq=False)
class DirectionalParams:
    """Beliefs p(x | v) at each site, independent.

    Arguments:
        v: The messages' sum, with shape (B, *sites, d).
        accuracy: The accuracy B they had together, with shape (B,).
    """

    v: Tensor
    accuracy: Tensor


@attrs.frozen
class Directional(ChannelFamily[DirectionalParams]):
    """What circle, sphere and rotations share; the class of the beliefs tells them apart.

    Data have shape (B, *sites, *event), where an event is one direction: a number, a vector or a matrix.  All of it is
    the site shape that networks see, so the coordinates of a vector are sites to them.

    Arguments:
        site_shape: Shape of one example, (*sites, *event).
        sigma_1: Resolution of the beliefs at t = 1 in radians; the accuracy there is sigma_1^-2 - 1.
        components: Components K of the output at each site.
    """

    belief: ClassVar[type[Belief]]
    event: ClassVar[tuple[int, ...]] = ()
    domain: ClassVar[str] = "angles"

    site_shape: tuple[int, ...] = field(
        default=attrs.Factory(lambda self: self.event or (1,), takes_self=True), converter=as_shape
    )
    sigma_1: float = field(default=0.1, validator=[validators.ge(1e-4), validators.lt(1.0)])
    components: int = field(default=1, validator=[validators.instance_of(int), validators.ge(1)])
    schedule: GeometricSchedule = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "schedule", GeometricSchedule(self.sigma_1))

    @site_shape.validator
    def _check_site_shape(self, _: object, value: tuple[int, ...]) -> None:
        if not all(isinstance(size, int) and size >= 1 for size in value):
            raise ValueError(f"site_shape must be integers of at least 1, got {value}")
        if value[len(value) - len(self.event) :] != self.event:
            end = ", ".join(map(str, self.event))
            raise ValueError(f"site_shape must end in {end} for {type(self).__name__}, got {value}")

    @property
    def _sites(self) -> tuple[int, ...]:
        return self.site_shape[: len(self.site_shape) - len(self.event)]

    @property
    def network_io(self) -> NetworkIO:
        """A tilt for each coordinate and component; and weights, if there are several, as sums over coordinates."""
        weights = self.components if self.components > 1 else 0
        return NetworkIO(self.site_shape, self.channels, self.channels * self.components + weights)

    def embed(self, x: Tensor) -> Tensor:
        """phi(x)."""
        return self.belief.embed(x).reshape(*x.shape, self.channels)

    def mean_embedding(self, output: Output) -> Tensor:
        """E[phi], without the points of a design."""
        if not isinstance(output, BeliefMixture):
            return super().mean_embedding(output)
        return output.expectation.reshape(-1, *self.site_shape, self.channels)

    def channel(self, params: DirectionalParams) -> tuple[Tensor, Tensor]:
        """v and B."""
        return params.v.reshape(-1, *self.site_shape, self.channels), params.accuracy

    def from_channel(self, v: Tensor, accuracy: Tensor) -> DirectionalParams:
        """v and B."""
        return DirectionalParams(v.reshape(len(v), *self._sites, -1), accuracy)

    def input(self, params: DirectionalParams) -> Distribution:
        """p(x | v) at each site."""
        belief: Any = self.belief(params.v)
        return Independent(belief, params.v.ndim - 2, validate_args=False)

    def features(self, params: DirectionalParams) -> Tensor:
        """E[phi] under the beliefs: within the unit ball, and 0 where nothing is known."""
        return self.belief(params.v).expectation.reshape(-1, *self.site_shape, self.channels)

    def output(self, raw: Tensor, params: DirectionalParams) -> Output:
        """The beliefs tilted by the raw numbers, in units of sqrt(1 + B): by about one standard deviation."""
        k, v = self.components, params.v
        raw = raw.reshape(*v.shape[:-1], -1, raw.shape[-1])  # (B, *sites, coordinates, R)
        tilt = raw[..., : k * self.channels].reshape(*raw.shape[:-1], k, self.channels).movedim(-2, -3).flatten(-2)
        logits = raw[..., k * self.channels :].sum(-2) if k > 1 else torch.zeros_like(v[..., :1])
        if k > 1:
            tilt = tilt + _spread(k, v.shape[-1], v)
        scale = expand((1.0 + params.accuracy).sqrt(), tilt)
        return BeliefMixture(self.belief, logits, v.unsqueeze(-2) + scale * tilt)

    def loss_weight(self, t: Tensor) -> Tensor:
        """What brings the rate of the beliefs' own error, alpha / (1 + B) / 2, to unit scale."""
        return 2.0 * (1.0 + self.schedule.beta(t)) / self.schedule.alpha(t)

    def check_data(self, x: Tensor) -> None:
        """Shape, floating point, finite, and :meth:`_fault` below the tolerance of 1e-3."""
        super().check_data(x)
        if not x.is_floating_point():
            name = type(self).__name__
            raise DataError(f"{name} expects floating-point data, found {x.dtype}; convert with x.float()")
        self._refuse(x, ~torch.isfinite(x), "finite data")
        self._refuse(x, self._fault(x) > 1e-3, self.domain)

    def _refuse(self, x: Tensor, bad: Tensor, expected: str) -> None:
        if bad.any():
            row = tuple(bad.nonzero()[0].tolist())
            raise DataError(
                f"{type(self).__name__} expects {expected}, found {x[row].tolist()} at index {row} "
                f"({int(bad.sum())} in all)"
            )

    def _fault(self, x: Tensor) -> Tensor:
        """How far data are from the domain, at each of the sites."""
        return torch.zeros_like(x)


def _spread(k: int, d: int, like: Tensor) -> Tensor:
    """K vectors of d numbers, all different: components that begin alike would get the same gradient for ever."""
    number = torch.arange(1, k * d + 1, device=like.device, dtype=like.dtype).reshape(k, d)
    return (2.399963 * number).sin()  # by the golden angle


@attrs.frozen
class Circle(Directional):
    """Angles in radians; any real number is accepted, and samples are in [-pi, pi].

    Arguments:
        site_shape: Shape of one example, one angle at each site.
        sigma_1: Resolution of the beliefs at t = 1 in radians.
        components: Components K of the output at each site.

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
        components: Components K of the output at each site.

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
        sigma_1: Resolution of the beliefs at t = 1; the angle about any axis has the deviation sigma_1 / sqrt(2).
        components: Components K of the output at each site.

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
