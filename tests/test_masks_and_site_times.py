"""Masks, and times that differ by site or part: what the network sees of them."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_directional import Sphere
from bfn_gaussian import Gaussian
from bfn_toolkit import (
    BFN,
    Batch,
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    Delta,
    DiscreteTimeLoss,
    Guided,
    Loss,
    ModelWrapper,
    NetworkBuilder,
    NetworkIO,
    NormalMixture,
    Oracle,
    PluginError,
    ProductFamily,
    ReconstructionLoss,
    draw_held,
    importance_bound,
    likelihood_bound,
    seeded,
)
from bfn_toolkit.families import check_present
from bfn_toolkit.testing.toys import Toy
from significance import Z, z_of_mean

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


def seen(family: Any, t: Any, mask: Any = None) -> list[Any]:
    bfn = BFN(family, Recorder(family.network_io))
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


def test_times_and_masks_by_site_have_the_shape_of_the_features() -> None:
    t, mask = torch.rand(2, 3), torch.tensor([[True, False, True], [True, True, False]])
    features, time, present = seen(LINE, t, mask)
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


# Prices


DATA = Toy(
    Categorical((2,), classes=3),
    torch.tensor([[0, 1], [0, 2], [1, 0], [2, 2]]),
    torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64),
)
MARGINAL = [torch.tensor(p, dtype=torch.float64) for p in ((0.5, 0.3, 0.2), (0.3, 0.4, 0.3))]  # of each site
LOSSES = [ContinuousTimeLoss(), DiscreteTimeLoss(3), DiscreteTimeLoss(20)]


def entropy(p: Tensor) -> float:
    return float(-(p * p.log()).sum())


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("site", [0, 1])
def test_under_the_exact_posterior_present_sites_cost_the_entropy_of_their_marginal(loss: Loss, site: int) -> None:
    mask = torch.zeros(20_000, 2, dtype=torch.bool)
    mask[:, site] = True
    with seeded(0, "marginal"):
        x = DATA.sample(len(mask))
        nats = loss(DATA.oracle, x, None, mask) + ReconstructionLoss()(DATA.oracle, x, None, mask)
    assert z_of_mean(nats, entropy(MARGINAL[site])) <= Z


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("site", [0, 1])
def test_under_the_exact_posterior_unknown_sites_cost_their_conditional_entropy(loss: Loss, site: int) -> None:
    known = torch.zeros(20_000, 2, dtype=torch.bool)
    known[:, site] = True
    conditional = DATA.entropy - entropy(MARGINAL[site])
    with seeded(0, "conditional"):
        x = DATA.sample(len(known))
        held = torch.where(known, 1.0, -1.0)
        nats = loss(DATA.oracle, x, None, None, held) + ReconstructionLoss()(DATA.oracle, x, None, None, held)
    # After all messages 0.2 % of the known sites are told wrongly, which costs less than 0.02 nats.
    assert z_of_mean(nats, conditional) <= Z or abs(float(nats.mean()) - conditional) <= 0.02


def test_dependent_sites_are_marginalised() -> None:
    with seeded(0):
        logits, means = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
        scales, x = torch.rand(5, 3, dtype=torch.float64) + 0.3, torch.randn(5, 4, dtype=torch.float64)
    mask = torch.tensor([True, False, True, False]).expand(5, 4)
    present = NormalMixture(logits, means[:, :, ::2], scales)
    spoilt = torch.where(mask, x, torch.nan)
    whole = NormalMixture(logits, means, scales)
    assert torch.allclose(whole.log_prob(spoilt, mask), present.log_prob(x[:, ::2]), rtol=1e-13)
    # The divergence of a message about the present sites, by Monte Carlo with a control variate of its own.
    line, alpha = Gaussian((4,)), torch.full((5,), 2.0, dtype=torch.float64)
    many = torch.arange(5).repeat(4000)
    outputs = [NormalMixture(p.logits[many], p.means[many], p.scales[many]) for p in (whole, present)]
    with seeded(1):
        found = line.step_loss(spoilt[many], outputs[0], alpha[many], mask=mask[many])
        expected = Gaussian((2,)).step_loss(x[many, ::2], outputs[1], alpha[many])
    assert z_of_mean(found - expected, 0.0) <= Z


def test_a_mask_that_does_not_fit_is_refused() -> None:
    bfn = BFN(LINE, Recorder(LINE.network_io))
    for mask in (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(DataError, match="the mask is torch"):
            bfn.nll(torch.zeros(2, 3), mask=mask)


def test_a_mask_that_leaves_nothing_costs_nothing() -> None:
    mask = torch.zeros(3, 2, dtype=torch.bool)
    x = torch.full((3, 2), -1)
    for loss in (*LOSSES, ReconstructionLoss()):
        assert loss(DATA.oracle, x, None, mask).abs().max() <= 1e-15  # rounding of weights that sum to 1


class Unmasked(Gaussian):
    def loss_rate(self, x: Tensor, output: Any, t: Tensor) -> Tensor:  # type: ignore[override]
        return Gaussian.loss_rate(self, x, output, t)


def test_a_family_or_loss_that_does_not_know_masks_works_without_one_and_says_so() -> None:
    family = Unmasked((3,))
    bfn, x, mask = BFN(family, Recorder(family.network_io)), torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool)
    assert bfn.loss(x).shape == (4,)
    words = (
        "the data have a mask, and Unmasked.loss_rate has no argument 'mask'; "
        "write Unmasked.loss_rate(x, output, t, mask=None), and leave out the missing sites, where it is false"
    )
    with pytest.raises(PluginError, match=re.escape(words)):
        bfn.loss(x, mask=mask)
    with pytest.raises(PluginError, match="has no argument 'mask'"):
        Oracle(LINE, lambda params: Delta(params.mean)).loss(x, mask=mask)


def test_padding_changes_no_bit_of_the_loss_or_of_its_gradient() -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    found = []
    for nonsense in (0.0, torch.nan, torch.inf):
        with seeded(0):
            bfn = BFN(LINE, Recorder(LINE.network_io))
            x = torch.where(mask, torch.randn(2, 3), nonsense)
            loss = bfn.nll(x, mask=mask) + bfn.nll(x, n_steps=4, mask=mask)
        loss.sum().backward()
        found.append(torch.cat([loss.detach(), *(p.grad.flatten() for p in bfn.parameters())]))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_masked_part_is_as_if_the_product_had_none() -> None:
    # The network sees 0 for the part, and is told nothing of it.
    one = ProductFamily({"position": BOTH.parts["position"]})
    with seeded(0):
        both, apart, net = BFN(BOTH, nn.Identity()), BFN(one, nn.Identity()), nn.Linear(5, 5)
    both.network.forward = lambda f, t: net(f)
    apart.network.forward = lambda f, t: nn.functional.linear(
        f.view(8, 4, 2), net.weight[:2, :2], net.bias[:2]
    ).view_as(f)
    x = {"position": torch.randn(8, 4, 2), "type": torch.full((8, 4), -1)}
    mask = {"type": torch.zeros(8, dtype=torch.bool)}
    for n_steps in (None, 5):
        nats = []
        for model, data, here in ((both, x, mask), (apart, {"position": x["position"]}, None)):
            with seeded(1):
                nats.append(model.nll(data, n_steps=n_steps, mask=here))
        assert torch.allclose(nats[0], nats[1], rtol=1e-6)  # matrix products of other sizes


# Known sites


def test_known_sites_are_any_number_in_a_share_of_the_examples() -> None:
    with seeded(0):
        held = draw_held(Sphere((50, 3)), torch.zeros(20_000, 50, 3), 0.25)
    assert held.shape == (20_000, 50)  # a direction is held as a whole
    known, waiting = (held == 1).sum(1).double(), (held == 0).sum(1).double()
    assert z_of_mean((known > 0).double(), 0.25 * 50 / 51) <= Z  # a uniform number of 0 to 50 sites
    some = known > 0
    assert z_of_mean(known[some], 25.5) <= Z
    assert z_of_mean((known[some] == 50).double(), 1 / 50) <= Z
    assert z_of_mean(waiting[some], 0.25 * (50 - 25.5)) <= Z  # half of them wait in half of the examples
    assert (held[~some & (waiting == 0)] == -1).all()


def test_held_sites_have_their_time_and_no_price() -> None:
    held = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]])
    bfn = BFN(LINE, Recorder(LINE.network_io))
    x = torch.randn(2, 3)
    loss = ContinuousTimeLoss()(bfn, x, None, None, held)
    (_, t, mask), *_ = bfn.network.seen
    assert mask is None
    assert t[0, 0] == 1
    assert t[0, 2] == 0
    assert (t[1] == t[1, 0]).all()
    everything = ContinuousTimeLoss()(bfn, x, None, None, torch.ones_like(held))
    assert (loss > 0).all()
    assert not everything.any()


# Evaluation


def test_the_bound_of_padded_data_is_that_of_the_present_numbers() -> None:
    short = Gaussian((2,), sigma_1=0.1)
    with seeded(0):
        x, net = torch.randn(300, 2), nn.Linear(1, 1)
    net.forward = lambda f, t: nn.functional.linear(f, net.weight, net.bias)
    padded = torch.cat([x, torch.full((300, 1), torch.nan)], 1)
    mask = torch.tensor([True, True, False]).expand(300, 3).clone()
    mask[:100, 1] = False
    bound = likelihood_bound(BFN(LINE, net), Batch(padded, mask=mask), draws=100)
    assert bound.dimensions == pytest.approx(5 / 3)
    assert bound.nats_per_dimension.value == pytest.approx(bound.total.value / (5 / 3))
    whole = likelihood_bound(BFN(short, net), Batch(x), draws=100)
    first = likelihood_bound(BFN(Gaussian((1,), sigma_1=0.1), net), Batch(x[:100, :1]), draws=100)
    rest = likelihood_bound(BFN(short, net), Batch(x[100:]), draws=100)
    expected = (100 * first.total.value + 200 * rest.total.value) / 300
    # The draws differ, and examples are the same: some tenth of the error of the mean over examples.
    assert abs(bound.total.value - expected) <= 0.5 * whole.total.stderr


def test_the_importance_bound_of_masked_data_is_that_of_their_marginal() -> None:
    mask = torch.tensor([[True, False]]).expand(4, 2)
    exact = -MARGINAL[0][DATA.values[:, 0]].log().mean()
    bound = importance_bound(DATA.oracle, Batch(DATA.values, mask=mask), n_steps=2, particles=4)
    assert bound.total.value == pytest.approx(float(exact), abs=1e-6)  # every weight is the probability
    assert bound.dimensions == 1


# Checks


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (Sphere((2, 3)), torch.tensor([[[0.0, 0.0, 1.0], [0.0, torch.nan, 7.0]]])),
        (Categorical((2,), classes=3), torch.tensor([[2, -1]])),
        (ProductFamily({"k": Categorical((2,), classes=3)}), {"k": torch.tensor([[2, -1]])}),
    ],
)
def test_missing_data_are_not_checked(family: Any, x: Any) -> None:
    mask = torch.tensor([[True, False]])
    check_present(family, x, mask)
    for wrong in (None, ~mask):
        with pytest.raises(DataError):
            check_present(family, x, wrong)
