r"""Toy densities in the plane (plugin): moons, rings, checkerboard, pinwheel and spirals, each with its density.

All but the checkerboard are J curves :math:`c_j(u)`, chosen with equal probability and blurred by normal noise,

.. math::
    x = c_j(u) + s z, \quad u \sim U(0, 1), \quad z \sim N(0, I), \qquad
    p(x) = \frac{1}{J} \sum_j \int_0^1 N(x; c_j(u), s^2 I) \, du ,

The integral is computed as a Gauss-Legendre sum, with nodes a fraction of s apart.  The checkerboard is uniform on J
squares :math:`[a_j, b_j]`, blurred in the same way; its density is a sum of products of normal interval probabilities:

.. math:: p(x) = \frac{1}{J} \sum_j \prod_d \frac{\Phi((b_{jd} - x_d) / s) - \Phi((a_{jd} - x_d) / s)}{b_{jd} - a_{jd}}

Every shape has zero mean and, without noise, lies in [-1, 1].
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import attrs
import numpy as np
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Batch, ConfigError, Dataset, Entry, Split, hookimpl, in_float64, seeded, split_rows, validators

Shape: TypeAlias = Literal["moons", "rings", "checkerboard", "pinwheel", "spirals"]

SHAPES: tuple[Shape, ...] = ("moons", "rings", "checkerboard", "pinwheel", "spirals")
SIDE = 0.5  # side length of a square of the checkerboard
ROWS = 1024  # number of rows whose densities are computed together


def _curves(shape: Shape, u: Tensor) -> Tensor:
    """Points (J, M, 2) of the J curves at u (M,)."""
    if shape == "moons":
        moon = 0.6 * (torch.polar(torch.ones_like(u), math.pi * u) - (0.5 + 0.25j))
        curves = [moon, -moon]
    elif shape == "rings":
        ring = torch.polar(torch.ones_like(u), 2.0 * math.pi * u)
        curves = [0.4 * ring, 0.8 * ring]
    elif shape == "pinwheel":
        radius = 0.2 + 0.7 * u
        curves = [torch.polar(radius, 2.0 * radius) * cmath.exp(0.4j * math.pi * j) for j in range(5)]
    else:
        radius = (0.01 + 0.8 * u).sqrt()  # about uniform along the arm
        arm = torch.polar(radius, 3.5 * math.pi * radius)
        curves = [arm, -arm]
    return torch.view_as_real(torch.stack(curves))


def _squares() -> Tensor:
    """Lower left corners (8, 2) of the squares."""
    return torch.tensor([[i, j] for i in range(4) for j in range(4) if (i + j) % 2 == 0]) * SIDE - 1.0


def _nodes(shape: Shape, noise: float) -> tuple[Tensor, Tensor]:
    """Points (J, M, 2) and weights (M,) of panels of 16 nodes; in a panel each curve advances at most 3 * noise."""
    way = _curves(shape, torch.linspace(0.0, 1.0, 1001, dtype=torch.float64))
    panels = math.ceil(1000.0 * float(way.diff(dim=1).norm(dim=-1).max()) / (3.0 * noise))
    node, weight = (torch.from_numpy(part) / 2.0 for part in np.polynomial.legendre.leggauss(16))
    starts = torch.arange(panels, dtype=torch.float64).unsqueeze(1)
    return _curves(shape, ((starts + 0.5 + node) / panels).flatten()), (weight / panels).repeat(panels)


def _log_interval(low: Tensor, high: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)), precise in both tails."""
    flip = low + high > 0.0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper: Tensor = torch.special.log_ndtr(high)
    return upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))


