"""Masks, and times that differ by site or part: what the network sees of them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian
from bfn_toolkit import BFN, ConfigError, Guided, ModelWrapper, NetworkBuilder, NetworkIO, ProductFamily, seeded

LINE = Gaussian(site_shape=(3,), sigma_1=0.1)
BOTH = ProductFamily({"position": Gaussian(site_shape=(4, 2)), "type": Categorical((4,), classes=3)})


class Recorder(nn.Module):
    """Network that records its inputs."""

    site_times = True

    def __init__(self, io: NetworkIO) -> None:
        super().__init__()
        self.map = nn.Linear(io.in_features, io.out_features)
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, features: Tensor, t: Tensor, /, mask: Tensor | None = None) -> Tensor:
        self.seen.append((features, t, mask))
        return self.map(features)


def seen(family: Any, t: Any, mask: Any = None, *, micro_batch: int | None = None) -> list[Any]:
    bfn = BFN(family, Recorder(family.network_io))
    bfn.micro_batch = micro_batch
    with seeded(0):
        x = family.input(family.prior(2)).sample()
        bfn.output(family.flow(x, t if isinstance(t, Tensor) and t.ndim < 2 else torch.full((2,), 0.5)), t, mask=mask)
    return [torch.cat(column) if column[0] is not None else None for column in zip(*bfn.network.seen, strict=True)]


@pytest.mark.parametrize("t", [torch.tensor(0.5), torch.tensor([0.2, 0.9])])
def test_one_time_for_each_example_is_passed_as_it_is(t: Tensor) -> None:
    for value in (t, {"position": t, "type": t}):
        _, time, mask = seen(BOTH, value)
        assert torch.equal(time, t.expand(2))
        assert mask is None
    if t.ndim == 0:
        assert torch.equal(seen(BOTH, {"position": t, "type": t.clone()})[1], t.expand(2))


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_times_and_masks_by_site_have_the_shape_of_the_features(micro_batch: int | None) -> None:
    t, mask = torch.rand(2, 3), torch.tensor([[True, False, True], [True, True, False]])
    features, time, present = seen(LINE, t, mask, micro_batch=micro_batch)
    assert torch.equal(time, t.unsqueeze(-1))
    assert torch.equal(present, mask.unsqueeze(-1))
    assert torch.equal(features == 0, ~present)


def test_each_part_has_its_own_place_in_the_features() -> None:
    t = {"position": torch.rand(2, 4), "type": torch.rand(2)}
    mask = {"type": torch.tensor([[True, True, True, False], [True, False, False, False]])}
    features, time, present = seen(BOTH, t, mask)
    parts = BOTH.network_io.split(time)
    assert torch.equal(parts["position"][..., 0], t["position"].unsqueeze(-1).expand(2, 4, 2))
    assert torch.equal(parts["type"], t["type"].view(2, 1, 1).expand(2, 4, 3))
    parts = BOTH.network_io.split(present)
    assert parts["position"].all()  # a part without a mask is present
    assert torch.equal(parts["type"], mask["type"].unsqueeze(-1).expand(2, 4, 3))
    assert not features[~present].any()
    everything = seen(BOTH, torch.rand(2), mask["type"])[2]  # one mask for all parts, by their common axes
    assert torch.equal(everything, mask["type"].unsqueeze(-1).expand(2, 4, 5))


def test_padding_does_not_reach_the_network() -> None:
    mask = torch.tensor([[True, False, True]]).expand(2, 3)
    bfn = BFN(LINE, Recorder(LINE.network_io))
    params = LINE.prior(2)
    params.mean[:, 1] = torch.nan
    bfn.output(params, torch.tensor(0.0), mask=mask)
    assert bfn.network.seen[0][0].isfinite().all()


@attrs.frozen
class Builder(NetworkBuilder):
    site_times: bool = False

    def build(self, io: NetworkIO) -> nn.Module:
        module = Recorder(io)
        module.site_times = False
        return module


def test_a_network_that_reads_one_time_refuses_others_with_the_line_to_write() -> None:
    t, params = torch.rand(2, 3), LINE.prior(2)
    with pytest.raises(ConfigError, match=r"--network\.site_times true"):
        BFN(LINE, Builder()).output(params, t)
    assert BFN(LINE, Builder(site_times=True)).output(params, t).mean.shape == (2, 3)
    with pytest.raises(ConfigError, match=r"expected times or masks of shape \(B, ...\) with leading axes of it"):
        BFN(LINE, Builder(site_times=True)).output(params, torch.rand(2, 4))


def test_a_condition_cannot_be_named_mask_if_the_network_reads_masks() -> None:
    with pytest.raises(ConfigError, match="'mask'"):
        BFN(LINE, Builder()).output(LINE.prior(2), torch.tensor(0.0), {"mask": torch.ones(2)})


def test_wrappers_pass_masks_on() -> None:
    mask = torch.tensor([[True, False, True]]).expand(2, 3)
    for wrap in (ModelWrapper, lambda model: Guided(model, 0.0)):
        bfn = BFN(LINE, Recorder(LINE.network_io))
        wrap(bfn).output(LINE.prior(2), torch.tensor(0.0), mask=mask)
        assert torch.equal(bfn.network.seen[0][2], mask.unsqueeze(-1))
