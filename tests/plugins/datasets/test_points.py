"""Sets of points: what is read is what was written, each fault is told with its place, and samples come back."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_input.contents import header_of

from bfn_egnn import EGNN
from bfn_points import Points, PointsCodec, read_points
from bfn_toolkit import BFN, BFNWarning, DataError, Experiment, Run, seeded, train
from bfn_toolkit.cli import main
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.testing import check_dataset

SIZES = np.array([3, 1, 4, 2] * 12)
NAMES = np.array(["O", "H", "C"])


def sets(dimensions: int = 3) -> tuple[Any, Any, Any]:
    """Positions (P, D) that are neither centred nor of unit variance, types (P,) and charges (P,)."""
    generator = np.random.default_rng(0)
    positions = generator.normal(size=(SIZES.sum(), dimensions)).round(5) * 3.0 + 11.0
    return positions, NAMES[generator.integers(3, size=SIZES.sum())], generator.integers(-1, 2, size=SIZES.sum())


def padded(values: Any) -> tuple[Any, Any]:
    """Values (P, ...) at scattered places of the sets, and the mask."""
    mask = np.zeros((len(SIZES), 5), np.bool_)
    for row, size in enumerate(SIZES):
        mask[row, np.random.default_rng(row).permutation(5)[:size]] = True
    full = np.zeros((*mask.shape, *values.shape[1:]), values.dtype)
    full[mask] = values
    return full, mask


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def xyz_text(positions: Any, types: Any, charges: Any = None) -> str:
    lines, start = [], 0
    columns = "a comment" if charges is None else 'Lattice="1 0 0" Properties=charge:I:1:pos:R:3:species:S:1 energy=2'
    for size in SIZES:
        lines += [str(size), columns]
        for i in range(start, start + size):
            place = " ".join(map(str, positions[i]))
            lines.append(f"{types[i]} {place} 0.5" if charges is None else f"{charges[i]} {place} {types[i]}")
        start += size
    return "\n".join(lines) + "\n\n"


def ply_bytes(positions: Any, form: str) -> bytes:
    axes = "".join(f"property float {axis}\n" for axis in "xyz"[: positions.shape[1]])
    faces = "element face 1\nproperty list uchar int corners\nend_header\n"
    before = "element camera 2\nproperty short id\n"
    header = (
        f"ply\nformat {form} 1.0\ncomment x\n{before}element vertex {len(positions)}\n{axes}property uchar red\n{faces}"
    )
    if form == "ascii":
        rows = "".join(f"{' '.join(map(str, row))} 7\n" for row in positions.astype(np.float32).tolist())
        return (header + "1\n2\n" + rows + "3 0 1 2\n").encode()
    order = "<" if "little" in form else ">"
    body = b"".join(row.astype(f"{order}f4").tobytes() + b"\7" for row in positions)
    return header.encode() + b"abcd" + body + b"\3" + bytes(12)


def of_rows(dataset: Points) -> tuple[Any, Any, Any]:
    """Positions, types and charges of all rows in the order of the file, one point after another."""
    rows = dataset.content.rows
    raw = dataset.codec.decode(rows.x, rows.mask)
    positions = raw["positions"] if isinstance(raw, dict) else raw
    there = ~positions.isnan().any(-1).numpy()
    named = [dataset.codec.named(raw, name) for name in ("types", "charges")]
    return positions.numpy()[there], *(None if values is None else values[there] for values in named)


def centred(positions: Any) -> Any:
    return np.concatenate([part - part.mean(0) for part in np.split(positions, SIZES.cumsum()[:-1])])


# What is read


P3, T, C = sets()
SOURCES: dict[str, Callable[[Path], Path]] = {
    "ragged": lambda path: npz(path / "x.npz", positions=P3, sizes=SIZES, types=T, charges=C),
    "masked": lambda path: npz(
        path / "x.npz", positions=padded(P3)[0], mask=padded(P3)[1], types=padded(T)[0], charges=padded(C)[0]
    ),
    "bytes": lambda path: npz(
        path / "x.npz",
        positions=P3.astype(">f8"),
        sizes=SIZES.astype("u1"),
        types=T.astype("S2"),
        charges=C.astype(float),
    ),
    "xyz": lambda path: _written(path / "x.XYZ", xyz_text(P3, T, C)),
    "crlf": lambda path: _written(path / "x.xyz", xyz_text(P3, T, C).replace("\n", "\r\n")),
}


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("source", SOURCES)
def test_every_format_gives_what_was_written_around_the_centres(source: str, tmp_path: Path) -> None:
    dataset = Points(SOURCES[source](tmp_path))
    assert dataset.site_shape["positions"][1:] == (3,)
    positions, types, charges = of_rows(dataset)
    assert np.abs(positions - centred(P3)).max() < 2e-6
    assert types.tolist() == T.tolist()
    assert charges.tolist() == C.tolist()
    train_rows = dataset.split("train")
    assert isinstance(train_rows.mask, torch.Tensor)
    assert abs(float(train_rows.x["positions"][train_rows.mask].square().mean()) - 1.0) < 1e-5
    check_dataset(dataset)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_a_folder_of_ply_files_has_the_sub_folders_as_labels(form: str, tmp_path: Path) -> None:
    positions, _, _ = sets(2)
    for row, part in enumerate(np.split(positions, SIZES.cumsum()[:-1])):
        (tmp_path / str(len(part))).mkdir(exist_ok=True)
        _written(tmp_path / str(len(part)) / f"{row:02}.ply", ply_bytes(part, form))
    _written(tmp_path / ".hidden", "")
    dataset = Points(tmp_path)
    rows = dataset.content.rows
    assert dataset.codec.categories == {"label": ("1", "2", "3", "4")}
    assert rows.mask is not None
    assert torch.equal(rows.condition["label"] + 1, rows.mask.sum(1))
    order = np.argsort(SIZES, kind="stable")
    expected = np.concatenate([np.split(centred(positions), SIZES.cumsum()[:-1])[row] for row in order])
    assert np.abs(of_rows(dataset)[0] - expected).max() < 3e-6
    check_dataset(dataset)
    recognised = Points.recognise(tmp_path)
    assert recognised is not None
    assert recognised.certainty == 3
    digest = dataset.source["sha256"]
    _written(tmp_path / "1" / "01.ply", ply_bytes(np.ones((1, 2)), form))
    assert Points(tmp_path).source["sha256"] != digest
    _written(tmp_path / "1" / "more.ply", ply_bytes(np.ones((1, 2)), form))
    with pytest.raises(DataError, match="changed while it was in use"):
        dataset.split("train")


def test_what_never_differs_is_no_part(tmp_path: Path) -> None:
    dataset = Points(_written(tmp_path / "x.xyz", xyz_text(P3, ["Ar"] * len(P3))))
    assert dataset.site_shape == (4, 3)
    assert set(of_rows(dataset)[1]) == {"Ar"}
    assert not Points(_written(tmp_path / "y.xyz", xyz_text(P3, ["X"] * len(P3)))).codec.categories
    check_dataset(dataset)
    equal = Points(npz(tmp_path / "x.npz", positions=P3[:60].reshape(20, 3, 3), label=np.arange(20) % 2 - 5))
    assert equal.split("train").mask is None
    assert equal.codec.categories == {"label": ("-5", "-4")}
    assert "labels" not in Points(equal.path, labels=False).metadata


def test_points_at_one_place_and_sets_of_one_point_are_data(tmp_path: Path) -> None:
    place = np.full((60, 2), 0.1)
    with pytest.warns(BFNWarning, match="at one place"):
        alone = Points(npz(tmp_path / "x.npz", positions=place, sizes=np.full(20, 3))).split("all")
    assert not alone.x.any()
    positions = np.random.default_rng(0).normal(size=(60, 2))
    positions[1::3] = positions[::3]
    doubled = npz(tmp_path / "y.npz", positions=np.concatenate([positions, place[:9]]), sizes=[3] * 20 + [1] * 9)
    tables = {"dataset": {"name": "points", "path": str(doubled)}, "training": {"steps": 3, "warmup": 0}}
    run = train(Experiment.from_mapping(tables, base="default"))
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_files_are_told_by_their_content(tmp_path: Path) -> None:
    assert Points.recognise(npz(tmp_path / "x.npz", positions=P3, sizes=SIZES)) is not None
    assert Points.recognise(npz(tmp_path / "y.npz", x=P3)) is None
    assert Points.recognise(_written(tmp_path / "z.npz", b"no archive")) is None
    assert Points.recognise(_written(tmp_path / "x.csv", "")) is None
    assert Points.recognise(tmp_path / "absent.xyz") is None
    (tmp_path / "empty").mkdir()
    assert Points.recognise(tmp_path / "empty") is None


# Faults

FRAME = "3\n\nC 0 0 0\nH 0 0 1\nH 0 1 0\n"
HEADER = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
BINARY = HEADER.replace("ascii", "binary_little_endian")
ONES = np.ones((4, 3, 3))
BAD: dict[str, tuple[str, str | bytes | dict[str, Any], str]] = {
    "nan": ("x.xyz", FRAME * 3 + FRAME.replace("0 1 0", "0 nan 0"), r"x.xyz:20: the coordinate y is nan"),
    "inf": ("x.xyz", FRAME * 3 + FRAME.replace("0 1 0", "0 1 -inf"), r"x.xyz:20: the coordinate z is -inf"),
    "word": ("x.xyz", FRAME + FRAME.replace("0 1 0", "0 one 0"), r"x.xyz:10: expected a coordinate, found 'one'"),
    "underscore": ("x.xyz", FRAME + FRAME.replace("0 1 0", "0 1_0 0"), r"x.xyz:10: .* found '1_0'"),
    "few columns": (
        "x.xyz",
        FRAME + FRAME.replace("0 1 0", "0 1"),
        r"x.xyz:10: expected a name and three coord.*line 6",
    ),
    "count too large": ("x.xyz", FRAME + FRAME.replace("3", "4"), r"x.xyz:6: says 4 points, and the file ends after 3"),
    "count enormous": ("x.xyz", FRAME.replace("3", "9" * 30), r"x.xyz:1: says 9{18} points"),
    "count too small": ("x.xyz", FRAME.replace("3", "2") + FRAME, r"x.xyz:5: .* found 'H 0 1 0'; line 1 says 2 points"),
    "count too large inside": ("x.xyz", FRAME.replace("3", "4") + FRAME, r"x.xyz:6: expected a name and three .*'3'"),
    "empty set": ("x.xyz", FRAME + "0\n\n", r"x.xyz:6: a set of 0 points"),
    "empty xyz": ("x.xyz", "\n", "no rows: the file is empty"),
    "binary xyz": ("x.xyz", b"\xff\xfe\x00\n", "x.xyz:1: expected the number of points"),
    "one set": ("x.xyz", FRAME, "cannot split 1 row"),
    "long line": ("x.xyz", FRAME + "1" * 2_000_000, "x.xyz:6: a line of 1,000,000 bytes"),
    "properties": (
        "x.xyz",
        FRAME.replace("\n\n", "\nProperties=species:S:1:pos:R:2\n"),
        "x.xyz:2: Properties: expected",
    ),
    "some charges": (
        "x.xyz",
        FRAME + "1\nProperties=species:S:1:pos:R:3:charge:I:1\nC 0 0 0 1\n",
        "x.xyz:7: some sets have a column",
    ),
    "half a charge": (
        "x.xyz",
        "1\nProperties=species:S:1:pos:R:3:charge:I:1\nC 0 0 0 .5\n",
        r"x.xyz:3: .*charge.*'.5'",
    ),
    "no positions": ("x.npz", {"x": ONES}, "no array is named 'positions'; it has x"),
    "four dimensions": ("x.npz", {"positions": np.ones((4, 3, 4))}, r"float64 of shape \(4, 3, 4\); expected numbers"),
    "words": ("x.npz", {"positions": np.array([["a", "b"]])}, "positions are <U1 of shape"),
    "no sizes": ("x.npz", {"positions": ONES[0]}, r"shape \(3, 3\), all points one after another; add sizes"),
    "sizes": ("x.npz", {"positions": ONES[0], "sizes": [1, 1]}, "sizes add up to 2 points, and positions have 3"),
    "negative size": ("x.npz", {"positions": ONES[0], "sizes": [4, -1]}, "set 0 has 4 points; expected 1 to 3"),
    "large size": ("x.npz", {"positions": ONES[0], "sizes": [2**60] * 16}, r"set 0 has 1152921504606846976 points"),
    "size 0": ("x.npz", {"positions": ONES, "sizes": [1, 0, 2, 3]}, "set 1 of 0...3 has 0 points"),
    "float sizes": ("x.npz", {"positions": ONES, "sizes": np.ones(4)}, "sizes are float64"),
    "no sets": ("x.npz", {"positions": ONES[:0]}, "no sets"),
    "mask": ("x.npz", {"positions": ONES, "mask": np.ones((4, 2), bool)}, r"mask is bool of shape \(4, 2\)"),
    "mask and sizes": (
        "x.npz",
        {"positions": ONES, "mask": np.ones((4, 3)) > 0, "sizes": [3, 3, 2, 3]},
        "set 2 has 3 .* 2",
    ),
    "types": (
        "x.npz",
        {"positions": ONES, "types": np.ones(4, int)},
        r"types have the shape \(4,\); expected \(4, 3\)",
    ),
    "half types": (
        "x.npz",
        {"positions": ONES, "types": ONES[..., 0] / 2},
        "types: expected integers or names, got 0.5",
    ),
    "no type": ("x.npz", {"positions": ONES, "types": [["a", "b", ""]] * 4}, r"set 0 of 0...3, point 2: types: has no"),
    "many types": (
        "x.npz",
        {"positions": np.random.rand(500, 3, 3), "types": np.arange(1500).reshape(500, 3)},
        "1500 different",
    ),
    "label": ("x.npz", {"positions": ONES, "label": [1, 2]}, r"label has the shape \(2,\); expected \(4,\)"),
    "some labels": ("x.npz", {"positions": ONES, "label": [1, 2, np.nan, 1]}, "set 2 has no label"),
    "nan in a mask": (
        "x.npz",
        {"positions": ONES * [np.nan, 1, 1]},
        r"x.npz: set 0 of 0...3, point 0: the coordinate x",
    ),
    "far": ("x.npz", {"positions": ONES * np.array([1e200, 0, -1e200])[:, None]}, "another unit"),
    "no archive": ("x.npz", b"PK", "truncated or damaged"),
    "objects": ("x.npz", {"positions": ONES.astype(object)}, "object, which would be unpickled"),
    "no ply": ("x.ply", "solid\n", "its first line is 'solid'"),
    "no end": ("x.ply", HEADER.replace("end_header\n", ""), "has no end"),
    "endless": ("x.ply", "ply\n" + "comment x\n" * 20_000, "has no end"),
    "no format": ("x.ply", "ply\nelement vertex 1\nproperty float x\nend_header\n", "the header has no format"),
    "strange line": ("x.ply", HEADER.replace("float y", "complex y"), "x.ply:5: not a line of a PLY header"),
    "no vertex": ("x.ply", HEADER.replace("vertex", "face"), "no element is named 'vertex'"),
    "vertex list": ("x.ply", HEADER.replace("float z", "list uchar int z"), "the vertices have a list property"),
    "no y": ("x.ply", HEADER.replace("float y", "float v"), "the properties x, v, z; expected x, y and z"),
    "no vertices": ("x.ply", HEADER.replace("vertex 2", "vertex 0"), "a set of 0 points"),
    "few lines": ("x.ply", HEADER + "0 0 0\n", "says 2 vertices, and the file ends after 1"),
    "few numbers": ("x.ply", HEADER + "0 0 0\n0 0\n", "x.ply:9: found 2 numbers, expected 3"),
    "no number": ("x.ply", HEADER + "0 0 0\n0 0 a\n", "x.ply:9: expected a coordinate, found 'a'"),
    "few bytes": ("x.ply", BINARY + "\0" * 23, "says 2 vertices, and the file has room for 1"),
    "enormous": ("x.ply", BINARY.replace("vertex 2", f"vertex {10**17}"), f"says {10**17} vertices, .* room for 0"),
    "list before": (
        "x.ply",
        BINARY.replace("element", "element f 1\nproperty list int int i\nelement") + "\0" * 99,
        "write the vertices first",
    ),
    "ending": ("x.pdb", "", "its name must end in .npz, .xyz, .ply"),
}


@pytest.mark.parametrize("case", BAD)
def test_faults_name_their_place(case: str, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    path = tmp_path / name
    if isinstance(content, dict):
        npz(path, **content)
    else:
        _written(path, content)
    with pytest.raises(DataError, match=message):
        Points(path).split("train")


def test_a_header_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("positions.npy", header_of((2**40, 3), "<f8"))
    with pytest.raises(DataError, match="larger than the file"):
        Points(tmp_path / "x.npz").split("train")


def test_faults_of_folders_name_the_file(tmp_path: Path) -> None:
    _written(tmp_path / "b.xyz", FRAME)
    _written(tmp_path / "a.ply", ply_bytes(np.ones((2, 2)), "ascii"))
    with pytest.raises(DataError, match=r"b.xyz:3: 3 coordinates, and 2 in files before"):
        Points(tmp_path).split("train")
    (tmp_path / "a.ply").unlink()
    _written(tmp_path / "notes.txt", "")
    _written(tmp_path / "c.xyz", FRAME.replace("C", "X").replace("H", "X"))
    with (
        pytest.warns(BFNWarning, match=r"ignored .*: 1, such as notes.txt"),
        pytest.raises(DataError, match=r"c.xyz:3: has no types, unlike the files before"),
    ):
        Points(tmp_path).split("train")
    (tmp_path / "d.xyz").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"d.xyz: a link that leaves the folder"):
        Points(tmp_path).split("train")
    (tmp_path / "inner" / "most").mkdir(parents=True)
    (tmp_path / "d.xyz").unlink()
    with pytest.raises(DataError, match="most: a folder in a sub-folder"):
        Points(tmp_path).split("train")
    with pytest.raises(DataError, match="no files of points"):
        read_points(tmp_path / "inner" / "most")


def test_large_sets_are_warned_of_and_take_small_batches(tmp_path: Path) -> None:
    many = npz(tmp_path / "x.npz", positions=np.random.default_rng(0).normal(size=(5, 800, 2)))
    with pytest.warns(BFNWarning, match=r"800 points; .* about 5 GB for one set"):
        training = Points(many).default_config["training"]
    assert training == {"batch_size": 1}


# Back


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a few steps, on data with types and charges."""
    path = SOURCES["xyz"](tmp_path_factory.mktemp("points"))
    network = {"name": "egnn", "width": 8, "depth": 1}
    tables = {"dataset": {"name": "points", "path": str(path)}, "network": network}
    training = {"steps": 5, "warmup": 0, "batch_size": 8, "ema_decay": 0.0}
    return train(Experiment.from_mapping({**tables, "training": training}, base="default"), path.parent / "run")