@attrs.frozen
class Toy2d(Dataset):
    """Points in the plane around one of five shapes, with their exact density.

    Arguments:
        shape: "moons" (2), "rings" (2), "checkerboard" (8 squares of 16), "pinwheel" (5 blades) or "spirals" (2 arms).
        count: Number of points.
        noise: Standard deviation of the noise, in [0.02, 1]; 0 is allowed for the checkerboard.
        seed: Seed of the draws.
        valid_fraction: Fraction of the points held out for validation.

    >>> rings = Toy2d("rings", count=100)
    >>> rings.split("train").x.shape
    torch.Size([90, 2])
    """

    shape: Shape = field(default="moons", validator=validators.one_of(*SHAPES))
    count: int = field(default=40_000, validator=validators.integer(ge=2))
    noise: float = field(default=0.05)
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    @property
    def default_config(self) -> Mapping[str, object]:
        """More steps."""
        return {
            "training": {"steps": 8000, "batch_size": 512, "lr": 1e-3, "ema_decay": 0.99},
        }

    @noise.validator
    def _check_noise(self, _: object, value: float) -> None:
        if not (0.02 <= value <= 1.0 or (value == 0.0 and self.shape == "checkerboard")):
            instead = ', or 0 with shape="checkerboard"' if value == 0.0 else ""
            raise ConfigError(f"expected 0.02 <= noise <= 1{instead}, got {value}")

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(2,)."""
        return (2,)

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape, and the mean square of the data."""
        if self.shape == "checkerboard":
            spread = 1.0 / 3.0  # each coordinate is uniform in [-1, 1]
        else:
            nodes, weights = _nodes(self.shape, self.noise)
            spread = float((nodes.square().mean((0, 2)) * weights).sum())
        return {"site_shape": self.site_shape, "data_variance": round(spread + self.noise**2, 6)}

    def split(self, name: Split) -> Batch:
        """The points; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            points = Batch(self._draw())
        if name in ("test", "all"):
            return points
        train, valid = split_rows(self.count, self.valid_fraction, self.seed)
        return points.rows(train if name == "train" else valid)

    def _draw(self) -> Tensor:
        if self.shape == "checkerboard":
            corners = _squares()
            x = corners[torch.randint(len(corners), (self.count,))] + SIDE * torch.rand(self.count, 2)
        else:
            points = _curves(self.shape, torch.rand(self.count))
            x = points[torch.randint(len(points), (self.count,)), torch.arange(self.count)]
        return x + self.noise * torch.randn(self.count, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of points (B, 2), in nats, with shape (B,): to 1e-9 where it is above -100."""
        return self._log_pieces(x, self.noise).logsumexp(1)

    def _log_pieces(self, x: Tensor, noise: float) -> Tensor:
        """Logarithms (B, J) of the contributions of the J curves or squares to the density."""
        if self.shape == "checkerboard":
            low = _squares().to(x)
            near, far = low - x.unsqueeze(1), low + SIDE - x.unsqueeze(1)  # (B, J, 2)
            if noise == 0.0:
                mass = ((near <= 0.0) & (far > 0.0)).to(x.dtype).log()
            else:
                mass = _log_interval(near / noise, far / noise)
            return mass.sum(-1) - math.log(len(low) * SIDE**2)
        nodes, weights = (part.to(x) for part in _nodes(self.shape, noise))
        logs = weights.log() - math.log(len(nodes) * 2.0 * math.pi * noise**2)
        pieces = []
        for rows in torch.split(x, ROWS):
            distance = torch.cdist(rows, nodes.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
            exponent = distance.div_(noise).square_().mul_(-0.5).reshape(len(rows), *nodes.shape[:2])
            pieces.append(exponent.add_(logs).logsumexp(-1))
        return torch.cat(pieces)

    def entropy(self) -> tuple[float, float]:
        """Entropy in nats, by quadrature to about 1e-9, and its standard error: 0."""
        if self.noise == 0.0:
            return math.log(len(_squares()) * SIDE**2), 0.0
        pieces, area = self._grid(6.0 / self.noise)
        log_p = pieces.logsumexp(1)
        return float(-(log_p.exp() * log_p).sum() * area), 0.0

    def _grid(self, density: float) -> tuple[Tensor, Tensor]:
        """Logarithms (M, J) of the contributions to the density on a grid, and the area of one of its points."""
        reach = 1.0 + 7.0 * self.noise
        axis = torch.linspace(-reach, reach, math.ceil(density * reach), dtype=torch.float64)
        return self._log_pieces(torch.cartesian_prod(axis, axis), self.noise), (axis[1] - axis[0]).square()

    def mode_shares(self, x: Tensor) -> Mapping[str, float]:
        """Fraction of the points that most probably come from each curve or square, by index."""
        pieces = self._log_pieces(in_float64(x.detach().flatten(1)), max(self.noise, 0.02))
        shares = torch.bincount(pieces.argmax(1), minlength=pieces.shape[1]) / len(x)
        return {str(j): share for j, share in enumerate(shares.tolist())}

    def mode_probabilities(self) -> Mapping[str, float]:
        """Probability that a point most probably comes from each curve or square, by quadrature, to about 0.001."""
        if self.noise == 0.0:
            return {str(j): 1.0 / len(_squares()) for j in range(len(_squares()))}
        pieces, area = self._grid(max(6.0 / self.noise, 120.0))  # a mode ends between two points
        mass = torch.zeros(pieces.shape[1], dtype=pieces.dtype)
        mass.index_add_(0, pieces.argmax(1), pieces.logsumexp(1).exp() * area)
        return {str(j): share for j, share in enumerate(mass.tolist())}


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    examples = [Toy2d(shape, count=60, seed=i) for i, shape in enumerate(SHAPES)]
    return [Entry("toy2d", Toy2d, (*examples, Toy2d("checkerboard", noise=0.0)))]
