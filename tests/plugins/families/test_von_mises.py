"""von Mises family: what holds where accuracies do not add, the table of accuracies, the price, the flow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

import bfn_von_mises
from bfn_directional import Circle
from bfn_mlp import MLP
from bfn_toolkit import (
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    DiscreteTimeLoss,
    Experiment,
    StepCountError,
    SteppedFamily,
    Training,
    likelihood_bound,
    seeded,
    train,
)
from bfn_torus import Torus
from bfn_von_mises import (
    Direction,
    VonMises,
    VonMisesParams,
    entropy,
    entropy_linear_accuracies,
    unit,
)
from significance import Z, ks_two_sample, z_of_mean, z_of_variance

# Measured with independent code: mean concentration after a total accuracy of 20, sent in so many messages, ...
SENDERS = {1: 20.0, 2: 19.5, 5: 17.8, 20: 9.4, 100: 2.6}
# ... and mean and variance along x of the sum of n messages of accuracy sqrt(2 B / n), for B = 8.
LIMIT = {4: (5.58, 2.64), 16: (7.14, 5.69), 256: (7.93, 7.80), 1024: (7.98, 7.91)}
DOUBLE = torch.float64
EPS = 16 * torch.finfo(DOUBLE).eps  # of the largest number that enters
SMALL = VonMises(site_shape=(3,), n_steps=6, beta_1=30.0)


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def resultant(alpha: Any) -> Any:
    return scipy.special.i1e(alpha) / scipy.special.i0e(alpha)


def belief(rows: int = 50, size: float = 3.0) -> VonMisesParams:
    with seeded(0, "belief"):
        return VonMisesParams(size * torch.randn(rows, 3, 2, dtype=DOUBLE))


def angles(rows: int = 50, *key: int | str) -> Tensor:
    with seeded(0, "angles", *key):
        return (2 * torch.rand(rows, 3, dtype=DOUBLE) - 1) * math.pi


def alphas(rows: int = 50) -> Tensor:
    return torch.logspace(-4, 4, rows, dtype=DOUBLE)


# Update


def test_update_is_the_published_one() -> None:
    params, y, alpha = belief(), angles(), alphas()
    c, m = torch.linalg.vector_norm(params.v, dim=-1), torch.atan2(params.v[..., 1], params.v[..., 0])
    a = alpha[:, None]
    mean = torch.atan2(a * y.sin() + c * m.sin(), a * y.cos() + c * m.cos())
    concentration = (a**2 + c**2 + 2 * a * c * (y - m).cos()).sqrt()
    after = SMALL.update(params, y, alpha).v
    expected = concentration.unsqueeze(-1) * unit(mean)
    # the cosine rule loses half of the digits where vectors cancel
    assert ((after - expected).abs() <= 1e-7 * (a + c).unsqueeze(-1)).all()
    found = torch.linalg.vector_norm(after, dim=-1)
    assert (found <= (a + c) * (1 + EPS)).all()
    assert (found >= (a - c).abs() * (1 - EPS) - EPS * (a + c)).all()
    assert SMALL.input(SMALL.update(params, y, alpha)).mean.abs().max() <= math.pi


def test_update_turns_with_the_circle() -> None:
    params, y, alpha, turn = belief(), angles(), alphas(), 1.234
    scale = EPS * (alpha[:, None, None] + params.v.norm(dim=-1, keepdim=True))

    def turned(v: Tensor) -> Tensor:
        rotation = tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        return v @ rotation

    after = SMALL.update(params, y, alpha).v
    assert ((SMALL.update(VonMisesParams(turned(params.v)), y + turn, alpha).v - turned(after)).abs() <= scale).all()
    assert ((SMALL.update(params, y + 2 * math.pi, alpha).v - after).abs() <= scale).all()
    mirror = tensor([1.0, -1.0])
    assert torch.equal(SMALL.update(VonMisesParams(params.v * mirror), -y, alpha).v, after * mirror)
    assert torch.equal(SMALL.update(params, y, torch.zeros(50, dtype=DOUBLE)).v, params.v)


def test_two_messages_are_worth_their_resultant() -> None:
    params, y, z, a, b = belief(), angles(50, 1), angles(50, 2), alphas(), alphas().flip(0)
    twice = SMALL.update(SMALL.update(params, y, a), z, b).v
    total = a[:, None, None] * unit(y) + b[:, None, None] * unit(z)
    assert torch.allclose(twice, params.v + total, rtol=0, atol=EPS * 1e4)


@pytest.mark.parametrize(("count", "concentration"), SENDERS.items())
def test_many_small_messages_tell_less(count: int, concentration: float) -> None:
    n, alpha = 5000, 20.0 / count
    with seeded(1, count):
        y = VonMises((count,), n_steps=1).sender(torch.zeros(n, count, dtype=DOUBLE), torch.full((n,), alpha).double())
        total = (alpha * unit(y.sample())).sum(1)
    length = total.norm(dim=-1)
    # 0.06: half a unit in the last of their digits
    assert abs(float(length.mean()) - concentration) <= 0.06 + Z * float(length.std()) / math.sqrt(n)
    assert z_of_mean(total, tensor([20.0 * resultant(alpha), 0.0])) <= Z


def test_the_circle_is_the_limit_of_many_messages() -> None:
    b = 8.0
    for n, (mean, variance) in LIMIT.items():
        alpha = math.sqrt(2 * b / n)
        ratio = resultant(alpha)
        assert n * alpha * ratio == pytest.approx(mean, abs=0.03)  # their digits, and their draws
        assert n * alpha**2 * (1 - ratio / alpha - ratio**2) == pytest.approx(variance, abs=0.05)  # of the cosine
    with seeded(2, "limit"):
        prior, x = Circle().prior(50_000, dtype=DOUBLE), torch.zeros(50_000, 1, dtype=DOUBLE)
        v = Circle().draw_update(prior, x, torch.full((50_000,), b, dtype=DOUBLE)).v[:, 0]
    assert z_of_mean(v, tensor([b, 0.0])) <= Z
    assert z_of_variance(v, b) <= Z


# Table of accuracies


def test_entropy_is_that_of_scipy() -> None:
    c = tensor([1e-6, 0.1, 1.0, 30.0, 1e3])
    expected = [float(scipy.stats.vonmises(k).entropy()) for k in c.tolist()]
    assert torch.allclose(entropy(c), tensor(expected), rtol=1e-9)  # scipy subtracts numbers of size c
    assert float(entropy(tensor(0.0))) == pytest.approx(math.log(2 * math.pi), rel=1e-15)


@pytest.mark.parametrize(("n", "beta_1"), [(1, 5.0), (2, 0.01), (10, 1000.0), (100, 1000.0), (300, 1e6)])
def test_entropy_falls_linearly_at_the_expected_concentration(n: int, beta_1: float) -> None:
    a = tensor(entropy_linear_accuracies(n, beta_1))
    assert (a > 0).all()
    along = a * tensor(resultant(a.numpy()))
    # E|v_i|^2 = sum a_j^2 + 2 sum_{j<k} a_j a_k A_j A_k, term by term
    pairs = torch.outer(along, along).fill_diagonal_(0.0)
    squares = torch.stack([a[: i + 1].square().sum() + pairs[: i + 1, : i + 1].sum() for i in range(n)])
    line = torch.lerp(entropy(tensor(0.0)), entropy(tensor(beta_1)), torch.arange(1, n + 1, dtype=DOUBLE) / n)
    assert torch.allclose(entropy(squares.sqrt()), line, rtol=0, atol=1e-9)  # roots found to 1e-14, of sums of n terms
    assert float(squares[-1].sqrt()) == pytest.approx(beta_1, rel=1e-11)


# Flow


def test_flow_has_the_moments_of_its_messages() -> None:
    n = 40_000
    family = VonMises(site_shape=(1,), n_steps=8, beta_1=50.0)
    a = tensor(family.schedule.accuracies)
    along = a * tensor(resultant(a.numpy()))
    for sent in (0, 1, 5, 8):
        with seeded(3, sent):
            v = family.flow(torch.full((n, 1), 0.7, dtype=DOUBLE), torch.full((n,), sent / 8, dtype=DOUBLE)).v[:, 0]
        if sent == 0:
            assert (v == 0).all()
            continue
        assert z_of_mean(v, along[:sent].sum() * unit(tensor(0.7))) <= Z
        squares = a[:sent].square().sum() + along[:sent].sum().square() - along[:sent].square().sum()
        if sent == 1:
            assert torch.allclose(v.square().sum(-1), squares, rtol=1e-12)
        else:
            assert z_of_mean(v.square().sum(-1), squares) <= Z


def test_flow_is_the_fold_of_messages_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows at different times, by the definition, at once, and in blocks of two messages.
    family, n = VonMises(site_shape=(2,), n_steps=5, beta_1=20.0), 4000
    x = tensor([[0.7, -2.0]]).expand(5 * n, 2)
    t = (torch.arange(5, dtype=DOUBLE) / 5 + 0.25 / 5 + 0.2).clamp_max(1.0).repeat_interleave(n)
    with seeded(4, "fold"):
        fold = SteppedFamily.flow(family, x, t).v
        whole = family.flow(x, t).v
        monkeypatch.setattr(bfn_von_mises, "CHUNK", 2 * 2)
        blocks = family.flow(x, t).v
    for v in (whole, blocks):
        for a, b in zip(v.reshape(5, n, 4), fold.reshape(5, n, 4), strict=True):
            for i in range(4):
                assert ks_two_sample(a[:, i], b[:, i]) <= 1


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-9, 1.0, 1e3, 1e6])
def test_extremes_in_float32_are_finite(size: float) -> None:
    v = (size * belief(200).v.float()).requires_grad_()
    params = VonMisesParams(v)
    features = SMALL.features(params)
    raw = torch.zeros(200, 3, 2, requires_grad=True)
    x_hat = SMALL.output(raw, params).mean
    price = SMALL.step_loss(angles(200).float(), Direction(x_hat), torch.full((200,), 5.0))
    assert torch.isfinite(features).all()
    assert features.dtype == price.dtype == torch.float32
    assert torch.isfinite(price).all()
    (features.sum() + price.sum()).backward()
    assert torch.isfinite(v.grad).all()
    assert torch.isfinite(raw.grad).all()


def test_features_are_bounded() -> None:
    with seeded(5, "features"):
        params = SMALL.flow(angles(500), torch.linspace(0, 1, 500, dtype=DOUBLE))
    features = SMALL.features(params)
    assert features.shape == (500, 3, SMALL.network_io.in_features)
    assert (features[..., :2].norm(dim=-1) <= 1).all()
    assert (features[..., 2] >= 0).all()
    assert (features[..., 2] <= 1).all()
    assert (features[0] == 0).all()
    assert features[-1, :, 2].mean() >= 0.8


# NatsLoss


@pytest.mark.parametrize("alpha", [1e-6, 0.5, 40.0, 1e3])
def test_price_is_the_closed_form(alpha: float) -> None:
    x, x_hat, accuracy = angles(50, 1), angles(50, 2), torch.full((50,), alpha, dtype=DOUBLE)
    found = SMALL.step_loss(x, Direction(x_hat), accuracy)
    expected = 2 * alpha * resultant(alpha) * ((x - x_hat) / 2).sin().square().sum(1)
    # differences of concentrations, of alpha eps each
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14 * (1 + alpha))


def test_point_is_priced_by_a_von_mises_density() -> None:
    x, x_hat = angles(50, 1), angles(50, 2)
    expected = scipy.stats.vonmises.logpdf((x - x_hat).numpy(), 25.0).sum(1)
    assert torch.allclose(Direction(x_hat, 0.2).log_prob(x), tensor(expected), rtol=1e-10)
    with pytest.raises(ValueError, match="without a standard deviation"):
        Direction(x_hat).log_prob(x)


def test_zero_output_is_the_direction_of_the_beliefs() -> None:
    params = belief()
    output = SMALL.output(torch.zeros(50, 3, 2, dtype=DOUBLE), params)
    assert torch.allclose(output.mean, SMALL.input(params).mean, rtol=0, atol=EPS * math.pi)


# Use


def model(loss: Any, steps: int = 100) -> Any:
    family = VonMises(Torus().site_shape, n_steps=10, beta_1=300.0)
    recipe = Training(steps=steps, batch_size=512, lr=3e-3)
    return train(Experiment(Torus(), family, MLP(width=64, depth=1), loss, recipe)).model


def test_it_trains_by_the_loss_of_its_steps() -> None:
    data, loss = Torus(), DiscreteTimeLoss(n_steps=10)
    test = data.split("test").rows(torch.arange(0, 4000, 4))
    prices = {steps: likelihood_bound(model(loss, steps), test, n_steps=10, draws=2).total.value for steps in (1, 100)}
    exact = float(-data.log_prob(test.x.double()).mean())
    assert exact <= prices[100] <= 0.8 * prices[1]
    with seeded(6, "samples"):
        x = model(loss).sample(1000, n_steps=10)
    # uniform points cost 10 nats, those of the data 1.6
    assert float(-data.log_prob(x.double()).mean()) <= 4.0


def test_other_losses_are_refused_with_the_line_to_write() -> None:
    with pytest.raises(ConfigError, match=r"no continuous-time loss.*discrete-time loss with n_steps=10"):
        model(ContinuousTimeLoss("unit"))
    with pytest.raises(StepCountError, match=r"built with 10 steps; got n_steps=20"):
        model(DiscreteTimeLoss(n_steps=20))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 2), r"shape \(B, 3\)"),
        (torch.zeros(4, 3, dtype=torch.long), r"x.float\(\)"),
        (torch.tensor([[0.0, math.inf, 0.0]]), r"finite.*\(0, 1\)"),
    ],
)
def test_data_outside_the_domain_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SMALL.check_data(x)
    SMALL.check_data(100.0 * angles().float())


@pytest.mark.parametrize(
    "options", [{"n_steps": 0}, {"n_steps": 2.5}, {"beta_1": 0.0}, {"beta_1": math.nan}, {"site_shape": (0,)}]
)
def test_configurations_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        VonMises(**options)
