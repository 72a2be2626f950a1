"""TableModel: scikit-learn's own checks, and tables of every kind in and out."""

from __future__ import annotations

import datetime
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bfn_table import TableModel
from bfn_toolkit import BFN, ConfigError, DataError, RunDirectoryError

pytestmark = [
    pytest.mark.filterwarnings("ignore:constant:bfn_toolkit.errors.BFNWarning"),
    pytest.mark.filterwarnings("ignore:.*duplicates:bfn_toolkit.errors.BFNWarning"),
]

ROWS = 300
SMALL: dict[str, Any] = {"steps": 30, "overrides": {"network.width": 32, "training.batch_size": 64}}


def columns(rows: int = ROWS, seed: int = 0) -> dict[str, Any]:
    """Columns of every kind; the size depends on the kind, and some are missing."""
    random = np.random.default_rng(seed)
    kind = random.choice(["a", "b", "c"], rows)
    size = (random.normal(size=rows) + 6.0 * (kind == "a")).round(2)
    days = np.datetime64("2020-01-01", "us") + random.integers(0, 300, rows).astype("timedelta64[D]")
    moments = days + random.integers(0, 24 * 60, rows).astype("timedelta64[m]")
    return {
        "kind": kind.astype(object),
        "size": np.where(random.random(rows) < 0.1, np.nan, size),
        "count": random.poisson(3, rows),
        "flag": size > 3.0,
        "day": days,
        "moment": moments,
        "word": np.where(random.random(rows) < 0.1, None, random.choice(["x", "y"], rows)),
        "single": random.normal(size=rows).astype(np.float32),
        "small": random.integers(0, 100, rows).astype(np.int8),
        "one": np.full(rows, 7),
    }


NAMES = list(columns())


def pandas_frame(rows: int = ROWS, seed: int = 0) -> Any:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns(rows, seed))
    frame["kind"] = pandas.Categorical(frame["kind"], categories=["z", "c", "b", "a"], ordered=True)
    frame["zone"] = frame["moment"].dt.tz_localize("UTC").dt.tz_convert("Europe/Paris")
    frame["maybe"] = pandas.array(np.arange(rows) % 7, dtype="Int64")
    frame.loc[3:9, "maybe"] = pandas.NA
    frame["truth"] = pandas.array(np.arange(rows) % 3 == 0, dtype="boolean")
    frame.loc[5:9, "truth"] = pandas.NA
    frame["date"] = [moment.date() for moment in frame["day"]]
    frame["time"] = [datetime.time(i % 24, i % 60) for i in range(rows)]
    frame["name"] = [f"person {i}" for i in range(rows)]  # left out
    return frame


def polars_frame() -> Any:
    polars = pytest.importorskip("polars")
    given = columns()
    words = {name: given[name].tolist() for name in ("kind", "word")}
    frame = polars.DataFrame({**given, **words})
    return frame.with_columns(
        polars.col("kind").cast(polars.Enum(["z", "c", "b", "a"])),
        polars.col("word").cast(polars.Categorical),
        polars.col("moment").dt.time().alias("time"),
        polars.col("day").dt.date().alias("date"),
    )


def checks() -> Any:
    """scikit-learn's checks of an estimator; they train 2 steps each."""
    from sklearn.utils.estimator_checks import parametrize_with_checks

    model = TableModel(steps=2, overrides={"network.width": 16, "network.depth": 1})
    return parametrize_with_checks([model])  # none is expected to fail


