"""Zoos: what is installed is found by name and not executed, and the models of bfn-zoo are what their cards say."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bfn_gaussian import Gaussian
from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import BFN, seeded, w1
from bfn_toolkit.cli import main
from bfn_toolkit.errors import PluginError, RunDirectoryError
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.sharing.export import open_model
from bfn_toolkit.sharing.zoo import ZooModel, card_of, located, zoos

ROOT = Path(__file__).parents[2]
CARDS = tomllib.loads((ROOT / "zoo" / "cards.toml").read_text()) if (ROOT / "zoo").exists() else {}
MOST = 10_000_000  # bytes of all models together

Install = Callable[[str, str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes distributions with one zoo each, in a folder on sys.path."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def make(distribution: str, zoo: str, package: str) -> Path:
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bfn_toolkit.zoos]\n{zoo} = {package}\n")
        importlib.invalidate_caches()
        return site.joinpath(*package.split("."))

    return make


def save(folder: Path, **card: str) -> BFN:
    """A small model in a folder."""
    with seeded(3, folder.name):
        model = BFN(Gaussian(site_shape=(2,)), Siren(width=8))
    model.save_pretrained(folder, card=card)
    return model


@pytest.fixture
def theirs(install: Install) -> Path:
    """A stranger's zoo of one model, in a package that must not be imported."""
    package = install("their-zoo", "theirs", "their_models.small")
    save(package / "ring", summary="a ring", data_license="CC0", quality="W1 0.1")
    (package / "notes").mkdir()
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    return package


