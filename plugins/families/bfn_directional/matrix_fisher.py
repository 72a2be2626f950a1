r"""Beliefs about rotations: the matrix Fisher distribution, with phi(R) the nine numbers of the matrix.

.. math:: p(R \mid F) = e^{\mathrm{tr}(F^T R)} / Z(F), \qquad Z(F) = \int e^{\mathrm{tr}(F^T R)} dR, \qquad
          E[R \mid F] = \nabla \ln Z(F)

Z depends only on s, where F = U diag(s) V^T with rotations U and V.  The distribution is a
:class:`~bfn_directional.beliefs.Belief`.

Source: Mardia and Jupp 2000; Kume and Wood 2005 for the normaliser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from bfn_toolkit import in_float64, streams


@lru_cache(maxsize=8)
def _contour(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes z and weights of an inverse Laplace transform at 1: one of each conjugate pair among 28 nodes.

    They encircle the negative real axis, and converge like exp(-1.36 n) wherever the singularities lie on it.

    Source: Dingfelder and Weideman 2015 (Numerical Algorithms 68, 167-183).
    """
    n = 28
    angle = (torch.arange(n // 2, dtype=torch.float64) + 0.5) * (2.0 * math.pi / n)
    turn = 0.6407 * angle
    z = n * (0.5017 * angle / turn.tan() - 0.6122 + 0.2645j * angle)
    slope = 0.5017 * (1.0 / turn.tan() - turn / turn.sin().square()) + 0.2645j
    return z.to(device), (-2j * z.exp() * slope).to(device)


def _proper_svd(f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations U and V and numbers s_1 >= s_2 >= |s_3| with F = U diag(s) V^T; a non-finite F counts as 0."""
    u, s, vt = torch.linalg.svd(_finite(f))
    signs = [torch.linalg.det(part).sign() for part in (u, vt)]
    last = torch.tensor([0.0, 0.0, 1.0], device=f.device, dtype=f.dtype)
    flip_u, flip_v = (1.0 + (sign.unsqueeze(-1) - 1.0) * last for sign in signs)
    return u * flip_u.unsqueeze(-2), s * flip_u * flip_v, (vt * flip_v.unsqueeze(-1)).mT


def _proper_singular_values(f: Tensor) -> Tensor:
    """Only the numbers s, in a third of the time."""
    f = _finite(f)
    s = torch.linalg.svdvals(f)
    return torch.cat([s[..., :2], s[..., 2:] * torch.linalg.det(f).sign().unsqueeze(-1)], -1)


def _finite(f: Tensor) -> Tensor:
    return torch.where(torch.isfinite(f).all(-1, keepdim=True).all(-2, keepdim=True), f, 0.0)


def _integrand(s: Tensor) -> tuple[Tensor, Tensor]:
    r"""Nodes z + d_i, with shape (..., 3, n), and terms whose sum over the nodes has the real part e^(-sum s) Z.

    A rotation as a quaternion q has a Bingham distribution, whose normaliser is an inverse Laplace transform:

    .. math:: Z = \frac{1}{2 \pi i} \int e^{z + s_1 + s_2 + s_3} \frac{dz}{\sqrt{z (z + d_1) (z + d_2) (z + d_3)}},
              \qquad d_i = 2 (s_1 + s_2 + s_3 - s_i)

    Source: Kume and Wood 2005 for the integral.
    """
    z, weights = _contour(s.device)
    nodes = z + _decay(s).unsqueeze(-1)
    return nodes, weights * z.rsqrt() * nodes.rsqrt().prod(-2)


def _decay(s: Tensor) -> Tensor:
    """Numbers d; the quaternion has the density exp(-d . q^2), where q is its imaginary part."""
    return 2.0 * (s.sum(-1, keepdim=True) - s)


def _log_z(s: Tensor) -> Tensor:
    """Log-normaliser ln Z of a matrix Fisher distribution."""
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

    Its derivative is the Hessian of ln Z, which is symmetric.  So the gradient is a directional derivative, computed by
    central differences to about 1e-8.  The derivative of a singular value decomposition would be infinite for equal
    singular values, as at the start.
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
    """The 12 rotations of a tetrahedron: even permutations of the axes, with an even number of signs flipped."""
    turns = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
    corners = [((a, 0.0, 0.0), (0.0, b, 0.0), (0.0, 0.0, c)) for a, b, c in turns]
    return tuple((*rows[shift:], *rows[:shift]) for rows in corners for shift in range(3))


class MatrixFisher(Distribution):
    """Matrix Fisher distribution on rotations, with densities relative to the uniform distribution.

    Normaliser and moments are computed by quadrature in float64, to 1e-11 for F up to 2e4.

    Arguments:
        v: Natural parameters F, with shape (..., 9), row by row; zero is uniform.
    """

    arg_constraints = {"v": constraints.real_vector}  # noqa: RUF012 - the name and form that torch prescribes
    support = constraints.independent(constraints.real, 2)  # type: ignore[no-untyped-call]
    square: ClassVar[float] = 3.0
    linear: ClassVar[bool] = True
    design: ClassVar[tuple[Any, ...]] = _tetrahedral()

    def __init__(self, v: Tensor) -> None:
        self.v = v
        super().__init__(v.shape[:-1], torch.Size((3, 3)), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MatrixFisher:
        """The same distribution for more examples."""
        return MatrixFisher(self.v.expand(*batch_shape, 9))

    @staticmethod
    def embed(x: Tensor) -> Tensor:
        """The nine numbers of the matrix."""
        return x.flatten(-2)

    @property
    def _matrix(self) -> Tensor:
        return in_float64(self.v).reshape(*self.v.shape[:-1], 3, 3)

    @property
    def mean(self) -> Tensor:
        """The rotation nearest to F, without a gradient."""
        u, _, v = _proper_svd(self._matrix.detach())
        return (u @ v.mT).to(self.v.dtype).to(self.v.device)

    @property
    def log_normaliser(self) -> Tensor:
        """Logarithm of the integral of exp(tr F^T R) over the uniform distribution."""
        log_z: Tensor = _LogNormaliser.apply(self._matrix)  # type: ignore[no-untyped-call]
        return log_z.to(self.v.dtype).to(self.v.device)

    @property
    def expectation(self) -> Tensor:
        """E[R]."""
        mean: Tensor = _Expectation.apply(self._matrix)  # type: ignore[no-untyped-call]
        return mean.flatten(-2).to(self.v.dtype).to(self.v.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, at the rotation that is nearest to ``value``."""
        f, value = self._matrix, in_float64(value)
        value = 1.5 * value - 0.5 * value @ value.mT @ value  # rounding along F would be multiplied by its size
        log_z: Tensor = _LogNormaliser.apply(f)  # type: ignore[no-untyped-call]
        return ((f * value).sum((-2, -1)) - log_z).to(self.v.dtype).to(self.v.device)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by rejection, as a Bingham distribution of quaternions (Kent, Ganeiban and Mardia 2018)."""
        with torch.no_grad():
            u, s, v = _proper_svd(self._matrix)
            decay = _decay(s)
            decay = torch.cat([torch.zeros_like(decay[..., :1]), decay], -1).expand(*sample_shape, *s.shape[:-1], 4)
            draws = (u @ _rotation(_bingham(decay)) @ v.mT).to(self.v.dtype).to(self.v.device)
            return torch.where(torch.isfinite(self.v).all(-1)[..., None, None], draws, torch.nan)


def _bingham(decay: Tensor) -> Tensor:
    """Draws unit quaternions with density exp(-sum decay q^2), first decay 0, by rejection from an angular Gaussian."""
    low, high = torch.ones_like(decay[..., :1]), torch.full_like(decay[..., :1], 4.0)
    for _ in range(40):  # sum 1 / (b + 2 decay) = 1 makes the envelope tight
        b = 0.5 * (low + high)
        above = (1.0 / (b + 2.0 * decay)).sum(-1, keepdim=True) > 1.0
        low, high = torch.where(above, b, low), torch.where(above, high, b)
    omega, peak = 1.0 + 2.0 * decay / b, (0.5 * (4.0 - b) + 2.0 * (b / 4.0).log()).squeeze(-1)
    q = torch.zeros_like(decay)
    waits = torch.ones_like(peak, dtype=torch.bool)
    with streams()("Bingham"):  # a separate stream, so that the number of rejections does not affect later draws
        for _ in range(200):  # more than a third are accepted: one is left with probability 1e-35
            z = torch.nn.functional.normalize(torch.randn_like(decay) / omega.sqrt(), dim=-1)
            square = z.square()
            log_ratio = 2.0 * (omega * square).sum(-1).log() - (decay * square).sum(-1) + peak
            q = torch.where(waits.unsqueeze(-1), z, q)
            waits = waits & (torch.rand_like(peak).log() > log_ratio)
            if not bool(waits.any()):
                break
    return q


def _rotation(q: Tensor) -> Tensor:
    """Rotation matrices of unit quaternions (..., 4), whose real part is first."""
    w, x, y, z = q.unbind(-1)
    rows = (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
