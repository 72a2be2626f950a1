"""The wheel, installed in a fresh environment, brings the command and the built-in plugins."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing in it but the wheel; dependencies are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file is searched last, and the .pth files in it (our own editable install) are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv" / "bin"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, cwd=cwd, env=environment)
    return done.stdout


def test_plugins_of_the_wheel_are_found(fresh: Path, tmp_path: Path) -> None:
    listing = json.loads(run(fresh / "bfn", "plugins", "--json", cwd=tmp_path))
    names = {(line["kind"], line["name"]) for line in listing["plugins"] if line["distribution"] == "bfn-toolkit"}
    assert {("family", "gaussian"), ("network", "siren"), ("dataset", "gaussian-mixture")} <= names
    assert listing["failures"] == []


def test_the_wheel_is_what_is_imported(fresh: Path, tmp_path: Path) -> None:
    code = "import bfn_toolkit, bfn_siren; print(bfn_toolkit.__file__); print(bfn_siren.__file__)"
    files = run(fresh / "python", "-c", code, cwd=tmp_path).split()
    assert all(Path(file).is_relative_to(fresh.parent) for file in files)


def test_the_wheel_brings_the_page_of_a_report(fresh: Path) -> None:
    (page,) = fresh.parent.glob("lib/python*/site-packages/bfn_toolkit/reports/page/page.html")
    assert page.read_bytes() == (ROOT / "bfn_toolkit" / "reports" / "page" / "page.html").read_bytes()


def test_the_wheel_trains(fresh: Path, tmp_path: Path) -> None:
    options = ["--training.steps", "3", "--dataset.count", "20", "--no-report"]
    run(fresh / "bfn", "train", "--out", "run", *options, cwd=tmp_path)
    assert run(fresh / "bfn", "sample", "run", "-n", "5", "--steps", "2", "--out", "x.csv", cwd=tmp_path) == "x.csv\n"
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 6


PROJECT = """
import numpy as np
from bfn_categorical import Categorical
from bfn_gaussian import DataHead, Gaussian
from bfn_siren import Siren
from bfn_toy2d import Toy2d
from bfn_toolkit import BFN, ContinuousTimeLoss, Experiment, Family, NetworkBuilder, Training, __version__, train

model = BFN(Gaussian(site_shape=(2,), head=DataHead()), Siren(width=16))
samples = model.sample(4, sampler="ancestral")
made = Experiment(Toy2d(), Gaussian((2,)), Siren(), ContinuousTimeLoss(), Training(lr=1e-3))
network: NetworkBuilder = made.network
rate: float = made.training.lr
version: str = __version__
Siren(widht=16)  # call-arg
Siren(width="16")  # arg-type
Gaussian(site_shape=2)  # arg-type
Categorical(clases=3)  # call-arg
BFN(Siren(), Siren())  # arg-type
model.sample(4, n_steps="3")  # arg-type
Training(lr="fast")  # arg-type
made.training.lr.upper()  # attr-defined
made.network.widht  # attr-defined
Experiment(Siren(), Gaussian(), Siren(), ContinuousTimeLoss())  # arg-type
train(made, progres=True)  # call-arg
"""


def test_a_type_checker_sees_the_plugins_of_the_wheel(fresh: Path, tmp_path: Path) -> None:
    """Without torch, which would take a minute: each wrong line, and no other, has the error that it names."""
    (tmp_path / "project.py").write_text(PROJECT)
    skipped = "[mypy]\nstrict = true\n[mypy-torch.*,numpy.*,scipy.*,accelerate.*,pyarrow.*]\nfollow_imports = skip\n"
    (tmp_path / "mypy.ini").write_text(skipped + "follow_imports_for_stubs = true\n")
    command = [sys.executable, "-m", "mypy", "--python-executable", str(fresh / "python"), "project.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = re.findall(r"project.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    lines = enumerate(PROJECT.splitlines(), 1)
    assert found == [(str(n), line.partition("# ")[2]) for n, line in lines if "# " in line], done.stdout
