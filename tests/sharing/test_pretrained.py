"""Models that people share: what was saved comes back to the bit, and what was tampered with is refused."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.crashes import crash_at
from safetensors.torch import load_file, save

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, NoiseHead
from bfn_gaussian_heads import MixtureHead
from bfn_mlp import MLP
from bfn_siren import Siren
from bfn_toolkit import BFN, Experiment, ProductFamily, Registry, seeded, train
from bfn_toolkit.cli import main
from bfn_toolkit.errors import (
    BFNError,
    BFNWarning,
    ConfigError,
    NonFiniteError,
    PluginError,
    ResourceError,
    RunDirectoryError,
)
from bfn_toolkit.sharing import pretrained
from bfn_toolkit.sharing.model_card import Card
from bfn_toolkit.storage.files import write_together
from bfn_toy2d import Toy2d
from bfn_von_mises import VonMises
from fake_dists import FakeDists

PRODUCT = ProductFamily({"position": Gaussian(site_shape=(2,), sigma_1=0.1), "type": Categorical(classes=3)})
MODELS = {
    "gaussian-siren": (Gaussian(site_shape=(2,)), Siren(width=16)),
    "gaussian-noise-mlp": (Gaussian(site_shape=(3,), head=NoiseHead(clip=float("inf"))), MLP(width=8, depth=1)),
    "gaussian-mixture-head": (Gaussian(site_shape=(2,), head=MixtureHead()), MLP(width=8, depth=1)),
    "categorical": (Categorical(site_shape=(4,), classes=5), MLP(width=8, depth=1, labels=2)),
    "von-mises": (VonMises(site_shape=(2,)), MLP(width=8, depth=1)),
    "product": (PRODUCT, MLP(width=8, depth=1)),
}


def made(name: str = "gaussian-siren") -> BFN:
    """A model whose weights are not those of a fresh one."""
    with seeded(7, "model"):
        model = BFN(*MODELS[name])
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def same(a: BFN, b: BFN) -> bool:
    """Whether two models have the same names, dtypes and bits."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    made().save_pretrained(folder)
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes config.json as somebody does who knows how to write digests."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    files = {
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
        "config.json": json.dumps(config).encode(),
    }
    write_together(folder, files)


def replace_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Other weights under good digests."""
    write_together(
        folder, {"model.safetensors": save(dict(state)), "config.json": (folder / "config.json").read_bytes()}
    )


def refused(folder: Path, *words: str, error: type[BFNError] = RunDirectoryError) -> None:
    with pytest.raises(error) as raised:
        BFN.from_pretrained(folder)
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize("name", MODELS)
def test_what_was_saved_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.save_pretrained(tmp_path / "model")
    again = BFN.from_pretrained(tmp_path / "model")
    assert (again.family, again.builder) == (model.family, model.builder)
    assert same(model, again)
    assert not again.training
    steps = model.family.n_steps or 3
    with seeded(0, "a"):
        x = model.sample(3, n_steps=steps)
    with seeded(0, "a"):
        y = again.sample(3, n_steps=steps)
    pairs = [(x[part], y[part]) for part in x] if isinstance(x, Mapping) else [(x, y)]
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_weights_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = made().to(dtype)
    model.save_pretrained(tmp_path / "model")
    assert same(model, BFN.from_pretrained(tmp_path / "model"))


class Spectral(torch.nn.Module):
    """A network with complex weights, as a Fourier neural operator has them, and a table of small integers."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
        self.map = torch.nn.Linear(2, 1)
        self.register_buffer("table", torch.arange(3).to(torch.uint16))
        self.register_buffer("scales", torch.ones(2).to(torch.float8_e4m3fn))

    def forward(self, features: torch.Tensor, t: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
        return self.map(torch.cat([features, features * self.spectrum.abs().sum()], -1))


def test_complex_weights_and_small_integers_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MLP, "build", lambda *_: Spectral())
    model = BFN(Gaussian(), MLP())
    model.save_pretrained(tmp_path / "model")
    assert same(model, BFN.from_pretrained(tmp_path / "model"))


def test_saving_twice_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    BFN.from_pretrained(saved).save_pretrained(tmp_path / "copy" / "model")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "copy" / "model" / name).read_bytes() == (saved / name).read_bytes()


