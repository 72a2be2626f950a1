"""Masked diffusion: the bound and the samples of MDLM by other means, conservation of information, remasking."""

from __future__ import annotations

import itertools
import math
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bfn_markov import Markov
from bfn_masked import LogLinearSchedule, Masked, MaskedParams
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    AncestralSampler,
    AnyOrderSampler,
    ChurnSampler,
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    DiscreteTimeLoss,
    Family,
    Finite,
    GradientGuided,
    Guided,
    Oracle,
    ProductFamily,
    QuadraticSchedule,
    ReconstructionLoss,
    default_sampler,
    kl,
    seeded,
)
from bfn_toolkit.sampling.default import default_steps
from bfn_toolkit.testing.toys import Toy
from significance import Z, z_of_mean

DOUBLE = torch.float64
CHAIN = Markov(classes=3, length=3, count=10, seed=1)
SEQUENCES = torch.tensor(list(itertools.product(range(3), repeat=3)))


def chain(**options: Any) -> Toy:
    """All sequences of a Markov chain, with their probabilities: its posterior is exact, with dependent sites."""
    return Toy(Masked((3,), 3, **options), SEQUENCES, CHAIN.log_prob(SEQUENCES).exp())


def marginals(toy: Toy) -> Oracle:
    """The best that a network can do: the exact posterior of each site, sites independent."""

    def output(params: Any) -> Finite:
        weights = toy.posterior(params).logits.softmax(-1)
        of_class = torch.nn.functional.one_hot(toy.values, 3).to(weights.dtype)  # (sequences, sites, K)
        return Finite(None, torch.einsum("bv,vlk->blk", weights, of_class).log())

    return Oracle(toy.family, output)


# The channel


def test_a_site_is_masked_as_often_as_the_schedule_says() -> None:
    one, n = Masked((2,), 4, LogLinearSchedule(3.0)), 100_000
    t = torch.rand(n, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    with seeded(0, "flow"):
        params = one.flow(torch.full((n, 2), 3), t)
    masked = (params.x == 4).double()
    assert z_of_mean(masked - (1 - t * (1 - math.exp(-3.0))).unsqueeze(1), 0.0) <= Z
    assert z_of_mean(masked[:, 0] * masked[:, 1] - (1 - t * (1 - math.exp(-3.0))).square(), 0.0) <= Z
    assert bool((params.x[masked == 0] == 3).all())


@pytest.mark.parametrize("alpha", [1e-6, 0.3, 20.0])
def test_a_message_costs_the_cross_entropy_of_what_it_unmasks(alpha: float) -> None:
    """The price is the divergence by definition, over all messages that can be sent."""
    one = Masked((2,), 3)
    params = MaskedParams(torch.tensor([[3, 3], [3, 1], [0, 2]]), torch.ones(3, dtype=DOUBLE))
    x = torch.tensor([[2, 0], [2, 1], [0, 2]])
    with seeded(0, "raw"):
        output = one.output(torch.randn(3, 2, 3, dtype=DOUBLE), params)
    accuracy = torch.full((3,), alpha, dtype=DOUBLE)
    sender, receiver = one.sender(x, accuracy), one.receiver(output, accuracy)
    price = torch.zeros(3, dtype=DOUBLE)
    for y in itertools.product(range(4), repeat=2):
        message = torch.tensor(y).expand(3, 2)
        p, r = sender.log_prob(message), receiver.log_prob(message)
        price += torch.where(p.exp() > 0, p.exp() * (p - r), 0.0)
    assert torch.allclose(one.step_loss(x, output, accuracy), price, rtol=1e-9, atol=1e-14)
    assert float(price[2]) == 0.0  # what is known costs nothing
    t = torch.full((3,), 0.25, dtype=DOUBLE)
    nats = -output.logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)
    mdlm = ((params.x == 3) * nats).sum(1) * one.schedule.alpha(t)
    assert torch.allclose(one.loss_rate(x, output, t), mdlm, rtol=1e-12)


def test_the_rate_of_dependent_sites_is_that_of_their_marginals() -> None:
    toy = chain()
    with seeded(0, "rate"):
        x = toy.sample(50)
        params = toy.family.flow(x, torch.rand(50, dtype=DOUBLE))
    exact, factorised = toy.posterior(params), marginals(toy).output(params, torch.zeros(()))
    rates = [toy.family.kl_rate(x, output) for output in (exact, factorised)]
    assert torch.allclose(rates[0], rates[1].to(rates[0].dtype), atol=1e-6)


