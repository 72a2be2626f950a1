"""Laws of networks for points in space: they turn with the points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.network_io import NetworkIO, PartIO
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law
from bfn_toolkit.testing.network_laws import _network

POINTS, ROWS = 6, 8
EQUIVARIANT = 1e-5  # tolerance in float32, relative to the largest number


def _claims_equivariance(builder: Any) -> bool:
    return bool(getattr(builder, "equivariant", False))


def _turn(dimensions: int) -> Tensor:
    """A random rotation, mirrored, in float64."""
    turn: Tensor = torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.float64)).Q
    return turn * torch.where(torch.arange(dimensions) == 0, -torch.linalg.det(turn).sign(), 1.0)


@law(
    "network",
    "turned and mirrored points give a turned and mirrored result, and moved points the same",
    applies=_claims_equivariance,
)
def check_network_turns_with_points(builder: NetworkBuilder) -> float:
    """A network that states ``equivariant`` treats all directions and places alike (float32, 1e-5 of the scale).

    It is tried on coordinates alone, and beside a class of each point and a number of the whole set, which stay.
    """
    judge = Judge(check_network_turns_with_points, builder)
    for dimensions in (2, 3):
        points = PartIO((POINTS, dimensions), ("set", "channel"))
        kinds, whole = PartIO((POINTS,), ("set",), 4, 4, "classes", 4), PartIO(())
        for parts in ({"": points}, {"points": points, "kinds": kinds, "whole": whole}):
            io = NetworkIO(parts=parts)
            network, place = _network(builder, io), next(iter(parts))
            with seeded(0, "points"):
                x = {name: torch.randn(ROWS, *part.shape, part.in_features) for name, part in parts.items()}
                turn, step, t = _turn(dimensions).float(), torch.randn(ROWS, 1, dimensions, 1), torch.rand(ROWS)

            def turned(v: Tensor, turn: Tensor = turn) -> Tensor:
                return torch.einsum("bndf,de->bnef", v, turn)

            expected = io.split(network(io.join(x), t), "out_features")
            expected[place] = turned(expected[place])
            found = io.split(network(io.join({**x, place: turned(x[place]) + step}), t), "out_features")
            for name in parts:
                scale = 1.0 + float(expected[name].detach().abs().max())
                error = float((found[name] - expected[name]).detach().abs().max()) / scale
                what = "the coordinates do not turn" if name == place else f"'{name}' changes as the points turn"
                judge.true(error <= EQUIVARIANT, f"{what} (by {error:.2g} of the largest number)", "at most 1e-5")
                judge.error(error, EQUIVARIANT)
    return judge.figure
