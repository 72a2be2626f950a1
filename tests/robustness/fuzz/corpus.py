"""Sound files, and the commands that read them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import load_file

from bfn_toolkit import Run
from bfn_toolkit.cli import main
from bfn_toolkit.errors import BFNError
from bfn_toolkit.runs.records import EVALUATION as SCORES, write_evaluation
from bfn_toolkit.storage.sealed import SEAL, write_sealed

TINY = "--training.steps 2 --training.batch_size 8 --network.width 4 --training.device cpu --no-report"
ONE = f"--training.steps 1 {TINY.partition(' ')[2].partition(' ')[2]}"
ARRAY = f"train --dataset array --dataset.path {{}} --out new {ONE}"
TABLE = f"train --dataset table --dataset.path {{}} --out new {ONE}"
SAMPLE = "sample {} -n 2 --steps 2 --out x.csv"
RESUME = "train --resume run --no-report"
EXPORT = "export run --out shared"

# As bfn evaluate writes it, which takes seconds.
EVALUATION = {
    "weights": {"kind": "ema", "step": 2, "source": "final"},
    "steps": "inf",
    "split": "test",
    "examples": 3,
    "draws": 4096,
    "loss_nats": 9.25,
    "loss_nats_stderr": 0.4,
    "reconstruction_nats": -6.4,
    "reconstruction_nats_stderr": 0.005,
    "total_nats": 2.9,
    "total_nats_stderr": 0.4,
    "unit": "",
    "parts": {},
    "bits_per_dimension": 2.1,
    "bits_per_dimension_stderr": 0.3,
    "dimension": "dimension",
    "baselines": {},
}


@attrs.frozen
class Target:
    """A file to damage.

    Arguments:
        kind: Name of its kind.
        path: Its path in a folder of the corpus.
        commands: Commands that read it, of which one is run.
    """

    kind: str
    path: str
    commands: Sequence[str]


def make(folder: Path) -> None:
    """Writes the sound files into a folder, which must be the working directory.

    Raises:
        RuntimeError: If a command fails on sound files.
    """
    _write_data(folder)
    _run(f"train --dataset array --dataset.path d.csv --out run --training.checkpoint_every 1 {TINY}")
    _run(f"train --dataset table --dataset.path t.csv --out table {TINY}")
    _run("export run --out exported")
    torch.save({"model": load_file(folder / "run" / "model.safetensors"), "step": 7}, folder / "w.pt")
    write_evaluation(Run.open(folder / "run"), EVALUATION)


def _run(command: str) -> None:
    if status := main(command.split()):
        raise RuntimeError(f"bfn {command}: status {status}")


def _write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).round(3)
    rows = "".join(f"{a},{b},{c}\n" for a, b, c in x.tolist())
    (folder / "d.csv").write_text(f"a,b,c\n{rows}")
    (folder / "d.csv.gz").write_bytes(gzip.compress(f"a,b,c\n{rows}".encode(), mtime=0))
    (folder / "german.csv").write_text(f"1990;1991;1992\n{rows}".replace(",", ";").replace(".", ","))
    (folder / "c.csv").write_text("0,1,2\n" + "".join(f"{i % 3},{i % 2},{i * i % 5}\n" for i in range(24)))
    days = "".join(f"{i % 3};{'NA' if i == 4 else i * i};2020-01-{i + 1:02};{'xy'[i % 2]};{i}%\n" for i in range(24))
    (folder / "t.csv").write_text("k;n;day;name;share\n" + days)
    (folder / "known.csv").write_text("a,b,c\n0.5,,\n,1.0,\n")
    (folder / "known_t.csv").write_text("k;n;day;name;share\n1;;2020-01-04;x;\n")
    np.save(folder / "d.npy", x)
    np.savez(folder / "d.npz", x=x)
    save_file({"x": x}, folder / "d.safetensors")
    _write_parquet(folder / "t.parquet", x)
    (folder / "images").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (4, 4), np.uint8)).save(folder / "images" / f"{i}.png")
    pixels = rng.integers(0, 255, (24, 4, 4), np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 24, 4, 4) + pixels.tobytes())
    atoms = "".join(f"2\nwater\nO {a} {b} {c}\nH 1 0 0\n" for a, b, c in x.tolist())
    (folder / "d.xyz").write_text(atoms)
    (folder / "points").mkdir()
    fields = "".join(f"property float {axis}\n" for axis in "xyz")
    head = f"ply\nformat ascii 1.0\nelement vertex 3\n{fields}end_header\n"
    for i in range(6):
        points = "".join(f"{a} {b} {c}\n" for a, b, c in x[3 * i : 3 * i + 3].tolist())
        (folder / "points" / f"{i}.ply").write_text(head + points)
    (folder / "d.txt").write_text("the quick brown fox\n" * 60)
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": "abc"[: i % 3 + 1]}) + "\n" for i in range(24)))
    preset = '[dataset]\nname = "array"\npath = "d.csv"\n[family]\nhead = "skip"\n[training]\nsteps = 1\n'
    (folder / "my.toml").write_text(preset + "[network]\nwidth = 4\n")


def _write_parquet(path: Path, x: np.ndarray) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": x[:, 0], "b": ["x", None, "y"] * 8}), path)


_CHECKPOINT = "run/checkpoints/step-00000002"
_STATE = (
    RESUME,
    "checkpoint list run",
    "checkpoint verify run",
    "sample run --checkpoint 2 -n 2 --steps 2 --out x.csv",
)
TARGETS: Sequence[Target] = (
    Target("model.json", "run/model.json", (SAMPLE.format("run"), EXPORT, RESUME)),
    Target("model.json of a table", "table/model.json", (SAMPLE.format("table"), "score table t.csv --out p.csv")),
    Target("model.safetensors", "run/model.safetensors", (SAMPLE.format("run"), EXPORT)),
    Target("SHA256SUMS", "run/SHA256SUMS", (SAMPLE.format("run"), EXPORT, RESUME)),
    Target("experiment.toml", "run/experiment.toml", (SAMPLE.format("run"), RESUME, EXPORT)),
    Target("state.json", f"{_CHECKPOINT}/state.json", _STATE),
    Target("MANIFEST.json", f"{_CHECKPOINT}/MANIFEST.json", _STATE),
    Target("weights", f"{_CHECKPOINT}/weights.safetensors", _STATE),
    Target("optimizer", f"{_CHECKPOINT}/optimizer.safetensors", _STATE),
    Target("metrics.jsonl", "run/metrics.jsonl", (RESUME, EXPORT, SAMPLE.format("run"))),
    Target("evaluation.json", "run/evaluation.json", (EXPORT,)),
    Target("config.json", "exported/config.json", (SAMPLE.format("exported"),)),
    Target("exported weights", "exported/model.safetensors", (SAMPLE.format("exported"),)),
    Target("exported sums", "exported/SHA256SUMS", (SAMPLE.format("exported"),)),
    Target("known values", "known.csv", ("sample run --known known.csv --steps 2 --out x.csv",)),
    Target("known cells", "known_t.csv", ("sample table --known known_t.csv --steps 2 --out x.csv",)),
    Target("priced rows", "t.csv", ("score table t.csv --out p.csv",)),
    Target("numbers", "d.csv", (ARRAY.format("d.csv"), TABLE.format("d.csv"))),
    Target("classes", "c.csv", (ARRAY.replace("array", "classes-array").format("c.csv"),)),
    Target("packed numbers", "d.csv.gz", (ARRAY.format("d.csv.gz"), TABLE.format("d.csv.gz"))),
    Target("decimal commas", "german.csv", (ARRAY.format("german.csv"), TABLE.format("german.csv"))),
    Target("table", "t.csv", (TABLE.format("t.csv"), f"{ARRAY.format('t.csv')} --dataset.on_nan drop")),
    Target("npy", "d.npy", (ARRAY.format("d.npy"),)),
    Target("npz", "d.npz", (ARRAY.format("d.npz"),)),
    Target("safetensors", "d.safetensors", (ARRAY.format("d.safetensors"),)),
    Target("parquet", "t.parquet", (TABLE.format("t.parquet"),)),
    Target("png", "images/0.png", (f"train images --network mlp --out new {ONE}",)),
    Target("idx", "train-images-idx3-ubyte", (f"train train-images-idx3-ubyte --network mlp --out new {ONE}",)),
    Target("xyz", "d.xyz", (f"train d.xyz --out new {ONE}",)),
    Target("ply", "points/0.ply", (f"train points --out new {ONE}",)),
    Target("txt", "d.txt", (f"train d.txt --dataset.length 8 --network mlp --out new {ONE}",)),
    Target("jsonl", "d.jsonl", (f"train d.jsonl --out new --network mlp {ONE}",)),
    Target("pt", "w.pt", ("import-checkpoint w.pt --out new --config run/experiment.toml",)),
    Target("toml", "my.toml", (f"train --config my.toml --out new {ONE}", "train --config my.toml --options")),
)  # fmt: skip


def sign(folder: Path) -> None:
    """Writes the digests of the files as they are now, which whoever damages files on purpose can compute."""
    for sums in folder.rglob("SHA256SUMS"):
        names = [line.split("  ", 1)[-1] for line in sums.read_text("utf-8", "replace").splitlines()]
        there = {path.name for path in sums.parent.iterdir() if path.is_file()}
        files = [name for name in names if name in there]
        sums.write_text("".join(f"{_digest(sums.parent / name)}  {name}\n" for name in files))
    for path in folder.rglob("MANIFEST.json"):
        try:
            manifest = json.loads(path.read_text())
            there = {inner.name for inner in path.parent.iterdir()}
            for name, entry in manifest["files"].items():
                if name in there:
                    entry.update(_entry(path.parent / name, entry))
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            continue
        path.write_text(json.dumps(manifest))

    for path in folder.rglob(SCORES):
        with contextlib.suppress(ValueError, TypeError, AttributeError, BFNError, RecursionError):
            write_sealed(path, {key: value for key, value in json.loads(path.read_text()).items() if key != SEAL})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entry(path: Path, entry: Mapping[str, object]) -> dict[str, object]:
    found = {"sha256": _digest(path), "size": path.stat().st_size, "bytes": path.stat().st_size}
    return {name: value for name, value in found.items() if name in entry}
