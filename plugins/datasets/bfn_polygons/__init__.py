r"""Polygons (plugin): equilateral triangles and squares in the plane, as sets of three and of four points.

A polygon of edge a has its corners at distance :math:`a / (2 \sin(\pi / n))` from the centre of mass, at 0, in a
direction that is uniform; the order of the points is random, and a normal jitter moves each by itself.  So the answer
is known: the shares of the two sizes, the edges and the diagonals of each shape, and the law of its direction.

Triangles have three points of four: the mask says which places hold one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from attrs import field
from torch import Tensor

from bfn_toolkit import Batch, Dataset, Entry, Split, hookimpl, seeded, split_rows, validators

CORNERS = 4  # places in a row
NAMES = {3: "triangle", 4: "square"}


def distances(x: Tensor, corners: int) -> Tensor:
    """Distances between all pairs of the first ``corners`` points of (B, points, 2), in increasing order."""
    first, second = torch.triu_indices(corners, corners, 1, device=x.device)
    lengths: Tensor = torch.linalg.vector_norm(x[:, first] - x[:, second], dim=-1)
    return lengths.sort(1).values


@attrs.frozen
class Polygons(Dataset):
    """Equilateral triangles and squares: sets of three or four points in the plane, with their centre of mass at 0.

    Arguments:
        count: Number of polygons in the training and validation rows together, and in the test set.
        triangles: Fraction of triangles, exact up to rounding.
        edge: Length of an edge; with 2 the data have a variance of order 1.
        jitter: Standard deviation of the normal noise of each coordinate, before the polygon is centred.
        seed: Seed of the draws.
        valid_fraction: Fraction held out for validation.

    >>> rows = Polygons(count=100).split("all")
    >>> rows.x.shape, rows.mask.sum(1).unique()
    (torch.Size([100, 4, 2]), tensor([3, 4]))
    """

    default_config: ClassVar[Mapping[str, object]] = {
        "family": {"name": "gaussian", "sigma_1": 0.02, "head": "data"},
        "network": {"name": "egnn"},
        "training": {"steps": 2000, "batch_size": 256, "lr": 1e-3, "ema_decay": 0.99},
    }

    count: int = field(default=4000, validator=validators.integer(ge=2))
    triangles: float = field(default=0.3, validator=validators.number(gt=0, lt=1))
    edge: float = field(default=2.0, validator=validators.number(gt=0, le=1e3))
    jitter: float = field(default=0.0, validator=validators.number(ge=0, le=1e3))
    seed: int = field(default=0, validator=validators.integer(ge=0, le=2**63 - 1))
    valid_fraction: float = field(default=0.1, validator=validators.number(gt=0, lt=1))

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(4, 2)."""
        return (CORNERS, 2)

    def radius(self, corners: int) -> float:
        """Distance of a corner from the centre, without jitter."""
        return self.edge / (2.0 * math.sin(math.pi / corners))

    @property
    def metadata(self) -> Mapping[str, object]:
        """Site shape and axes, and the mean square of a coordinate of a point."""
        weights = {3: 3.0 * self.triangles, 4: 4.0 * (1.0 - self.triangles)}
        square = sum(w * (0.5 * self.radius(n) ** 2 + self.jitter**2 * (1.0 - 1.0 / n)) for n, w in weights.items())
        variance = round(square / sum(weights.values()), 6)
        return {"site_shape": self.site_shape, "axes": ("set", "channel"), "data_variance": variance}

    def split(self, name: Split) -> Batch:
        """The polygons; "test" is a fresh draw of the same size."""
        with seeded(self.seed, "test" if name == "test" else "data"):
            polygons = self._draw()
        if name in ("test", "all"):
            return polygons
        train, valid = split_rows(self.count, self.valid_fraction, self.seed)
        return polygons.rows(train if name == "train" else valid)

    @property
    def _triangles(self) -> int:
        """Number of triangles."""
        return max(1, min(self.count - 1, round(self.triangles * self.count)))

    def _draw(self) -> Batch:
        corners = torch.full((self.count,), CORNERS)
        corners[: self._triangles] = 3
        corners = corners[torch.randperm(self.count)].unsqueeze(1)
        place = torch.arange(CORNERS).expand(self.count, -1)
        mask = place < corners
        order = torch.rand(self.count, CORNERS).masked_fill(~mask, 2.0).argsort(1).argsort(1)
        angle = 2.0 * math.pi * (order / corners + torch.rand(self.count, 1))
        radius = self.edge / (2.0 * (math.pi / corners).sin())
        x = (radius * torch.stack([angle.cos(), angle.sin()])).movedim(0, -1)
        x = x + self.jitter * torch.randn_like(x)
        x = torch.where(mask.unsqueeze(-1), x, 0.0)
        x = torch.where(mask.unsqueeze(-1), x - x.sum(1, keepdim=True) / corners.unsqueeze(-1), 0.0)
        return Batch(x, mask=mask)

    def mode_shares(self, x: Tensor) -> Mapping[str, float]:
        """Fraction of the sets of each size, by the number of points that are not exactly at 0."""
        sizes = (x != 0.0).any(-1).sum(1)
        return {name: float((sizes == n).double().mean()) for n, name in NAMES.items()}

    def mode_probabilities(self) -> Mapping[str, float]:
        """Fractions of triangles and of squares."""
        share = self._triangles / self.count
        return {NAMES[3]: share, NAMES[4]: 1.0 - share}


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set."""
    return [Entry("polygons", Polygons, (Polygons(count=60), Polygons(count=50, triangles=0.5, jitter=0.1)))]
