r"""sphere-points: unit vectors in space, a distribution family for bfn-toolkit; sphere-caps: a data set of them.

The family is the Gaussian channel of :math:`\phi(x) = x`.  Since :math:`\lVert x \rVert = 1`, the likelihood of a
message is :math:`e^{y \cdot x}` up to a factor common to all x, so beliefs are von Mises-Fisher and messages add up:

.. math::
    y &\sim N(\alpha x, \alpha I), \qquad p(x \mid v) = C(k) \, e^{v \cdot x}, \qquad v' = v + y, \\
    k &= \lVert v \rVert, \qquad C(k) = \frac{k}{4 \pi \sinh k}, \qquad E[x] = \Big(\coth k - \frac{1}{k}\Big)
    \frac{v}{k}

The output is von Mises-Fisher too, with natural parameters v + raw: the sum of the messages, and the network's raw
numbers.  Every point inside the ball is the mean of one such distribution, so the continuous-time loss can reach its
optimum.  The receiver is exact; Bayes' rule, solved for the evidence, holds at any x:

.. math:: p_R(y) = \frac{p_O(x) \, p_S(y \mid x; \alpha)}{p_O(x \mid y)}

Densities are in nats with respect to the area of the sphere, which is 4 pi.

Source: Graves et al. 2023 (arXiv 2308.07037), eq. 4 and 41; Fisher 1953 for the beliefs; Besag 1989 for the receiver.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import field
from bfn_toolkit import (
    Batch,
    ChannelFamily,
    DataError,
    Dataset,
    Entry,
    GeometricSchedule,
    Kernel,
    NetworkIO,
    Split,
    affine_expectation,
    as_shape,
    hookimpl,
    seeded,
    split_rows,
    validators,
)
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn import functional as F


class VonMisesFisher(Distribution):
    """Distribution on the unit sphere in three dimensions, with density proportional to exp(v . x).

    Arguments:
        v: Natural parameters with shape (..., 3), the concentration times the mean direction; zero is uniform.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape[:-1], v.shape[-1:], validate_args=False)

    @property
    def _square(self) -> Tensor:
        return self.v.square().sum(-1, keepdim=True)

    @property
    def concentration(self) -> Tensor:
        """Length k of v, with shape (..., 1); clamped above 0 for divisions."""
        return self._square.clamp_min(torch.finfo(self.v.dtype).tiny).sqrt()

    @property
    def mode(self) -> Tensor:
        """Direction of v, or a pole where v is 0."""
        pole = torch.eye(3, dtype=self.v.dtype, device=self.v.device)[2]
        return torch.where(self._square < torch.finfo(self.v.dtype).tiny, pole, self.v / self.concentration)

    @property
    def mean(self) -> Tensor:
        """E[x], a point inside the ball: (coth k - 1 / k) / k times v; for k < 1 by its continued fraction."""
        square = self._square
        fraction = torch.full_like(square, 17.0)
        for odd in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
            fraction = odd + square / fraction
        k = square.clamp_min(1.0).sqrt()
        return torch.where(square < 1.0, 1.0 / fraction, (1.0 / k.tanh() - 1.0 / k) / k) * self.v

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats; v . x - k is written as a square, to avoid cancellation."""
        k = self.concentration
        normaliser = (k / (-2.0 * math.pi * torch.expm1(-2.0 * k))).log()
        density: Tensor = normaliser.squeeze(-1) - 0.5 * (k * (value - self.mode).square()).sum(-1)
        return density

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + (..., 3): the cosine with v by inversion, then a uniform angle around v."""
        with torch.no_grad():
            k, mode = self.concentration, self.mode
            normal = torch.randn((*sample_shape, *self.v.shape), dtype=self.v.dtype, device=self.v.device)
            u = torch.rand_like(normal[..., :1])  # below 1, so that the logarithm is finite
            versine = -torch.log1p(u * torch.expm1(-2.0 * k)) / k  # 1 - cosine
            across = F.normalize(normal - (normal * mode).sum(-1, keepdim=True) * mode, dim=-1)
            draws: Tensor = (1.0 - versine) * mode + (versine * (2.0 - versine)).clamp_min(0.0).sqrt() * across
            return draws


def von_mises_fisher(v: Tensor) -> Distribution:
    """von Mises-Fisher distributions (B,) with independent sites and natural parameters v (B, *sites, 3)."""
    return Independent(VonMisesFisher(v), v.ndim - 2, validate_args=False)


