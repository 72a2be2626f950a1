r"""Mixed data (plugin): a class, an angle and a position that depend on each other, with a known joint density.

Class k has a centre :math:`c_k` on a circle and a distribution of angles a around the outward direction; the position
is one step from the centre in direction a:

.. math::
    k \sim U\{0, \dots, K - 1\}, \quad a \mid k \sim \mathrm{vM}(2 \pi k / K, \kappa), \quad
    x \mid k, a \sim N(c_k + r \, (\cos a, \sin a), s^2 I)

By the chain rule, with :math:`A = I_1 / I_0`,

.. math:: H = \ln K + \ln(2 \pi I_0(\kappa)) - \kappa A(\kappa) + \ln(2 \pi e s^2) .
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Batch, Dataset, Entry, Split, VonMises, hookimpl, normal, seeded, split_rows, validators

RADIUS = 0.6  # of the circle of centres


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


@attrs.frozen
class Mixed(Dataset):
    """Points in the plane with a class and an angle, as a mapping with the parts "position", "type" and "angle".

    Arguments:
        classes: Number K of classes.
        step: Length r of the step from the centre of the class.
        noise: Standard deviation s of the position.
        concentration: Concentration kappa of the angle, in [0, 1e8].
        count: Number of points.
        seed: Seed of the draws.
        valid_fraction: Fraction of the points held out for validation.

    >>> {name: (part.dtype, tuple(part.shape)) for name, part in Mixed().split("all").x.items()}
    {'position': (torch.float32, (40000, 2)), 'type': (torch.int64, (40000, 1)), 'angle': (torch.float32, (40000, 1))}
    """

    classes: int = field(default=4, validator=validators.integer(ge=2))
    step: float = field(default=0.3, validator=validators.number(ge=0))
    noise: float = field(default=0.15, validator=validators.number(gt=0))
    concentration: float = field(default=2.0, validator=validators.number(ge=0, le=1e8))
    count: int = field(default=40_000, validator=validators.integer(ge=2))
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    @property
    def default_config(self) -> Mapping[str, object]:
        """A product, with a perceptron."""
        return {
            "family": "product",
            "network": {"name": "mlp", "depth": 2},
            "training": {"steps": 2500, "batch_size": 512, "lr": 2e-3, "ema_decay": 0.99},
        }

    @property
    def site_shape(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parts."""
        return {"position": (2,), "type": (1,), "angle": (1,)}

    @property
    def metadata(self) -> Mapping[str, object]:
        """Parts of a product family for these data."""
        resultant = 1.0 - float(self._direction(torch.zeros(1, dtype=torch.int64)).variance)
        # E |c + r e|^2 = R^2 + r^2 + 2 R r E cos(a - m), over two coordinates.
        square = 0.5 * (RADIUS**2 + self.step**2) + RADIUS * self.step * resultant + self.noise**2
        return {
            "parts": {
                "position": {"name": "gaussian", "site_shape": (2,), "data_variance": round(square, 6)},
                "type": {"name": "categorical", "site_shape": (1,), "classes": self.classes},
                "angle": {"name": "circle", "site_shape": (1,)},
            }
        }

    def _outwards(self, kind: Tensor) -> Tensor:
        """Unit vectors (B, 2) from the origin to the centres of classes (B,), in float64."""
        return _unit(kind.double() * (2.0 * math.pi / self.classes))

    def _direction(self, kind: Tensor) -> VonMises:
        """Distribution (B,) of the angle, given classes (B,)."""
        return VonMises(self.concentration * self._outwards(kind))

    def split(self, name: Split) -> Batch:
        """The points; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            points = Batch(self._draw())
        if name in ("test", "all"):
            return points
        train, valid = split_rows(self.count, self.valid_fraction, self.seed)
        return points.rows(train if name == "train" else valid)

    def _draw(self) -> dict[str, Tensor]:
        kind = torch.randint(self.classes, (self.count,))
        angle = VonMises(self._direction(kind).v.float()).sample()
        mean = RADIUS * self._outwards(kind).float() + self.step * _unit(angle)
        position = mean + self.noise * torch.randn_like(mean)
        return {"position": position, "type": kind.unsqueeze(1), "angle": angle.unsqueeze(1)}

    def log_prob(self, x: Mapping[str, Tensor]) -> Tensor:
        """Exact joint log-density of points, in nats, with shape (B,)."""
        position, kind, angle = x["position"], x["type"].squeeze(1), x["angle"].squeeze(1)
        outwards = self._outwards(kind).to(position)
        mean = RADIUS * outwards + self.step * _unit(angle)
        place = normal(mean, position.new_full((len(position),), self.noise)).log_prob(position)
        return VonMises(self.concentration * outwards).log_prob(angle) + place - math.log(self.classes)

    def entropy(self) -> tuple[float, float]:
        """Joint entropy in nats, to 1e-8, and its standard error: 0."""
        direction = self._direction(torch.zeros(1, dtype=torch.int64))
        # ln(2 pi I_0) - kappa A equals the negative log-density at the mean, plus kappa (1 - A).
        of_angle = float(-direction.log_prob(direction.mean) + self.concentration * direction.variance)
        return math.log(self.classes) + of_angle + math.log(2.0 * math.pi * math.e * self.noise**2), 0.0

    def mode_shares(self, x: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Fraction of the points of each class."""
        shares = torch.bincount(x["type"].flatten(), minlength=self.classes) / len(x["type"])
        return {str(kind): share for kind, share in enumerate(shares.tolist())}

    def mode_probabilities(self) -> Mapping[str, float]:
        """1 / K for each class."""
        return {str(kind): 1.0 / self.classes for kind in range(self.classes)}


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    return [Entry("mixed", Mixed, (Mixed(count=60), Mixed(classes=3, step=0.0, concentration=0.0, count=50)))]
