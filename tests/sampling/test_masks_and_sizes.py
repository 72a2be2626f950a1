"""Samples with missing sites: the mask reaches every evaluation, and what is missing changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import (
    BFN,
    ODE2,
    SDE2,
    AncestralSampler,
    AnyOrderSampler,
    ChurnSampler,
    ConfigError,
    KnownFirstSampler,
    MaskedModel,
    NetworkIO,
    ParticleSampler,
    PluginError,
    ProductFamily,
    mask_of_sizes,
    seeded,
)
from bfn_toolkit.data.conditions import SizeSpec
from bfn_toolkit.shapes import leaves

POINTS = ProductFamily(
    {"position": Gaussian((5, 2), axes=("set", "channel")), "type": Categorical((5,), classes=3, axes=("set",))}
)
SIZES = torch.tensor([2, 5, 1, 3])


class Pooled(torch.nn.Module):
    """Network in which every present site sees the mean of the others, and no missing one."""

    site_times = True

    def __init__(self, io: NetworkIO) -> None:
        super().__init__()
        self.map = torch.nn.Linear(2 * io.in_features, io.out_features)
        self.masks: list[Tensor | None] = []

    def forward(self, features: Tensor, t: Tensor, /, mask: Tensor | None = None) -> Tensor:
        self.masks.append(mask)
        there = torch.ones_like(features) if mask is None else mask.to(features.dtype)
        mean = (features * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        return self.map(torch.cat([features, mean.expand_as(features)], -1))


def model() -> tuple[BFN, Pooled]:
    with seeded(0, "weights"):
        network = Pooled(POINTS.network_io)
    return BFN(POINTS, network).eval(), network


SAMPLERS: list[Any] = [
    *(AncestralSampler(), ChurnSampler(), ODE2(), SDE2(), AnyOrderSampler(), KnownFirstSampler(), ParticleSampler(4)),
]
KNOWN = {"type": (torch.zeros(4, 5, dtype=torch.int64), torch.arange(5).expand(4, 5) == 0)}


@pytest.mark.parametrize("known", [None, KNOWN], ids=["free", "known"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_every_evaluation_gets_the_mask_and_missing_sites_are_zero(sampler: Any, known: Any) -> None:
    bfn, network = model()
    mask = mask_of_sizes(POINTS, SIZES)
    with seeded(0):
        x = bfn.sample(4, n_steps=6, sampler=sampler, mask=mask, known=known)
    there = torch.arange(5) < SIZES.unsqueeze(1)
    for seen in network.masks:
        assert seen is not None
        rows = there if len(seen) == 4 else there.repeat_interleave(4, 0)
        assert torch.equal(seen, rows.unsqueeze(-1).expand(-1, -1, 5))
    assert not x["position"][~there].any()
    assert not x["type"][~there].any()
    assert bool((x["position"][there] != 0.0).all())
    if known is not None:
        assert not x["type"][:, 0].any()


def test_a_mask_without_gaps_changes_no_bit() -> None:
    bfn, _ = model()
    full = mask_of_sizes(POINTS, torch.full((4,), 5))
    drawn = []
    for mask in (None, full):
        with seeded(0):
            drawn.append(bfn.sample(4, n_steps=4, sampler=SDE2(), mask=mask))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(leaves(drawn[0]), leaves(drawn[1]), strict=True))


def test_what_is_missing_does_not_change_what_is_there() -> None:
    """The noise of the missing sites is another in the two runs, and the present sites are the same to the last bit."""
    bfn, _ = model()
    mask = mask_of_sizes(POINTS, torch.tensor([2]))
    drawn = []
    for factor in (1.0, -3.0):
        with seeded(0), torch.inference_mode():
            state = ODE2().init(bfn, 1, device=torch.device("cpu"), dtype=torch.float32)
            for path in state.paths.values():
                path.w[:, 2:] *= factor
            masked = MaskedModel(bfn, mask)
            times = ODE2().times(bfn, 5)
            for s, t in pairwise(times):
                state = ODE2().step(masked, state, s, t)
            drawn.append(state.output(masked, times[-1]).mean)
    assert torch.equal(drawn[0]["position"][:, :2], drawn[1]["position"][:, :2])
    assert torch.equal(drawn[0]["type"][:, :2], drawn[1]["type"][:, :2])


def test_rows_keep_their_masks_in_any_chunk() -> None:
    bfn, _ = model()
    sizes = 1 + torch.arange(3000) % 5
    for n in (3000, 100):
        with seeded(0):
            x = bfn.sample(n, n_steps=1, sampler=AncestralSampler(), mask=mask_of_sizes(POINTS, sizes[:n]))
        assert torch.equal((x["position"] != 0.0).all(-1).sum(1), sizes[:n])


@pytest.mark.parametrize(
    ("family", "mask", "error"),
    [
        (Gaussian((3,)), torch.ones(4, 3), "torch.bool"),
        (Gaussian((3,)), torch.ones(4, 2).bool(), r"shape \(4, 3\)"),
        (Gaussian((3,)), torch.ones(3, 3).bool(), r"shape \(4, 3\)"),
        (Gaussian((3,)), [True], "found torch.bool of shape"),
        (POINTS, {"kind": torch.ones(4, 5).bool()}, "the data have the parts position, type"),
        (POINTS, {"type": torch.ones(4, 6).bool()}, "mask of part 'type'"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(family: Any, mask: Any, error: str) -> None:
    bfn = BFN(family, Pooled(family.network_io))
    with pytest.raises(ConfigError, match=error):
        bfn.sample(4, n_steps=2, mask=mask)


def test_sizes_are_counted_along_the_axis_of_sets_and_sequences() -> None:
    both = mask_of_sizes(POINTS, SIZES)
    assert isinstance(both, Mapping)
    assert all(torch.equal(part.sum(1), SIZES) for part in both.values())
    labelled = ProductFamily(
        {"text": Categorical((7,), classes=4, axes=("sequence",)), "label": Categorical((), classes=3)}
    )
    assert mask_of_sizes(labelled, SIZES).keys() == {"text"}
    assert torch.equal(mask_of_sizes(Gaussian((6,)), SIZES).sum(1), SIZES)
    with pytest.raises(ConfigError, match="no axis along which a size could be counted"):
        mask_of_sizes(ProductFamily({"a": Gaussian((3,)), "b": Gaussian((4,))}), SIZES)
    for wrong in (torch.tensor([0]), torch.tensor([6]), torch.tensor([1.5]), torch.tensor(3)):
        with pytest.raises(ConfigError, match="sizes must be integers from 1 to 5"):
            mask_of_sizes(POINTS, wrong)


def test_a_model_that_does_not_know_masks_says_so() -> None:
    class Deaf(BFN):
        def output(self, params: Any, t: Any, condition: Any = None) -> Any:  # type: ignore[override]
            return super().output(params, t, condition)

    with pytest.raises(PluginError, match="has no argument 'mask'"):
        Deaf(POINTS, Pooled(POINTS.network_io)).sample(4, n_steps=2, mask=mask_of_sizes(POINTS, SIZES))


def test_sizes_of_rows_are_counted_if_only_the_ends_are_missing() -> None:
    mask = mask_of_sizes(POINTS, SIZES)
    spec = SizeSpec.of(mask)
    assert spec == SizeSpec((0, 1, 1, 1, 0, 1))
    wide = torch.arange(5).view(1, 5, 1).expand(4, 5, 2) < SIZES.view(4, 1, 1)
    assert SizeSpec.of(wide) == spec
    assert SizeSpec.of({"position": wide, "type": mask["type"]}) == spec
    assert spec.plus(SizeSpec((1, 1))) == SizeSpec((1, 2, 1, 1, 0, 1))
    gaps = mask["type"].clone()
    gaps[1, 2] = False
    assert SizeSpec.of(gaps) is None
    assert SizeSpec.of({"position": wide, "type": gaps}) is None
    odd = wide.clone()
    odd[1, 1, 1] = False
    assert SizeSpec.of(odd) is None
    assert SizeSpec.of(None) is None
    with seeded(0):
        drawn = torch.bincount(spec.draw(8_000), minlength=6)
    assert torch.equal(drawn == 0, torch.tensor(spec.counts) == 0)
    assert bool(((drawn[drawn > 0] / 8_000 - 0.25).abs() < 5 * (0.19 / 8_000) ** 0.5).all())