def test_a_zoo_of_a_stranger_is_opened_by_name_and_not_imported(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert zoos()["theirs"].models == {"ring": theirs / "ring"}
    expected = BFN.from_pretrained(theirs / "ring").state_dict()
    for model in (BFN.from_pretrained("theirs:ring"), open_model("theirs:ring").model):
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert main(["zoo", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out)["models"] if row["name"].startswith("theirs")]
    size = sum(path.stat().st_size for path in (theirs / "ring").iterdir())
    assert row == {
        "name": "theirs:ring",
        "summary": "a ring",
        "parameters": sum(value.numel() for value in expected.values()),
        "size": size,
        "quality": "W1 0.1",
        "data_license": "CC0",
        "path": str(theirs / "ring"),
    }
    assert main(["zoo", "theirs:ring"]) == 0
    assert capsys.readouterr().out == (theirs / "ring" / "README.md").read_text()
    assert "their_models" not in sys.modules


def test_what_is_drawn_from_a_zoo_is_written_here(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(theirs.rglob("*"))
    assert main(["sample", "theirs:ring", "-n", "3", "--steps", "2"]) == 0
    written = capsys.readouterr().out.strip()
    assert re.fullmatch(r"ring-samples-[\w-]+\.npy", written)
    assert Path(written).is_file()
    assert main(["plot", "theirs:ring", "--steps", "2", "--flows"]) == 0
    assert capsys.readouterr().out == "ring-figures/flows.png\n"
    assert main(["evaluate", "theirs:ring"]) == 3
    assert "a model without data" in capsys.readouterr().err
    assert sorted(theirs.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("thiers:ring", r"no zoo named 'thiers' is installed\. Did you mean 'theirs'\? Installed: theirs"),
        ("theirs:rign", r"zoo 'theirs' has no model named 'rign'\. Did you mean 'ring'\? Its models: ring"),
        ("theirs:notes", "no model named 'notes'"),
        ("theirs:../small/ring", "no model named '../small/ring'"),
        ("theirs:.", "no model named '.'"),
        ("theirs:", "no model named ''"),
        ("theirs:ring/", "no model named 'ring/'"),
        ("t:ring", "t:ring is not a directory"),  # a drive
        ("./theirs:ring", "is not a directory"),
    ],
)
def test_other_names_are_refused_in_words(
    name: str, told: str, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError, match=told):
        BFN.from_pretrained(name)


def test_a_folder_of_that_name_is_meant(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = save(tmp_path / "theirs:ring")
    assert located("theirs:ring") == Path("theirs:ring")
    with seeded(0):
        expected = mine.eval().sample(2, n_steps=2)
    with seeded(0):
        assert torch.equal(BFN.from_pretrained("theirs:ring").sample(2, n_steps=2), expected)
    assert main(["sample", "theirs:ring", "-n", "1", "--steps", "1", "--out", "x.npy"]) == 0


def test_the_line_that_installs_our_zoo_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bfn_toolkit.sharing.zoo.entry_points", lambda group: [])
    assert main(["sample", "zoo:digits"]) == 4
    assert "pip install bfn-zoo, or in a checkout of bfn-toolkit: pip install ./zoo" in capsys.readouterr().err
    assert main(["zoo"]) == 0
    assert "pip install bfn-zoo" in capsys.readouterr().err


def test_zoos_that_cannot_be_found_or_told_apart_are_errors(theirs: Path, install: Install) -> None:
    install("empty", "empty", "nowhere")
    with pytest.raises(PluginError, match=r"zoo 'empty': the package nowhere of empty cannot be found; .* empty"):
        located("empty:ring")
    install("other-zoo", "theirs", "other_models")
    with pytest.raises(PluginError, match=r"(their-zoo and other-zoo|other-zoo and their-zoo) both bring .* 'theirs'"):
        located("theirs:ring")


def test_a_card_that_cannot_be_read_leaves_gaps_in_the_list(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (theirs / "ring" / "README.md").write_bytes(b'---\nsummary: "a\nquality: [1]\ndata_license: \xff\n---\n')
    (theirs / "ring" / "model.safetensors").write_bytes(b"\xff" * 40)
    facts = ZooModel.of("theirs:ring", theirs / "ring")
    assert (facts.summary, facts.quality, facts.data_license, facts.parameters) == ("", "", "", None)
    (theirs / "ring" / "README.md").unlink()
    assert main(["zoo"]) == 0
    assert re.search(r"(?m)^theirs:ring +- +\? ", capsys.readouterr().out)


# --- the zoo of this repository


@pytest.fixture(scope="module")
def models() -> dict[str, Path]:
    pytest.importorskip("bfn_zoo")
    return zoos()["zoo"].models


def test_every_recipe_has_a_card_and_a_model(models: dict[str, Path]) -> None:
    recipes = {path.stem for path in (ROOT / "zoo" / "recipes").iterdir()}
    assert recipes == CARDS.keys() == models.keys()
    assert len(models) >= 12
    assert sum(path.stat().st_size for folder in models.values() for path in folder.iterdir()) <= MOST


@pytest.mark.parametrize("name", CARDS)
def test_a_model_opens_and_draws_what_its_card_says(name: str, models: dict[str, Path]) -> None:
    folder, card = models[name], card_of(models[name])
    facts = ZooModel.of(f"zoo:{name}", folder)
    assert facts.parameters
    assert (facts.summary, facts.data_license) == (CARDS[name]["summary"], CARDS[name]["data_license"])
    assert re.search(r"\d", facts.quality)
    for part in ("Limits:", "Training took", "| seed | 0 |", "## Evaluation", 'license: "mit"', f'"zoo:{name}"'):
        assert part in card
    assert " ".join(CARDS[name]["data"].split()) in card
    experiment = tomllib.loads(card.partition("```toml\n")[2].partition("```")[0])
    recipe = tomllib.loads((ROOT / "zoo" / "recipes" / f"{name}.toml").read_text())
    for table, options in recipe.items():
        assert {name: experiment[table][name] for name in options} == options
    run = open_model(f"zoo:{name}")  # checks the digests
    steps = run.model.family.n_steps or 3
    plan = ResolvedPlan.of(run, SamplePlan(n=2, steps=steps))
    raw = plan.raw(plan.draw())
    again = run.codec.encode(raw)  # refuses what the data could not be
    assert {len(x) for x in (again.values() if isinstance(again, dict) else [again])} == {2}


def test_samples_of_gaussians_are_near_the_distribution(models: dict[str, Path]) -> None:
    """In W1 to fresh rows; as many rows are at 0.01, and standard normal numbers at 0.5."""
    x = GaussianMixture(seed=1).split("test").x
    with seeded(0):
        samples = BFN.from_pretrained("zoo:gaussians").sample(len(x), n_steps=30)
    assert w1(samples, x) < 0.04


def test_labels_are_followed(models: dict[str, Path]) -> None:
    """The nearest training image of a digit mostly has the label that was asked for."""
    from bfn_digits import Digits

    rows = Digits(pixels="bins").split("all")
    label = torch.arange(100) % 10
    with seeded(0):
        samples = BFN.from_pretrained("zoo:digits").sample(100, n_steps=10, condition={"label": label})
    nearest = torch.cdist(samples.flatten(1), rows.x.flatten(1).to(samples)).argmin(1)
    assert float((rows.condition["label"][nearest] == label).float().mean()) > 0.85


def test_the_wheel_has_the_models(models: dict[str, Path], tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT / "zoo", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        files = {f"bfn_zoo/{name}/{path.name}" for name, folder in models.items() for path in folder.iterdir()}
        assert {name for name in names if "dist-info" not in name} == files | {"bfn_zoo/__init__.py"}
        (points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert archive.read(points).decode().split() == ["[bfn_toolkit.zoos]", "zoo", "=", "bfn_zoo"]


def test_the_page_lists_the_models(models: dict[str, Path]) -> None:
    page = (ROOT / "docs" / "how-to" / "zoo.md").read_text()
    rows = [re.split(r" *\| *", line.strip("| ")) for line in page.splitlines() if line.startswith("| `zoo:")]
    facts = [ZooModel.of(f"zoo:{name}", folder) for name, folder in models.items()]
    assert rows == [[f"`{f.name}`", f.summary, f"{f.parameters:,}", f.quality, f.data_license] for f in facts]
