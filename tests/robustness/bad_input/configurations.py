"""C: configuration files, and the values of options."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from faults.tiny import experiment

from bad_input.cases import Case, Content, Word, case
from bad_input.contents import X, csv_of, npy_of
from bad_input.data import SMALL, table
from bfn_toolkit import BFN, Experiment
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.directory import check_out
from fake_dists import FakeDists


def toml(id: str, text: Content, *words: Word, status: int = 2, name: str = "x.toml") -> Case:
    """Training by a file."""
    return case(id, f"train --config {name} --out run", status, *words, files={name: text})


def training(id: str, line: str, *words: Word) -> Case:
    """Training by a file with one wrong line in [training]."""
    key = line.split()[0]
    return toml(id, f"[training]\n{line}\n", f"x.toml:2: training.{key}: ", *words)


def read(id: str, text: str | bytes) -> Case:
    """A file that looks odd and is right."""
    return case(id, "train --config x.toml --options", 0, files={"x.toml": text}, prints=_three_steps)


def _three_steps(printed: str) -> None:
    if "steps = 3" not in printed.splitlines():
        raise ValueError("the file was not read")


def sparse(path: Path) -> None:
    """A file of 1 GB that takes no space."""
    with path.open("wb") as file:
        file.truncate(10**9)


@contextlib.contextmanager
def broken_dist() -> Iterator[None]:
    """A distribution with a plugin that cannot be imported."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        fakes = FakeDists(Path(name))
        fakes("bfn-myflow", {"myflow": "fake_myflow"}, {"fake_myflow": "import no_such_module"}, version="2.5")
        patch.setattr(sys, "path", [name, *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        default_registry.cache_clear()
        try:
            yield
        finally:
            default_registry.cache_clear()


@contextlib.contextmanager
def unreadable() -> Iterator[None]:
    """Configurations may not be opened, not even by root."""

    opened = os.open

    def refuse(path: object, *arguments: Any, **options: Any) -> int:
        if str(path) == "x.toml":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)  # type: ignore[arg-type]

    refuse.__code__ = refuse.__code__.replace(co_filename="<system>")  # which is no code of a user
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield


@attrs.frozen
class Folder:
    """A data set that reads a folder."""

    path: Path


def half_precision_model() -> BFN:
    whole = experiment()
    return BFN(whole.family, whole.network).bfloat16()


def as_it_is(run: Path) -> None:
    """Nothing is done to the run."""


CLASSES = csv_of([[i % 30] for i in range(300)], "a")

CASES: list[Case] = [
    training("C1-unknown-key", "stpes = 5", "did you mean 'steps'?"),
    toml("C1-unknown-table", "[trainig]\nsteps = 5\n", "x.toml:1: trainig: unknown key; did you mean 'training'?"),
    toml(
        "C2-three-errors",
        'seed = -1\n[training]\nsteps = "5"\n[network]\nwidht = 3\n',
        "x.toml:1: seed: ",
        "x.toml:3: training.steps: ",
        "x.toml:5: network.widht: ",
    ),
    training("C3-steps-as-string", 'steps = "5"', 'expected an integer, got "5" (a string)', "without quotes"),
    training("C4-steps-5.7", "steps = 5.7", "expected an integer, got 5.7"),
    training("C4-steps-5.0", "steps = 5.0", "expected an integer, got 5.0"),
    training("C5-steps-true", "steps = true", "expected an integer, got true (a boolean)"),
    training("C6-steps-negative", "steps = -5", "expected 1 <= steps", "got -5"),
    training("C6-steps-0", "steps = 0", "expected 1 <= steps", "got 0"),
    training("C7-steps-10**30", f"steps = {10**30}", "steps <= 1000000000000"),
    training("C8-lr-nan", "lr = nan", "finite", "got nan"),
    training("C8-lr-inf", "lr = inf", "finite", "got inf"),
    training("C8-lr-1e999", "lr = 1e999", "finite", "got inf"),
    training("C8-lr-minus-inf", "lr = -inf", "finite", "got -inf"),
    toml("C8-means-inf", "[dataset]\nmeans = [0.1, inf]\n", "x.toml:1: dataset: means must", "finite"),
    toml("C10-std-negative", "[dataset]\nstd = -0.1\n", "x.toml:1: dataset: std must"),
    toml("C10-no-means", "[dataset]\nmeans = []\n", "x.toml:1: dataset: means must"),
    training("C9-lr-as-string", 'lr = "1e-4"', "expected a number", "(a string)", "write 1e-4 without quotes"),
    training("C10-lr-0", "lr = 0", "expected 0 < lr <= 1000, got 0"),
    training("C10-lr-negative", "lr = -1", "expected 0 < lr <= 1000, got -1"),
    training("C10-lr-1e6", "lr = 1e6", "expected 0 < lr <= 1000, got 1000000"),
    *(
        toml(f"C11-seed-{name}", f"seed = {value}\n", "x.toml:1: seed: ", said)
        for name, value, said in (
            ("nan", "nan", "expected an integer, got nan"),
            ("negative", "-1", "expected 0 <= seed <= 2**63 - 1, got -1"),
            ("2**64", 2**64, f"expected 0 <= seed <= 2**63 - 1, got {2**64}"),
            ("1.5", "1.5", "expected an integer, got 1.5"),
        )
    ),
    toml(
        "C12-family",
        'family = "categorial"\n',
        "x.toml:1: family",
        "Did you mean 'categorical'? Installed: ",
        "gaussian",
    ),
    toml("C12-head", '[family]\nhead = "skp"\n', "x.toml:2: family.head", "Did you mean 'skip'? Installed: "),
    toml("C12-network", 'network = "siern"\n', "Did you mean 'siren'? Installed: "),
    toml("C12-optimizer", '[training]\noptimizer = "adm"\n', "Did you mean 'adam'?"),
    case(
        "C12-optimizer-without-its-needs",
        "train --training.optimizer sgd --training.optimizer_options {nesterov=true}",
        2,
        "SGD does not work with nesterov",
    ),
    case("C12-preset", "train --preset psot", 2, "no preset named 'psot'. Did you mean 'post'?"),
    case(
        "C13-broken-plugin",
        "train --config x.toml --out run",
        5,
        "family 'myflow'",
        "bfn-myflow",
        "2.5",
        "ModuleNotFoundError",
        "no_such_module",
        files={"x.toml": 'family = "myflow"\n'},
        around=broken_dist,
    ),
    *(
        toml(f"C14-sigma_1-{value}", f"[family]\nsigma_1 = {value}\n", "x.toml:2: family.sigma_1: ", said)
        for value, said in (
            ("0", "expected 1e-08 <= sigma_1 < 1, got 0.0"),
            ("1", "expected 1e-08 <= sigma_1 < 1, got 1.0"),
            ("-0.1", "expected 1e-08 <= sigma_1 < 1, got -0.1"),
            ("2", "expected 1e-08 <= sigma_1 < 1, got 2.0"),
            ("nan", "expected a finite number, got nan"),
            ("inf", "expected a finite number, 1e-08 <= sigma_1 < 1, got inf"),
        )
    ),
    *(
        toml(
            f"C{row}-{key}-{value}",
            f'dataset = "markov"\n[family]\nname = "categorical"\n{key} = {value}\n',
            f"x.toml:4: family.{key}: ",
            said,
        )
        for row, key, value, said in (
            (15, "beta_1", "0", "expected beta_1 > 0, got 0.0"),
            (15, "beta_1", "-1", "expected beta_1 > 0, got -1.0"),
            (15, "beta_1", "inf", "expected a finite number, beta_1 > 0, got inf"),
            (15, "beta_1", "nan", "finite"),
            (16, "classes", "1", "expected classes >= 2, got 1"),
            (16, "classes", "0", "expected classes >= 2, got 0"),
        )
    ),
    table(
        "C17-data-of-more-classes",
        "x.csv",
        CLASSES,
        3,
        "classes 0..26, found ",
        "at index (",
        options="--family.classes 27",
        dataset="classes-array",
    ),
    training("C18-ema_decay-1.0", "ema_decay = 1.0", "expected 0 <= ema_decay < 1, got 1"),
    training("C18-ema_decay-1.5", "ema_decay = 1.5", "expected 0 <= ema_decay < 1, got 1.5"),
    training("C19-batch_size-0", "batch_size = 0", "expected 1 <= batch_size"),
    table("C19-batch-larger-than-data", "x.csv", csv_of(X), 0, "run:", options="--training.accumulate 1"),
    training("C20-precision-fp8", 'precision = "fp8"', "expected one of fp32, bf16, fp16, got 'fp8'"),
    training("C20-parallel-dpp", 'parallel = "dpp"', "expected one of ddp, fsdp", "did you mean 'ddp'?"),
    toml("C21-no-such-device", '[training]\ndevice = "cuda:77"\n', "'cuda:77'; found: cpu", status=7),
    training("C21-device-gpu", 'device = "gpu"', "expected one of auto, cpu, cuda"),
    toml("C22-training-is-3", "training = 3\n", "x.toml:1: training: expected a table, got 3"),
    toml("C22-network-is-3", "network = 3\n", "x.toml:1: network: expected a network: a name, or a table with a name"),
    toml("C23-key-twice", "[training]\nlr = 1\n\nlr = 2\n", "x.toml:4:", "first set on line 2"),
    toml("C23-table-twice", "[network]\n[loss]\n[network]\n", "x.toml:3:", "first set on line 1"),
    case(
        "C24-empty-and-alone",
        lambda: Experiment.from_toml("x.toml", base=None),
        2,
        "dataset: missing",
        "family: missing",
        "network: missing",
        "loss: missing",
        files={"x.toml": ""},
    ),
    case("C24-empty-above-the-default", "train --config x.toml --options", 0, files={"x.toml": ""}, prints=len),
    toml("C25-folder", lambda path: path.mkdir(), "x.toml: cannot be read: not a regular file, but a folder"),
    case("C25-missing", "train --config x.toml", 2, "x.toml: cannot be read: No such file"),
    toml("C25-pipe", os.mkfifo, "x.toml: cannot be read: not a regular file, but a FIFO"),
    case(
        "C25-unreadable",
        "train --config x.toml",
        2,
        "cannot be read: Permission denied",
        files={"x.toml": ""},
        around=unreadable,
    ),
    case("C25-empty-name", ["train", "--config", ""], 2, "--config", "expected a path, got nothing"),
    case("C25-nul-in-name", ["train", "--config", "a\0b"], 2, "--config", "NUL"),
    case("C25-long-name", ["train", "--config", "x" * 5000], 2, "--config", "too long"),
    toml("C26-not-utf-8", b"seed = 1\n# \xff\n", "x.toml: not UTF-8 at byte 11"),
    toml("C26-utf-16", "seed = 1\n".encode("utf-16"), "x.toml: not UTF-8 at byte 0"),
    toml("C26-nul", "seed = 1\n\x00\n", "x.toml:2:1: not TOML"),
    read("C26-byte-order-mark", "\ufefftraining.steps = 3\n"),
    read("C26-crlf", "[training]\r\nsteps = 3\r\n"),
    read("C26-no-last-newline", "[training]\nsteps = 3"),
    toml("C27-1-GB", sparse, "x.toml: larger than 1 MB"),
    toml("C28-100000-arrays", "a = " + "[" * 100_000, "x.toml", "nested too deeply"),
    toml("C28-10000-tables", "a = " + "{a = " * 10_000, "x.toml", "nested too deeply"),
    toml("C28-dotted-key", "a." * 200_000 + "a = 1", "x.toml:1: nested too deeply"),
    toml("C28-integer-of-5000-digits", "seed = " + "9" * 5000, "x.toml: ", "limit"),
    toml("C29-yaml", "seed: 1e-4\n", "x.yaml: expected a TOML file, found .yaml", "1e-4", name="x.yaml"),
    toml("C29-yaml-in-a-toml-file", "seed: 1\n", "x.toml:1:", "not TOML"),
    toml("C30-json", '{"seed": NaN, "seed": 1}', "x.json: expected a TOML file, found .json", name="x.json"),
    toml("C30-json-in-a-toml-file", '{"seed": NaN}', "x.toml:1:", "not TOML"),
    toml("C31-include", 'include = "../../etc/passwd"\n', "x.toml:1: include: unknown key"),
    toml(
        "C31-variable",
        '[dataset]\nname = "array"\npath = "${HOME}/x.csv"\n',
        "${HOME}/x.csv: cannot be read: No such file",
        status=3,
    ),
    case(
        "C32-out-in-the-folder-of-the-data",
        lambda: check_out(Path("data/run"), dataset=Folder(Path("data"))),
        2,
        "data/run and the data in data overlap",
        files={"data/x": ""},
    ),
    case(
        "C32-data-in-the-run-that-is-replaced",
        "train --dataset array --dataset.path run/samples.npy --dataset.scale none --out run --force",
        2,
        "overlap",
        run=lambda run: (run / "samples.npy").write_bytes(npy_of(X)),
    ),
    case(
        "C32-out-is-the-data",
        f"train --dataset array --dataset.path x.csv {SMALL} --force".replace("--out run", "--out x.csv"),
        2,
        "overlap",
        files={"x.csv": csv_of(X)},
    ),
    case("C32-out-below-a-file", f"train {SMALL}/run", 7, "run/run", files={"run": ""}),
    case("C33-out-has-a-run", "train --out run", 2, "run holds a run already", "--resume run", run=as_it_is),
    case("C33-out-has-other-files", "train --out run --force", 2, "not a run directory", files={"run/thesis": "mine"}),
    case("C33-out-is-a-file", "train --out run --force", 2, "run exists and is not a directory", files={"run": ""}),
    case("C33-resume-with-out", "train --resume run --out other", 2, "--resume", "leave out", run=as_it_is),
    case("C34-empty", ["train", "--out", ""], 2, "--out", "expected a path, got nothing"),
    case("C34-300-characters", ["train", "--out", "x" * 300], 2, "--out", "too long"),
    case("C34-nul", ["train", "--out", "a\0b"], 2, "--out", "NUL"),
    case("C34-option", ["train", "--out", "-rf"], 2, "'-rf' cannot be the name of a run directory"),
    case("C34-300-characters-in-python", lambda: check_out(Path("x" * 300)), 2, "cannot be the name"),
    case("C34-nul-in-python", lambda: check_out(Path("a\0b")), 2, "cannot be the name"),
    toml(
        "C35-warmup-longer-than-steps",
        "[training]\nsteps = 10\nwarmup = 11\n",
        "x.toml:3: training.warmup: ",
        "warmup = 11 is longer than steps = 10",
    ),
    toml("C36-n_steps-1e5", '[loss]\nname = "discrete-time"\nn_steps = 1e5\n', "x.toml:3: loss.n_steps: expected an"),
    toml("C36-n_steps-0", '[loss]\nname = "discrete-time"\nn_steps = 0\n', "x.toml:3: loss.n_steps: expected 1 <="),
    case("C36-state-in-bf16", lambda: half_precision_model().sample(2, n_steps=2), 2, "bfloat16", "state is float32"),
    toml("C37-valid_fraction-1", "[dataset]\nvalid_fraction = 1.0\n", "x.toml:2: dataset.valid_fraction: ", "< 1"),
    case(
        "C37-no-validation-rows",
        "train --dataset.count 1 --dataset.valid_fraction 0.01",
        3,
        "valid_fraction=0.01 leaves no validation rows",
    ),
]
