"""Checkpoints of other programs: weights come over to the bit, and no file does anything but hold them."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bfn_siren import Siren
from bfn_toolkit import BFN, Experiment, load_run, seeded
from bfn_toolkit.cli import main
from bfn_toolkit.errors import ConfigError, PluginError, RunDirectoryError
from bfn_toolkit.sharing import import_weights
from bfn_toolkit.sharing.import_weights import Selection, import_checkpoint, read_foreign

SMALL = ["--network.width", "16"]
EXPERIMENT = Experiment.from_mapping({"network": {"name": "siren", "width": 16}}, base="default")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(seed: int = 1) -> dict[str, Tensor]:
    with seeded(seed, "weights"):
        state: dict[str, Tensor] = BFN(EXPERIMENT.family, EXPERIMENT.network).network.state_dict()
    return state


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def saved(value: Any, **options: Any) -> Path:
    torch.save(value, "model.pt", **options)
    return Path("model.pt")


def imported(max_size: int | None = None, **selection: Any) -> dict[str, Tensor]:
    import_checkpoint("model.pt", "run", EXPERIMENT, Selection(**selection), max_size=max_size)
    return load_run("run").network.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def refused(content: bytes, *words: str) -> str:
    with pytest.raises(RunDirectoryError) as raised:
        read_foreign(content, Path("model.pt"))
    assert [word for word in words if word not in str(raised.value)] == []
    assert "weights_only=False" not in str(raised.value)
    return str(raised.value)


# --- where the weights are

PLACES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "top": (lambda w: w, "(top)"),
    "ordered": (OrderedDict, "(top)"),
    "parameters": (lambda w: {k: torch.nn.Parameter(v) for k, v in w.items()}, "(top)"),
    "ddp": (lambda w: prefixed("module.", w), "module"),
    "compiled": (lambda w: prefixed("_orig_mod.", w), "(top)"),
    "compiled and wrapped": (lambda w: prefixed("module._orig_mod.network.", w), "module.network"),
    "state_dict": (lambda w: {"state_dict": prefixed("net.", w), "epoch": 3}, "state_dict.net"),
    "trained": (
        lambda w: {
            "model": w,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        },
        "model",
    ),
    "nested": (lambda w: {"checkpoint": {"params": w}}, "checkpoint.params"),
    "ema": (lambda w: {"n_averaged": torch.tensor(5), **prefixed("module.", w)}, "module"),
    "wrapper of two": (lambda w: prefixed("online_model.", weights(2)) | prefixed("ema_model.", w), "ema_model"),
    "model and average": (lambda w: {"model": weights(2), "ema": w}, "ema"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_weights_come_over_to_the_bit_from_wherever_they_are(place: str, legacy: bool) -> None:
    build, key = PLACES[place]
    saved(build(weights()), _use_new_zipfile_serialization=not legacy)
    assert import_checkpoint("model.pt", "run", EXPERIMENT).key == key
    assert same(load_run("run").network.state_dict(), weights())


def test_safetensors_of_others_come_over() -> None:
    save_file(prefixed("model.", weights()), "model.pt")  # the content decides, not the name
    assert same(imported(), weights())


def test_the_user_chooses_among_several(capsys: pytest.CaptureFixture[str]) -> None:
    saved({"a": weights(1), "b": weights(2)})
    with pytest.raises(ConfigError, match=r"--key a or --key b"):
        imported()
    assert same(imported(key="b"), weights(2))
    with pytest.raises(ConfigError, match=r"no weights under 'c'; expected one of: a, b"):
        import_checkpoint("model.pt", "other", EXPERIMENT, Selection(key="c"))


def test_a_word_that_contains_ema_is_no_average() -> None:
    saved({"schema": weights(1), "network": weights(2)})
    with pytest.raises(ConfigError, match="--key"):
        imported()


def test_other_dtypes_are_cast_on_request_only() -> None:
    saved({name: value.double() for name, value in weights().items()})
    with pytest.raises(RunDirectoryError, match=r"float64.*expected torch.float32.*--cast"):
        imported()
    assert same(imported(cast=True), weights())


def test_what_overflows_in_a_cast_is_refused() -> None:
    saved({name: value.double() * 1e300 for name, value in weights().items()})
    with pytest.raises(RunDirectoryError, match="not finite"):
        imported(cast=True)
    assert not Path("run").exists()


def test_extra_tensors_are_refused_unless_they_are_dropped() -> None:
    saved({**weights(), "extra.count": torch.zeros(2)})
    with pytest.raises(RunDirectoryError, match=r"extra\.count: unknown"):
        imported()
    assert same(imported(drop=["extra.*"]), weights())


def test_a_network_that_differs_is_told_by_five_tensors() -> None:
    saved({"model": {name: value[..., :1].clone() for name, value in weights().items()}, "step": 3})
    with pytest.raises(RunDirectoryError) as raised:
        imported()
    text = str(raised.value)
    assert "under 'model'" in text
    assert text.count("expected torch.float32") == min(5, len(weights()))
    assert not Path("run").exists()


# --- names of another program


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A file's form of the weights: other names, axes of size 1, and a constant that is not needed."""
    names: dict[str, str | None] = {f"layer_{i}": name for i, name in enumerate(weights())}
    monkeypatch.setattr(Siren, "foreign_names", lambda self: {**names, "positions": None})
    return {name: weights()[ours].unsqueeze(-1) for name, ours in names.items() if ours} | {"positions": torch.ones(7)}


