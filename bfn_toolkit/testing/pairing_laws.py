"""Laws of a network and a family together: it serves every family that it admits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from bfn_toolkit.bfn import BFN
from bfn_toolkit.errors import BFNError, ConfigError
from bfn_toolkit.families import Family
from bfn_toolkit.losses import ContinuousTimeLoss, DiscreteTimeLoss, Loss
from bfn_toolkit.networks import NetworkBuilder
from bfn_toolkit.product_family import ProductFamily
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.shapes import expand
from bfn_toolkit.testing.cases import data, is_stepped
from bfn_toolkit.testing.draws import seeded
from bfn_toolkit.testing.law import Judge, law
from bfn_toolkit.testing.probes import cast

ROWS = 3


def _own(kind: str, name: str) -> Any:
    return default_registry().get(kind, name).entry.build


@cache
def _families() -> dict[str, Family[Any]]:
    """The registered examples of families, and data of several parts: an image with a label, points, a table."""
    examples = [
        (item.name, example)
        for item in default_registry().entries()
        if item.kind == "family"
        for example in item.entry.examples
    ]
    families = {f"{name} {i}": example for i, (name, example) in enumerate(examples)}
    gaussian, categorical = _own("family", "gaussian"), _own("family", "categorical")
    point = _own("head", "data")()
    pixels = gaussian((8, 8), axes=("height", "width"))
    colours = gaussian((6, 8, 3), axes=("height", "width", "channel"))
    places = gaussian((5, 3), head=point, axes=("set", "channel"))
    kinds = categorical((5,), classes=4, axes=("set",))
    return families | {
        "an image": pixels,
        "an image of classes": categorical((8, 8), classes=3, axes=("height", "width")),
        "a colour image with a label": ProductFamily({"image": colours, "label": categorical((), classes=4)}),
        "a text": categorical((9,), classes=5, axes=("sequence",)),
        "points": places,
        "points with kinds": ProductFamily({"place": places, "kind": kinds}),
        "a table": ProductFamily({"a": gaussian(), "b": gaussian(), "c": categorical(classes=3)}),
    }


def _admitted(builder: NetworkBuilder) -> Iterator[tuple[str, Family[Any], BFN]]:
    """Families whose sizes the builder accepts, with a model; among them numbers of its ``example_shapes``."""
    gaussian = _own("family", "gaussian")
    stated = {f"numbers of shape {shape}": gaussian(shape) for shape in getattr(builder, "example_shapes", ())}
    for name, family in (_families() | stated).items():
        with seeded(0, "network"):
            try:
                model = BFN(family, builder)
            except (ConfigError, ValueError):
                continue
        yield name, family, model.eval()


def _mask(family: Family[Any]) -> Any:
    """A mask of the last places of sets and sequences, by part; None if there are none."""
    io = family.network_io
    masks = {
        name: (torch.arange(part.shape[0]) < torch.arange(2, 2 + ROWS).unsqueeze(1))
        for name, part in io.parts.items()
        if part.axes[:1] in (("set",), ("sequence",))
    }
    return masks.get("", masks) if masks else None


def _padded(x: Any, mask: Any, value: float) -> Any:
    """Data with a value at the masked sites."""
    if mask is None:
        return x
    if isinstance(x, torch.Tensor):
        return torch.where(expand(mask, x), x, torch.full_like(x, int(value) % 2 if x.dtype == torch.int64 else value))
    return {name: _padded(part, mask.get(name), value) for name, part in x.items()}


def _price(family: Family[Any]) -> Loss:
    return DiscreteTimeLoss(family.n_steps or 4) if is_stepped(family) else ContinuousTimeLoss()


@law("network", "every family that it admits has finite losses and gradients, and samples in its domain")
def check_network_serves_families(builder: NetworkBuilder) -> float:
    """A model of the network and each registered family, or of data of several parts, is priced, trained and sampled.

    A builder refuses sizes that it does not fit with ConfigError or ValueError; but it must accept some.
    """
    judge = Judge(check_network_serves_families, builder)
    served = 0
    for name, family, model in _admitted(builder):
        served += 1
        x = cast(data(family, ROWS), torch.get_default_dtype())
        mask = _mask(family)
        try:
            losses = []
            for absent in (0.0, 7.0):
                with seeded(0, "loss"):
                    losses.append(_price(family)(model, _padded(x, mask, absent), None, mask).mean())
            (loss := losses[0]).backward()  # type: ignore[no-untyped-call]
            samples = model.sample(ROWS, n_steps=family.n_steps or 2)
            family.check_data(samples)
        except BFNError as error:
            judge.broken(f"{type(error).__name__} for {name}: {str(error).splitlines()[0]}", "a loss and samples")
        judge.true(math.isfinite(float(loss.detach())), f"a loss that is not finite for {name}", "a finite loss")
        judge.true(torch.equal(*losses), f"a loss that sees what is masked for {name}", "the same loss, bit by bit")
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        finite = all(bool(g.isfinite().all()) for g in gradients)
        judge.true(finite and bool(gradients), f"gradients that are not finite for {name}", "finite gradients")
    judge.true(served > 0, "no family is admitted", "some, or some of its example_shapes")
    return judge.figure
