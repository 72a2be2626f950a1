r"""Equivariant graph network (plugin): for sets of points, whose rotation, reflection and order mean nothing.

Every pair of points exchanges a message that depends on their distance; the messages move the points along the lines
between them, and update what each point knows:

.. math::
    m_{ij} &= \phi_e\big(h_i, h_j, \lVert x_i - x_j \rVert^2\big), \qquad
    g_{ij} = \mathrm{sigmoid}(w \cdot m_{ij}), \\
    x_i' &= x_i + \frac{1}{n - 1} \sum_{j \ne i} \frac{x_i - x_j}{\lVert x_i - x_j \rVert + 1} \, \phi_x(m_{ij}), \\
    h_i' &= h_i + \phi_h\big(h_i, \textstyle\frac{1}{n - 1} \sum_{j \ne i} g_{ij} m_{ij}\big)

The points are centred first, over those that are present, and so is the result: data have their centre of mass at 0.
The result is the centred points, moved by a step whose scale falls with the time,

.. math:: \text{raw} = x + e^{-s(t)} \, (x^{(L)} - x) ,

which is the best start for a head that predicts data of unit variance (``data``).

Source: Satorras, Hoogeboom and Welling 2021 (arXiv 2102.09844), eq. 3 to 6 and 8; Song et al. 2024 (arXiv 2403.15441)
for points in a Bayesian flow network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch
from attrs import field
from torch import Tensor, nn

from bfn_toolkit import (
    ConfigError,
    Entry,
    LabelEmbedding,
    NetworkBuilder,
    NetworkIO,
    PartIO,
    check_labels,
    hookimpl,
    validators,
)

WAVES = 8  # sines, and as many cosines, of the time
TINY = 1e-12  # added to squared distances, because the gradient of a square root at 0 is infinite


def _is_set(part: PartIO) -> bool:
    return bool(part.shape) and (not part.axes or part.axes[0] == "set")


def _is_points(part: PartIO) -> bool:
    """Whether a part holds the coordinates of points: real numbers (points, 2 or 3)."""
    return part.kind == "real" and len(part.shape) == 2 and part.shape[1] in (2, 3) and part.axes in ((), _POINTS)


_POINTS = ("set", "channel")


def _perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class EquivariantLayer(nn.Module):
    """One exchange of messages between all pairs of points.

    Arguments:
        width: Numbers that a point knows, and of a message.
        vectors: Vectors of a point, whose distances the messages see; the first is its place.
        learns: Whether what the points know changes; in the last layer nothing may read it.
    """

    def __init__(self, width: int, vectors: int, learns: bool = True) -> None:
        super().__init__()
        self.edge = nn.Sequential(_perceptron(2 * width + vectors, width, width), nn.SiLU())
        self.gate = nn.Linear(width, 1) if learns else None
        self.node = _perceptron(2 * width, width, width) if learns else None
        self.move = _perceptron(width, width, 1)
        nn.init.normal_(self.move[-1].weight, std=1e-3)  # type: ignore[arg-type]
        nn.init.zeros_(self.move[-1].bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, x: Tensor, others: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Known numbers (B, N, width) and places (B, N, D) after the exchange.

        Arguments:
            h: Known numbers.
            x: Places.
            others: Squared distances of the further vectors, (B, N, N, vectors - 1).
            pairs: Weights of the pairs, (B, N, N, 1): 1 / (n - 1) for two present points, otherwise 0.
        """
        n = h.shape[1]
        way = x.unsqueeze(2) - x.unsqueeze(1)
        square = way.square().sum(-1, keepdim=True)
        both = torch.cat([h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1)], -1)
        m = self.edge(torch.cat([both, square, others], -1))
        distance = (square + TINY).sqrt()
        x = x + (way / (distance + 1.0) * self.move(m) * pairs).sum(2)
        if self.node is not None and self.gate is not None:
            h = h + self.node(torch.cat([h, (m * self.gate(m).sigmoid() * pairs).sum(2)], -1))
        return h, x