@pytest.mark.parametrize("prefix", ["", "net.", "module.net."])
def test_tensors_come_over_under_the_names_of_another_program(theirs: dict[str, Tensor], prefix: str) -> None:
    saved({"ema": prefixed(prefix, theirs)})
    found = import_checkpoint("model.pt", "run", EXPERIMENT)
    assert found.key == ".".join(filter(None, ("ema", prefix.removesuffix("."))))
    assert same(load_run("run").network.state_dict(), weights())
    assert found.dropped == (f"ema.{prefix}positions",)
    saved(weights())
    import_checkpoint("model.pt", "own", EXPERIMENT)  # our own names still do
    assert same(load_run("own").network.state_dict(), weights())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("layer_0"), "layer_0: missing"),
        (lambda w: w.update(more=torch.ones(2)), "more: unknown"),
        (lambda w: w.update(layer_0=w["layer_0"][:-1]), r"layer_0: torch.float32 \(15, \d, 1\), expected"),
        (lambda w: w.update(layer_0=w["layer_0"].double()), r"layer_0: torch.float64 .* --cast"),
    ],
)
def test_what_does_not_fit_is_told_in_the_names_of_the_file(
    theirs: dict[str, Tensor], change: Callable[[dict[str, Tensor]], Any], words: str
) -> None:
    change(theirs)
    saved(theirs)
    with pytest.raises(RunDirectoryError, match=words):
        imported()


def test_foreign_names_must_be_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Siren, "foreign_names", lambda self: {"a": "first.weight"})
    saved(weights())
    with pytest.raises(PluginError, match=r"foreign_names of Siren are not those of its tensors: first\.weight"):
        imported()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    state = weights()
    next(iter(state.values())).view(-1)[0] = value
    saved(state)
    with pytest.raises(RunDirectoryError, match="not finite"):
        imported()
    assert not Path("run").exists()


@pytest.mark.parametrize("value", [{}, [], {"epoch": 3}, torch.zeros(3), {"a": [torch.zeros(3)]}])
def test_files_without_weights_are_refused(value: Any) -> None:
    saved(value)
    with pytest.raises(RunDirectoryError, match="holds no table of tensors"):
        imported()


# --- hostile files


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch owned",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_a_payload_is_not_executed(legacy: bool) -> None:
    saved({"model": weights(), "hook": Payload()}, _use_new_zipfile_serialization=not legacy)
    refused(Path("model.pt").read_bytes(), "nothing in it was executed", *(() if legacy else ("posix.system",)))
    refused(pickle.dumps(Payload()), "torch.save did not write")
    with pytest.raises(RunDirectoryError):
        imported()
    assert not Path("owned").exists()
    assert not Path("run").exists()


