"""Products: parts add up, do not disturb each other, and are told apart in every report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_directional import Circle
from bfn_gaussian import Gaussian
from bfn_toolkit import (
    BFN,
    ODE2,
    SDE1,
    AncestralSampler,
    Batch,
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    Dataset,
    Delta,
    DiscreteTimeLoss,
    Entry,
    Finite,
    FlowSampler,
    InpaintedModel,
    JointOutput,
    NatsLoss,
    NetworkIO,
    Observed,
    Oracle,
    ProductFamily,
    ReconstructionLoss,
    Split,
    StepCountError,
    hookimpl,
    likelihood_bound,
    seeded,
    split_rows,
)
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.runs.sampling import write_samples
from bfn_toolkit.testing.toys import Toy
from significance import Z, z_of_mean
from toy_families import SteppedGaussian

POSITION, TYPE = Gaussian(site_shape=(2,), sigma_1=0.1), Categorical(classes=3)
BOTH = ProductFamily({"position": POSITION, "type": TYPE})
TIMES = torch.tensor([0.0, 0.3, 0.9, 1.0])


def data(rows: int = 4) -> dict[str, Tensor]:
    with seeded(0, "data"):
        return {"position": 0.3 * torch.randn(rows, 2), "type": torch.randint(3, (rows, 1))}


class Linear(nn.Module):
    def __init__(self, io: NetworkIO) -> None:
        super().__init__()
        self.map = nn.Linear(io.in_features, io.out_features)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        return self.map(features)


def model(family: Any = BOTH) -> BFN:
    with seeded(0, "weights"):
        return BFN(family, Linear(family.network_io))


def flat(value: Any) -> list[Tensor]:
    return [getattr(value, field.name) for field in attrs.fields(type(value))]


def test_a_walk_gives_each_part_its_share_and_join_is_its_inverse() -> None:
    x, t = data(), torch.rand(4)
    assert [(part.name, part.family, part.prefix) for part in BOTH.walk()] == [
        ("position", POSITION, "position."),
        ("type", TYPE, "type."),
    ]
    for part in BOTH.walk(x, t):
        assert part.values[0] is x[part.name]
        assert part.values[1] is t  # one time for all
    assert BOTH.join({part.name: part.values[0] for part in BOTH.walk(x)}) == x
    (alone,) = POSITION.walk(x["position"], t)
    assert (alone.name, alone.prefix, alone.family) == ("", "", POSITION)
    assert POSITION.join({alone.name: alone.values[0]}) is x["position"]
    assert (BOTH.has_parts, POSITION.has_parts) == (True, False)


def test_outputs_are_joined_into_one() -> None:
    point, classes = Delta(torch.zeros(4, 2)), Finite(None, torch.zeros(4, 1, 3))
    assert POSITION.join_outputs({"": point}) is point
    joined = BOTH.join_outputs({"position": point, "type": classes})
    assert isinstance(joined, JointOutput)
    assert (joined["position"], joined["type"]) == (point, classes)


def test_data_of_a_product_are_discrete_if_all_parts_are() -> None:
    assert TYPE.is_discrete
    assert not POSITION.is_discrete
    assert not BOTH.is_discrete
    assert ProductFamily({"a": TYPE, "b": TYPE}).is_discrete


def test_a_part_that_is_not_a_channel_is_named() -> None:
    assert POSITION.as_channel() is POSITION
    wrong = ProductFamily({"position": POSITION, "angle": SteppedGaussian()})
    channel, other = wrong.walk()
    assert channel.as_channel() is POSITION
    with pytest.raises(ConfigError, match=r"part 'angle': .*which SteppedGaussian is not; write sampler=Ancestral"):
        other.as_channel()
    with pytest.raises(ConfigError, match=r"^a solver works in the coordinates of a ChannelFamily, which SteppedGauss"):
        SteppedGaussian().as_channel()
    with pytest.raises(ConfigError, match="which ProductFamily is not"):
        wrong.as_channel()


@pytest.mark.parametrize(
    ("shapes", "io"),
    [
        (((2,), (1,)), NetworkIO((), 2 + 3, 2 + 3)),
        (((1,), (1,)), NetworkIO((1,), 1 + 3, 1 + 3)),
        (((20, 3), (20,)), NetworkIO((20,), 3 + 3, 3 + 3)),
        (((4, 5, 2), (4, 5, 3)), NetworkIO((4, 5), 2 + 9, 2 + 9)),
    ],
)
def test_a_network_sees_all_parts_at_the_sites_they_share(shapes: Any, io: NetworkIO) -> None:
    family = ProductFamily({"x": Gaussian(shapes[0]), "k": Categorical(shapes[1], classes=3)})
    assert family.network_io == io
    x = {"x": torch.zeros(6, *shapes[0]), "k": torch.zeros(6, *shapes[1], dtype=torch.int64)}
    sample = model(family).sample(6, n_steps=2)
    assert {name: part.shape for name, part in sample.items()} == {name: part.shape for name, part in x.items()}
    assert model(family).loss(x).shape == (6,)


@pytest.mark.parametrize("verb", ["flow", "draw_update", "sender", "sample"])
def test_a_part_draws_the_same_whoever_is_beside_it(verb: str) -> None:
    def draw(parts: dict[str, Any]) -> list[Tensor]:
        family, x = ProductFamily(parts), {name: data()[name] for name in parts}
        with seeded(3, "draw"):
            if verb == "flow":
                return flat(family.flow(x, TIMES)["type"])
            if verb == "draw_update":
                return flat(family.draw_update(family.prior(4), x, TIMES)["type"])
            if verb == "sender":
                return [family.sender(x, TIMES + 0.1).sample()["type"]]
            raw = torch.zeros(4, *family.network_io.site_shape, family.network_io.out_features)
            return [family.output(raw, family.prior(4)).sample()["type"]]

    together = draw({"position": POSITION, "type": TYPE})
    for parts in ({"type": TYPE}, {"type": TYPE, "position": POSITION}, {"position": Gaussian((2,)), "type": TYPE}):
        assert all(torch.equal(a, b) for a, b in zip(together, draw(parts), strict=True))


@pytest.mark.parametrize(
    "loss", [ContinuousTimeLoss(), ContinuousTimeLoss("unit"), DiscreteTimeLoss(7), ReconstructionLoss()]
)
def test_the_price_is_the_sum_of_the_prices_of_the_parts(loss: NatsLoss) -> None:
    bfn, x = model(), data(64)
    with seeded(1, "loss"):
        whole = loss(bfn, x)
    with seeded(1, "loss"):
        terms = loss.part_losses(bfn, x)
    assert list(terms) == ["position", "type"]
    assert all(term.shape == (64,) and bool((term.abs() > 0).any()) for term in terms.values())
    assert torch.allclose(whole, terms["position"] + terms["type"], rtol=1e-6)


def test_each_part_may_have_a_time_of_its_own() -> None:
    x, t = data(), {"position": TIMES, "type": TIMES.flip(0)}
    with seeded(0, "t"):
        told = BOTH.flow(x, t)
    assert torch.allclose(told["position"].precision, 1 + POSITION.schedule.beta(TIMES))
    assert torch.allclose(told["type"].accuracy, TYPE.schedule.beta(TIMES.flip(0)))
    alpha = BOTH.accuracy({"position": TIMES * 0, "type": TIMES}, {"position": TIMES, "type": TIMES})
    assert torch.allclose(alpha["position"], POSITION.schedule.beta(TIMES))
    assert torch.equal(alpha["type"], TIMES * 0)
    bfn = model()
    with pytest.raises(ConfigError, match="one time for each example, and these differ by site or part; choose one"):
        bfn.output(told, t)
    bfn.site_times = True
    output = bfn.output(told, t)
    rates = POSITION.loss_rate(x["position"], output["position"], TIMES) + TYPE.loss_rate(
        x["type"], output["type"], TIMES.flip(0)
    )
    assert torch.allclose(BOTH.loss_rate(x, output, t), rates, rtol=1e-6)


def test_the_bound_is_reported_part_by_part() -> None:
    bound = likelihood_bound(model(), Batch(data(50)), n_steps=5, draws=20)
    assert list(bound.parts) == ["position", "type"]
    assert sum(part.total.value for part in bound.parts.values()) == pytest.approx(bound.total.value, rel=1e-9)
    assert bound.dimensions == 3


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3), "mapping with the parts position, type, found a Tensor"),
        ({"position": torch.zeros(2, 2)}, "found parts position"),
        ({"position": torch.zeros(2, 2), "type": torch.zeros(2, 1)}, "part 'type': Categorical expects classes"),
        ({"position": torch.zeros(3, 2), "type": torch.zeros(2, 1, dtype=torch.int64)}, "different numbers of rows"),
    ],
)
def test_wrong_data_are_refused_with_the_part(x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        BOTH.check_data(x)


@pytest.mark.parametrize("parts", [{}, {"": POSITION}, {"a": 3}])
def test_parts_are_families_by_name(parts: Any) -> None:
    with pytest.raises(ValueError, match=r"parts(: expected a Mapping of strings to Family| must be families)"):
        ProductFamily(parts)


def test_parts_that_step_at_their_own_times_decide_the_steps() -> None:
    family = ProductFamily({"position": POSITION, "angle": SteppedGaussian()})
    n = SteppedGaussian().schedule.n_steps
    assert len(family.times(n)) == n + 1
    with pytest.raises(StepCountError, match=f"built with {n} steps"):
        family.times(n + 1)
    with pytest.raises(ConfigError, match="no continuous-time loss"):
        ContinuousTimeLoss()(
            model(family),
            {"position": torch.zeros(2, 2), "angle": torch.zeros(2, *SteppedGaussian().network_io.site_shape)},
        )


# From a configuration


@attrs.frozen
class Points(Dataset):
    """Points of three classes."""

    count: int = 60

    @property
    def site_shape(self) -> dict[str, tuple[int, ...]]:
        return {"position": (2,), "type": (1,)}

    @property
    def metadata(self) -> dict[str, object]:
        return {
            "parts": {
                "position": {"name": "gaussian", "site_shape": [2], "head": {"name": "skip", "data_variance": 0.25}},
                "type": {"name": "categorical", "site_shape": [1], "classes": 3},
            }
        }

    def split(self, name: Split) -> Batch:
        with seeded(name == "test", "points"):
            kind = torch.randint(3, (self.count, 1))
            x = Batch({"position": 0.1 * torch.randn(self.count, 2) + (kind - 1) / 2, "type": kind})
        train, valid = split_rows(self.count, 0.2, 0)
        return x if name in ("test", "all") else x.rows(train if name == "train" else valid)


def registry() -> Registry:
    found = Registry.from_entry_points()
    hook = hookimpl(lambda: [Entry("dots", Points)], specname="bfn_datasets")
    found.register(type("Plugin", (), {"hook": staticmethod(hook)})(), name="dots")
    return found


def experiment(family: Any = "product", overrides: Any = ()) -> Experiment:
    return Experiment.from_mapping(
        {"dataset": "dots", "family": family, "network": {"name": "siren", "width": 8}},
        overrides=overrides,
        registry=registry(),
        base="default",
    )


def test_a_dataset_says_what_its_parts_are() -> None:
    built = experiment()
    assert list(built.family.parts) == ["position", "type"]
    assert built.family.parts["position"].head.data_variance == 0.25
    assert built.family.parts["type"] == Categorical(classes=3)
    again = Experiment.from_mapping(built.to_mapping(registry()), registry=registry())
    assert again == built
    assert hash(again) == hash(built)


def test_an_option_of_a_part_lies_above_what_the_dataset_says() -> None:
    built = experiment(overrides=[("family.parts.position.sigma_1", "0.05"), ("family.parts.position.head", "noise")])
    position = built.family.parts["position"]
    assert (position.sigma_1, position.site_shape, type(position.head).__name__) == (0.05, (2,), "NoiseHead")
    assert built.family.parts["type"].classes == 3
    options = {key: value for key, _, value in built.options(registry())}
    assert options["family.parts.position.sigma_1"] == 0.05
    assert options["family.parts.type"] == "categorical"


def test_samples_of_parts_are_written_by_name(tmp_path: Path) -> None:
    write_samples(tmp_path / "x.safetensors", data(5))
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], part) for name, part in data(5).items())
    write_samples(tmp_path / "x.csv", data(5))
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "position1,position2,type1"
    assert json.loads(f"[{lines[1]}]") == pytest.approx([*data(5)["position"][0].tolist(), int(data(5)["type"][0])])
    with pytest.raises(ConfigError, match=r"not a single array; write .safetensors"):
        write_samples(tmp_path / "x.npy", data(5))


# Dependent parts


def parts_of(name: str) -> dict[str, Any]:
    circle = Circle(sigma_1=0.2)
    pairs = {"gaussian, categorical": {"a": POSITION, "b": TYPE}, "circle, circle": {"a": circle, "b": circle}}
    return pairs[name]


def marginals(toy: Toy) -> Oracle:
    """The exact posterior of each part, as if the parts were independent."""
    names = toy.family.parts
    return Oracle(toy.family, lambda params: JointOutput({name: toy.posterior(params)[name] for name in names}))


def price(model: Oracle, x: Any, n_steps: int | None) -> Tensor:
    message = ContinuousTimeLoss() if n_steps is None else DiscreteTimeLoss(n_steps)
    with seeded(0, "dependent", n_steps or 0):
        return message(model, x) + ReconstructionLoss()(model, x)


@pytest.mark.parametrize("n_steps", [1, 3, 10, None])
@pytest.mark.parametrize("parts", ["gaussian, categorical", "circle, circle"])
def test_dependent_parts_are_priced_together_and_conserve_information(parts: str, n_steps: int | None) -> None:
    toy = Toy.of(ProductFamily(parts_of(parts)), k=4)
    with seeded(1, "dependent"):
        x = toy.sample(20_000)
    assert z_of_mean(price(toy.oracle, x, n_steps), toy.entropy) <= Z
    # Each part by itself costs more, for what its message says about the other: nothing in a short step.
    alone = price(marginals(toy), x, n_steps)
    if n_steps is None:
        assert z_of_mean(alone, toy.entropy) <= Z
    elif n_steps <= 3:
        assert float(alone.mean() - toy.entropy) > Z * float(alone.std()) / len(alone) ** 0.5


def test_dependent_parts_are_one_factor() -> None:
    toy = Toy.of(BOTH)
    x, t = toy.sample(64), torch.full((64,), 0.5, dtype=torch.float64)
    output = toy.oracle.output(BOTH.flow(x, t), t)
    assert [(part.name, part.family) for part in BOTH.factors(output, x)] == [("", BOTH)]
    apart = BOTH.join_outputs({name: output[name] for name in BOTH.parts})
    assert [(part.name, part.family) for part in BOTH.factors(apart, x)] == [("position", POSITION), ("type", TYPE)]
    assert list(DiscreteTimeLoss(3).part_losses(toy.oracle, x)) == [""]
    assert list(ContinuousTimeLoss().part_losses(toy.oracle, x)) == ["position", "type"]  # exact by marginals
    assert torch.allclose(BOTH.loss_rate(x, output, t), BOTH.loss_rate(x, apart, t), rtol=1e-12)


@pytest.mark.parametrize("n_steps", [5, None])
def test_the_bound_of_dependent_parts_is_reported_as_one(n_steps: int | None) -> None:
    toy = Toy.of(BOTH)
    with seeded(0, "bound"):
        bound = likelihood_bound(toy.oracle, Batch(toy.sample(400)), n_steps=n_steps, draws=20)
    assert bound.parts == {}
    assert abs(bound.total.value - toy.entropy) <= Z * bound.total.stderr


@pytest.mark.parametrize("sampler", [AncestralSampler(), ODE2(), SDE1(), FlowSampler()])
def test_samplers_keep_the_parts_together(sampler: Any) -> None:
    toy, n = Toy.of(BOTH), 4000
    with seeded(0, "together"):
        x = sampler.sample(toy.oracle, n, n_steps=50, dtype=torch.float64)
    found = toy.posterior(BOTH.prior(n, dtype=torch.float64)).log_prob(x)
    assert bool(found.isfinite().all())  # no mixture of two examples
    for k, weight in enumerate(toy.weights.tolist()):
        share = float((x["position"] == toy.values["position"][k]).all(1).double().mean())
        assert abs(share - weight) <= Z * (weight / n) ** 0.5 + 0.03


@pytest.mark.parametrize("sampler", [AncestralSampler(), ODE2()])
def test_known_values_of_dependent_parts_are_kept(sampler: Any) -> None:
    toy = Toy.of(BOTH)
    value, mask = torch.tensor([0.25, 0.0], dtype=torch.float64), torch.tensor([True, False])
    observed = Observed.of(BOTH, {"position": (value, mask)}, 50)
    with seeded(0, "known"):
        drawn = sampler.sample(InpaintedModel(toy.oracle, observed), 50, n_steps=5, dtype=torch.float64)
    assert bool((drawn["position"][:, 0] == 0.25).all())
    assert bool(torch.isin(drawn["position"][:, 1], toy.values["position"][:, 1]).all())
    output = toy.oracle.output(BOTH.prior(50, dtype=torch.float64), torch.zeros(()))
    clamped = observed.clamp(output)
    for read in (lambda p_o: p_o.mean, lambda p_o: p_o.mode):
        free, held = read(output), read(clamped)
        assert torch.equal(held["type"], free["type"])
        assert torch.equal(held["position"][:, 1], free["position"][:, 1])
        assert torch.equal(clamped["position"].mode, clamped.mode["position"])
        assert bool((held["position"][:, 0] == 0.25).all())


# What is refused


def test_a_product_of_products_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"part 'atoms' is itself a product; write .*: \{'atoms_position': \.\.\., "):
        ProductFamily({"atoms": BOTH, "angle": Circle()})
