"""Laws of known parts: they come out as they went in, and the beliefs about them are those of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bfn_categorical import Categorical
from bfn_directional import Rotations, Sphere
from bfn_gaussian import DataHead, Gaussian
from bfn_gaussian_heads import DiscretisedHead, DiscretisedMixtureHead, MixtureHead
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    ODE1,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    BFNError,
    ChannelFamily,
    Clamped,
    ConfigError,
    DataError,
    Delta,
    Family,
    Finite,
    FlowModel,
    FlowSampler,
    Guided,
    InpaintedModel,
    JointOutput,
    Observed,
    ODEMidpoint,
    Output,
    ParticleSampler,
    ProductFamily,
    clamp,
    seeded,
)
from bfn_toolkit.binned_outputs import Binned
from bfn_toolkit.cli import main
from bfn_toolkit.guidance.particle_filter import mask_unobserved, systematic
from bfn_toolkit.outputs import SiteNormalMixture
from bfn_toolkit.shapes import expand
from every_family import EVERY_FAMILY, network
from significance import ks_two_sample
from toy_families import SteppedGaussian

pytestmark = pytest.mark.filterwarnings("ignore:the flow sampler draws")
YES = torch.tensor([True, False])
SAMPLERS = (AncestralSampler(), ODE1(), ODE2(), ODEMidpoint(), SDE1(), SDE2(), FlowSampler())
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)


def some_known(family: Family[Any], rows: int) -> Any:
    """Data of the family, of which every example knows others; whole events of directions."""

    def part(part: Family[Any]) -> tuple[Tensor, Tensor]:
        with seeded(1, "known"):
            x = network(part).sample(rows, n_steps=6)
            mask = torch.rand(x.shape[:1] if isinstance(part, Rotations) else x.shape) < 0.5
        return x, mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)).expand_as(x)

    if "" in family.parts:
        return part(family)
    return {name: part(family.parts[name]) for name in list(family.parts)[:2]}


@EVERY_FAMILY
def test_known_values_come_out_to_the_bit(family: Family[Any]) -> None:
    bfn, known = network(family), some_known(family, 40)
    samplers = SAMPLERS if all(isinstance(part, ChannelFamily) for part in family.parts.values()) else SAMPLERS[:1]
    for sampler in samplers:
        with seeded(2, "samples"):
            x = bfn.sample(40, n_steps=6, sampler=sampler, known=known)
        for name, (values, mask) in {"": known}.items() if "" in family.parts else known.items():
            found = x[name] if name else x
            assert torch.equal(found[mask], values[mask]), sampler
            assert torch.isfinite(found).all(), sampler


@EVERY_FAMILY
def test_nothing_known_changes_nothing(family: Family[Any]) -> None:
    bfn, known = network(family), some_known(family, 20)
    pairs = {"": known} if "" in family.parts else known
    nothing: Any = {name: (values, torch.zeros_like(mask)) for name, (values, mask) in pairs.items()}
    with seeded(3, "samples"):
        x = bfn.sample(20, n_steps=6)
    with seeded(3, "samples"):
        y = bfn.sample(20, n_steps=6, known=nothing.get("", nothing))
    for name in family.parts:
        a, b = (x[name], y[name]) if name else (x, y)
        assert torch.allclose(a, b, rtol=0, atol=1e-4)  # a mean over the support can be summed in another order


class Watching(FlowModel):
    """A model that expects zeros, and keeps the beliefs that it sees."""

    def __init__(self, family: Family[Any]) -> None:
        super().__init__(family)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        family: Any = self.family
        v = family.natural_params(params)[0] if isinstance(family, ChannelFamily) else params.mean.unsqueeze(-1)
        self.seen.append((t, v))
        if isinstance(family, Categorical):
            return Finite(None, torch.zeros_like(v))
        return Delta(torch.zeros_like(v.squeeze(-1)))


@EVERY_SAMPLER
@pytest.mark.parametrize(
    "family", [Gaussian((2,), sigma_1=0.1, head=DataHead()), Categorical((2,), classes=3)], ids=["real", "classes"]
)
def test_beliefs_about_known_sites_follow_the_flow(family: ChannelFamily[Any], sampler: Any) -> None:
    # Kolmogorov-Smirnov at a false-alarm rate of 1e-6 for each of the channel's numbers at each time.  A solver's first
    # evaluation stands for the time since 0, and is of the prior by its own definition.
    rows, model = 4000, Watching(family)
    values = torch.tensor([[0.7, -0.4]]) if isinstance(family, Gaussian) else torch.tensor([[2, 0]])
    values = values.expand(rows, 2)
    known = Observed.of(family, (values, torch.tensor([True, False])), rows)
    with seeded(4, "flow"):
        sampler.sample(InpaintedModel(model, known), rows, n_steps=5)
    assert len(model.seen) == sampler.nfe(5)
    for t, v in model.seen[1:]:
        with seeded(5, "flow"):
            expected, _ = family.natural_params(family.flow(values, t.float().expand(rows)))
        for channel in range(family.channels):
            assert ks_two_sample(v[:, 0, channel], expected[:, 0, channel]) <= 1, float(t)
            if isinstance(family, Gaussian) and t > 0.5:  # the other site is told zeros, not the value
                assert ks_two_sample(v[:, 1, channel], expected[:, 1, channel]) > 1


def test_beliefs_of_a_family_that_does_not_add_follow_its_flow() -> None:
    family, rows = SteppedGaussian(), 4000
    (site,) = family.network_io.site_shape
    values = torch.full((rows, site), 0.7)
    model, n = Watching(family), family.n_steps
    known = Observed.of(family, (values, torch.ones(site, dtype=torch.bool)), rows)
    with seeded(6, "flow"):
        AncestralSampler().sample(InpaintedModel(model, known), rows, n_steps=n)
    for t, mean in model.seen[1:]:
        with seeded(7, "flow"):
            expected = family.flow(values, t.float().expand(rows)).mean
        assert ks_two_sample(mean[:, 0, 0], expected[:, 0]) <= 1, float(t)


class Pair(FlowModel):
    """Two bits, equal with probability 0.9: the exact posterior of each, site by site."""

    def __init__(self, site_shape: tuple[int, ...] = (2,)) -> None:
        super().__init__(Categorical(site_shape, classes=2, beta_1=9.0))

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        odds = params.logits[..., 1] - params.logits[..., 0]  # (B, 2)
        log_joint = torch.tensor([[0.45, 0.05], [0.05, 0.45]]).log().to(odds.dtype)
        other = torch.stack([torch.zeros_like(odds), odds.flip(-1)], -1)  # of the other site, (B, 2, 2)
        return Finite(None, params.logits + (other.unsqueeze(-2) + log_joint).logsumexp(-1))


def test_what_is_known_tells_of_the_rest() -> None:
    with seeded(8, "pair"):
        values = torch.tensor([1, 0])
        x = Pair().sample(20_000, n_steps=200, sampler=AncestralSampler(), known=(values, torch.tensor([True, False])))
    share = float(x[:, 1].double().mean())
    assert 0.70 <= share <= 0.77  # of the exact 0.9: replacement is biased, however many the steps


def conditional(rows: int, n: int, sampler: Any) -> float:
    """Share of ones at the second site of the pair, where the first is known to be one."""
    with seeded(12, n):
        known = Observed.of(Pair().family, (torch.tensor([1, 0]), torch.tensor([True, False])), rows)
        x = sampler.sample(InpaintedModel(Pair(), known), rows, n_steps=n)
    assert (x[:, 0] == 1).all()
    return float(x[:, 1].double().mean())


@pytest.mark.parametrize(("n", "threshold"), [(1, 0.5), (2, 0.0), (2, 0.5), (2, 1.0)])
def test_particles_sample_the_conditional_distribution_of_the_model(n: int, threshold: float) -> None:
    # In few steps a model of independent sites is no joint model of the data, but a model all the same: what is held
    # against the particles is the share among its own samples.  Five standard errors of 4,000 and of 100,000 draws.
    with seeded(13, n):
        x = AncestralSampler().sample(Pair(), 200_000, n_steps=n)
    own = float(x[x[:, 0] == 1, 1].double().mean())
    assert abs(conditional(4000, n, ParticleSampler(32, threshold)) - own) <= 0.045


def test_particles_find_the_conditional_distribution_of_the_data() -> None:
    # 0.9 exactly; 0.034 is five standard errors of 2,000 draws, and 0.016 for 32 particles and 20 steps.
    assert abs(conditional(2000, 20, ParticleSampler(32)) - 0.9) <= 0.05
    assert abs(conditional(2000, 20, AncestralSampler()) - 0.9) >= 0.12  # replacement


def test_one_particle_is_replacement() -> None:
    shares = [conditional(20_000, 5, sampler) for sampler in (ParticleSampler(1), AncestralSampler())]
    assert abs(shares[0] - shares[1]) <= 0.0226  # five standard errors of the difference


def test_particles_weigh_all_parts() -> None:
    # A message about a class is told by where the network expects the point: of two points, one belongs to each class.
    family = ProductFamily({"x": Gaussian((1,), sigma_1=0.2), "k": Categorical((1,), classes=2, beta_1=6.0)})

    class Both(FlowModel):
        def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
            odds = params["k"].logits[..., 1] - params["k"].logits[..., 0]
            odds = odds + 2.0 * 0.8 * family.parts["x"].natural_params(params["x"])[0].squeeze(-1)  # type: ignore[attr-defined]
            return JointOutput(
                {"x": Delta(0.8 * (odds / 2).tanh(), 0.2), "k": Finite(None, torch.stack([-odds / 2, odds / 2], -1))}
            )

    with seeded(14, "parts"):
        known = {"k": (torch.tensor([1]), torch.tensor([True]))}
        x = Both(family).sample(300, n_steps=20, sampler=ParticleSampler(32), known=known)
    assert (x["k"] == 1).all()
    assert (x["x"] > 0).double().mean() >= 0.98


def test_resampling_draws_by_the_weights() -> None:
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
    with seeded(15, "systematic"):
        for _ in range(20):
            counts = [row.bincount(minlength=4).tolist() for row in systematic(weights, 8)]
            assert counts == [[4, 2, 2, 0], [0, 0, 0, 8]]
        draws = torch.cat([systematic(weights[:1], 1) for _ in range(4000)]).flatten()
    shares = draws.bincount(minlength=4).double() / 4000
    assert (shares - weights[0]).abs().max() <= 0.04  # five standard errors


def test_particles_go_without_known_sites() -> None:
    with seeded(16, "same"):
        x = Pair().sample(20, n_steps=3, sampler=ParticleSampler(8))
    with seeded(16, "same"):
        assert torch.equal(x, Pair().sample(20, n_steps=3, sampler=AncestralSampler()))


R = 0.8  # correlation of the two numbers, each of variance 1


class Line(FlowModel):
    """Two numbers of a Gaussian distribution: the exact posterior of each, site by site, in some form."""

    def __init__(self, form: Callable[[Tensor, Tensor], Output]) -> None:
        super().__init__(Gaussian((2,), sigma_1=0.05, head=DataHead()))
        self.form = form

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        v = self.family.natural_params(params)[0].squeeze(-1).double()  # type: ignore[attr-defined]
        told = expand(params.precision, params.mean).double() - 1.0
        prior = torch.tensor([[1.0, -R], [-R, 1.0]], dtype=torch.float64) / (1.0 - R**2)
        covariance = torch.linalg.inv(prior + torch.diag_embed(told.expand_as(v)))
        mean = (covariance @ v.unsqueeze(-1)).squeeze(-1)
        return self.form(mean.to(params.mean), covariance.diagonal(dim1=-2, dim2=-1).sqrt().to(params.mean))


def halves(mean: Tensor, scale: Tensor) -> SiteNormalMixture:
    """A normal distribution, written as two components that are alike."""
    both = mean.unsqueeze(-1).expand(*mean.shape, 2)
    return SiteNormalMixture(torch.zeros_like(both), both, scale.unsqueeze(-1).expand_as(both))


def test_particles_find_the_conditional_normal_distribution_of_mixtures() -> None:
    # N(R x, 1 - R^2) exactly.  The model's own mean is 0.78 in 40 steps; 32 particles came out at 0.74, and 256 in 160
    # steps at 0.79.  Three standard errors of 2,000 draws on top of 0.06; replacement came out at 0.48.
    known = (torch.tensor([1.0, math.nan]), YES)
    means = []
    for sampler in (ParticleSampler(32), AncestralSampler()):
        with seeded(21, "line"):
            x = Line(halves).sample(2000, n_steps=40, sampler=sampler, known=known)
        assert (x[:, 0] == 1.0).all()
        means.append(float(x[:, 1].mean()))
        if isinstance(sampler, ParticleSampler):
            assert abs(float(x[:, 1].std()) - math.sqrt(1.0 - R**2)) <= 0.08
    assert abs(means[0] - R) <= 0.1
    assert abs(means[1] - R) >= 0.15


class Halves(FlowModel):
    """The pair of bits as the two bins of [-1, 1], equal with probability 0.9; in some form of the bins."""

    def __init__(self, form: Callable[[Binned], Output]) -> None:
        super().__init__(Gaussian((2,), sigma_1=0.05, head=DiscretisedHead(2)))
        self.form = form

    def output(self, params: Any, t: Tensor, condition: Any = None) -> Output:
        odds = self.family.natural_params(params)[0].squeeze(-1).double()  # type: ignore[attr-defined] # 2 (1 / 2) v
        log_joint = torch.tensor([[0.45, 0.05], [0.05, 0.45]]).log().double()
        other = torch.stack([torch.zeros_like(odds), odds.flip(-1)], -1)
        low, high = (other.unsqueeze(-2) + log_joint).logsumexp(-1).unbind(-1)
        share = (odds + high - low).sigmoid().clamp(1e-9, 1.0 - 1e-9)
        mean = torch.special.ndtri(share).to(params.mean).unsqueeze(-1)
        return self.form(Binned(SiteNormalMixture(torch.zeros_like(mean), mean, torch.ones_like(mean)), 2))


@pytest.mark.parametrize("form", [lambda bins: bins, lambda bins: bins.table], ids=["binned", "table"])
def test_particles_find_the_conditional_distribution_of_bins(form: Any) -> None:
    # As for the bits: 0.9 exactly, and tolerance and replacement are theirs.
    shares = []
    for sampler in (ParticleSampler(32), AncestralSampler()):
        with seeded(22, "bins"):
            x = Halves(form).sample(2000, n_steps=20, sampler=sampler, known=(torch.tensor([0.5, math.nan]), YES))
        assert (x[:, 0] == 0.5).all()
        assert set(x[:, 1].tolist()) == {-0.5, 0.5}
        shares.append(float((x[:, 1] > 0).double().mean()))
    assert abs(shares[0] - 0.9) <= 0.05
    assert abs(shares[1] - 0.9) >= 0.1


HEADS = (
    MixtureHead(3),
    MixtureHead(1),
    DiscretisedHead(256),
    DiscretisedMixtureHead(16, components=3),
    DiscretisedHead(16, form="renormalised"),
)


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_settled_sites_send_what_the_sender_sends(head: Any) -> None:
    # Where everything is settled, the receiver is the sender; 1e-3 of nats, because densities are about 1e3.
    family = Gaussian((3,), sigma_1=0.02, head=head)
    bfn, everything = network(family), torch.ones(50, 3, dtype=torch.bool)
    with seeded(23, "settled"):
        params, t = family.flow(torch.rand(50, 3) * 2 - 1, torch.rand(50)), torch.rand(50)
        output = bfn.output(params, t)
        x = output.sample().clamp(-1, 1)
        alpha = family.accuracy(t, torch.ones(50))
        y = family.sender(x, alpha).sample()
    settled = mask_unobserved(output, x, everything)
    error = family.receiver(settled, alpha).log_prob(y) - family.sender(x, alpha).log_prob(y)
    assert error.abs().max() <= 1e-3
    price = settled.log_prob(x)  # the same for all examples
    assert (price - price[0]).abs().max() <= 1e-3


def test_particles_refuse_an_output_that_cannot_be_settled() -> None:
    known = (torch.eye(3)[0], torch.ones(3, dtype=torch.bool))
    with pytest.raises(ConfigError, match="has no receiver"):
        network(Sphere((3,))).sample(2, n_steps=2, sampler=ParticleSampler(2), known=known)


def test_particles_tell_of_every_evaluation() -> None:
    told: list[int] = []
    sampler = ParticleSampler(4)
    Pair().sample(
        3, n_steps=5, sampler=sampler, known=(torch.tensor([1, 0]), YES), on_step=lambda e: told.append(e.number)
    )
    assert told == list(range(1, sampler.nfe(5) + 1))


def test_rows_keep_their_values_in_blocks() -> None:
    bfn = network(Gaussian((2,)))
    values = torch.linspace(-1, 1, 3000).unsqueeze(1).expand(3000, 2)
    with seeded(9, "rows"):
        x = bfn.sample(3000, n_steps=2, known=(values, torch.tensor([True, False])))
    with seeded(9, "rows"):
        first = bfn.sample(20, n_steps=2, known=(values[:20], torch.tensor([True, False])))
        assert torch.equal(x[:, 0], values[:, 0])
    assert torch.equal(first, x[:20])


def test_known_and_guided_go_together() -> None:
    bfn, values = network(Gaussian((2,))), torch.tensor([0.25, math.nan])
    with seeded(10, "both"):
        label, known = torch.ones(9).long(), (values, ~values.isnan())
        x = Guided(bfn, 2.0).sample(9, n_steps=5, known=known, condition={"label": label})
    assert torch.equal(x[:, 0], torch.full((9,), 0.25))
    assert torch.isfinite(x).all()


def test_a_pinned_output_expects_the_value() -> None:
    family = Rotations(sigma_1=0.2, components=2)
    bfn = network(family)
    output = bfn.output(family.prior(3), torch.zeros(()))
    with seeded(11, "pinned"):
        values = output.sample()
        other = output.sample()
    pinned = clamp(output, values, torch.ones_like(values, dtype=torch.bool))
    assert isinstance(pinned, Clamped)
    assert torch.equal(family.mean_embedding(pinned), family.embed(values))
    free = clamp(output, other, torch.zeros_like(values, dtype=torch.bool))
    # 1e-5: the design's sum and the closed form agree to some roundings of float32
    assert torch.allclose(family.mean_embedding(free), family.mean_embedding(output), rtol=0, atol=1e-5)
    for ask in (lambda: pinned.log_prob(values), lambda: pinned.mix(lambda x: x)):  # type: ignore[arg-type, return-value]
        with pytest.raises(ConfigError, match="clamped"):
            ask()


PRODUCT = ProductFamily({"x": Gaussian((2,)), "k": Categorical((2,), classes=3)})


@pytest.mark.parametrize(
    ("family", "known", "error", "words"),
    [
        (Gaussian((2,)), torch.zeros(2), ConfigError, r"pair of tensors, \(values, mask\), found a Tensor"),
        (Gaussian((2,)), (torch.zeros(2), ["a", "b"]), ConfigError, "the mask of known: expected a tensor"),
        (Gaussian((2,)), (torch.zeros(2), torch.ones(2)), ConfigError, "torch.bool, True where"),
        (Gaussian((2,)), (torch.zeros(3), YES), ConfigError, r"values of known must have shape \(4, 2\), or \(2,\)"),
        (Gaussian((2,)), (torch.zeros(3, 2), YES), ConfigError, r"found \(3, 2\)"),
        (Gaussian((2,)), (torch.zeros(2), YES[:1]), ConfigError, "the mask of known must have shape"),
        (Gaussian((2,)), (torch.zeros(2).long(), YES), ConfigError, "must be floating-point numbers"),
        (Gaussian((2,)), (torch.tensor([math.nan, 0.0]), YES), DataError, "finite"),
        (Categorical((2,), classes=3), (torch.zeros(2), YES), ConfigError, "classes as torch.int64, found torch.float"),
        (Categorical((2,), classes=3), (torch.tensor([3, 0]), YES), DataError, r"classes 0\.\.2, found 3"),
        (Sphere((3,)), (torch.eye(3)[0], torch.tensor([True, True, False])), DataError, "unit vectors"),
        (PRODUCT, (torch.zeros(2), YES), ConfigError, r"write known=\{'x': \(values, mask\)\}"),
        (PRODUCT, {"y": (torch.zeros(2), YES)}, ConfigError, "some of the parts x, k .* found the parts y"),
        (PRODUCT, {}, ConfigError, "found nothing|found the parts"),
        (PRODUCT, {"k": (torch.tensor([5, 0]), YES)}, DataError, r"known\['k'\]: Categorical expects classes"),
    ],
)
def test_mistakes_about_known_values_are_named(
    family: Family[Any], known: Any, error: type[BFNError], words: str
) -> None:
    with pytest.raises(error, match=words):
        BFN(family, MLP(width=8)).sample(4, n_steps=2, known=known)


def test_unknown_values_are_not_looked_at() -> None:
    discretised = Gaussian((2,), head=DiscretisedHead(16))
    known = Observed.of(discretised, (torch.tensor([1 / 16, math.nan]), YES), 3)
    assert torch.equal(known.values, torch.tensor([1 / 16, 0.0]).expand(3, 2))
    assert Observed.of(Categorical((2,)), (torch.tensor([1, -1]), YES), 3).values.tolist() == [[1, 0]] * 3


def test_the_command_line_reads_known_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, known = tmp_path / "run", tmp_path / "known.npy"
    small = ("--network.width", "16", "--training.steps", "2", "--no-report")
    assert main(["train", "--dataset", "toy2d", "--out", str(run), *small]) == 0
    np.save(known, np.array([0.25, math.nan]))
    save_file({"samples": torch.tensor([0.25, math.nan])}, tmp_path / "known.safetensors")
    for sampler, file in (("sde-2", known), ("particles", known), ("sde-2", tmp_path / "known.safetensors")):
        out = tmp_path / f"{sampler}{file.suffix}.npy"
        options = ["--sampler", sampler, "--known", str(file), "--out", str(out)]
        assert main(["sample", str(run), "-n", "3", "--steps", "4", *options]) == 0
        x = np.load(out, allow_pickle=False)
        assert (x[:, 0] == 0.25).all()
        assert np.isfinite(x).all()
    np.save(known, np.zeros(3))
    for file, words in (
        (known, "must have shape (1, 2), or (2,)"),
        (run, "read from .npy"),
        (tmp_path / "no.npy", "cannot read"),
    ):
        assert main(["sample", str(run), "-n", "3", "--steps", "4", "--known", str(file)]) == 2
        assert words in capsys.readouterr().err