@checks()
@pytest.mark.filterwarnings("ignore::bfn_toolkit.errors.BFNWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> TableModel:
    """A model of a mapping of columns."""
    return TableModel(**SMALL).fit(columns())


def test_types_and_categories_of_pandas_come_back() -> None:
    frame = pandas_frame()
    model = TableModel(**SMALL).fit(frame)
    assert model.model_.codec.left_out.keys() == {"name"}
    rows = model.sample(50)
    assert rows.dtypes.equals(frame.drop(columns="name").dtypes)
    assert list(rows["kind"].cat.categories) == ["z", "c", "b", "a"]
    assert set(rows["kind"]) <= {"a", "b", "c"}
    assert set(rows["one"]) == {7}
    assert not rows[["count", "flag", "day", "small"]].isna().any().any()
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.sample(50).equals(rows)


def test_cells_that_are_known_survive_imputation_and_no_gap_is_left() -> None:
    frame = pandas_frame()
    frame.index = [f"row {i}" for i in range(len(frame))]
    model = TableModel(**SMALL).fit(frame)
    gaps = frame.copy()
    for i, name in enumerate(gaps):
        if name not in ("count", "flag", "small", "one", "name"):  # types without a gap
            gaps.loc[gaps.index[i :: len(gaps.columns)], name] = None
    one, two = model.impute(gaps, draws=2)
    for filled in (one, two):
        assert filled.dtypes.equals(gaps.dtypes)
        assert filled.index.equals(frame.index)
        assert not filled.isna().any().any()
        for name in frame:
            known = gaps[name].notna()
            assert (filled[name][known] == gaps[name][known]).all()
    assert not one.equals(two)
    assert model.impute(gaps).equals(one)
    for gap in (None, np.nan):  # columns of nothing but gaps have no type, or that of NaN
        filled = model.impute(type(frame)({name: [gap] * 4 for name in frame}))
        assert not filled.drop(columns=["name", "one"]).isna().any().any()  # which are not learned
        assert set(filled["kind"]) <= set(frame["kind"])
        assert filled["day"].dtype.kind == "M"


def test_types_and_categories_of_polars_come_back(tmp_path: Path) -> None:
    frame = polars_frame()
    model = TableModel(**SMALL).fit(frame)
    rows = model.sample(50)
    assert rows.schema == frame.schema
    gaps = frame.with_columns(frame["size"].shift(2), frame["word"].shift(1), frame["moment"].shift(1))
    filled = model.impute(gaps)
    assert filled.schema == frame.schema
    assert sum(filled.null_count().row(0)) == 0
    model.save(tmp_path / "model")
    assert TableModel.load(tmp_path / "model").sample(50).equals(rows)


def test_arrow_arrays_and_mappings_come_back(fitted: TableModel) -> None:
    import pyarrow

    table = pyarrow.table({name: columns()[name] for name in ("count", "size", "flag")})
    rows = TableModel(**SMALL).fit(table).sample(20)
    assert rows.schema == table.schema
    array = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    model = TableModel(**SMALL).fit(array)
    assert not hasattr(model, "feature_names_in_")
    drawn = model.sample(20)
    assert (drawn.dtype, drawn.shape) == (array.dtype, (20, 3))
    array[::2, 1] = np.nan
    filled = model.impute(array)
    assert np.isfinite(filled).all()
    assert (filled[1::2] == array[1::2]).all()
    mapped = fitted.sample(20)
    assert list(mapped) == NAMES
    assert fitted.feature_names_in_.tolist() == NAMES
    kinds = {name: mapped[name].dtype.kind for name in ("kind", "size", "count", "flag", "day")}
    assert kinds == {"kind": "O", "size": "f", "count": "i", "flag": "b", "day": "M"}


def test_path_of_a_file_gives_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    rows = [
        f"{'ab'[i % 2]};{'' if i % 9 == 0 else i % 5 + 0.5 + i % 2};{i % 3};{i % 28 + 1:02}/05/2020" for i in range(120)
    ]
    path.write_text("kind;size;count;day\n" + "\n".join(rows) + "\n")
    model = TableModel(**SMALL, types={"day": "date:%d/%m/%Y"}).fit(path)
    drawn = model.sample(30)
    assert {name: part.dtype.kind for name, part in drawn.items()} == {
        "kind": "O",
        "size": "f",
        "count": "i",
        "day": "M",
    }
    filled = model.impute(path)
    assert np.isfinite(filled["size"]).all()
    assert len(model.score_samples(path)) == 120
    assert np.isfinite(model.score_samples(path)).all()


WHERE = [
    ({"kind": "a"}, lambda rows: rows["kind"] == "a"),
    ({"size": (">", 3)}, lambda rows: rows["size"] > 3),
    ({"size": [(">", 0), ("<=", 1.5)], "kind": ("!=", "a")}, lambda rows: (rows["size"] > 0) & (rows["size"] <= 1.5)),
    ({"count": np.int64(2), "flag": True}, lambda rows: (rows["count"] == 2) & rows["flag"]),
    ({"size": None}, lambda rows: np.isnan(rows["size"])),
    ({"day": (">=", datetime.date(2020, 5, 1))}, lambda rows: rows["day"] >= np.datetime64("2020-05-01")),
    ({"moment": ("<", datetime.datetime(2020, 5, 1))}, lambda rows: rows["moment"] < np.datetime64("2020-05-01")),
    (["size > 3", "kind=a"], lambda rows: (rows["size"] > 3) & (rows["kind"] == "a")),
    ("count!=0", lambda rows: rows["count"] != 0),
]


@pytest.mark.parametrize(("where", "holds"), WHERE)
def test_conditions_hold_in_every_row(fitted: TableModel, where: Any, holds: Any) -> None:
    assert holds(fitted.sample(40, where=where)).all()


def test_draws_depend_on_the_seed_alone(fitted: TableModel) -> None:
    again = TableModel(**SMALL).fit(columns())
    for name in NAMES:
        first, second = fitted.sample(30)[name], again.sample(30)[name]
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(fitted.sample(30)["single"], fitted.sample(30, seed=1)["single"])
    np.testing.assert_array_equal(fitted.sample(10)["single"], fitted.sample(30)["single"][:10])


def test_prices_tell_rare_rows_from_common_ones() -> None:
    random = np.random.default_rng(0)
    number = random.choice(3, 600, p=[0.57, 0.38, 0.05])
    rows = {
        "kind": np.array(["a", "b", "c"], object)[number],
        "size": (random.normal(size=600) + 8.0 * number).round(1),
    }
    model = TableModel(steps=400, overrides={"network.width": 64}).fit(rows)
    common, rare, mixed = model.score_samples({"kind": ["a", "c", "a"], "size": [0.0, 16.0, 8.0]})
    assert common > rare + 1.0  # ln (.57 / .05) = 2.4
    assert common > mixed + 2.0  # each cell is common, and the two together are not
    assert model.score(rows) == pytest.approx(model.score_samples(rows).mean())


def test_cells_that_are_never_drawn_are_named_and_cost_more_than_one_row(fitted: TableModel) -> None:
    rows = {name: part[:1].repeat(2) for name, part in columns().items()}
    rows["kind"] = np.array(["a", "new"], object)
    rows["one"] = np.array([7, 8])
    with pytest.warns(UserWarning, match=r"1 in 'kind' \(row 2: 'new'\), 1 in 'one' \(row 2: '8'\)"):
        known, new = fitted.score_samples(rows)
    assert new < known - np.log(ROWS)


def test_saved_model_is_one_for_the_command_line_too(fitted: TableModel, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    model = TableModel.load(tmp_path / "model")
    assert model.get_params() == fitted.get_params()
    some = {name: part[:50] for name, part in columns().items() if name != "single"} | {"single": np.zeros(50)}
    np.testing.assert_array_equal(model.score_samples(some), fitted.score_samples(some))
    assert BFN.from_pretrained(tmp_path / "model").codec == fitted.model_.codec
    with pytest.raises(ConfigError, match="force=True"):
        fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model", force=True)
    (tmp_path / "model" / "frame.arrow").write_bytes(b"damaged")
    with pytest.raises(RunDirectoryError, match=r"frame\.arrow is damaged"):
        TableModel.load(tmp_path / "model")


FAULTS: list[tuple[Any, type[Exception], str]] = [
    (lambda model: TableModel().sample(3), ValueError, r"not fitted; write model\.fit\(df\) first"),
    (lambda model: model.sample(0), ConfigError, "n: expected a number of rows of at least 1, got 0"),
    (lambda model: model.sample(2, where={"nope": 1}), ConfigError, "no column is named 'nope'"),
    (lambda model: model.sample(2, where={"kind": ("~", 1)}), ConfigError, r"a pair with one of =, !=.*got \('~', 1\)"),
    (lambda model: model.impute(columns(), draws=0), ConfigError, "draws: expected an integer of at least 1"),
    (lambda model: model.impute({"kind": ["a"]}), DataError, "no column 'size', which the model was trained on"),
    (lambda model: model.impute({**columns(), "kind": ["new"] * ROWS}), DataError, "expected one of .*, got 'new'"),
    (lambda model: model.set_params(step=3), ConfigError, "no argument 'step'; it has preset, steps"),
    (lambda model: TableModel(types={"a": "colour"}).fit({"a": [1, 2, 3]}), ConfigError, "colour"),
    (lambda model: TableModel().fit({"a": [1, 2], "b": [1]}), DataError, "different numbers of rows"),
    (lambda model: TableModel().fit({"a": [1, "x", 3]}), DataError, "column 'a': expected texts, numbers or dates"),
    (lambda model: TableModel().fit({"a": [1, 2]}), DataError, r"2 sample\(s\).*minimum of 3"),
    (lambda model: TableModel().fit(np.zeros(5)), DataError, r"Reshape your data: X\.reshape\(-1, 1\)"),
    (lambda model: TableModel().fit("no.csv"), DataError, "no.csv"),
    (lambda model: TableModel.load("nowhere"), RunDirectoryError, "nowhere is not a directory"),
]


@pytest.mark.parametrize(("call", "error", "words"), FAULTS)
def test_faults_are_explained(fitted: TableModel, call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as found:
        call(fitted)
    assert "/tmp" not in str(found.value)  # the user has no file


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="hides scikit-learn")
def test_works_without_scikit_learn() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
from bfn_table import TableModel
from bfn_toolkit import ConfigError
model = TableModel(steps=2, overrides={"network.width": 16})
try:
    model.sample(1)
except ConfigError as error:
    print(error)
model.fit({"a": [1.5, 2.5, 1.5, 2.5] * 5, "b": list("xyyx") * 5})
print(sorted(model.sample(3)), model.score_samples({"a": [1.5], "b": ["x"]}).shape, model.get_params()["steps"])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "this TableModel is not fitted; write model.fit(df) first",
        "['a', 'b'] (1,) 2",
    ]
