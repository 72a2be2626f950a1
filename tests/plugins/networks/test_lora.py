"""Low-rank adapters: the same function at first, nothing else moves, and saved models hold the sum."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from faults.crashes import signal_at
from torch import Tensor, nn

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_lora import LoRA
from bfn_mlp import MLP
from bfn_toolkit import (
    BFN,
    ConfigError,
    ContinuousTimeLoss,
    Experiment,
    NetworkBuilder,
    NetworkIO,
    ResourceError,
    Run,
    Training,
    resume,
    seeded,
    train,
)
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.training.progress import plan
from bfn_toolkit.training.trainer import prepared
from bfn_transformer import Transformer
from bfn_unet import UNet

SMALL = MLP(width=8, depth=1)
IO = NetworkIO((4, 4), 2, 3)


def small(network: NetworkBuilder = SMALL, **training: Any) -> Experiment:
    options = {"steps": 4, "batch_size": 16, "ema_decay": 0.5, "device": "cpu", **training}
    options["init"] = str(options.get("init", ""))
    return Experiment(GaussianMixture(), Gaussian(site_shape=(1,)), network, ContinuousTimeLoss(), Training(**options))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run without adapters, and one from it with adapters."""
    folder = tmp_path_factory.mktemp("runs")
    train(small(), folder / "model")
    train(small(LoRA(SMALL, rank=2, trained="last"), init=folder / "model"), folder / "lora")
    return {path.name: path for path in folder.iterdir()}


def built(builder: NetworkBuilder, io: NetworkIO = IO) -> nn.Module:
    with seeded(0, "weights"):
        return builder.build(io)


@pytest.mark.parametrize(
    "network",
    [Transformer(width=16, depth=1, heads=2), UNet(width=8, blocks=1, heads=2, groups=2)],
    ids=["transformer", "unet"],
)
def test_every_adapter_is_used_and_a_fresh_one_adds_nothing(network: NetworkBuilder) -> None:
    lora, plain = built(LoRA(network, rank=2)), built(network)
    names = LoRA(network, rank=2).base_names(lora)
    state = lora.state_dict()
    plain.load_state_dict({name: state[place] for name, place in names.items()})
    features, t = torch.randn(3, *IO.site_shape, IO.in_features), torch.rand(3)
    assert torch.equal(lora(features, t), plain(features, t))
    with torch.no_grad():
        for weight in lora.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    lora(features, t).square().sum().backward()
    adapters = {name: weight for name, weight in lora.named_parameters() if weight.requires_grad}
    layers = [name for name, layer in plain.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert len(adapters) == 2 * len(layers) > 10
    assert all(bool((weight.grad != 0).any()) for weight in adapters.values() if weight.grad is not None)
    assert [name for name, weight in adapters.items() if weight.grad is None] == []


def test_only_the_adapters_and_what_is_named_are_trained(runs: dict[str, Path]) -> None:
    before, run = Run.open(runs["model"]).model.network.state_dict(), Run.open(runs["lora"])
    state, names = run.model.network.state_dict(), run.experiment.network.base_names(run.model.network)
    assert names.keys() == before.keys()
    moved = {name for name, place in names.items() if not torch.equal(state[place], before[name])}
    assert moved == {"last.weight", "last.bias"}
    added = [value for name, value in state.items() if "lora_B" in name]
    assert len(added) == 3
    assert all(bool((value != 0).any()) for value in added)
    step, _ = prepared(run.experiment)
    trained, total = (sum(p.numel() for p in ps) for ps in (step.parameters, step.unwrapped.parameters()))
    assert f"{100 * trained / total:.3g} % of them trained" in plan(run.experiment, step, 1, None)[0]


def test_resume_is_exact(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted), signal_at(2, signal.SIGTERM):
        train(Run.open(runs["lora"]).experiment, tmp_path / "run")
    resume(tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (runs["lora"] / "model.safetensors").read_bytes()


def test_a_saved_model_holds_the_sum_and_needs_no_peft(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Run.open(runs["lora"])
    run.save_pretrained(tmp_path / "run")
    run.model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "run/config.json").read_text())["network"]["name"] == "mlp"
    x, t = torch.randn(16, 1, run.model.io.in_features), torch.rand(16)
    for saved in (BFN.from_pretrained(tmp_path / "run"), BFN.from_pretrained(tmp_path / "model")):
        assert saved.builder == SMALL
        torch.testing.assert_close(saved.network(x, t), run.model.network(x, t), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(Run.open(runs["model"]).model.network(x, t), run.model.network(x, t), atol=1e-4)


def test_a_training_starts_from_adapters_too(runs: dict[str, Path]) -> None:
    """The same adapters go on; for another network they are added to the weights."""
    lora = Run.open(runs["lora"])
    same, _ = prepared(attrs.evolve(lora.experiment, training=Training(init=str(runs["lora"]), device="cpu")))
    assert all(
        torch.equal(value, same.unwrapped.state_dict()[name]) for name, value in lora.model.network.state_dict().items()
    )
    expected = lora.experiment.network.base_state(lora.model.network)
    for network in (SMALL, LoRA(SMALL, rank=3)):
        step, _ = prepared(small(network, init=runs["lora"]))
        names, state = network.base_names(step.unwrapped), step.unwrapped.state_dict()
        assert all(torch.equal(state[names[name]], value) for name, value in expected.items())


def test_the_network_of_the_model_is_adapted_by_default(runs: dict[str, Path]) -> None:
    found = Experiment.from_toml(
        None, overrides=[("init", str(runs["model"])), ("network", "lora"), ("network.rank", "4")]
    )
    assert found.network == LoRA(SMALL, rank=4)


def test_fresh_weights_that_nothing_trains_are_refused(runs: dict[str, Path]) -> None:
    wider = MLP(width=8, depth=1, labels=2)
    with pytest.raises(ConfigError, match=r'no weights that fit label.weight.*--network.trained "\[\\"label\\"\]"'):
        prepared(small(LoRA(wider), init=runs["model"]))
    with pytest.warns(UserWarning, match=r"label.weight nothing in the model"):
        prepared(small(LoRA(wider, trained=["label"]), init=runs["model"]))


class Odd(nn.Module):
    """Layers whose weights cannot take an addition, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.attention = nn.MultiheadAttention(4, 2)
        self.grouped = nn.Conv1d(4, 4, 1, groups=2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
        self.complex = nn.Linear(3, 3, dtype=torch.complex64)
        self.plain, self.table = nn.Linear(3, 3), nn.Embedding(3, 3)

    def forward(self, features: Tensor, t: Tensor, /) -> Tensor:
        return features


@attrs.frozen
class OddBuilder(NetworkBuilder):
    def build(self, io: NetworkIO) -> nn.Module:
        return Odd()


@attrs.frozen
class Table(NetworkBuilder):
    def build(self, io: NetworkIO) -> nn.Module:
        return nn.Embedding(2, 3)


def test_layers_whose_weight_is_not_their_own_are_left_alone() -> None:
    network = built(LoRA(OddBuilder()))
    assert [name for name, weight in network.named_parameters() if weight.requires_grad] == [
        "plain.lora_A.default.weight",
        "plain.lora_B.default.weight",
    ]


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no layer to adapt"):
        built(LoRA(Table()))
    with pytest.raises(ConfigError, match=r"targets: no name matches 'block'; the names are first, blocks.0.1"):
        built(LoRA(SMALL, targets="block"))
    with pytest.raises(ConfigError, match="network without adapters"):
        LoRA(LoRA(SMALL))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ResourceError, match="pip install peft"):
        built(LoRA(SMALL))
