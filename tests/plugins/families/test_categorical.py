"""The categorical family: golden numbers, conservation of information, extremes, memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from benchmarks.counting import peak_bytes
from bfn_categorical import Categorical, CategoricalParams, EntropyLinearSchedule, Receiver
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    AncestralSampler,
    ContinuousTimeLoss,
    DataError,
    DiscreteTimeLoss,
    Family,
    Finite,
    Oracle,
    QuadraticSchedule,
    ReconstructionLoss,
    seeded,
)
from significance import Z, z_of_mean

GOLDEN = json.loads(Path(__file__).parents[2].joinpath("golden.json").read_text())["categorical"]
CASES = pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"K={case['K']}")
DOUBLE = torch.float64


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def family(case: dict[str, Any]) -> Categorical:
    return Categorical(site_shape=(3,), classes=case["K"], beta_1=case["sqrt_beta_1"] ** 2)


def close(found: Tensor, expected: Any, rtol: float = 1e-12) -> bool:
    return torch.allclose(found, tensor(expected), rtol=rtol, atol=1e-13)


def per_site(case: dict[str, Any]) -> tuple[Categorical, Tensor, Tensor]:
    """A family of one site, with every site of the case as an example of its own; data and raw numbers."""
    one = Categorical(classes=case["K"], beta_1=case["sqrt_beta_1"] ** 2)
    raw = tensor(case["output_logits"])
    return one, torch.tensor(case["data"]).reshape(-1, 1), raw.reshape(-1, 1, raw.shape[-1])


@CASES
def test_step_accuracies_are_those_of_the_reference(case: dict[str, Any]) -> None:
    times = family(case).times(case["n"])
    assert close(family(case).accuracy(times[:-1], times[1:]), case["step_accuracies"])


@CASES
def test_sender_update_and_flow_are_those_of_the_reference(case: dict[str, Any]) -> None:
    categorical, x, alpha = family(case), torch.tensor(case["data"]), tensor(case["alpha"])
    sender = categorical.sender(x, alpha.expand(2))
    assert close(sender.mean, case["sender_mean"])
    assert close(sender.variance.sqrt(), torch.full_like(sender.mean, case["sender_std"]).tolist())
    before = CategoricalParams(tensor(case["theta"]).log(), alpha.expand(2))
    after = categorical.update(before, tensor(case["y"]), alpha.expand(2))
    assert close(after.log_probs.exp(), case["new_theta"])
    beta = categorical.schedule.beta(tensor(case["t"]))
    message = categorical.sender(x, beta)  # the flow is one message
    assert close(message.mean, case["flow_logit_mean"])
    assert close(message.variance.sqrt()[:, 0, 0], case["flow_logit_std"])


@CASES
def test_losses_are_those_of_the_reference(case: dict[str, Any]) -> None:
    one, x, raw = per_site(case)
    output = one.output(raw, one.prior(len(x), dtype=DOUBLE))
    t = tensor(case["t"]).repeat_interleave(3)
    # The reference rounds the weights of this loss to float32.
    assert close(one.loss_rate(x, output, t).reshape(2, 3), case["continuous_time_loss"], rtol=5e-7)
    # The reference takes logarithms of probabilities that torch keeps 1.2e-7 away from 0 and 1.
    assert close(-output.log_prob(x).reshape(2, 3), case["reconstruction_loss"], rtol=5e-7)
    y, alpha = tensor(case["step_y"]).reshape(-1, 1, one.classes), tensor(case["step_alpha"]).repeat_interleave(3)
    assert close(one.sender(x, alpha).log_prob(y).reshape(2, 3), case["sender_log_prob"])
    assert close(one.receiver(output, alpha).log_prob(y).reshape(2, 3), case["receiver_log_prob"])


class TestInformation:
    """Three classes with unequal weights, whose posterior is softmax(ln weights + z): L^n + L^r is the entropy."""

    weights = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    rows = 200_000

    def oracle(self) -> Oracle:
        posterior = lambda params: Finite(None, params.logits + self.weights.log())  # noqa: E731
        return Oracle(Categorical(classes=3, beta_1=3.0), posterior)

    @pytest.mark.parametrize("n", [1, 2, 5, 20, 100, None])
    def test_messages_and_reconstruction_cost_the_entropy(self, n: int | None) -> None:
        entropy = float(-(self.weights * self.weights.log()).sum())
        loss = ContinuousTimeLoss() if n is None else DiscreteTimeLoss(n)
        with seeded(0, "information", str(n)):
            # Each class as often as it is expected: the error is that of the prices within the classes.
            x = torch.arange(3).repeat_interleave((self.weights * self.rows).round().long())
            x = x[torch.randperm(self.rows)].unsqueeze(1)
            price = loss(self.oracle(), x) + ReconstructionLoss()(self.oracle(), x)
        error = sum(float(w) * price[x[:, 0] == k].var() for k, w in enumerate(self.weights)) / self.rows
        assert price.shape == (self.rows,)
        assert float((price.mean() - entropy).abs()) <= 3 * math.sqrt(float(error))

    def test_an_oracle_is_sampled_exactly_in_one_step(self) -> None:
        with seeded(0, "samples"):
            x = self.oracle().sample(self.rows, n_steps=1, sampler=AncestralSampler())
        shares = torch.nn.functional.one_hot(x[:, 0], 3).double()
        assert z_of_mean(shares, self.weights) <= Z


@pytest.mark.parametrize("classes", [2, 3, 27])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
def test_the_price_is_the_divergence_by_definition(classes: int, alpha: float) -> None:
    n, one = 30_000, Categorical(classes=classes)
    with seeded(0, classes, str(alpha)):
        raw = torch.randn(1, 1, one.network_io.out_features, dtype=DOUBLE).expand(n, -1, -1)
        x = torch.full((n, 1), classes - 1)
        accuracy = torch.full((n,), alpha, dtype=DOUBLE)
        output = one.output(raw, one.prior(n, dtype=DOUBLE))
        price = one.step_loss(x, output, accuracy)
        sender = one.sender(x, accuracy)
        y = sender.sample()
        defined = sender.log_prob(y) - Family.receiver(one, output, accuracy).log_prob(y)
    spread = (price.var() + defined.var()).sqrt() / math.sqrt(n)
    assert float((price.mean() - defined.mean()).abs()) <= Z * float(spread) + 1e-9
    assert float(price.std()) <= 1.1 * float(defined.std()) + 1e-6  # of heavy tails, estimated
    if alpha == 0.01:  # the noise of first order is taken out, and half of that of second order
        assert float(price.std()) <= 0.25 * float(defined.std())


def test_the_receiver_has_the_density_and_the_draws_of_the_mixture() -> None:
    with seeded(0, "receiver"):
        logits, alpha = torch.randn(4, 2, 3, dtype=DOUBLE), torch.rand(4, dtype=DOUBLE) + 0.1
        one = Categorical(site_shape=(2,), classes=3)
        receiver, defined = Receiver(logits, alpha), Family.receiver(one, Finite(None, logits), alpha)
        y = torch.randn(4, 2, 3, dtype=DOUBLE)
        draws = receiver.sample(torch.Size((100_000,)))
    assert torch.allclose(receiver.log_prob(y), defined.log_prob(y), rtol=1e-12)
    mean = alpha[:, None, None] * (3 * logits.softmax(-1) - 1)
    assert z_of_mean(draws, mean) <= Z


def test_a_pair_of_classes_is_one_logit() -> None:
    """The Bernoulli family falls out: one number in, one out, whatever the shape of the data."""
    two = Categorical(site_shape=(4, 2), classes=2)
    assert (two.network_io.in_features, two.network_io.out_features) == (1, 1)
    with seeded(0, "two"):
        params = two.flow(torch.randint(2, (5, 4, 2)), torch.full((5,), 0.5, dtype=DOUBLE))
    assert torch.allclose(two.features(params)[..., 0], 2 * params.log_probs[..., 1].exp() - 1, atol=1e-15)
    raw = torch.linspace(-3, 3, 40, dtype=DOUBLE).reshape(5, 4, 2, 1)
    ones = torch.ones(5, 4, 2, dtype=torch.int64)
    odds = params.logits[..., 1] - params.logits[..., 0]
    for skip, logit in ((True, raw[..., 0] + odds), (False, raw[..., 0])):
        output = attrs.evolve(two, skip=skip).output(raw, params)
        assert torch.allclose(output.log_prob(ones), torch.nn.functional.logsigmoid(logit).flatten(1).sum(1))


def test_a_pair_is_the_finite_output_of_its_logits() -> None:
    two = Categorical(site_shape=(3,), classes=2)
    with seeded(0, "pair"):
        before = CategoricalParams(torch.randn(40_000, 3, 2, dtype=DOUBLE), torch.full((40_000,), 0.3, dtype=DOUBLE))
        params = two.from_natural(*two.natural_params(before))
        pair = two.output(torch.randn(40_000, 3, 1, dtype=DOUBLE), params)
        x, draws = torch.randint(2, (40_000, 3)), pair.sample()
    assert torch.allclose(params.log_probs, before.log_probs, atol=1e-14)
    finite = Finite(None, pair.logits)
    assert torch.equal(pair.mode, finite.mode)
    assert torch.allclose(pair.mean, finite.mean, atol=1e-15)
    assert torch.equal(pair.log_prob(x), finite.log_prob(x))
    assert torch.allclose(two.mean_embedding(pair), two.mean_embedding(finite), atol=1e-15)
    assert torch.allclose(two.mean_embedding(pair), pair.expect(two.embed), atol=1e-7)  # embeddings are in float32
    t = torch.rand(40_000, dtype=DOUBLE)
    assert torch.allclose(two.loss_rate(x, pair, t), two.loss_rate(x, finite, t), rtol=1e-13)
    assert z_of_mean(draws - pair.mean, 0.0) <= Z
    again = attrs.evolve(pair, logits=before.logits)
    assert torch.allclose(again.logits.softmax(-1), before.log_probs.exp(), rtol=1e-14)


@pytest.mark.parametrize("classes", [2, 27, 50_257])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_extreme_accuracies_and_classes_stay_finite_and_exact(classes: int, dtype: torch.dtype) -> None:
    one, rows = Categorical(classes=classes, beta_1=1e4), 6
    with seeded(0, classes):
        x = torch.randint(classes, (rows, 1))
        t = torch.tensor([0.0, 1e-7, 1e-3, 0.5, 1.0, 1.0], dtype=dtype)
        params = one.flow(x, t)
        raw = torch.randn(rows, 1, one.network_io.out_features, dtype=dtype, requires_grad=True)
        output = one.output(raw, params)
        terms = {
            "rate": one.loss_rate(x, output, t),
            "price": one.step_loss(x, output, torch.full((rows,), 1e4, dtype=dtype)),
            "log_prob": output.log_prob(x),
            "log_probs": params.log_probs,
            "features": one.features(params),
        }
        for name, value in terms.items():
            assert value.dtype == dtype
            assert bool(torch.isfinite(value).all()), name
        sum(value.sum() for value in terms.values() if value.requires_grad).backward()
    assert bool(torch.isfinite(torch.as_tensor(raw.grad)).all())
    assert bool((params.logits[-2:].argmax(-1) == x[-2:]).all())  # accuracy 1e4 leaves no doubt
    # A message of accuracy 1e4 tells x: it costs what x costs.
    assert torch.allclose(terms["price"], -terms["log_prob"], rtol=1e-4, atol=1e-4)
    # And the beliefs keep their sum: within 16 eps of the classes that add up.
    total = params.log_probs.double().logsumexp(-1)
    assert float(total.abs().max()) <= 16 * torch.finfo(dtype).eps * math.log2(classes) * (1 + math.log(classes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_steps", [None, 10])
def test_messages_in_half_precision_networks_cost_float32(dtype: torch.dtype, n_steps: int | None) -> None:
    one = Categorical(site_shape=(4,), classes=5)
    model = BFN(one, Siren(width=16))
    with seeded(0, "autocast"), torch.autocast("cpu", dtype):
        loss = model.loss(torch.randint(5, (8, 4)), n_steps=n_steps)
    assert loss.dtype == torch.float32
    assert bool(torch.isfinite(loss).all())


@pytest.mark.parametrize("n_steps", [None, 10])
def test_memory_of_a_loss_is_linear_in_the_classes(n_steps: int | None) -> None:
    def peak(classes: int) -> int:
        model = BFN(Categorical(site_shape=(8,), classes=classes), _Logits())
        x = torch.zeros(64, 8, dtype=torch.int64)
        return peak_bytes(lambda: model.loss(x, n_steps=n_steps).mean())

    small, large = peak(64), peak(512)
    assert small > 0
    assert large <= 8.5 * small
    assert large <= 20 * 64 * 8 * 512 * 4  # tensors of size B x site x K, where K of them would be 512


class _Logits(torch.nn.Module):
    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return features


@pytest.mark.parametrize(("classes", "beta_1"), [(2, 9.0), (2, 100.0), (3, 0.5), (27, 10.0), (256, 0.13)])
def test_entropy_falls_linearly_where_it_is_asked_to(classes: int, beta_1: float) -> None:
    """Against a Monte Carlo estimate at eighths of the way, by draws that the schedule does not know."""
    one, rows, line = Categorical(classes=classes), min(20_000, 10**6 // classes), torch.linspace(0, 1, 9, dtype=DOUBLE)

    def distance(schedule: Any) -> Tensor:
        x, values = torch.zeros(rows, 1, dtype=torch.int64), []
        for beta in schedule.beta(line):
            with seeded(1, "entropy"):
                params = one.draw_update(one.prior(rows, dtype=DOUBLE), x, beta.expand(rows))
            values.append(one.input(params).entropy())
        fall = (values[0] - torch.stack(values)) / (values[0] - values[-1]).mean()
        excess = (fall - line.unsqueeze(1) * fall[-1:])[1:-1]
        error = excess.std(1) / math.sqrt(rows)
        return (excess.mean(1).abs() - Z * error).max()

    # The time of even growth is a thousandth.
    assert float(distance(EntropyLinearSchedule(classes, beta_1))) <= 1e-3
    assert float(distance(QuadraticSchedule(beta_1))) > 0.05


@pytest.mark.parametrize("classes", [2, 27, 8192])
@pytest.mark.parametrize("snr", [1e-2, 18.0, 60.0, 200.0, 2e6])
def test_the_entropy_linear_schedule_rises_to_its_end_in_every_dtype(classes: int, snr: float) -> None:
    schedule = EntropyLinearSchedule(classes, max(snr / classes, 1e-6))
    t = torch.cat([torch.zeros(1), torch.logspace(-7, -3, 9), torch.linspace(2e-3, 1, 999)])
    single, double = schedule.beta(t), schedule.beta(t.double())
    assert float(double[0]) == 0.0
    assert float(double[-1]) == schedule.beta_1
    assert bool((double.diff() > 0).all())
    assert bool((single.diff() > 0).all())
    assert torch.equal(single, double.float())
    alpha = schedule.alpha(t.double())
    assert bool((alpha > 0).all())
    assert float(alpha.max()) <= 1500 * schedule.beta_1
    assert torch.equal(schedule.alpha(t), alpha.float())
    share = torch.tensor([1e-9, 1e-3, 0.5, 0.99, 1.0], dtype=DOUBLE) * schedule.beta_1
    assert torch.allclose(schedule.beta(schedule.time(share)), share, rtol=1e-10)
    steps = schedule.accuracy(t[:-1], t[1:])
    assert torch.allclose(steps.double(), double.diff(), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 27, 1000, 8192])
def test_the_default_accuracy_leaves_few_sites_undecided(classes: int) -> None:
    one, rows = Categorical(classes=classes), min(200_000, 40_000_000 // classes)
    with seeded(0, "default", classes):
        x = torch.randint(classes, (rows, 1))
        params = one.flow(x, torch.ones(rows))
    wrong = (params.logits.argmax(-1) != x).double()
    assert float(wrong.mean()) <= 0.005 + Z * math.sqrt(0.005 / rows)
    assert Categorical(classes=2).beta_1 == 9.0  # the published value


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1), r"torch.int64, found torch.float32; convert with x.long\(\)"),
        (torch.tensor([[0], [3]]), r"classes 0..2, found 3 at index \(1, 0\) \(1 in all\)"),
        (torch.tensor([[-1], [0]]), r"found -1 at index \(0, 0\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"shape \(B, 1\), found \(2, 2\)"),
    ],
)
def test_data_outside_the_classes_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Categorical(classes=3).check_data(x)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_of_data_with_a_mask_has_its_gradient(classes: int) -> None:
    family = Categorical(site_shape=(3,), classes=classes)
    x, mask = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.tensor([[True, True, False], [True, True, True]])
    with seeded(0, "mask", classes):
        t, raw = torch.rand(2, dtype=DOUBLE), torch.randn(2, 3, classes if classes > 2 else 1, dtype=DOUBLE)
    params = family.flow(x, t)
    raw.requires_grad_()
    assert torch.autograd.gradcheck(lambda raw: family.loss_rate(x, family.output(raw, params), t, mask=mask), raw)
