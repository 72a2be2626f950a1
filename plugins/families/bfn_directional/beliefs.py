r"""Beliefs about directions, on circle and sphere: exponential families in an embedding phi of constant length.

.. math:: p(x \mid v) = e^{v \cdot \phi(x)} / Z(v), \qquad E[\phi \mid v] = \nabla \ln Z(v)

======================= =============== =============== =======================================
belief                  phi(x)          distribution    Z(v)
======================= =============== =============== =======================================
:class:`Angular`        (cos x, sin x)  von Mises       :math:`2 \pi I_0(\kappa)`
:class:`VonMisesFisher` x               von Mises-      :math:`4 \pi \sinh(\kappa) / \kappa`
                                        Fisher
======================= =============== =============== =======================================

For rotations see :class:`bfn_directional.matrix_fisher.MatrixFisher`.

Source: Mardia and Jupp 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from bfn_toolkit import VonMises

TINY = 1e-12  # length below which a vector has no direction


class Belief(Protocol):
    r"""Distribution with density exp(v . phi(x)) / Z(v), for natural parameters v of shape (..., d).

    ``design`` holds n points with :math:`\sum_j \phi_j = 0` and :math:`\sum_j \phi_j \phi_j^T \propto I`.
    """

    square: ClassVar[float]  # |phi|^2
    linear: ClassVar[bool]  # whether phi(x) is x, rather than the cosine and sine of an angle
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
    """Beliefs about angles: von Mises distributions, with densities per radian."""

    square: ClassVar[float] = 1.0
    linear: ClassVar[bool] = False
    design: ClassVar[tuple[Any, ...]] = (0.0, 2.0 * math.pi / 3.0, 4.0 * math.pi / 3.0)

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """(cos x, sin x)."""
        return torch.stack([x.cos(), x.sin()], -1)

    @property
    def log_normaliser(self) -> Tensor:
        """Logarithm of 2 pi I_0."""
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
    """von Mises-Fisher distribution on the unit sphere in three dimensions, with densities per unit of area.

    Arguments:
        v: Natural parameters with shape (..., 3), the concentration times the mean direction; zero is uniform.
    """

    arg_constraints = {"v": constraints.real_vector}  # noqa: RUF012 - the name and form that torch prescribes
    support = constraints.real_vector
    square: ClassVar[float] = 1.0
    linear: ClassVar[bool] = True
    design: ClassVar[tuple[Any, ...]] = tuple(
        tuple(sign / math.sqrt(3.0) for sign in signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    )

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape[:-1], v.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> VonMisesFisher:
        """The same distribution for more examples."""
        return VonMisesFisher(self.v.expand(*batch_shape, 3))

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """Returns x."""
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
        """Logarithm of 4 pi sinh(kappa) / kappa."""
        return self.concentration + self._log_excess

    @property
    def _log_excess(self) -> Tensor:
        """ln Z - kappa."""
        kappa = self.concentration.clamp_min(1e-6)
        log_z: Tensor = (-torch.expm1(-2.0 * kappa) / (2.0 * kappa)).log()
        return log_z + math.log(4.0 * math.pi)

    @property
    def expectation(self) -> Tensor:
        """(coth(kappa) - 1 / kappa) along v, by its series where the difference would cancel."""
        kappa = self.concentration
        large, square = kappa.clamp_min(0.3), kappa.clamp_max(0.3).square()
        inner = 1.0 - square * (1.0 - square / 9.9) / 10.0
        series = (1.0 - square * (1.0 - square * inner * (2.0 / 21.0)) / 15.0) / 3.0
        closed = (1.0 / torch.tanh(large) - 1.0 / large) / large
        return self.v * torch.where(kappa < 0.3, series, closed).unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, computed without cancellation."""
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