def test_neither_saving_nor_loading_draws_from_the_generator_of_the_caller(tmp_path: Path) -> None:
    model = made()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model.save_pretrained(tmp_path / "model")
    BFN.from_pretrained(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())


def test_config_json_is_json_that_others_can_read(tmp_path: Path) -> None:
    made("gaussian-noise-mlp").save_pretrained(tmp_path / "model")  # its clip is infinite

    def constant(word: str) -> None:
        raise AssertionError(word)

    config = json.loads((tmp_path / "model" / "config.json").read_text(), parse_constant=constant)
    assert (config["model_type"], config["network"]["name"], config["family"]["name"]) == ("bfn", "mlp", "gaussian")
    assert config["plugins"]["family.head"]["name"] == "noise"
    assert (
        load_file(tmp_path / "model" / "model.safetensors").keys()
        == made("gaussian-noise-mlp").network.state_dict().keys()
    )


def test_a_model_of_a_bare_module_cannot_be_saved(tmp_path: Path) -> None:
    model = BFN(Gaussian(), Siren(width=8).build(Gaussian().network_io))
    with pytest.raises(ConfigError, match=r"bare module.*SirenModule.*BFN\(family, builder\)"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_than_the_builder_cannot_be_saved(tmp_path: Path) -> None:
    model = made()
    model.network = Siren(width=4).build(model.family.network_io)
    with pytest.raises(ConfigError, match="not those of the model's builder"):
        model.save_pretrained(tmp_path / "model")


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = made()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(NonFiniteError):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- what is there already


def test_a_model_is_replaced_by_force_only(saved: Path) -> None:
    with pytest.raises(ConfigError, match="force=True"):
        made("categorical").save_pretrained(saved)
    assert same(BFN.from_pretrained(saved), made())
    made("categorical").save_pretrained(saved, force=True)
    assert same(BFN.from_pretrained(saved), made("categorical"))


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="left alone"):
        made().save_pretrained(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_fresh_clone_may_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitattributes").write_text("")
    made().save_pretrained(tmp_path)
    assert same(BFN.from_pretrained(tmp_path), made())


def test_a_crash_at_every_step_of_a_replacement_leaves_the_one_or_the_other(saved: Path) -> None:
    old, new = made(), made("categorical")
    k, found = 1, set()
    while crash_at(k, lambda: new.save_pretrained(saved, force=True)):
        again = BFN.from_pretrained(saved)
        found.add("old" if same(again, old) else "new" if same(again, new) else "a mixture")
        old.save_pretrained(saved, force=True)
        k += 1
    assert found == {"old", "new"}
    assert same(BFN.from_pretrained(saved), new)


# --- what is refused


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_one_bit_is_noticed(name: str, saved: Path) -> None:
    path = saved / name
    content = path.read_bytes()
    for place in range(0, len(content), 61):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(saved, str(saved))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_links_and_missing_files_are_refused(name: str, saved: Path, tmp_path: Path) -> None:
    (saved / name).rename(tmp_path / "elsewhere")
    refused(saved, name, "missing")
    (saved / name).symlink_to(tmp_path / "elsewhere")
    refused(saved, name, "not a regular file")


def test_a_newer_format_says_to_upgrade(saved: Path) -> None:
    edit(saved, lambda config: config.update({"format": 99, "bfn-toolkit": "9.0"}))
    refused(saved, "format 99", "9.0", "Upgrade bfn-toolkit")


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another model": (lambda c: c.update(model_type="bert"), "model_type"),
    "no plugins": (lambda c: c.pop("plugins"), "damaged"),
    "a plugin less": (lambda c: c["plugins"].pop("family.head"), "plugins are not those"),
    "plugin of a list": (lambda c: c["plugins"].update(network=[]), "damaged"),
    "another kind": (lambda c: c["plugins"]["network"].update(kind="os"), "damaged"),
    "no network": (lambda c: c.pop("network"), "network"),
    "unknown option": (lambda c: c["network"].update(widht=3), "did you mean 'width'"),
    "wrong type": (lambda c: c["network"].update(width="16"), "expected an integer"),
    "other width": (lambda c: c["network"].update(width=8), "does not fit"),
    "huge width": (lambda c: c["network"].update(width=10**6), "the description is not that of these weights"),
    "impossible width": (lambda c: c["network"].update(width=2**62), "cannot be built"),
    "a path as name": (lambda c: c["network"].update(name="../os:system"), "no network named"),
    "other dtype": (lambda c: c.update(dtype="float64"), "does not fit"),
    "unknown dtype": (lambda c: c.update(dtype="float7"), "damaged"),
    "words for a shell": (lambda c: c["plugins"]["family"].update(distribution="$(touch x)"), "not a name and version"),
    "version for a shell": (
        lambda c: c["plugins"]["family"].update(version='1"; touch x; "'),
        "not a name and version",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_config_that_was_tampered_with_is_refused(case: str, saved: Path) -> None:
    change, word = TAMPERED[case]
    edit(saved, change)
    refused(saved, word)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\xff"])
def test_a_config_that_is_no_json_is_refused(text: str, saved: Path) -> None:
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    refused(saved, "config.json")


def test_weights_of_a_network_that_does_not_fit_are_named(saved: Path) -> None:
    state = made().network.state_dict()
    first = next(iter(state))
    replace_weights(saved, {**state, first: state[first][:1].clone()})
    refused(saved, first, "does not fit")
    replace_weights(saved, {**state, "stranger": torch.zeros(1)})
    refused(saved, "stranger: unknown")


def test_weights_larger_than_the_network_are_not_read(saved: Path) -> None:
    config = (saved / "config.json").read_bytes()
    write_together(saved, {"model.safetensors": bytes(17 * 2**20), "config.json": config})
    refused(saved, "model.safetensors has 17.8 MB, more than 16.8 MB")


def test_weights_that_are_not_finite_are_loaded_on_request_only(saved: Path) -> None:
    state = {name: value.clone() for name, value in made().network.state_dict().items()}
    next(iter(state.values())).view(-1)[0] = float("nan")
    replace_weights(saved, state)
    refused(saved, "1 values are not finite")
    BFN.from_pretrained(saved, allow_nonfinite=True)


def test_a_pickle_in_place_of_the_weights_is_not_executed(saved: Path, tmp_path: Path) -> None:
    content = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    (saved / "model.safetensors").write_bytes(content)
    edit(saved, lambda config: None)
    refused(saved, "not a safetensors file")
    assert not (tmp_path / "owned").exists()


def test_a_plugin_that_is_not_installed_comes_with_the_line_that_installs_it(saved: Path) -> None:
    part = {"distribution": "bfn-strange", "version": "2.1", "name": "strange"}
    edit(saved, lambda config: config["plugins"]["network"].update(part))
    edit(saved, lambda config: config["network"].update(name="strange"))
    refused(saved, 'pip install "bfn-strange==2.1"', error=PluginError)
    assert PluginError.exit_status == 5


STRANGER = """
    import attrs
    from torch import nn
    from bfn_toolkit import Entry, NetworkBuilder, hookimpl

    class Net(nn.Module):
        def __init__(self, io, gain):
            super().__init__()
            self.map = nn.Linear(io.in_features, io.out_features)
            self.steps = int(self.map.weight.sum().item() * 0) + gain  # cannot be built without memory

        def forward(self, features, t, **condition):
            return self.map(features) * self.steps

    @attrs.frozen
    class Linear(NetworkBuilder):
        gain: int = 2

        def build(self, io):
            return Net(io, self.gain)

    @hookimpl
    def bfn_networks():
        return [Entry("linear", Linear)]
"""


def test_a_model_of_a_stranger_needs_the_distribution_of_the_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "site"
    root.mkdir()
    fakes = FakeDists(root)
    fakes("bfn-stranger", {"linear": "fake_bfn_stranger"}, {"fake_bfn_stranger": STRANGER}, version="1.4")
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    registry = Registry.from_entry_points()
    monkeypatch.setattr(pretrained, "default_registry", lambda: registry)
    model = BFN(Gaussian(), registry.get("network", "linear").entry.build(gain=3))
    model.save_pretrained(tmp_path / "model")
    assert 'pip install "bfn-stranger==1.4"' in (tmp_path / "model" / "README.md").read_text()
    again = BFN.from_pretrained(tmp_path / "model")
    assert same(model, again)
    assert again.builder == model.builder

    monkeypatch.setattr(sys, "path", sys.path[1:])
    sys.modules.pop("fake_bfn_stranger")
    refused(tmp_path / "model", 'pip install "bfn-stranger==1.4"', error=PluginError)


def test_a_plugin_that_was_never_installed_is_named(saved: Path) -> None:
    part = {"distribution": "(this process)", "version": "", "name": "strange"}
    edit(saved, lambda config: config["plugins"]["network"].update(part))
    refused(saved, "'strange' came from (this process)", error=PluginError)


def test_another_major_version_of_a_plugin_is_refused_unless_allowed(saved: Path) -> None:
    edit(saved, lambda config: config["plugins"]["network"].update(version="7.0"))
    refused(saved, "7.0", error=PluginError)
    with pytest.warns(BFNWarning, match=r"7\.0"):
        assert same(BFN.from_pretrained(saved, allow_plugin_mismatch=True), made())


# --- cards


def front_matter(text: str) -> dict[str, Any]:
    start, head, _ = text.split("---\n", 2)
    assert start == ""
    return {key: json.loads(value) for key, _, value in (line.partition(": ") for line in head.splitlines())}


def test_the_card_has_what_it_was_given_and_what_the_model_knows(tmp_path: Path) -> None:
    card = {"license": "mit", "tags": ["points"], "text": "Two | moons.", "seed": 0, "metrics": {"w1": 0.0171}}
    made().save_pretrained(tmp_path / "moons", card=card)
    text = (tmp_path / "moons" / "README.md").read_text()
    head = front_matter(text)
    assert (head["library_name"], head["license"]) == ("bfn-toolkit", "mit")
    assert {"bayesian-flow-network", "points"} <= set(head["tags"])
    for word in (
        'from_pretrained("moons")',
        "Two | moons.",
        "| w1 | 0.0171 |",
        "| seed | 0 |",
        "network `siren`",
        "bfn-toolkit 0.",
    ):
        assert word in text


def test_a_license_is_nobodys_but_the_authors(saved: Path) -> None:
    assert "license" not in front_matter((saved / "README.md").read_text())


@pytest.mark.parametrize(
    ("card", "word"),
    [
        ({"licence": "mit"}, "Did you mean 'license'"),
        ({"license": 3}, "string"),
        ({"tags": [1]}, "strings"),
        ({"metrics": 1}, "mapping"),
    ],
)
def test_mistakes_in_a_card_are_named(card: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=word):
        made().save_pretrained(tmp_path / "model", card=card)
    assert not (tmp_path / "model").exists()


def test_the_hub_reads_the_front_matter() -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = Card(license="mit", tags=('a "b": #c',)).render(
        "x", {"plugins": {}, "bfn-toolkit": "1", "torch": "2"}, 3, None
    )
    data = hub.ModelCard(text).data
    assert (data.library_name, data.license, data.tags[-1]) == ("bfn-toolkit", "mit", 'a "b": #c')


# --- runs, the command and the Hub


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    small = ["--training.steps", "4", "--dataset.count", "50", "--network.width", "16", "--training.ema_decay", "0.9"]
    assert main(["train", "--out", str(path), *small]) == 0
    return path


def test_export_writes_the_model_of_a_run_with_its_card(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared"
    assert main(["export", str(run), "--out", str(out), "--license", "mit"]) == 0
    assert capsys.readouterr().out.split()[-1] == str(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
    ]
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    text = (out / "README.md").read_text()
    scores = json.loads((run / "evaluation.json").read_text())
    for word in (
        "bfn train --config",
        "| samples.w1 |",
        f"| loss_nats | {scores['loss_nats']:.6g} |",
        "moving average",
        "width = 16",
    ):
        assert word in text
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(out), "--weights", "raw", "--force"]) == 0
    assert "## Evaluation" not in (out / "README.md").read_text(), "another's scores are not those of these weights"


@pytest.mark.parametrize(("arguments", "status"), [(["nowhere", "--out", "x"], 4), (["nowhere"], 2)])
def test_mistakes_of_export_are_named(
    arguments: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == status
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["export", "import-checkpoint"])
def test_help_ends_in_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"bfn {command}" in capsys.readouterr().out.split("Example")[1]


def test_a_trained_model_can_be_saved_at_once(tmp_path: Path) -> None:
    experiment = Experiment.from_mapping(
        {"dataset": {"name": "toy2d", "count": 60}, "training": {"steps": 2}}, base="default"
    )
    assert isinstance(experiment.dataset, Toy2d)
    kept = train(experiment)
    kept.model.save_pretrained(tmp_path / "a")
    kept.save_pretrained(tmp_path / "b")
    assert same(BFN.from_pretrained(tmp_path / "a"), kept.model)
    assert same(BFN.from_pretrained(tmp_path / "b"), kept.model)


class StubApi:
    """The Hub's client as far as it is used; it keeps what is uploaded."""

    calls: list[tuple[str, Any]]
    fails = False

    def __init__(self, token: str | None = None) -> None:
        self.calls.append(("token", token))

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        self.calls.append((repo_id, (private, exist_ok)))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.fails:
            raise OSError("no route to host")
        self.calls.append(("files", sorted(path.name for path in Path(folder_path).iterdir())))
        self.calls.append(("card", (Path(folder_path) / "README.md").read_text()))


class StubSnapshot:
    """A download of the repository user/moons into a cache of links, as the Hub's client makes it."""

    def __init__(self, api: type[StubApi], folder: Path) -> None:
        self.api = api
        self.cache = folder

    def __call__(self, repo_id: str, *, revision: str | None, allow_patterns: Sequence[str]) -> str:
        self.api.calls.append((repo_id, revision))
        if self.api.fails or repo_id != "user/moons":
            raise OSError("no route to host")
        blobs, snapshot = self.cache / "blobs", self.cache / "snapshot"
        made().save_pretrained(blobs)
        (blobs / "train.py").write_text("raise SystemExit")
        snapshot.mkdir(parents=True)
        for name in allow_patterns:
            (snapshot / name).symlink_to(blobs / name)
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[StubApi]:
    api = type("Api", (StubApi,), {"calls": []})
    module = types.ModuleType("huggingface_hub")
    module.HfApi = api  # type: ignore[attr-defined]
    module.snapshot_download = StubSnapshot(api, tmp_path / "cache")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return api


def test_push_uploads_what_save_writes(hub: type[StubApi]) -> None:
    assert made().push_to_hub("user/moons", card={"license": "mit"}, token="secret") == "https://hub/user/moons"
    calls = dict(hub.calls)
    assert calls["token"] == "secret"
    assert calls["user/moons"] == (True, True)
    assert calls["files"] == ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    assert 'from_pretrained("moons")' in calls["card"]
    assert "secret" not in calls["card"]


def test_a_push_that_fails_is_told(hub: type[StubApi]) -> None:
    hub.fails = True
    with pytest.raises(ResourceError, match=r"cannot push to user/moons.*no route to host"):
        made().push_to_hub("user/moons")


def test_a_repository_is_fetched(hub: type[StubApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert same(BFN.from_pretrained("user/moons", revision="v1"), made())
    assert hub.calls == [("user/moons", "v1")]


def test_folders_are_never_asked_of_the_hub(
    hub: type[StubApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    for name in ("user/moons", "nowhere; rm -rf x/y", "a/b/c", "./user/moons", Path("nobody/moons"), "moons"):
        with pytest.raises(RunDirectoryError, match="is not a directory"):
            BFN.from_pretrained(name)
    made().save_pretrained("user/moons")
    assert same(BFN.from_pretrained("user/moons"), made())
    assert main(["sample", "nobody/moons", "-n", "1"]) == 4
    assert "is not a run directory" in capsys.readouterr().err
    assert hub.calls == []


def test_a_repository_that_cannot_be_fetched_is_told(
    hub: type[StubApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResourceError, match=r"cannot fetch nobody/moons from .*: OSError: no route to host"):
        BFN.from_pretrained("nobody/moons")


def test_without_the_client_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (made().push_to_hub, BFN.from_pretrained):
        with pytest.raises(ResourceError, match="pip install huggingface-hub"):
            ask("user/moons")