class EGNNModule(nn.Module):
    """The network itself; see :class:`EGNN`."""

    frequencies: Tensor

    def __init__(self, config: EGNN, io: NetworkIO) -> None:
        super().__init__()
        self.io = io
        self.points, self.sets, self.globals = _roles(io, config)
        points, width = io.parts[self.points], config.width
        self.count, self.vectors = points.shape[0], points.in_features
        self.register_buffer("frequencies", torch.logspace(0.0, 1.0, WAVES) * math.pi / 2.0, persistent=False)
        own = sum(io.parts[name].numbers("in_features") // self.count for name in self.sets)
        whole = sum(io.parts[name].numbers("in_features") for name in self.globals)
        self.first = nn.Linear(own + whole + self.vectors + 2 * WAVES + 1, width)
        self.label = LabelEmbedding(config.labels, width, config.label_dropout) if config.labels else None
        others = bool(self.sets or self.globals)
        self.layers = nn.ModuleList(
            EquivariantLayer(width, self.vectors, others or i + 1 < config.depth) for i in range(config.depth)
        )
        self.scale = nn.Linear(2 * WAVES + 1, 1, bias=False)
        with torch.no_grad():
            self.scale.weight.zero_()[:, -1] = 4.0  # the beliefs about data of unit variance end at e^-4 or so
        self.last = nn.ModuleList(  # lists, because the names of parts may be those of a module's own attributes
            nn.Linear(width, io.parts[name].numbers("out_features") // self.count) for name in self.sets
        )
        self.pooled = nn.ModuleList(nn.Linear(width, io.parts[name].numbers("out_features")) for name in self.globals)
        for weight in (*self.last.parameters(), *self.pooled.parameters()):
            nn.init.zeros_(weight)

    def forward(
        self, features: Tensor, t: Tensor, /, label: Tensor | None = None, mask: Tensor | None = None, **_: Tensor
    ) -> Tensor:
        """Raw numbers from features (B, *site, F), times (B,) or of the features' shape, and their mask."""
        present = self._present(mask, features)
        features = features if mask is None else torch.where(mask, features, 0.0)
        rows, parts = features.shape[0], self.io.split(features)
        n = present.sum(1, keepdim=True).clamp_min(1.0)  # (B, 1, 1)
        vectors = self._centred(parts[self.points], present.unsqueeze(-1), n.unsqueeze(-1))  # (B, N, D, vectors)
        x, first = vectors[..., 0], vectors[..., 0]
        time = self._time(t, rows)
        known = [vectors.square().sum(2), time]
        known += [parts[name].reshape(rows, self.count, -1) for name in self.sets]
        known += [parts[name].reshape(rows, 1, -1).expand(-1, self.count, -1) for name in self.globals]
        h = self.first(torch.cat(known, -1))
        if self.label is not None:
            h = h + self.label(label).reshape(-1, 1, h.shape[-1])
        further = vectors[..., 1:]
        others = (further.unsqueeze(2) - further.unsqueeze(1)).square().sum(3)
        apart = ~torch.eye(self.count, dtype=torch.bool, device=h.device).unsqueeze(-1)
        pairs = present.unsqueeze(2) * present.unsqueeze(1) * apart / (n - 1.0).clamp_min(1.0).unsqueeze(-1)
        for layer in self.layers:
            h, x = layer(h, x, others, pairs)
        step = (x - first) * torch.exp(-self.scale(time))
        moved = self._centred((first + step).unsqueeze(-1), present.unsqueeze(-1), n.unsqueeze(-1))
        raw = {self.points: moved}
        for name, layer in zip(self.sets, self.last, strict=True):
            raw[name] = layer(h).reshape(rows, *self.io.parts[name].shape, -1)
        pooled = (h * present).sum(1) / n.squeeze(1)
        for name, layer in zip(self.globals, self.pooled, strict=True):
            raw[name] = layer(pooled).reshape(rows, *self.io.parts[name].shape, -1)
        return self.io.join(raw)

    def _present(self, mask: Tensor | None, features: Tensor) -> Tensor:
        """1 for points with all coordinates, otherwise 0: (B, N, 1)."""
        if mask is None:
            return features.new_ones(features.shape[0], self.count, 1)
        of_points = self.io.split(mask)[self.points].reshape(features.shape[0], self.count, -1)
        return of_points.all(-1, keepdim=True).to(features.dtype)

    def _centred(self, vectors: Tensor, present: Tensor, n: Tensor) -> Tensor:
        """Vectors (B, N, D, V) relative to their mean over the present points, and 0 at the others."""
        mean = (vectors * present).sum(1, keepdim=True) / n
        return (vectors - mean) * present

    def _time(self, t: Tensor, rows: int) -> Tensor:
        """The times of the points as waves and as they are: (B, N, 2 WAVES + 1)."""
        if t.ndim == 1:
            of_points = t.reshape(rows, 1, 1).expand(-1, self.count, 1)
        else:
            parts = self.io.split(t)
            named = [parts[name].reshape(rows, self.count, -1) for name in (self.points, *self.sets)]
            of_points = torch.cat(named, -1).mean(-1, keepdim=True)
        angle = of_points * self.frequencies
        return torch.cat([angle.sin(), angle.cos(), of_points], -1)


def _roles(io: NetworkIO, config: EGNN) -> tuple[str, list[str], list[str]]:
    """Names of the part of coordinates, of the parts with numbers for each point, and of those for the whole set.

    Raises:
        ConfigError: If the data are not a set of points, or the numbers of the head would not turn with them.
    """
    points = [name for name, part in io.parts.items() if _is_points(part)]
    if len(points) != 1:
        found = ", ".join(f"{part.kind} {part.shape}" for part in io.parts.values())
        raise ConfigError(
            f"egnn needs one part of real coordinates, of shape (points, 2) or (points, 3), found {found}; "
            'name its axes: axes=("set", "channel")'
        )
    (name,) = points
    part = io.parts[name]
    vectors = 2 if config.self_conditioning else 1
    if part.in_features != vectors or part.out_features != 1:
        raise ConfigError(
            f"egnn reads {vectors} and returns 1 number for each coordinate, and this head has {part.in_features} and "
            f"{part.out_features}; write head=DataHead(), on the command line --family.head data"
        )
    sets: list[str] = []
    wholes: list[str] = []
    for other, it in io.parts.items():
        if other != name:
            (sets if it.shape[:1] == part.shape[:1] and it.axes[:1] in ((), ("set",)) else wholes).append(other)
            if it.kind == "direction" or (len(it.shape) > 1 and it.shape[-1] in (2, 3)):
                raise ConfigError(
                    f"egnn cannot tell whether part '{other}' of shape {it.shape} turns with the points; it reads "
                    "further parts as numbers that do not, so give them another shape"
                )
    return name, sets, wholes


@attrs.frozen
class EGNN(NetworkBuilder):
    """Equivariant graph network for one part of coordinates (points, 2 or 3), with further parts and labels.

    Turned, mirrored or reordered points give a turned, mirrored or reordered result, and moved points the same one.
    Parts with one value for each point, such as types, are read and returned with them, and other parts for the whole
    set.  It costs memory for each pair of points.

    Arguments:
        width: Numbers that a point knows.
        depth: Number of exchanges of messages.
        labels: Number of labels; 0 to ignore them (in a configuration, the default is the data set's number).
        label_dropout: Probability of dropping a label in training, so that the network also learns without labels.
        self_conditioning: Whether the network also sees the last estimate.
    """

    width: int = field(default=64, validator=validators.integer(ge=2))
    depth: int = field(default=4, validator=validators.integer(ge=1))
    labels: int = field(default=0, validator=validators.integer(ge=0))
    label_dropout: float = field(default=0.1, validator=validators.number(ge=0, lt=1))
    self_conditioning: bool = False

    site_times = True
    equivariant = True

    @property
    def conditions(self) -> tuple[str, ...]:
        """Returns "label" if there are labels."""
        return ("label",) if self.labels else ()

    def check_condition(self, name: str, value: Tensor) -> None:
        """Checks that labels are integers below ``labels``; a negative one means no label.

        Raises:
            ConfigError: If they are not.
        """
        check_labels(name, value, self.labels)

    def build(self, io: NetworkIO) -> nn.Module:
        """Builds the network with fresh weights.

        Raises:
            ConfigError: If the data are not one part of coordinates with further parts.
        """
        return EGNNModule(self, io)


@hookimpl
def bfn_networks() -> Sequence[Entry]:
    """The network."""
    return [Entry("egnn", EGNN, (EGNN(width=8, depth=2), EGNN(width=8, depth=1, labels=3)))]
