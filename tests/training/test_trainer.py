"""Training: what a step does, what is saved, and what stops a run."""

import math
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    Batch,
    ConfigError,
    ContinuousTimeLoss,
    DataError,
    Experiment,
    NetworkBuilder,
    NetworkIO,
    NonFiniteError,
    PluginError,
    RunDirectoryError,
    Training,
    load_run,
    minibatches,
    train,
)
from bfn_toolkit.runs.checkpoints import load_checkpoint
from bfn_toolkit.runs.model_files import save_model
from bfn_toolkit.runs.run import load_weights
from bfn_toolkit.storage.files import write_atomically
from bfn_toolkit.training.optimizers import MovingAverage
from bfn_toolkit.training.step import TrainStep


def experiment(**training: object) -> Experiment:
    return Experiment(
        dataset=GaussianMixture(count=50),
        family=Gaussian(),
        network=Siren(width=16),
        loss=ContinuousTimeLoss("unit"),
        training=Training(**{"steps": 5, **training}),
    )


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, weights(a), weights(b)))


def test_training_in_memory_equals_training_into_a_folder(tmp_path: Path) -> None:
    in_memory = train(experiment())
    in_folder = train(experiment(), tmp_path / "run")
    assert in_memory.path is None
    assert equal(in_memory.model, in_folder.model)
    assert equal(in_memory.model, load_run(tmp_path / "run"))
    assert in_memory.metrics == in_folder.metrics


def test_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(experiment())
    assert torch.equal(torch.rand(3), expected)


def test_a_run_does_not_depend_on_the_state_of_the_generator() -> None:
    torch.manual_seed(1)
    a = train(experiment())
    torch.manual_seed(2)
    assert equal(a.model, train(experiment()).model)


def test_clipping_bounds_the_gradient_of_a_step() -> None:
    model = BFN(Gaussian(), Siren(width=16))
    loop = TrainStep(model, ContinuousTimeLoss(), Training(clip_norm=0.125, optimizer="sgd"), seed=0)
    _, before = loop.step(GaussianMixture().split("train"), 1)
    after = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert before > 0.125  # or nothing was clipped
    assert after <= 0.125 * (1 + 1e-5)  # torch adds 1e-6 to the norm that it divides by


def test_cosine_schedule_ends_at_zero_and_constant_stays() -> None:
    cosine = [m["lr"] for m in train(experiment(steps=40)).metrics]
    assert cosine[0] == 3e-3
    assert cosine[20] == pytest.approx(1.5e-3)
    assert cosine[-1] <= 3e-3 * 0.002
    assert {m["lr"] for m in train(experiment(scheduler="constant")).metrics} == {3e-3}


def test_average_of_weights_and_buffers_follows_its_recursion() -> None:
    network = nn.BatchNorm1d(2)
    ema = MovingAverage(network, decay=0.5)
    expected = network.weight.detach().clone()
    for n in range(5):
        with torch.no_grad():
            network.weight.add_(1.0)
            network.running_mean.add_(1.0)
            network.num_batches_tracked.add_(1)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0  # the first update copies
        expected = decay * expected + (1 - decay) * network.weight.detach()
    assert torch.allclose(ema.module.weight, expected, atol=1e-6)
    assert torch.allclose(
        ema.module.running_mean, expected - 1.0, atol=1e-6
    )  # starts at 0 where the weight starts at 1
    assert ema.module.num_batches_tracked == 5


def test_average_is_what_is_saved_and_sampled(tmp_path: Path) -> None:
    run = train(experiment(ema_decay=0.9), tmp_path / "run")
    assert not equal(run.model, train(experiment()).model)
    assert equal(run.model, load_run(tmp_path / "run"))


def test_checkpoints_hold_the_weights_of_their_step(tmp_path: Path) -> None:
    train(experiment(steps=6, checkpoint_every=3, scheduler="constant"), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
    network = Siren(width=16).build(NetworkIO((1,)))
    folder = tmp_path / "run" / "checkpoints" / "step-00000003"
    network.load_state_dict(load_checkpoint(folder, network.state_dict(), ema=False).weights)
    assert equal(network, train(experiment(steps=3, scheduler="constant")).model.network)


def test_validation_is_logged() -> None:
    metrics = train(experiment(steps=5, validate_every=2)).metrics
    assert [m["step"] for m in metrics if "valid_loss" in m] == [2, 4, 5]


def test_bfloat16_network_keeps_the_loss_in_float32() -> None:
    model = BFN(Gaussian(), Siren(width=16))
    loop = TrainStep(model, ContinuousTimeLoss("unit"), Training(precision="bf16"), seed=0)
    loss, _ = loop.step(GaussianMixture(count=50).split("train"), 1)
    assert loss.dtype == torch.float32
    assert abs(float(loss) - 1.0) <= 0.5  # unit-scaled loss of a fresh network


class BySite(nn.Module):
    """A layer that sees each feature with its time."""

    site_times = True

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, features: Tensor, t: Tensor, /, mask: Tensor | None = None) -> Tensor:
        t = t if t.ndim == features.ndim else t.reshape(-1, 1, 1).expand_as(features)
        assert mask is None or not features[~mask].any()
        return self.layer(torch.cat([features, t], -1))