def test_a_small_message_of_dependent_sites_costs_their_rate() -> None:
    """KL / alpha for a posterior with dependent sites, summed over all messages."""
    toy, alpha = chain(), torch.full((1,), 1e-5, dtype=DOUBLE)
    params, x = toy.family.prior(1, dtype=DOUBLE), torch.tensor([[0, 1, 2]])
    output = toy.posterior(params)
    sender, receiver = toy.family.sender(x, alpha), toy.family.receiver(output, alpha)
    told = [torch.tensor([y]) for y in itertools.product(*[(int(k), 3) for k in x[0]])]
    price = sum(sender.log_prob(y).exp() * (sender.log_prob(y) - receiver.log_prob(y)) for y in told)
    assert torch.allclose(price / alpha, toy.family.kl_rate(x, output).sum(1).double(), rtol=1e-4)


@pytest.mark.parametrize("beta_1", [1e-6, 0.5, 10.0, 16.0])
def test_the_schedule_keeps_its_digits_in_float32(beta_1: float) -> None:
    schedule, t = LogLinearSchedule(beta_1), torch.linspace(0, 1, 257)  # times that float32 has exactly
    for verb in (schedule.beta, schedule.alpha):
        assert torch.allclose(verb(t).double(), verb(t.double()), rtol=1e-6, atol=0.0)
    exact = -(1 - t[1:].double() * -math.expm1(-beta_1)).log()
    assert torch.allclose(schedule.beta(t[1:].double()), exact, rtol=1e-8)
    assert torch.allclose(schedule.accuracy(t[:-1], t[1:]).double(), schedule.beta(t.double()).diff(), rtol=1e-6)


# Conservation of information


@pytest.mark.parametrize("n", [1, 3, 20, None])
@pytest.mark.parametrize("schedule", [LogLinearSchedule(), LogLinearSchedule(1.0), QuadraticSchedule(4.0)], ids=str)
def test_messages_and_reconstruction_cost_the_entropy(n: int | None, schedule: Any) -> None:
    """For dependent sites too, and at a beta_1 that leaves sites masked, whose price is the reconstruction loss."""
    toy, rows = chain(schedule=schedule), 20_000
    loss = ContinuousTimeLoss() if n is None else DiscreteTimeLoss(n)
    with seeded(0, "information", str(n)):
        x = toy.sample(rows)
        price = loss(toy.oracle, x) + ReconstructionLoss()(toy.oracle, x)
        alone = loss(marginals(toy), x)
        rest = ReconstructionLoss()(marginals(toy), x)
    assert toy.entropy == pytest.approx(CHAIN.entropy()[0], rel=1e-12)
    assert z_of_mean(price, toy.entropy) <= Z
    if n is None:  # a network, with independent sites, loses nothing in continuous time
        assert z_of_mean(alone + rest, toy.entropy) <= Z
    elif n == 1:  # and in one step all that the sites say of each other
        told = -math.expm1(-float(schedule.beta(torch.ones((), dtype=DOUBLE))))
        assert z_of_mean(alone, told * 3 * float(torch.special.entr(CHAIN.stationary).sum())) <= Z


# Samples


def distance(x: Tensor, toy: Toy) -> float:
    """Total variation of the frequencies of all sequences from their probabilities."""
    shares = (x.unsqueeze(1) == SEQUENCES).all(-1).double().mean(0)
    return 0.5 * float((shares - toy.weights).abs().sum())


@pytest.mark.parametrize("sampler", [AncestralSampler(), ChurnSampler(5.0)], ids=str)
@pytest.mark.parametrize("n", [1, 4])
def test_an_oracle_is_sampled_exactly_in_any_number_of_steps(sampler: Any, n: int) -> None:
    toy = chain()
    with seeded(0, "samples"):
        x = sampler.sample(toy.oracle, 20_000, n_steps=n, dtype=DOUBLE)
    shares = (x.unsqueeze(1) == SEQUENCES).all(-1).double()
    often = toy.weights > 1e-3
    assert z_of_mean(shares[:, often], toy.weights[often]) <= Z


def independent(n: int, churn: float) -> float:
    """Probability that two sites end as an independent pair: last unmasked in one step, by one output."""
    none, one, right, wrong = 1.0, 0.0, 0.0, 0.0  # known sites: none, one, both after another, both at once
    fall = -math.expm1(-10.0)
    for i in range(n):
        s, t = i / n, (i + 1) / n
        q = -math.expm1(-churn / n)  # a known site is masked again
        both = right + wrong
        none, one = none + q * one + q * q * both, (1 - q) * one + 2 * q * (1 - q) * both
        right, wrong = right * (1 - q) ** 2, wrong * (1 - q) ** 2
        r = s * (1 - q)
        u = fall * (t - r) / (1 - fall * r)  # a masked site is unmasked
        right, wrong = right + u * one, wrong + u * u * none
        none, one = (1 - u) ** 2 * none, (1 - u) * one + 2 * u * (1 - u) * none
    return wrong + none


