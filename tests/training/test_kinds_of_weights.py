"""Weights and buffers of every kind: trained, stopped, resumed, opened and exported to the same bits, or refused."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bfn_toolkit import (
    BFN,
    ConfigError,
    Entry,
    Experiment,
    NetworkBuilder,
    NetworkIO,
    TrainingEvent,
    hookimpl,
    resume,
    seeded,
    train,
)
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs import Run


class Net(nn.Module):
    """A linear layer, and what a case adds to it."""

    def __init__(self, add: Callable[[Net], None]) -> None:
        super().__init__()
        self.last = nn.Linear(2, 1)
        add(self)

    def forward(self, features: Tensor, t: Tensor, /, **condition: Tensor) -> Tensor:
        h = torch.cat([features, t.reshape(-1, 1, 1).expand(*features.shape)], -1)
        for module in (getattr(self, name, None) for name in ("a", "b")):
            if isinstance(module, nn.Module):
                h = module(h.to(next(module.parameters()).dtype)).to(h.dtype)
        for value in (*self.parameters(recurse=False), *self.buffers(recurse=False)):
            if value.is_complex():
                h = h * value.abs().mean()
            elif value.numel():
                h = h * value.float().mean()
        out: Tensor = self.last(h)
        return out


def parameter(value: Tensor, name: str = "p", *, trained: bool = True) -> Callable[[Net], None]:
    return lambda net: net.register_parameter(name, nn.Parameter(value.clone(), requires_grad=trained))


def buffer(value: Tensor, *, saved: bool = True) -> Callable[[Net], None]:
    return lambda net: net.register_buffer("c", value, persistent=saved)


def layer(make: Callable[[], nn.Module]) -> Callable[[Net], None]:
    return lambda net: net.add_module("a", make())


def tied(net: Net) -> None:
    net.a, net.b = nn.Linear(2, 2), nn.Linear(2, 2)
    net.b.weight = net.a.weight


def in_one_memory(net: Net) -> None:
    net.a = nn.Linear(2, 2)
    net.p = nn.Parameter(net.a.weight.data[:1])


def frozen(net: Net) -> None:
    net.last.bias.requires_grad_(False)


def lazy(net: Net) -> None:
    net.last = nn.LazyLinear(1)


def transposed(net: Net) -> None:
    net.p = nn.Parameter(torch.rand(4, 3).t())


def expanded(net: Net) -> None:
    net.p = nn.Parameter(torch.ones(1, 3).expand(4, 3))


KINDS: dict[str, Callable[[Net], None]] = {
    "complex64": parameter(torch.ones(3, dtype=torch.complex64)),
    "frozen float8": parameter(torch.ones(3).to(torch.float8_e4m3fn), trained=False),
    "uint16 buffer": buffer(torch.ones(3, dtype=torch.uint16)),
    "one float64 layer": layer(lambda: nn.Linear(2, 2).double()),
    "weight norm": layer(lambda: parametrizations.weight_norm(nn.Linear(2, 2))),
    "tied": tied,
    "frozen bias": frozen,
    "not contiguous": transposed,
    "no numbers": parameter(torch.zeros(0, 3)),
    "constant that is not saved": buffer(torch.tensor([1.0, 2.0]), saved=False),
    "odd name": parameter(torch.ones(1), "a/\x1b[31m b"),
}
REFUSED: dict[str, tuple[Callable[[Net], None], str]] = {
    "lazy": (lazy, "last.weight is of a lazy layer.*write nn.Linear"),
    "meta": (buffer(torch.zeros(2, device="meta")), "c is on the meta device"),
    "expanded": (expanded, "p is an expanded tensor.*write .clone"),
    "one memory": (in_one_memory, "are two parameters in one memory; to tie weights, write"),
    "random and not saved": (
        lambda net: buffer(torch.randn(2), saved=False)(net),
        "is drawn at random and not saved",
    ),
    "infinite": (buffer(torch.full((3,), -torch.inf)), "c is not finite from the start"),
    "trained float8": (lambda net: parameter(torch.ones(3).to(torch.float8_e4m3fn))(net), "which torch cannot train"),
    "name of safetensors": (parameter(torch.ones(1), "__metadata__"), "cannot be saved under the name"),
    "sparse": (buffer(torch.eye(3).to_sparse()), "which a safetensors file does not hold"),
}


@attrs.frozen
class Kinds(NetworkBuilder):
    """A network of a kind."""

    what: str = "tied"

    def build(self, io: NetworkIO) -> nn.Module:
        return Net(KINDS[self.what] if self.what in KINDS else REFUSED[self.what][0])


class Plugin:
    __name__ = "kinds_of_weights"

    @hookimpl
    def bfn_networks(self) -> Sequence[Entry]:
        return [Entry("kinds", Kinds)]


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = default_registry()
    monkeypatch.setattr(registry, "plugins", list(registry.plugins))
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    registry.register(Plugin())


def experiment(what: str) -> Experiment:
    training = {"steps": 4, "batch_size": 8, "checkpoint_every": 2, "ema_decay": 0.5, "device": "cpu"}
    mapping = {"dataset": {"count": 30}, "network": {"name": "kinds", "what": what}, "training": training}
    return Experiment.from_mapping(mapping, base="default")


def drawn(model: BFN) -> Tensor:
    with seeded(0):
        samples = model.sample(4, n_steps=3)
    assert isinstance(samples, Tensor)
    return samples


@pytest.mark.parametrize("what", KINDS)
def test_a_kind_is_trained_stopped_resumed_opened_and_exported(what: str, tmp_path: Path) -> None:
    def stop(event: TrainingEvent) -> None:
        if event.step == 2:
            signal.raise_signal(signal.SIGTERM)

    whole = train(experiment(what), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(experiment(what), tmp_path / "part", callbacks=[stop])
    whole.save_pretrained(tmp_path / "model")
    expected = drawn(whole.model)
    for model in (
        Run.open(tmp_path / "whole").model,
        resume(tmp_path / "part").model,
        BFN.from_pretrained(tmp_path / "model"),
    ):
        assert torch.equal(drawn(model), expected)


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_or_saved_is_refused_before_the_first_step(what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=REFUSED[what][1]):
        train(experiment(what), tmp_path / "run")
    assert not (tmp_path / "run").exists()
