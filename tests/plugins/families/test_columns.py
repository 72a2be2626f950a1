"""Columns of a table: histograms on lines, where a fresh network starts, and raw numbers without effect."""

import attrs
import pytest
import torch

from bfn_columns import Columns, Histogram
from bfn_toolkit import BFN, ConfigError, seeded
from bfn_toolkit.testing import LawBroken
from bfn_toolkit.testing.laws import check_every_raw_number_moves_the_price

N = 40_000
SHARES = ((0.7, 0.2, 0.1), (0.1, 0.4, 0.05, 0.25, 0.2))


class Zeros(torch.nn.Module):
    """A network that returns zeros."""

    def __init__(self, raw: int) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(torch.zeros(raw))

    def forward(self, features: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.raw.expand(*features.shape[:-1], -1)


def test_a_histogram_draws_its_classes_and_is_uniform_within_them() -> None:
    p = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    with seeded(0):
        x = Histogram(p.log().expand(N, 1, 4)).sample()[:, 0]
    shares = torch.bincount(x.long(), minlength=4) / N
    assert ((shares - p).abs() <= 4.0 * (p * (1.0 - p) / N).sqrt()).all()
    place = x - x.floor()
    for k in (0, 2, 3):
        inside = place[x.long() == k]
        error = (1.0 / 12.0 / len(inside)) ** 0.5
        assert abs(float(inside.mean()) - 0.5) < 4.0 * error
        assert abs(float(inside.var()) - 1.0 / 12.0) < 0.003


def test_the_density_of_a_histogram_is_that_of_the_class() -> None:
    p = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]], dtype=torch.float64)
    found = Histogram(p.log()).log_prob(torch.tensor([[1.99, 0.0]], dtype=torch.float64))
    assert found.item() == pytest.approx(float(torch.tensor(0.8 * 0.6).log()))
    assert Histogram(p.log()).mean.tolist() == [[pytest.approx(1.3), pytest.approx(0.9)]]
    with pytest.raises(ConfigError, match="linear in each class"):
        Histogram(p.log()).expect(torch.square)


def test_a_fresh_network_draws_the_shares_of_the_classes() -> None:
    family = Columns((3, 5), (False, True), SHARES)
    with seeded(1):
        x = BFN(family, Zeros(family.network_io.out_features)).sample(N, n_steps=2)
    for d, shares in enumerate(SHARES):
        p, found = torch.tensor(shares), torch.bincount(x[:, d].long(), minlength=len(shares)) / N
        assert ((found - p).abs() <= 4.0 * (p * (1.0 - p) / N).sqrt()).all()


@pytest.mark.parametrize("shares", [((0.5, 0.5, 0.0), SHARES[1]), (SHARES[0], SHARES[0]), (SHARES[0],)])
def test_shares_are_positive_and_one_for_each_class(shares: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="one for each class"):
        Columns((3, 5), shares=shares)


@attrs.frozen
class Boastful(Columns):
    """Claims that it reads all raw numbers."""

    @property
    def raw_in_use(self) -> torch.Tensor:
        return torch.ones_like(super().raw_in_use)


@attrs.frozen
class Modest(Columns):
    """Claims that it reads none of the first column."""

    @property
    def raw_in_use(self) -> torch.Tensor:
        return super().raw_in_use & torch.tensor([[False], [True]])


@pytest.mark.parametrize("family", [Boastful, Modest])
def test_a_wrong_claim_about_raw_numbers_breaks_the_law(family: type[Columns]) -> None:
    check_every_raw_number_moves_the_price(Columns((3, 5)))
    with pytest.raises(LawBroken, match="raw number"):
        check_every_raw_number_moves_the_price(family((3, 5)))


def test_tables_that_a_sampler_has_used_can_be_trained_with() -> None:
    family = Columns((2, 6), (False, True))
    raw = torch.zeros(2, 2, family.network_io.out_features, requires_grad=True)
    with torch.inference_mode():
        family.output(raw, family.prior(2))
    family.output(raw, family.prior(2)).log_prob(torch.ones(2, 2)).sum().backward()
    assert raw.grad is not None
    assert raw.grad.abs().sum() > 0.0
