"""``bfn new-plugin``: what it writes installs, is found, obeys its laws and trains, in an environment of its own."""

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from bfn_gaussian_mixture import GaussianMixture
from bfn_siren import Siren
from bfn_toolkit import ContinuousTimeLoss, Experiment, Training, likelihood_bound, seeded, train, w1
from bfn_toolkit.cli import main
from bfn_toolkit.errors import ConfigError, ResourceError
from bfn_toolkit.registry.registry import Registry
from bfn_toolkit.registry.scaffold import SCAFFOLDS, TEMPLATES, new_plugin, render
from fake_dists import FakeDists, fake_dists

ROOT = Path(__file__).parents[2]
NAMES = {"family": "ring", "network": "my-net", "dataset": "points2", "sampler": "euler"}

fake_dist = pytest.fixture(fake_dists)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BFN_"))}
    environment["OMP_NUM_THREADS"] = "1"
    words = list(map(str, command))
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with bfn-toolkit from its wheel and a new plugin of each kind; the rest is borrowed."""
    folder = tmp_path_factory.mktemp("new")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file is searched last, and the .pth files in it (our own editable install) are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    install = [sys.executable, "-m", "pip", "--python", folder / "venv/bin/python", "install", "--quiet", "--no-deps"]
    run(*install, wheel, cwd=folder)
    in_one_process(folder, *(f"new-plugin {name} --kind {kind}" for kind, name in NAMES.items()), cwd=folder)
    run(*install, "--no-build-isolation", *(folder / f"bfn-{name}" for name in NAMES.values()), cwd=folder)
    return folder


def bfn(fresh: Path, *arguments: str, cwd: Path) -> str:
    return run(fresh / "venv/bin/bfn", *arguments, cwd=cwd)


def in_one_process(fresh: Path, *commands: str, cwd: Path) -> None:
    """Runs command lines of ``bfn`` in one process, which imports torch once."""
    calls = "".join(f"assert main({command.split()}) == 0, {command!r}\n" for command in commands)
    run(fresh / "venv/bin/python", "-c", f"from bfn_toolkit.cli import main\n{calls}", cwd=cwd)


def test_new_plugins_are_listed(fresh: Path, tmp_path: Path) -> None:
    listing = json.loads(bfn(fresh, "plugins", "--json", cwd=tmp_path))
    mine = {(line["kind"], line["name"]): line for line in listing["plugins"] if line["distribution"] != "bfn-toolkit"}
    assert set(mine) == set(NAMES.items())
    assert mine["network", "my-net"]["module"] == "bfn_my_net"
    assert mine["network", "my-net"]["distribution"] == "bfn-my-net"
    assert listing["failures"] == []
    assert listing["problems"] == []


def test_new_plugins_pass_their_own_tests_unedited(fresh: Path) -> None:
    folders = [f"bfn-{name}" for name in NAMES.values()]
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist")
    printed = run(fresh / "venv/bin/python", "-m", "pytest", *options, *folders, cwd=fresh)
    assert re.search(r"^\d+ passed in", printed, re.M), printed
    files = [fresh / f"bfn-{name}" / "tests" / f"test_{name.replace('-', '_')}.py" for name in NAMES.values()]
    assert all(file.is_file() for file in files)


def test_new_plugins_train_and_sample_by_name(fresh: Path, tmp_path: Path) -> None:
    few = "--training.steps 3 --training.batch_size 64 --no-report"
    in_one_process(
        fresh,
        f"train --family ring --out angles {few}",
        f"train --network my-net --dataset points2 --out plane {few}",
        "sample angles --sampler euler -n 5 --steps 2 --out angles.csv",
        cwd=tmp_path,
    )
    experiment = tomllib.loads((tmp_path / "plane/experiment.toml").read_text())
    assert (experiment["network"]["name"], experiment["dataset"]["name"]) == ("my-net", "points2")
    assert experiment["family"]["site_shape"] == [2]
    assert tomllib.loads((tmp_path / "angles/experiment.toml").read_text())["family"]["name"] == "ring"
    assert len((tmp_path / "angles.csv").read_text().splitlines()) == 6


def test_a_new_family_learns_the_default_data_and_prices_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bfn_ring.py").write_text(render("ring", "family")["bfn_ring.py"])
    monkeypatch.syspath_prepend(tmp_path)
    ring = importlib.import_module("bfn_ring")
    data, training = GaussianMixture(), Training(steps=150, batch_size=512, lr=0.01)
    trained = train(Experiment(data, ring.Ring(), Siren(width=32), ContinuousTimeLoss(), training)).model
    with seeded(0):
        samples = trained.sample(1000, n_steps=50)
    assert w1(samples, data.split("all").x) < 0.1  # 0.02 for fresh data, 1.2 for angles at random
    bound = likelihood_bound(trained, data.split("test"), draws=1).total
    # In nats for cells of 1/128 turn; half of 128 cells at random would cost 4.2 nats.
    assert 2.0 < bound.value < 4.2
    sys.modules.pop("bfn_ring")


def test_new_plugins_pass_the_linter(fresh: Path) -> None:
    folders = [f"bfn-{name}" for name in NAMES.values()]
    run(sys.executable, "-m", "ruff", "check", "--no-cache", *folders, cwd=fresh)
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *folders, cwd=fresh)


@pytest.mark.parametrize("kind", SCAFFOLDS)
@pytest.mark.parametrize("name", ["ring", "my-net-2", "a-name-of-some-length"])
def test_the_module_is_short_and_nothing_of_the_template_is_left(kind: str, name: str) -> None:
    files = render(name, kind)
    module = files[f"bfn_{name.replace('-', '_')}.py"]
    assert len(module.splitlines()) <= 60
    assert not re.search(r"my.?part|MyPart|my-kind", "".join([*files, *files.values()]))
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == f"bfn-{name}"
    assert project["entry-points"]["bfn_toolkit"] == {name: f"bfn_{name.replace('-', '_')}"}


def test_every_template_belongs_to_a_kind() -> None:
    assert {path.parent.name for path in TEMPLATES.glob("*/*")} == set(SCAFFOLDS)
    assert all(path.suffix == ".template" for path in TEMPLATES.rglob("*.*"))


@pytest.mark.parametrize(
    "name", ["", "Ring", "ring_two", "ring--two", "-ring", "ring-", "2ring", "r\u00edng", "../ring"]
)
def test_a_name_that_no_part_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lower-case letters, digits and single hyphens"):
        new_plugin(name, "network", tmp_path / "out", Registry())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tensor", "entry", "channel-family", "none", "exception"])
def test_a_name_that_would_hide_another_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' would name a class"):
        new_plugin(name, "family", tmp_path / "out", Registry())


@pytest.mark.parametrize(("name", "kind"), [("siren", "network"), ("siren", "dataset"), ("geometric", "family")])
def test_the_name_of_an_installed_part_is_refused(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-plugin", name, "--kind", kind, "--out", str(tmp_path / "out")]) == 2
    assert re.search(rf"the name '{name}' is taken by the \w+ of bfn-toolkit", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a module bfn_toolkit is installed"):
        new_plugin("toolkit", "network", tmp_path / "out", Registry())


def test_the_name_of_a_broken_plugin_is_refused(fake_dist: FakeDists, tmp_path: Path) -> None:
    fake_dist.part("fake-dist", "broken", "bfn_networks", "broken", before="1 / 0")
    with pytest.raises(ConfigError, match=r"taken by the plugin fake-dist 1\.0"):
        new_plugin("broken", "network", tmp_path / "out", Registry.from_entry_points())


def test_an_installed_plugin_of_this_name_is_written_anew_with_force(fake_dist: FakeDists, tmp_path: Path) -> None:
    fake_dist("bfn-mine", {"mine": "bfn_mine"}, {"bfn_mine": render("mine", "network")["bfn_mine.py"]})
    registry = Registry.from_entry_points()
    with pytest.raises(ConfigError, match=r"taken by the network of bfn-mine 1\.0"):
        new_plugin("mine", "network", tmp_path / "out", registry)
    assert len(new_plugin("mine", "network", tmp_path / "out", registry, force=True)) == 4


def test_a_folder_that_holds_something_is_refused_and_with_force_only_written_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "README.md").write_text("old")
    with pytest.raises(ConfigError, match="is not empty"):
        new_plugin("ring", "network", tmp_path, Registry())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "notes.txt"]
    new_plugin("ring", "network", tmp_path, Registry(), force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "README.md").read_text().startswith("# bfn-ring\n")


def test_an_empty_folder_is_written_into(tmp_path: Path) -> None:
    written = new_plugin("ring", "sampler", tmp_path, Registry())
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="not a directory"):
        new_plugin("ring", "network", tmp_path / "out", Registry(), force=True)
    with pytest.raises(ResourceError, match="cannot write"):
        new_plugin("ring", "network", tmp_path / "out" / "below", Registry())
    assert (tmp_path / "out").read_text() == "mine"


def test_what_to_type_next_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "ring", "--kind", "family"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "bfn-ring/tests/test_ring.py"
    lines = ("pip install -e 'bfn-ring[test]'", "bfn check ring", "pytest bfn-ring", "bfn train --family ring --out ")
    assert [line for line in lines if f"  {line}" not in printed.err] == []


@pytest.mark.parametrize(
    "arguments", [["ring"], [], ["ring", "--kind", "head"], ["ring", "--kind", "family", "--where", "x"]]
)
def test_misuse_is_a_usage_error(arguments: list[str]) -> None:
    assert main(["new-plugin", *arguments]) == 2