def test_samples_have_their_centre_of_mass_at_0_and_sizes_of_the_data(molecules: Run) -> None:
    for sampler in ("sde-2", "ancestral", "ode-2"):
        raw = _samples(molecules, sampler)
        there = ~raw["positions"].isnan().any(-1)
        assert set(there.sum(1).tolist()) <= {1, 2, 3, 4}
        assert torch.equal(there, raw["types"] >= 0)
        assert float(raw["positions"].nan_to_num().sum(1).abs().max()) < 1e-5


def _samples(run: Run, sampler: str) -> Any:
    plan = ResolvedPlan.of(run, SamplePlan(n=40, steps=5, sampler=sampler))
    return plan.raw(plan.draw())


@pytest.mark.parametrize("ending", [".xyz", ".npz"])
def test_files_of_samples_are_read_again(ending: str, molecules: Run, tmp_path: Path) -> None:
    codec, raw = molecules.codec, _samples(molecules, "ancestral")
    assert isinstance(codec, PointsCodec)
    path = tmp_path / f"x{ending}"
    parts = [{name: part[i : i + 16] for name, part in raw.items()} for i in range(0, 40, 16)]
    format_ = codec.formats[ending]
    if format_.whole:
        parts = [raw]
    path.write_bytes(b"".join(data for part in parts for _, data in format_.pieces(part, 40, 0, 0)))
    again = format_.read(path)
    assert again.keys() == raw.keys()
    for name, part in raw.items():
        assert torch.equal(again[name].nan_to_num(nan=-7.0), part.nan_to_num(nan=-7.0)), name
    assert np.array_equal(read_points(path).sizes, codec.counts(raw))