class Received(Distribution):
    """Receiver distribution: a message about a point with a von Mises-Fisher output distribution.

    Arguments:
        v: Natural parameters of the output, with shape (B, *sites, 3).
        sender: The sender, as a function of the point.
    """

    arg_constraints = {}  # noqa: RUF012 - the name and form that torch prescribes

    def __init__(self, v: Tensor, sender: Kernel) -> None:
        self.v, self.sender = v, sender
        super().__init__(v.shape[:1], torch.Size((*v.shape[1:], 1)), validate_args=False)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density in nats per example: p(x) p(y | x) / p(x | y), at the mode x of p(x | y)."""
        before, after = von_mises_fisher(self.v), von_mises_fisher(self.v + y.squeeze(-1))
        x = after.mode
        density: Tensor = before.log_prob(x) + self.sender(x).log_prob(y) - after.log_prob(x)
        return density

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with shape sample_shape + (B, *sites, 3, 1): a point, then its message."""
        belief = von_mises_fisher(self.v)
        draws = [self.sender(belief.sample()).sample() for _ in range(math.prod(sample_shape))]
        return torch.stack(draws).reshape(*sample_shape, *draws[0].shape)


@attrs.frozen(eq=False)
class FisherOutput:
    """Output distribution: von Mises-Fisher at each site, independent.

    Arguments:
        v: Natural parameters, with shape (B, *sites, 3).
    """

    v: Tensor

    @property
    def mean(self) -> Tensor:
        """E[x], with shape (B, *sites, 3); it lies inside the ball, not on the sphere."""
        return von_mises_fisher(self.v).mean

    @property
    def mode(self) -> Tensor:
        """The most probable point."""
        return von_mises_fisher(self.v).mode

    def sample(self) -> Tensor:
        """Draws a point at each site."""
        return von_mises_fisher(self.v).sample()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per example."""
        density: Tensor = von_mises_fisher(self.v).log_prob(x)
        return density

    def expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x)], exact for affine functions: the function at the mean.

        Raises:
            ConfigError: If the function is not affine.
        """
        return affine_expectation(function, self.mean, torch.ones_like(self.mean))

    def mix(self, kernel: Kernel) -> Distribution:
        """The receiver; exact if the kernel is the sender of :class:`SpherePoints`."""
        return Received(self.v, kernel)


@attrs.frozen(eq=False)
class SphereParams:
    """Beliefs about unit vectors: von Mises-Fisher at each site, independent.

    Arguments:
        v: Natural parameters, the sum of the messages, with shape (B, *sites, 3).
        accuracy: Total accuracy of the messages, with shape (B,).
    """

    v: Tensor
    accuracy: Tensor


def _of_vectors(_: object, attribute: Any, value: tuple[int, ...]) -> None:
    if value[-1:] != (3,):
        raise ValueError(f"{attribute.name} must end in 3, the coordinates of a vector; got {value}")