def gradient(batch: Batch, module: nn.Module, **training: object) -> tuple[Tensor, Tensor]:
    loop = TrainStep(BFN(Gaussian((3,)), module), ContinuousTimeLoss(), Training(**training), seed=0)
    return loop.gradients(batch, 1), torch.cat([p.grad.flatten() for p in loop.parameters])


def test_a_step_leaves_out_what_is_missing_and_weighs_the_rows() -> None:
    x, module = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), BySite()
    mask = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[20:] = False
    plain, _ = gradient(Batch(torch.where(mask, x, 0.0)), module)
    loss, slope = gradient(Batch(torch.where(mask, x, torch.nan), mask=mask), module)
    other, same = gradient(Batch(torch.where(mask, x, torch.inf), mask=mask), module)
    assert torch.equal(loss, other)
    assert torch.equal(slope, same)
    assert 0 < loss < plain
    # A weight of 0 is as good as a mask that leaves nothing of a row.
    weight = (torch.arange(40) < 20).float()
    weighed, _ = gradient(
        Batch(x, mask=torch.where(mask, mask, torch.arange(40).unsqueeze(1) >= 20), weight=weight), module
    )
    assert torch.allclose(weighed, loss, rtol=1e-5)


def test_known_sites_are_trained_with_a_network_that_reads_times_by_site() -> None:
    x, module = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), BySite()
    losses = {rate: gradient(Batch(x), module, known_rate=rate) for rate in (0.0, 0.5, 1.0)}
    assert losses[0.0][0] > losses[0.5][0] > losses[1.0][0] > 0  # known sites cost nothing
    with pytest.raises(
        ConfigError, match=r"network Siren reads one time for each example, and training\.known_rate gives"
    ):
        train(experiment(known_rate=0.5))


def test_minibatches_cover_the_rows_once_in_an_order_of_seed_and_epoch() -> None:
    rows = Batch(torch.arange(10.0).unsqueeze(-1), {"label": torch.arange(10)})
    first = list(minibatches(rows, 3, seed=0, epoch=0))
    assert [len(batch) for batch in first] == [3, 3, 3]
    seen = torch.cat([batch.x for batch in first]).flatten()
    assert len(set(seen.tolist())) == 9
    assert torch.equal(torch.cat([batch.condition["label"] for batch in first]).float(), seen)
    again, other_epoch, other_seed = (
        torch.cat([b.x for b in minibatches(rows, 3, seed=seed, epoch=epoch)]).flatten()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(again, seen)
    assert not torch.equal(other_epoch, seen)
    assert not torch.equal(other_seed, seen)
    assert next(minibatches(rows, 10, seed=0, epoch=0)) is rows


@attrs.frozen
class Broken(NetworkBuilder):
    """A network that returns what it is told to."""

    fault: str = "nan"

    def build(self, io: NetworkIO) -> nn.Module:
        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1))

            def forward(module, features: Tensor, t: Tensor) -> Tensor:  # noqa: N805
                raw = features * module.weight
                return {"nan": raw * math.nan, "shape": raw.squeeze(-1), "type": 3}[self.fault]

        return Module()


def test_a_loss_that_is_nan_stops_training_and_saves_nothing(tmp_path: Path) -> None:
    named = r"step 1: the loss is nan.*finite numbers are expected, of network test_trainer\.Broken, family bfn_gau"
    with pytest.raises(NonFiniteError, match=named):
        train(attrs.evolve(experiment(), network=Broken("nan")))


@pytest.mark.parametrize(("fault", "found"), [("shape", r"\(180, 1\)"), ("type", "int")])
def test_a_network_that_breaks_its_contract_is_named(fault: str, found: str) -> None:
    with pytest.raises(PluginError, match=rf"Module returned {found}, expected a tensor of shape \(180, 1, 1\)"):
        train(attrs.evolve(experiment(), network=Broken(fault)))


def test_data_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    misfit = attrs.evolve(experiment(), family=Gaussian(site_shape=(2,)))
    with pytest.raises(DataError, match=r"expects data of shape \(B, 2\), found \(180, 1\)"):
        train(misfit, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_non_finite_weights_are_not_saved(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="weight"):
        save_model(tmp_path / "model", network.state_dict(), {})
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_format_version_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(2, 2).state_dict(), {"format": 99, "step": 1})
    with pytest.raises(RunDirectoryError, match="format 99; this version reads format 1"):
        load_weights(tmp_path, nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "SHA256SUMS"])
def test_every_damaged_byte_is_detected(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(3, 2).state_dict(), {"step": 1})
    content = (tmp_path / name).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(RunDirectoryError):
            load_weights(tmp_path, nn.Linear(3, 2))


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match=r"No space left on device \(needed 3 bytes, free .*\); free some space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameters"):
        TrainStep(BFN(Gaussian(), nn.Identity()), ContinuousTimeLoss(), Training(), seed=0)