@pytest.mark.parametrize("churn", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_the_error_of_independent_sites_is_that_of_pairs_unmasked_at_once(churn: float, n: int) -> None:
    """With exact outputs for each site, about 1 / n of the pairs lose what one site says of the other."""
    family = Masked((2,), 2)

    def output(params: MaskedParams) -> Finite:
        other = params.x.flip(1).unsqueeze(-1)  # of two sites that agree with probability 0.9
        p = torch.where(other == 2, 0.5, torch.where(other == torch.arange(2), 0.9, 0.1))
        return Finite(None, torch.where(params.x.unsqueeze(-1) == 2, p.log(), family.output(p, params).logits))

    for sampler in (ChurnSampler(churn), *([] if churn else [AncestralSampler()])):
        with seeded(0, "samples"):
            x = sampler.sample(Oracle(family, output), 40_000, n_steps=n, dtype=DOUBLE)
        assert z_of_mean((x[:, 0] == x[:, 1]).double(), 0.9 - 0.4 * independent(n, churn)) <= Z
    assert independent(n, 0.0) == pytest.approx(1 / n, rel=1e-3)


def test_remasking_revises_early_mistakes() -> None:
    """A network that draws half of its classes at random as long as it knows nothing."""
    toy, exact = chain(), marginals(chain())

    def output(params: MaskedParams) -> Finite:
        known = (params.x < 3).double().mean(1)
        doubt = 0.5 * (known == 0).double().reshape(-1, 1, 1) * (params.x == 3).unsqueeze(-1)
        p = exact.output(params, torch.zeros(())).logits.softmax(-1)
        return Finite(None, ((1 - doubt) * p + doubt / 3).log())

    found = []
    for sampler in (AncestralSampler(), ChurnSampler(5.0)):
        with seeded(0, "samples"):
            x = sampler.sample(Oracle(toy.family, output), 4000, n_steps=20, dtype=DOUBLE)
        shares = (x.unsqueeze(1) == SEQUENCES).all(-1).double().mean(0)
        found.append(0.5 * float((shares - toy.weights).abs().sum()))
    assert found[0] > 0.15
    assert found[1] < 0.6 * found[0]


def test_by_default_sites_are_drawn_one_by_one() -> None:
    family = Masked((3, 50), classes=3)
    assert default_steps(family) == 150
    assert default_steps(Masked((300,))) == 256
    assert default_sampler(family, 150) == AnyOrderSampler()
    assert default_sampler(family, 75) == AnyOrderSampler(block=2)
    text = Masked((50,), classes=3, axes=("sequence",))
    assert default_sampler(text, 50) == AnyOrderSampler(sequence="given")
    assert default_sampler(text, 49) == AnyOrderSampler(block=2)  # neighbours drawn together would not fit


def test_no_known_class_changes() -> None:
    toy = chain()
    with seeded(0, "samples"):
        states = AncestralSampler().trajectory(marginals(toy), 500, n_steps=10, dtype=DOUBLE)
        before, *later = [state.params.x for state in states]
    assert bool((before == 3).all())
    for after in later:
        assert bool(((before == 3) | (before == after)).all())
        before = after
    assert float((before == 3).double().mean()) < 0.01


# The rest of the engine


def network(family: Any, labels: int = 0) -> BFN:
    with seeded(0, "weights"):
        bfn = BFN(family, MLP(width=16, depth=1, labels=labels))
        for weight in bfn.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return bfn.eval()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_known_site_is_certain_whatever_the_network_says(dtype: torch.dtype) -> None:
    one = Masked((3,), 5)
    params = MaskedParams(torch.tensor([[5, 2, 5]]), torch.ones(1, dtype=dtype))
    raw = torch.full((1, 3, 5), 100.0, dtype=dtype, requires_grad=True)
    output = one.output(raw, params)
    assert output.logits.dtype == dtype  # type: ignore[attr-defined]
    assert int(output.mode[0, 1]) == 2
    one.kl_rate(torch.tensor([[1, 2, 3]]), output).sum().backward()
    gradient = torch.as_tensor(raw.grad)[0]
    assert bool((gradient[1] == 0).all())
    assert bool((gradient[0] != 0).all())
    rate = one.kl_rate(torch.tensor([[1, 2, 3]]), output)[0].detach()
    assert torch.equal(rate[1], torch.zeros((), dtype=dtype))
    assert torch.allclose(rate[[0, 2]], torch.full((2,), math.log(5), dtype=dtype), rtol=1e-5)


def test_guided_models_stay_certain_and_follow_their_guide() -> None:
    bfn = network(Masked((4,), 3), labels=2)
    label = torch.ones(300, dtype=torch.int64)
    with seeded(0, "samples"):
        plain = bfn.sample(300, n_steps=8, condition={"label": label})
        guided = Guided(bfn, 3.0).sample(300, n_steps=8, condition={"label": label})
        pushed = GradientGuided(bfn, lambda p: 20.0 * p[..., 2].sum(1)).sample(300, n_steps=8)
    assert not torch.equal(plain, guided)
    assert set(guided.unique().tolist()) <= {0, 1, 2}
    assert float((pushed == 2).double().mean()) > 0.9


def test_known_values_are_kept_and_inform_the_others() -> None:
    toy = chain()
    model = marginals(toy)
    values, mask = torch.tensor([2, 0, 0]), torch.tensor([True, False, False])
    with seeded(0, "samples"):
        x = model.sample(3000, n_steps=10, known=(values, mask))
    assert bool((x[:, 0] == 2).all())
    assert model.family.is_discrete
    free = CHAIN.stationary @ CHAIN.matrix
    exact, found = CHAIN.matrix[2], torch.bincount(x[:, 1], minlength=3) / len(x)
    assert float((found - exact).abs().sum()) < 0.8 * float((free - exact).abs().sum())


def test_a_part_of_a_product_is_masked_by_itself() -> None:
    product = ProductFamily({"a": Masked((2,), 3), "b": Masked((2,), 5, LogLinearSchedule(2.0))})
    bfn = network(product)
    x = {"a": torch.zeros(6, 2, dtype=torch.int64), "b": torch.full((6, 2), 4)}
    with seeded(0, "product"):
        assert bool(torch.isfinite(bfn.nll(x)).all())
        drawn = bfn.sample(6, n_steps=5, sampler=ChurnSampler())
    assert int(drawn["a"].max()) < 3
    assert int(drawn["b"].max()) < 5


@pytest.mark.parametrize("alpha", [torch.tensor(0.7, dtype=DOUBLE), torch.tensor([0.7, 0.7], dtype=DOUBLE)])
def test_messages_about_float32_beliefs_are_drawn_in_float32(alpha: Tensor) -> None:
    one = Masked((3,), 4)
    params, x = one.prior(2, dtype=torch.float32), torch.tensor([[0, 1, 2], [3, 3, 3]])
    with seeded(0, "draw"):
        after = one.draw_update(params, x, alpha)
    with seeded(0, "draw"):
        y = one.sender(x, alpha.float()).sample()
    assert after.accuracy.dtype == torch.float32
    assert torch.equal(after.x, one.update(params, y, alpha).x)
    assert one.features(after).dtype == torch.float32


def test_the_receiver_is_what_any_output_would_have() -> None:
    one = Masked((2,), 3)
    x, accuracy = torch.tensor([[0, 2]]), torch.tensor([0.5], dtype=DOUBLE)
    logits = torch.tensor([[[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]], dtype=DOUBLE)
    with seeded(0, "kl"):
        rows = 50_000
        output = Finite(None, logits.expand(rows, -1, -1))
        drawn = kl(
            one.sender(x.expand(rows, -1), accuracy.expand(rows)),
            Family.receiver(one, output, accuracy.expand(rows)),
        )
    assert z_of_mean(drawn, float(one.step_loss(x, Finite(None, logits), accuracy))) <= Z


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1), r"Masked expects classes as torch.int64, found torch.float32; convert with x.long\(\)"),
        (torch.tensor([[0], [3]]), r"classes 0..2, found 3 at index \(1, 0\) \(1 in all\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"shape \(B, 1\), found \(2, 2\)"),
    ],
)
def test_data_outside_the_classes_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Masked(classes=3).check_data(x)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Masked.schedule: expected an AccuracySchedule, got 10.0"):
        Masked(schedule=10.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected 1e-06 <= beta_1 <= 16, got 20"):
        LogLinearSchedule(20.0)
    assert attrs.evolve(Masked(), classes=3) == Masked(classes=3)