def test_known_values_are_filled_in(molecules: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert molecules.path is not None
    run, gaps = str(molecules.path), tmp_path / "gaps.npz"
    positions = np.full((2, 3, 3), np.nan)
    positions[0, 0] = 0.25, -1.5, 3.0
    npz(gaps, positions=positions, types=np.array([["C", "", "H"], ["O", "O", ""]]), charges=np.full((2, 3), np.nan))
    out = tmp_path / "filled.xyz"
    command = ["sample", run, "-n", "2", "--steps", "3", "--size", "3", "--known", str(gaps), "--out", str(out)]
    assert main(command) == 0
    lines = out.read_text().splitlines()
    assert lines[:2] == ["3", "Properties=species:S:1:pos:R:3:charge:I:1"]
    assert lines[2].startswith("C 0.25 -1.5 3.0 ")
    assert [line[0] for line in lines if line[0] in "CHO"][::2][:2] == ["C", "H"]
    assert [line[0] for line in lines[7:9]] == ["O", "O"]
    npz(gaps, positions=positions, types=np.array([["C", "Zz", "H"]] * 2))
    assert main([*command, "--force"]) == 3
    assert "set 0 of 0...1, point 1: types: expected one of C, H, O, got 'Zz'" in capsys.readouterr().err


def test_the_network_of_the_defaults_turns_with_the_points(molecules: Run) -> None:
    """Beliefs about turned and reordered sets give the turned and reordered output, with the same types."""
    with seeded(0, "turn"):
        model = BFN(molecules.experiment.family, EGNN(width=16, depth=2))
        rows = molecules.split("all")
        t, turn = torch.rand(len(rows)), torch.linalg.qr(torch.randn(3, 3)).Q
        params = molecules.experiment.family.flow(rows.x, t)
    family, mask = molecules.experiment.family, rows.mask
    with torch.no_grad():
        out = model.output(params, t, mask=mask)
        place = params["positions"]
        turned = {**params, "positions": type(place)(place.mean @ turn, place.precision)}
        again = model.output(turned, t, mask=mask)
        losses = [family.loss_rate(x, o, t, mask=mask) for x, o in ((rows.x, out), (_turned(rows.x, turn), again))]
    assert torch.allclose(again["positions"].mean, out["positions"].mean @ turn, atol=1e-4)
    for name in ("types", "charges"):
        assert torch.allclose(again[name].logits, out[name].logits, atol=1e-4), name
    assert torch.allclose(*losses, rtol=1e-3)


def _turned(x: Any, turn: torch.Tensor) -> Any:
    return {**x, "positions": x["positions"] @ turn}


def test_a_folder_of_samples_is_read_again(tmp_path: Path) -> None:
    codec = PointsCodec(4, 2, 2.0)
    raw = codec.decode(torch.randn(3, 4, 2), torch.tensor([[True] * 4, [True, False, False, False], [True] * 4]))
    format_ = codec.formats[""]
    for row, (_, data) in enumerate(format_.pieces(raw, 3, 0, 0)):
        _written(tmp_path / f"{row}.ply", data)
    again = codec.raw_of(read_points(tmp_path))
    assert torch.equal(again.nan_to_num(nan=-7.0), raw.nan_to_num(nan=-7.0))