def limited() -> str:
    """What a process prints that reads the file, and may have no more than 1 GiB besides what torch takes."""
    program = """
        import resource
        from pathlib import Path
        from bfn_toolkit.errors import BFNError
        from bfn_toolkit.sharing.import_weights import read_foreign
        import torch
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_foreign(Path("model.pt").read_bytes(), Path("model.pt"))
        except BFNError as error:
            print("refused:", error)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000, "kB"
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's figures of memory")
@pytest.mark.parametrize("deflated", [True, False])
def test_a_zip_bomb_of_a_gigabyte_is_refused_without_its_memory(deflated: bool) -> None:
    """The weights are replaced by 1 GiB of zeros, deflated to 5 MB; or by a claim to be stored."""
    saved({"w": torch.zeros(4)})
    with zipfile.ZipFile("model.pt") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=name.endswith("data/0")) as file:
                for _ in range(2**10 if name.endswith("data/0") else 0):
                    file.write(bytes(2**20))
                file.write(data)
    content = Path("bomb.pt").read_bytes()
    assert len(content) < 16 * 2**20
    if not deflated:  # the method of every entry becomes 0, "stored", while the sizes stay
        for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            pieces = content.split(mark)
            content = mark.join([pieces[0], *(p[: place - 4] + b"\0\0" + p[place - 2 :] for p in pieces[1:])])
    Path("model.pt").write_bytes(content)
    said = limited()
    assert said.startswith("refused:")
    assert ("compressed" if deflated else "claims to hold more") in said


def archive_of(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", b"3\n")
    return buffer.getvalue()


CALLS = {
    "builtins.bytearray": "bytearray",  # torch itself permits some of them
    "__builtin__.bytearray": "bytearray",
    "torch.FloatTensor": "FloatTensor",
    "torch.Tensor": "Tensor",
    "torch.UntypedStorage": "UntypedStorage",
    "torch.storage.UntypedStorage": "UntypedStorage",
    "os.system": "os.system",
    "numpy.zeros": "numpy.zeros",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_pickle_that_asks_for_memory_or_more_is_refused(name: str) -> None:
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n".encode() + b"J\x00\x00\x00\x7f\x85R."
    refused(archive_of(b"\x80\x02" + call), CALLS[name])
    legacy = saved({}, _use_new_zipfile_serialization=False).read_bytes()
    refused(legacy.replace(b"}q\x00.", call), "not imported")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's figures of memory")
def test_a_pickle_of_many_objects_is_refused_without_their_memory() -> None:
    Path("model.pt").write_bytes(archive_of(b"\x80\x02" + b"]" * 17 * 2**20 + b"."))
    assert "its pickle has 17.8 MB" in limited()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_memory_that_the_file_does_not_hold_is_not_read(legacy: bool, first: bool) -> None:
    """A storage (first), or a view of it, says 2**28 numbers where the file holds 1,000."""
    honest, more = b"M" + (1000).to_bytes(2, "little"), b"J" + (2**28).to_bytes(4, "little")

    def lie(data: bytes) -> bytes:
        before, between, after = data.split(honest, 2)
        return before + (more if first else honest) + between + (honest if first else more) + after

    content = saved({"w": torch.zeros(1000)}, _use_new_zipfile_serialization=not legacy).read_bytes()
    if legacy:
        content = lie(content)
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, lie(data) if name.endswith("/data.pkl") else data)
        content = buffer.getvalue()
    refused(content, "torch cannot read it")


def test_a_tensor_that_says_more_than_it_holds_is_refused() -> None:
    state = weights()
    name = max(state, key=lambda key: state[key].numel())
    saved({**state, name: torch.zeros(1).expand(state[name].shape)})
    with pytest.raises(RunDirectoryError, match=rf"{name}.*holds fewer"):
        imported()
    saved({name: torch.zeros(1).expand(2**20, 2**15)})
    with pytest.raises(RunDirectoryError, match="does not fit"):
        imported()


def test_a_table_that_holds_itself_is_walked_once() -> None:
    table: dict[str, Any] = dict(weights())
    table |= {f"again{i}": table for i in range(300)}
    saved(table)
    assert same(imported(), weights())


def test_names_of_strangers_are_printable_and_short() -> None:
    saved({"model": {**weights(), "\x1b[2J" + "x" * 5000: torch.zeros(1)}})
    with pytest.raises(RunDirectoryError) as raised:
        imported()
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 30, 500, -1])
def test_a_file_that_was_cut_is_refused(cut: int) -> None:
    for legacy in (False, True):
        saved(weights(), _use_new_zipfile_serialization=not legacy)
        refused(Path("model.pt").read_bytes()[:cut])


def test_what_follows_an_archive_is_refused() -> None:
    saved(weights())
    refused(Path("model.pt").read_bytes() + bytes(30), "not imported")


@pytest.mark.parametrize("seed", range(2))
def test_no_flipped_bit_changes_a_weight(seed: int) -> None:
    state = {"w": torch.arange(600.0), "b": torch.ones(3)}
    torch.save(state, "model.pt")
    content, chooser, taken = Path("model.pt").read_bytes(), random.Random(seed), 0
    for _ in range(100):
        damaged, bit = bytearray(content), chooser.randrange(8 * len(content))
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = read_foreign(bytes(damaged), Path("model.pt"))
        except RunDirectoryError:
            continue
        taken += 1  # of dates, attributes and padding, which no checksum covers
        assert same(found, state)
    assert taken < 25


@pytest.mark.parametrize("name", ["DATA.PKL", "Data.pkl"])
def test_a_pickle_is_bounded_however_its_name_is_written(name: str) -> None:
    torch.save({"w": torch.zeros(3)}, "model.pt")
    with zipfile.ZipFile("model.pt") as good, zipfile.ZipFile("bomb.pt", "w") as bomb:
        for entry in good.infolist():
            content = good.read(entry)
            if entry.filename.endswith("data.pkl"):
                entry.filename, content = entry.filename.replace("data.pkl", name), b"\x80\x02]" + b"]" * 17 * 2**20
            bomb.writestr(entry.filename, content)
    refused(Path("bomb.pt").read_bytes(), "its pickle has 17.8 MB")


def test_a_network_is_not_built_for_a_file_that_cannot_hold_it() -> None:
    saved(weights())
    huge = attrs.evolve(EXPERIMENT, network=Siren(width=30_000))
    with pytest.raises(RunDirectoryError, match="the description is not that of these weights"):
        import_checkpoint("model.pt", "run", huge)
    assert not Path("run").exists()


def test_a_script_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("x/data.pkl", "x/constants.pkl"):
            archive.writestr(name, b"\x80\x02}.")
    refused(buffer.getvalue(), "not imported")


def test_a_file_larger_than_a_checkpoint_could_be_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("model.pt", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunDirectoryError, match=r"1\.1 TB, more than"):
        imported()
    saved(weights())
    with pytest.raises(RunDirectoryError, match="more than 10 bytes"):
        imported(max_size=10)


@pytest.mark.parametrize(("version", "reads"), [("2.9.1", False), ("2.10.0+cpu", True), ("3.0.0a0", True)])
def test_pickles_need_a_torch_that_reads_them_safely(
    version: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_weights.torch, "__version__", version)
    saved(weights())
    if reads:
        assert read_foreign(Path("model.pt").read_bytes(), Path("model.pt")).keys() == weights().keys()
    else:
        with pytest.raises(ConfigError, match=r"since 2\.10; this is torch 2\.9\.1.*pip install"):
            imported()
        save_file(weights(), "model.pt")
        assert same(imported(), weights())


# --- the command


def test_import_makes_a_run_that_samples(capsys: pytest.CaptureFixture[str]) -> None:
    saved({"ema": prefixed("module.", weights()), "model": weights(2), "epoch": 3})
    assert main(["import-checkpoint", *SMALL, "model.pt", "--out", "run"]) == 0
    said = capsys.readouterr()
    assert said.out == "run\n"
    for word in (
        f"kept: {len(weights())} tensors under 'ema.module'",
        "dropped: ",
        "epoch",
        "also fit, with --key: model",
    ):
        assert word in said.err
    assert sorted(path.name for path in Path("run").iterdir() if path.name != ".lock") == [
        "SHA256SUMS",
        "experiment.toml",
        "model.json",
        "model.safetensors",
    ]
    source = json.loads(Path("run/model.json").read_text())["imported"]
    assert (source["file"], source["key"]) == ("model.pt", "ema.module")
    assert main(["sample", "run", "-n", "3", "--steps", "2", "--out", "x.npy"]) == 0
    assert main(["import-checkpoint", "model.pt", "--out", "run", *SMALL]) == 2
    assert main(["import-checkpoint", "model.pt", "--out", "run", *SMALL, "--force", "--key", "model"]) == 0
    assert same(load_run("run").network.state_dict(), weights(2))


BAD = [
    (2, [], ["name the file"]),
    (2, ["model.pt", "other.pt"], ["unexpected argument"]),
    (2, ["model.pt", "--network.widht", "16"], ["did you mean --network.width"]),
    (2, ["model.pt", *SMALL, "--key", "emma"], ["no weights under 'emma'"]),
    (4, ["nowhere.pt", *SMALL], ["nowhere.pt", "missing"]),
    (4, [".", *SMALL], ["not a regular file"]),
    (4, ["model.pt", "--network.width", "8"], ["does not fit the network"]),
    (4, ["words.pt", *SMALL], ["not a safetensors file"]),
]


@pytest.mark.parametrize(("status", "arguments", "words"), BAD, ids=[" ".join(case[1]) for case in BAD])
def test_mistakes_are_named_and_nothing_is_written(
    status: int, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    saved({"model": weights()})
    Path("words.pt").write_text("just words")
    assert main(["import-checkpoint", *arguments, "--out", "run"]) == status
    said = capsys.readouterr()
    assert [word for word in words if word not in said.err] == []
    assert said.out == ""
    assert "Traceback" not in said.err
    assert not Path("run").exists()
