"""Prices of rows by the chain rule: against a joint distribution that is known, by hand, and summed over all rows."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_columns import Columns
from bfn_gaussian import Gaussian
from bfn_masked import LogLinearSchedule, Masked, MaskedParams
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    AnyOrderSampler,
    Batch,
    ConfigError,
    Finite,
    Oracle,
    Output,
    ProductFamily,
    RowPrices,
    row_prices,
    seeded,
)
from toy_families import PlainCategorical

# The largest accuracy: a message about a site fails with probability e^-16.
FAMILY = Masked(site_shape=(3,), classes=3, schedule=LogLinearSchedule(16.0))
ROWS = torch.tensor(list(product(range(3), repeat=3)))
with seeded(0, "joint"):
    JOINT = torch.rand(3, 3, 3, dtype=torch.float64).square()
    JOINT /= JOINT.sum()


def posterior(params: MaskedParams) -> Output:
    """Marginals of the joint given the sites that are known; K stands at the others."""
    fits = ((params.x.unsqueeze(1) == ROWS) | (params.x.unsqueeze(1) == 3)).all(2)
    weights = fits * JOINT.flatten()
    classes = (ROWS.unsqueeze(-1) == torch.arange(3)).double()
    return Finite(None, torch.einsum("br,rsk->bsk", weights, classes).log())


ORACLE = Oracle(FAMILY, posterior)


def network(seed: int = 0, **options: Any) -> BFN:
    """An untrained network, whose last layer is random."""
    with seeded(seed, "network"):
        model = BFN(FAMILY, MLP(width=16, depth=1, site_times=True, **options)).eval()
        torch.nn.init.normal_(model.network.last.weight, std=1.0)
    return model


@pytest.mark.parametrize("orders", [1, 5])
def test_price_of_an_exact_model_is_the_joint_in_any_order(orders: int) -> None:
    expected = -JOINT.flatten().log()
    for seed in range(4):
        prices = row_prices(ORACLE, Batch(ROWS), orders=orders, seed=seed)
        torch.testing.assert_close(prices.total, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(prices.sites.sum(1), expected, rtol=0, atol=1e-5)


def test_unknown_sites_are_marginalised() -> None:
    for known in product([False, True], repeat=3):
        sites = [site for site in range(3) if not known[site]]
        marginal = JOINT.sum(sites, keepdim=True).expand(3, 3, 3) if sites else JOINT
        x = torch.where(torch.tensor(known), ROWS, -1)
        for batch in (Batch(x), Batch(ROWS, mask=torch.tensor(known).expand(27, 3))):
            prices = row_prices(Oracle(FAMILY, lambda params, mask=None: posterior(params)), batch, orders=2)
            torch.testing.assert_close(prices.total, -marginal.flatten().log(), rtol=0, atol=1e-5)
            assert bool((prices.sites[:, sites] == 0).all())


@pytest.mark.parametrize("orders", [1, 4])
def test_probabilities_of_all_rows_add_up_to_one(orders: int) -> None:
    model = network()
    prices = row_prices(model, Batch(ROWS), orders=orders, seed=1)
    assert float(prices.total.neg().exp().sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(prices.total.std()) > 0.1  # it is not the uniform distribution


def by_hand(model: BFN, order: list[int]) -> Tensor:
    """Price of each site in an order, with the known sites written into the beliefs."""
    prices = torch.zeros(27, 3)
    for place, site in enumerate(order):
        before = torch.zeros(3, dtype=torch.bool)
        before[order[:place]] = True
        t = before.float().expand(27, 3)
        logits = model.output(MaskedParams(torch.where(before, ROWS, 3), torch.zeros(27, 3)), t).logits
        prices[:, site] = -logits.log_softmax(-1)[torch.arange(27), site, ROWS[:, site]]
    return prices


def test_orders_are_averaged_in_probability_and_sites_in_nats() -> None:
    model, orders = network(), 3
    with seeded(7, "orders"):
        chosen = torch.rand(orders, 3).argsort(1).tolist()
    with torch.no_grad():
        each = torch.stack([by_hand(model, order) for order in chosen]).double()
    prices = row_prices(model, Batch(ROWS), orders=orders, seed=7)
    torch.testing.assert_close(prices.sites, each.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(prices.total, -each.sum(2).neg().exp().mean(0).log(), rtol=0, atol=1e-5)
    assert bool((prices.total <= prices.sites.sum(1) + 1e-9).all())
    assert float((prices.sites.sum(1) - prices.total).max()) > 1e-3  # this network does not agree with itself


def test_sampler_draws_rows_as_often_as_their_price_says() -> None:
    model, n = network(), 20_000
    with seeded(3):
        drawn = model.sample(n, n_steps=3, sampler=AnyOrderSampler())
    counts = (drawn @ torch.tensor([9, 3, 1])).bincount(minlength=27)
    # All six orders of three sites: a mixture of them is the distribution of the sampler.
    with torch.no_grad():
        each = torch.stack(
            [by_hand(model, list(order)) for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2))]
            + [by_hand(model, list(order)) for order in ((1, 2, 0), (2, 0, 1), (2, 1, 0))]
        )
    expected = n * each.double().sum(2).neg().exp().mean(0)
    many = n * row_prices(model, Batch(ROWS), orders=600).total.neg().exp()
    chi2 = float(((counts - expected).square() / expected).sum())
    assert chi2 < 26 + 5 * math.sqrt(2 * 26)
    torch.testing.assert_close(many, expected, rtol=0.1, atol=0)


def test_price_of_a_row_does_not_depend_on_the_others() -> None:
    model, index = network(), torch.randperm(27, generator=torch.Generator().manual_seed(0))
    whole = row_prices(model, Batch(ROWS), orders=2)
    torch.testing.assert_close(row_prices(model, Batch(ROWS[index]), orders=2).total, whole.total[index])
    torch.testing.assert_close(row_prices(model, Batch(ROWS[5:6]), orders=2).total, whole.total[5:6])
    many = row_prices(model, Batch(ROWS.repeat(30, 1)), orders=2)  # several chunks
    torch.testing.assert_close(many.total, whole.total.repeat(30))


def test_sites_may_have_any_shape_and_data_conditions() -> None:
    family = attrs.evolve(FAMILY, site_shape=(2, 2))
    with seeded(0):
        model = BFN(family, MLP(width=16, depth=1, labels=2, site_times=True)).eval()
        torch.nn.init.normal_(model.network.last.weight)
    x = torch.tensor(list(product(range(3), repeat=4))).reshape(-1, 2, 2)
    totals = []
    for label in (0, 1):
        prices = row_prices(model, Batch(x, {"label": torch.full((81,), label)}))
        assert prices.sites.shape == (81, 2, 2)
        assert float(prices.total.neg().exp().sum()) == pytest.approx(1.0, abs=1e-4)
        totals.append(prices.total)
    assert float((totals[0] - totals[1]).abs().max()) > 1e-3


def test_cells_of_columns_are_priced_by_their_classes() -> None:
    """Points of the lines have the prices of their classes, whose probabilities add up to one exactly."""
    family = Columns(sizes=(2, 5, 3), ordered=(False, True, False))
    with seeded(0):
        model = BFN(family, MLP(width=16, depth=1, time_free=True)).eval()
        torch.nn.init.normal_(model.network.last.weight)
        classes = torch.tensor(list(product(range(2), range(5), range(3))))
        x = classes + 0.99 * torch.rand(classes.shape)
    many = Batch(x.repeat(200, 1))  # no message is lost, though there are 12,000
    for orders in (1, 3):
        prices = row_prices(model, many, orders=orders)
        assert float(prices.total[:30].neg().exp().sum()) == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(prices.total, prices.total[:30].repeat(200))
        torch.testing.assert_close(row_prices(model, Batch(classes + 0.5), orders=orders).total, prices.total[:30])
    x[:, 1] = torch.nan
    marginal = row_prices(model, Batch(x), orders=1)
    assert bool((marginal.sites[:, 1] == 0).all())
    assert float(marginal.total.neg().exp().sum()) == pytest.approx(5.0, abs=1e-4)  # each pair stands there five times


def test_soft_messages_give_a_bound() -> None:
    """Beliefs that are not certain at time 1, under an exact posterior, price a row above its joint probability."""
    family = Categorical(site_shape=(2,), classes=2)
    joint = torch.tensor([[0.4, 0.1], [0.1, 0.4]])
    rows = torch.tensor(list(product(range(2), repeat=2)))

    def exact(params: Any) -> Output:
        logs = params.logits.log_softmax(-1)
        weights = joint.log().flatten() + logs[:, [0, 1], rows].sum(-1)
        classes = (rows.unsqueeze(-1) == torch.arange(2)).to(weights.dtype)
        return Finite(None, torch.einsum("br,rsk->bsk", weights.exp(), classes).log())

    same = Batch(torch.tensor([[1, 1]])).rows(torch.zeros(4096, dtype=torch.int64))
    prices = row_prices(Oracle(family, exact), same)
    assert float(prices.total.mean()) > -math.log(0.4) - 1e-4
    assert float(prices.total.mean()) < 2 * math.log(2)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (ORACLE, {"orders": 0}, "orders: expected an integer of at least 1, got 0"),
        (ORACLE, {"orders": True}, "got True"),
        (BFN(Categorical((3,), 3), MLP(width=8)), {}, r"--network.site_times true"),
        (BFN(PlainCategorical((3,)), MLP(width=8)), {}, r"write likelihood_bound\(model, data\)"),
        (BFN(ProductFamily({"a": Gaussian()}), MLP(width=8)), {}, "has several parts"),
    ],
)
def test_faults_are_explained(model: Any, options: dict[str, Any], words: str) -> None:
    x: Any = {"a": torch.zeros(4, 1)} if model.family.has_parts else torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(ConfigError, match=words):
        row_prices(model, Batch(ROWS if model.family is FAMILY else x), **options)


def test_prices_are_plain_values() -> None:
    prices = row_prices(ORACLE, Batch(ROWS[:2]))
    assert isinstance(prices, RowPrices)
    assert prices.total.dtype == prices.sites.dtype == torch.float64
    assert prices.sites.shape == (2, 3)
