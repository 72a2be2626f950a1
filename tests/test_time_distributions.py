"""Time distributions and cross-entropy against closed forms; their laws are those of the kit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, SkipHead
from bfn_masked import Masked
from bfn_toolkit import (
    ConfigError,
    ContinuousTimeLoss,
    CrossEntropyLoss,
    Delta,
    DiscreteTimeLoss,
    Experiment,
    Family,
    Finite,
    ImportanceTimes,
    LogNormalTimes,
    Loss,
    Oracle,
    ProductFamily,
    Training,
    UniformTimes,
    draw_times,
    seeded,
    train,
)
from significance import Z, z_of_mean

DOUBLE = torch.float64
ROWS = 2**16


def log_ratios(family: Family[Any], part: Any, times: LogNormalTimes, variance: float, per_beta: float) -> Tensor:
    """Logarithms of the signal-to-noise ratio at many times."""
    with seeded(0, "ratios"):
        t = times.draw(family, torch.zeros(ROWS, 1, dtype=DOUBLE)).t
    return (variance * per_beta * part.schedule.beta(t)).log()


GAUSSIAN = Gaussian(sigma_1=1e-6, head=SkipHead(data_variance=0.25))
CLASSES = Categorical(classes=5, beta_1=2e5)


@pytest.mark.parametrize(
    ("family", "part", "variance", "per_beta"),
    [
        (GAUSSIAN, GAUSSIAN, 0.25, 1.0),
        (CLASSES, CLASSES, 1.0, 5.0),
        (ProductFamily({"class": CLASSES, "number": GAUSSIAN}), GAUSSIAN, 0.25, 1.0),  # real numbers come first
    ],
    ids=["numbers", "classes", "product"],
)
@pytest.mark.parametrize(("mean", "std"), [(1.0, 2.4), (-2.0, 0.5)])
def test_log_normal_times_are_normal_in_the_log_of_the_ratio(
    family: Family[Any], part: Any, variance: float, per_beta: float, mean: float, std: float
) -> None:
    found = log_ratios(family, part, LogNormalTimes(mean, std), variance, per_beta)
    # An even lattice: far below the standard errors std / sqrt(B) and std / sqrt(2 B) of independent draws.
    assert float(found.mean()) == pytest.approx(mean, abs=std / math.sqrt(ROWS))
    assert float(found.std()) == pytest.approx(std, rel=1.0 / math.sqrt(ROWS))
    within = ((found - mean).abs() <= std).double().mean()
    assert float(within) == pytest.approx(math.erf(math.sqrt(0.5)), abs=1e-3)


def test_log_normal_times_are_those_of_karras() -> None:
    """Noise levels of data of variance 1/4 with ln sigma ~ N(-1.2, 1.2^2), where v B = v / sigma^2."""
    found = log_ratios(GAUSSIAN, GAUSSIAN, LogNormalTimes(), 0.25, 1.0)
    sigma = -0.5 * (found - math.log(0.25))
    assert float(sigma.mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(sigma.std()) == pytest.approx(1.2, abs=0.02)


def test_log_normal_times_stop_at_the_last_accuracy() -> None:
    family = Gaussian(sigma_1=0.5)  # the ratio ends at 3, in the middle of the distribution
    found = log_ratios(family, family, LogNormalTimes(math.log(3.0), 1.0), 1.0, 1.0)
    assert float(found.max()) <= math.log(3.0) + 1e-9
    assert float(found.mean()) == pytest.approx(math.log(3.0) - math.sqrt(2.0 / math.pi), abs=1e-3)  # half a normal


def test_log_normal_times_need_a_channel() -> None:
    family = Masked(site_shape=(2,), classes=3)
    with pytest.raises(ConfigError, match=r"Masked is not; write times = \"uniform\""):
        LogNormalTimes().draw(family, torch.zeros(2, 2, dtype=torch.long))


def off_by(error: float, family: Gaussian) -> Oracle:
    return Oracle(family, lambda params: Delta(torch.zeros_like(params.mean) + error, family.sigma_1))


@pytest.mark.parametrize("loss", [ContinuousTimeLoss, DiscreteTimeLoss], ids=lambda cls: cls.__name__)
def test_learned_times_leave_the_mean_and_shrink_the_spread(loss: Any) -> None:
    """The rate of a constant error is known: a density in proportion to it would leave no spread at all."""
    family, x = Gaussian(sigma_1=0.1), torch.zeros(ROWS, 1, dtype=DOUBLE)
    times = ImportanceTimes(uniform_share=0.01)
    with seeded(1):
        t = draw_times(x)
        rate = family.loss_rate(x, Delta(torch.full_like(x, 0.3)), t)
        fitted = times.fitted(times.updated(times.initial_state(), times.statistics(t, rate)))
        uniform, learned = (loss(times=how)(off_by(0.3, family), x) for how in (UniformTimes(), fitted))
    exact = 99 * 0.3**2 / 2
    assert z_of_mean(uniform, exact) <= Z
    assert z_of_mean(learned, exact) <= Z
    assert float(learned.std()) <= 0.05 * float(uniform.std())


def test_learned_times_are_uniform_before_anything_is_learned() -> None:
    x = torch.zeros(9, 1, dtype=DOUBLE)
    times = ImportanceTimes(7)
    for how in (times, times.fitted(times.initial_state())):
        with seeded(2):
            drawn = how.draw(Gaussian(), x)
        with seeded(2):
            assert torch.allclose(drawn.t, draw_times(x), rtol=1e-12)
        assert drawn.weight is None or torch.allclose(drawn.weight, torch.ones_like(drawn.t), rtol=1e-12)


def test_learned_times_do_not_trust_few_losses() -> None:
    """One loss of a piece counts as much as one of the overall size; no weight exceeds the inverse of the share."""
    times = ImportanceTimes(4, uniform_share=0.2)
    state = torch.tensor([[4.0, 0.0, 0.0, 8.0], [1.0, 0.0, 2.0, 1.0]])
    overall = 12.0 / 4.0
    size = torch.tensor([(4.0 + overall) / 2.0, overall, overall / 3.0, (8.0 + overall) / 2.0]).sqrt()
    expected = 0.8 * size / size.mean() + 0.2
    with seeded(3):
        drawn = times.fitted(state).draw(Gaussian(), torch.zeros(ROWS, 1, dtype=DOUBLE))
    piece = (drawn.t * 4.0).ceil().long() - 1
    shares = torch.bincount(piece, minlength=4) / ROWS
    assert torch.allclose(shares, expected / 4.0, atol=1e-3)
    assert drawn.weight is not None
    assert torch.allclose(drawn.weight, 1.0 / expected.double()[piece], rtol=1e-6)
    assert float(drawn.weight.max()) <= 1.0 / 0.2


@pytest.mark.parametrize(
    ("loss", "in_nats"),
    [
        (ContinuousTimeLoss(times=ImportanceTimes()), True),
        (ContinuousTimeLoss(times=LogNormalTimes()), False),
        (ContinuousTimeLoss(times=LogNormalTimes(unbiased=True)), True),
        (ContinuousTimeLoss("unit", ImportanceTimes()), False),
        (DiscreteTimeLoss(times=LogNormalTimes()), False),
        (DiscreteTimeLoss(), True),
        (CrossEntropyLoss(), False),
    ],
    ids=str,
)
def test_a_loss_knows_whether_it_is_in_nats(loss: Loss, in_nats: bool) -> None:
    assert loss.in_nats is in_nats


# Cross-entropy


def test_cross_entropy_is_the_price_of_the_class_at_every_time() -> None:
    family, logits = Categorical((2,), classes=3), torch.tensor([0.3, -1.0, 2.0], dtype=DOUBLE)
    model = Oracle(family, lambda params: Finite(None, logits.expand_as(params.logits)))
    x = torch.tensor([[0, 1], [2, 2]]).repeat(50, 1)
    losses = CrossEntropyLoss()(model, x)
    assert torch.allclose(losses, -logits.log_softmax(0)[x].sum(1), rtol=1e-12)


def test_cross_entropy_of_a_product_keeps_the_unit_rate_of_numbers() -> None:
    number, kind = Gaussian((2,), sigma_1=0.1), Categorical(classes=3)
    family = ProductFamily({"number": number, "kind": kind})

    def output(params: Any) -> Any:
        return family.join_outputs(
            {
                "number": Delta(torch.full_like(params["number"].mean, 0.3)),
                "kind": Finite(None, torch.zeros_like(params["kind"].logits)),
            }
        )

    x = {"number": torch.zeros(20, 2, dtype=DOUBLE), "kind": torch.ones(20, 1, dtype=torch.long)}
    with seeded(4):
        parts = CrossEntropyLoss().part_losses(Oracle(family, output), x)
    with seeded(4):
        unit = ContinuousTimeLoss("unit").part_losses(Oracle(family, output), x)
    assert torch.equal(parts["number"], unit["number"])
    assert torch.allclose(parts["kind"], torch.full((20,), math.log(3.0), dtype=parts["kind"].dtype))


# Training


def experiment(**loss: Any) -> Experiment:
    return Experiment.from_mapping(
        {
            "dataset": {"name": "gaussian-mixture", "count": 50},
            "network": {"width": 8},
            "loss": loss,
            "training": {"steps": 4, "validate_every": 2, "device": "cpu"},
        },
        base="default",
    )


def test_validation_reports_the_bound_unless_the_loss_is_in_nats() -> None:
    found = {}
    for name, loss in {
        "unit": {"weighting": "unit"},
        "paper": {"weighting": "paper"},
        "learned": {"weighting": "paper", "times": "importance"},
        "biased": {"weighting": "paper", "times": "log-normal"},
        "cross-entropy": {"name": "cross-entropy"},
    }.items():
        run = train(experiment(**loss))
        found[name] = [line for line in run.metrics if "valid_loss" in line]
        assert [line["step"] for line in found[name]] == [2, 4]
    assert {name for name, lines in found.items() if "valid_nats" in lines[0]} == {"unit", "biased", "cross-entropy"}
    # The price of a narrow mixture under an untrained network is a few nats above its entropy, whatever trains it.
    for name in ("unit", "biased", "cross-entropy"):
        assert found[name][0]["valid_nats_stderr"] > 0
    assert found["unit"] == found["cross-entropy"]  # of numbers, they are one


def test_a_model_without_a_density_is_validated_by_its_loss_alone() -> None:
    class Sharp(Gaussian):
        def output(self, raw: Tensor, params: Any) -> Any:
            return Delta(Gaussian.output(self, raw, params).mean)

    base = experiment(weighting="unit")
    made = Experiment(base.dataset, Sharp(), base.network, base.loss, Training(steps=2, validate_every=1, device="cpu"))
    with pytest.warns(match="validation reports no likelihood bound"):
        run = train(made)
    lines = [line for line in run.metrics if "valid_loss" in line]
    assert len(lines) == 2
    assert not any("valid_nats" in line for line in lines)