@attrs.frozen
class SpherePoints(ChannelFamily[SphereParams]):
    """Unit vectors in space, one at each site.

    For the network and the channel each coordinate is a separate site, with one feature and one raw number.  Under the
    geometric schedule, the loss rate of a network that returns 0 about doubles over time on uniform data, so no loss
    weight is needed.

    Arguments:
        site_shape: Shape of one example; the last axis has the three coordinates.
        sigma_1: Resolution of a direction at t = 1, in radians; the accuracy there is sigma_1^-2 - 1.
    """

    site_shape: tuple[int, ...] = field(default=(3,), converter=as_shape, validator=_of_vectors)
    sigma_1: float = field(default=0.05, validator=validators.number(ge=1e-4, lt=1))
    channels = 1

    @property
    def schedule(self) -> GeometricSchedule:
        """The geometric schedule of sigma_1."""
        return GeometricSchedule(self.sigma_1)

    @property
    def network_io(self) -> NetworkIO:
        """One feature and one raw number for each coordinate."""
        return NetworkIO(self.site_shape)

    def embed(self, x: Tensor) -> Tensor:
        """The vectors themselves."""
        return x.unsqueeze(-1)

    def natural_params(self, params: SphereParams) -> tuple[Tensor, Tensor]:
        """The beliefs are the coordinates."""
        return params.v.unsqueeze(-1), params.accuracy

    def from_natural(self, v: Tensor, accuracy: Tensor) -> SphereParams:
        """The coordinates are the beliefs."""
        return SphereParams(v.squeeze(-1), accuracy)

    def input(self, params: SphereParams) -> Distribution:
        """von Mises-Fisher with natural parameters v."""
        return von_mises_fisher(params.v)

    def features(self, params: SphereParams) -> Tensor:
        """v / sqrt(1 + |v|^2), which lies inside the ball."""
        inside = params.v * (1.0 + params.v.square().sum(-1, keepdim=True)).rsqrt()
        return inside.unsqueeze(-1)

    def output(self, raw: Tensor, params: SphereParams) -> FisherOutput:
        """The beliefs, with the raw numbers added to their natural parameters."""
        return FisherOutput(params.v + raw.squeeze(-1))

    def check_data(self, x: Tensor) -> None:
        """Checks shape, floating dtype, and unit length to 1e-4."""
        super().check_data(x)
        if not x.is_floating_point():
            raise DataError(f"SpherePoints expects floating-point data, found {x.dtype}; convert with x.float()")
        length = torch.linalg.vector_norm(x, dim=-1)
        bad = ~((length - 1.0).abs() <= 1e-4)
        if bad.any():
            row = tuple(bad.nonzero()[0].tolist())
            raise DataError(
                f"SpherePoints expects unit vectors, found one of length {length[row].item():.6g} at index {row} "
                f"({int(bad.sum())} in all); divide by the length: torch.nn.functional.normalize(x, dim=-1)"
            )


def _as_points(value: Any) -> Any:
    return tuple(map(_as_points, value)) if isinstance(value, Sequence) else value


def _directions(_: object, attribute: Any, value: tuple[tuple[float, ...], ...]) -> None:
    if not value or not all(len(point) == 3 and 0.0 < math.hypot(*point) < math.inf for point in value):
        raise ValueError(f"{attribute.name} must be vectors of three numbers, finite and not 0; got {value}")


@attrs.frozen
class SphereCaps(Dataset):
    """Points on the sphere in round caps: von Mises-Fisher draws, the same number from each cap.

    Arguments:
        centres: A vector towards the centre of each cap, of any length.
        concentration: Concentration of the points about the centre: a cap is about 1 / sqrt(concentration) radians
            wide.
        count: Number of points in each cap.
        seed: Seed of the draws.
        valid_fraction: Fraction of the points held out for validation.
    """

    centres: tuple[tuple[float, ...], ...] = field(
        default=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), converter=_as_points, validator=_directions
    )
    concentration: float = field(default=50.0, validator=validators.number(gt=0))
    count: int = field(default=1000, validator=validators.integer(ge=1))
    seed: int = field(default=0, validator=validators.integer(ge=0))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    @property
    def site_shape(self) -> tuple[int, ...]:
        """One vector."""
        return (3,)

    @property
    def _centres(self) -> Tensor:
        return F.normalize(torch.tensor(self.centres, dtype=torch.float32), dim=-1)

    def split(self, name: Split) -> Batch:
        """The points; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            caps = VonMisesFisher(self.concentration * self._centres).sample((self.count,))
        points = Batch(caps.flatten(0, 1))
        if name in ("test", "all"):
            return points
        train, valid = split_rows(len(points), self.valid_fraction, self.seed)
        return points.rows(train if name == "train" else valid)

    def mode_shares(self, x: Tensor) -> Mapping[str, float]:
        """Fraction of the points nearest to each centre."""
        nearest = (x @ self._centres.to(x).T).argmax(-1)
        shares = torch.bincount(nearest, minlength=len(self.centres)) / len(x)
        return {str(centre): share for centre, share in zip(self.centres, shares.tolist(), strict=True)}


@hookimpl
def bfn_families() -> list[Entry]:
    """The family."""
    examples = (SpherePoints(), SpherePoints(site_shape=(2, 3), sigma_1=0.2))
    return [Entry("sphere-points", SpherePoints, examples)]


@hookimpl
def bfn_datasets() -> list[Entry]:
    """The data set."""
    two = SphereCaps(centres=((0.0, 0.0, 2.0), (1.0, -1.0, 0.0)), concentration=5.0, count=20, seed=1)
    return [Entry("sphere-caps", SphereCaps, examples=(SphereCaps(), two))]
