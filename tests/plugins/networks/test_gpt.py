"""The network of the paper for text: its tensors, its numbers, and weights of the published code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from bfn_toolkit import ConfigError, Experiment, NetworkIO, PartIO, load_run, seeded
from bfn_toolkit.sharing.import_weights import import_checkpoint
from bfn_transformer import GPT

LENGTH, KINDS = 7, 5
SMALL = GPT(width=12, depth=2, heads=3)
IO = NetworkIO((LENGTH,), KINDS, KINDS, ("sequence",), "classes", KINDS)


def shapes(length: int, kinds: int, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of the published code."""
    table: dict[str, tuple[int, ...]] = {
        "input_adapter.pos_embedding": (length, width),
        "input_adapter.inp_embedding.weight": (width, kinds),
        "input_adapter.inp_embedding.bias": (width,),
        "input_adapter.t_embedding.weight": (width, 1),
        "input_adapter.t_embedding.bias": (width,),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
        "lm_head.weight": (kinds, 2 * width),
        "lm_head.bias": (kinds,),
    }
    layers = {"attn.c_attn": (3, 1), "attn.c_proj": (1, 1), "mlp.c_fc": (4, 1), "mlp.c_proj": (1, 4)}
    for i in range(depth):
        table |= {f"transformer.h.{i}.{n}.{w}": (width,) for n in ("ln_1", "ln_2") for w in ("weight", "bias")}
        for name, (o, n) in layers.items():
            table |= {f"transformer.h.{i}.{name}.weight": (o * width, n * width)}
            table |= {f"transformer.h.{i}.{name}.bias": (o * width,)}
    return table


def test_the_published_network_has_its_tensors_and_170175003_parameters() -> None:
    with torch.device("meta"):
        network = GPT().build(NetworkIO((256,), 27, 27))
    assert sum(weight.numel() for weight in network.parameters()) == 170_175_003
    assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == shapes(256, 27, 768, 24)


def published(state: dict[str, Tensor], probabilities: Tensor, t: Tensor, heads: int) -> Tensor:
    """Logits of the published network, from probabilities (B, length, kinds) and times (B, length)."""

    def dense(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    rows, length, _ = probabilities.shape
    first = dense("input_adapter.inp_embedding", 2 * probabilities - 1) + state["input_adapter.pos_embedding"]
    first = x = first + dense("input_adapter.t_embedding", (2 * t - 1)[..., None])
    for layer in range(len({name.split(".")[2] for name in state if name.startswith("transformer.h.")})):
        place = f"transformer.h.{layer}"
        three = dense(f"{place}.attn.c_attn", norm(f"{place}.ln_1", x)).chunk(3, -1)
        q, k, v = (part.reshape(rows, length, heads, -1).movedim(2, 1) for part in three)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
        heard = torch.einsum("bhij,bhjd->bihd", scores.softmax(-1), v).reshape(rows, length, -1)
        x = x + dense(f"{place}.attn.c_proj", heard)
        u = dense(f"{place}.mlp.c_fc", norm(f"{place}.ln_2", x))
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + dense(f"{place}.mlp.c_proj", u)
    return dense("lm_head", torch.cat([norm("transformer.ln_f", x), first], -1))


def weights() -> dict[str, Tensor]:
    with seeded(0, "weights"):
        return {name: 0.3 * torch.randn(shape) for name, shape in shapes(LENGTH, KINDS, 12, 2).items()}


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    with seeded(0, "inputs"):
        return torch.randn(3, LENGTH, KINDS, dtype=dtype).softmax(-1), torch.rand(3, dtype=dtype)


@torch.no_grad()
def test_weights_of_the_published_code_give_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("abcde" * 200)
    torch.save({"ema": {f"net.{name}": value for name, value in weights().items()}}, "model.pt")
    network = {"name": "gpt", "width": 12, "depth": 2, "heads": 3}
    dataset = {"name": "text", "path": "words.txt", "length": LENGTH, "alphabet": "abcde"}
    family = {"name": "categorical", "site_shape": [LENGTH], "classes": KINDS}
    experiment = Experiment.from_mapping({"dataset": dataset, "family": family, "network": network}, base="default")
    import_checkpoint("model.pt", "run", experiment)
    probabilities, t = inputs()
    expected = published(weights(), probabilities, t[:, None].expand(-1, LENGTH), 3)
    found = load_run("run").network(2 * probabilities - 1, t)
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@torch.no_grad()
def test_times_by_site_are_those_of_the_published_code() -> None:
    network = SMALL.build(IO).double()
    network.load_state_dict(weights())
    probabilities, _ = inputs(torch.float64)
    t = torch.rand(3, LENGTH, dtype=torch.float64)
    expected = published({name: v.double() for name, v in weights().items()}, probabilities, t, 3)
    found = network(2 * probabilities - 1, t[..., None].expand_as(probabilities))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_the_positions_are_waves_of_base_1000() -> None:
    table = SMALL.build(IO).get_buffer("input_adapter.pos_embedding")
    for place in range(LENGTH):
        for j in range(12):
            wave = math.cos if j % 2 else math.sin
            assert abs(float(table[place, j]) - wave(place / 1000 ** (j / 12))) < 1e-6


def test_weights_start_at_the_published_scales() -> None:
    state = GPT(width=96, depth=8, heads=3).build(IO).state_dict()
    assert all((value == 0).all() for name, value in state.items() if name.endswith("bias"))
    for name, std in (("attn.c_attn", 0.02), ("mlp.c_fc", 0.02), ("attn.c_proj", 0.005), ("mlp.c_proj", 0.005)):
        assert float(state[f"transformer.h.3.{name}.weight"].std()) == pytest.approx(std, rel=0.05)
    assert float(state["lm_head.weight"].std()) == pytest.approx(0.02, rel=0.1)


def test_data_of_two_forms_are_refused() -> None:
    two = NetworkIO(parts={"text": PartIO((7,), ("sequence",)), "label": PartIO(())})
    with pytest.raises(ConfigError, match="gpt reads data of one form, found the parts text, label; use transformer"):
        SMALL.build(two)
    with pytest.raises(ValueError, match="width 13 must be a multiple of heads = 3"):
        GPT(width=13, heads=3)
