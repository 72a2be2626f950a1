"""A model of a table as an estimator: fit, sample, impute, score, save."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

import attrs
import numpy as np
from torch import Tensor

from bfn_files.tables import read_table
from bfn_table.codec import RowsCodec
from bfn_table.columns import Column
from bfn_table.frames import Frame, FrameType
from bfn_toolkit import (
    BFN,
    CellConditions,
    ConfigError,
    DataError,
    Draws,
    Experiment,
    Model,
    Region,
    RegionSampler,
    RunDirectoryError,
    TrainingEvent,
    default_sampler,
    open_regular,
    raw_prices,
    seeded,
    train,
)

try:
    from sklearn.base import BaseEstimator as _Estimator
except ImportError:
    _Estimator = object

Array: TypeAlias = "np.ndarray[Any, Any]"
X: TypeAlias = Any  # a data frame, an array (N, C), a mapping of columns, or the path of a file

TYPES = "frame.arrow"  # file of a saved model
PARAMS = "table_model.json"
MOST = 16 * 2**20  # bytes of each that are read
LEAST = 3  # rows: for training, validation and test
GAPS = ("nan", "NaT", "<NA>")  # of NumPy and pandas
DAY = len("2020-01-01")
OPERATORS = ("=", "!=", "<", "<=", ">", ">=")


@attrs.define(slots=False, eq=False, kw_only=True, repr=_Estimator is object)
class TableModel(_Estimator):  # type: ignore[misc]
    """Learns a table: draws rows like its rows, fills gaps, answers conditions, and scores rows by their likelihood.

    The table is a data frame of pandas, polars or pyarrow, an array (N, C), a mapping of columns, or the path of a .csv
    or .parquet file.  Rows that come out are of the same kind, with the same types.  The interface is that of
    scikit-learn, which does not have to be installed.

    Arguments:
        preset: Name of a recipe; by default "table".
        steps: Number of steps of the training; by default that of the recipe.
        seed: Seed of splits, training and draws.
        columns: Names of the columns to learn; by default all.
        types: Kinds of columns by name, where their content does not tell: see :class:`bfn_table.Table`.
        bins: Largest number of classes of a column of numbers; by default a twelfth of the rows, from 12 to 100.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        orders: Number of orders of the columns that a price is averaged over.
        overrides: Other options of the experiment by dotted name, such as ``{"network.width": 256}``.
        verbose: Whether to print the progress of the training.

    After :meth:`fit` there are ``model_`` (:class:`bfn_toolkit.BFN`), ``n_features_in_`` and, if the columns have
    names, ``feature_names_in_``.
    """

    preset: str | None = None
    steps: int | None = None
    seed: int = 0
    columns: Sequence[str] | None = None
    types: Mapping[str, str] | None = None
    bins: int | None = None
    device: str = "auto"
    orders: int = 4
    overrides: Mapping[str, Any] | None = None
    verbose: bool = False

    def fit(self, X: X, y: object = None) -> Self:  # noqa: N803 - the name that scikit-learn prescribes
        """Learns a table, by the training of ``bfn train``.

        Arguments:
            X: The table, with 3 rows or more.
            y: Ignored; a target is a column of the table.
        Raises:
            ConfigError: If an option is wrong.
            DataError: If the table cannot be read, or no column can be learned.
        """
        if isinstance(X, (str, os.PathLike)):
            frame, names = None, list(read_table(_path(X), self._header).columns)
            model = self._trained(_path(X))
        else:
            frame = Frame.of(X)
            names = frame.table.column_names
            _check_size(frame.table.num_rows, len(names))
            with tempfile.TemporaryDirectory() as folder, _unnamed(folder):
                model = self._trained(frame.write(Path(folder)))
        codec = model.codec
        assert isinstance(codec, RowsCodec)
        type_ = FrameType.of_columns(codec.columns) if frame is None else frame.type
        self._set_fitted(model, type_, names, frame is None or frame.named)
        return self

    @property
    def _header(self) -> Any:
        return dict(self.overrides or {}).get("dataset.header")

    def _trained(self, path: Path) -> BFN:
        """The model of a file."""
        options: dict[str, Any] = {
            "training.steps": self.steps,
            "seed": self.seed,
            "dataset.columns": None if self.columns is None else list(self.columns),
            "dataset.types": self.types and dict(self.types),
            "dataset.bins": self.bins,
            "training.device": self.device,
            **(self.overrides or {}),
        }
        texts = [(name, _option(value)) for name, value in options.items() if value is not None]
        experiment = Experiment.from_path(path, "table", self.preset, texts)
        progress = [_print_progress] if self.verbose else []
        return train(experiment, callbacks=progress).model

    def sample(self, n: int = 1, *, where: Any = None, seed: int | None = None) -> Any:
        """Draws n rows.

        Arguments:
            n: Number of rows.
            where: Conditions: a mapping from columns to values, to pairs such as ``(">", 4000)``, or to lists of them;
                or texts such as ``["species=Adelie", "body_mass_g>4000"]``.  None or NaN asks for a gap.
            seed: Seed of the draws; by default that of the model.  Another seed gives other rows.
        Returns:
            Rows of the kind and the types of the table that was learned, without the columns that were left out.
        Raises:
            ConfigError: If there is no such column, or no row satisfies the conditions.
        """
        model, codec = self._fitted()
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ConfigError(f"n: expected a number of rows of at least 1, got {n!r}")
        conditions = CellConditions.of(codec, _conditions(where, codec))
        with seeded(self._seed(seed), "samples"):
            x = self._draw(model, int(n), conditions.pair(codec) if conditions.known else None, conditions.regions)
        known = {name: [text] * len(x) for name, text in conditions.known.items()}
        return self.frame_type_.of_cells({**codec.decode(x), **known}, codec.columns)

    def impute(self, X: X, *, draws: int = 1, seed: int | None = None) -> Any:  # noqa: N803
        """Fills the gaps of a table by draws from their distribution given the other cells of their row.

        Arguments:
            X: A table with the columns that were learned; those that were left out are returned as they are.
            draws: Number of tables, which differ in the cells that were filled.
            seed: Seed of the draws.
        Returns:
            The table without gaps, of the kind of X; a list of tables for two draws or more.
        Raises:
            DataError: If a column is missing, or a cell is none of its column.
        """
        model, codec = self._fitted()
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ConfigError(f"draws: expected an integer of at least 1, got {draws!r}")
        frame = self._frame(X)
        x = codec.encode(codec.rows_of(frame.texts, typed=True))
        known = codec.known(x)
        some = (~known).any(1).nonzero().flatten()
        tables = []
        for draw in range(draws):
            replaced = {}
            if len(some):
                with seeded(self._seed(seed), "imputed", draw):
                    drawn = self._draw(codec.filling(model), len(some), (x[some], known[some]))
                filled = codec.decode(drawn)
                for d, column in enumerate(codec.learned):
                    gaps = (~known[some, d]).nonzero().flatten()
                    if len(gaps):
                        texts = [filled[column.name][i] for i in gaps.tolist()]
                        replaced[column.name] = some[gaps].tolist(), texts, column
            tables.append(frame.with_cells(replaced, self.frame_type_))
        return tables[0] if draws == 1 else tables

    def score_samples(self, X: X) -> Array:  # noqa: N803
        """Log-probability of each row in nats, float64 (N,): the higher the likelier.

        A gap is a value like any other in columns that had gaps, and is left out in others.  A cell that the model
        never draws counts as rarer than one training row, with a warning (:meth:`RowsCodec.priced`).
        """
        model, codec = self._fitted()
        raw = codec.rows_of(self._frame(X).texts, typed=True)
        return -raw_prices(model, raw, orders=self.orders, seed=self.seed).total.numpy()

    def score(self, X: X, y: object = None) -> float:  # noqa: N803
        """Mean log-probability of the rows in nats."""
        return float(self.score_samples(X).mean())

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the model into a directory, which :meth:`load`, ``bfn sample`` and ``BFN.from_pretrained`` read.

        Arguments:
            path: The directory.
            force: Whether to replace a model that is there.
        Raises:
            ConfigError: If the directory holds something else.
            ResourceError: If a file cannot be written.
        """
        model, _ = self._fitted()
        folder = Path(path)
        model.save_pretrained(folder, force=force)
        facts = {"params": self.get_params(), "columns": self.frame_type_.like.column_names, "named": self._named}
        text = json.dumps(facts, indent=2, default=_plain) + "\n"
        for name, content in ((PARAMS, text.encode()), (TYPES, self.frame_type_.to_bytes())):
            (folder / name).unlink(missing_ok=True)  # of a link, and not the file that it leads to
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote; the model is on the CPU.

        Raises:
            RunDirectoryError: If it is not such a directory, or a file of it is damaged.
        """
        folder = Path(path)
        model = BFN.from_pretrained(folder)
        try:
            facts, types = (_content(folder / name) for name in (PARAMS, TYPES))
            facts = json.loads(facts)
            loaded = cls(**facts["params"])
            type_ = FrameType.from_bytes(types, folder / TYPES)
            loaded._set_fitted(model, type_, facts["columns"], facts["named"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{folder} is not a saved TableModel, or is damaged: {error}; BFN.from_pretrained reads other models"
            ) from error
        return loaded

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Sets arguments of the constructor.

        Raises:
            ConfigError: If there is no such argument.
        """
        known = [field.name for field in attrs.fields(type(self))]
        for name, value in params.items():
            if name not in known:
                raise ConfigError(f"TableModel has no argument '{name}'; it has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        inputs = tags.input_tags
        inputs.string = inputs.categorical = inputs.allow_nan = True
        return tags

    @property
    def _named(self) -> bool:
        return hasattr(self, "feature_names_in_")

    def _set_fitted(self, model: BFN, type_: FrameType, names: Sequence[str], named: bool) -> None:
        self.model_, self.frame_type_, self.n_features_in_ = model, type_, len(names)
        if named:
            self.feature_names_in_ = np.array(names, object)
        elif self._named:
            del self.feature_names_in_

    def _fitted(self) -> tuple[BFN, RowsCodec]:
        if not hasattr(self, "model_"):
            message = "this TableModel is not fitted; write model.fit(df) first"
            try:
                from sklearn.exceptions import NotFittedError
            except ImportError:
                raise ConfigError(message) from None
            raise NotFittedError(message)
        codec = self.model_.codec
        assert isinstance(codec, RowsCodec)
        return self.model_, codec

    def _seed(self, seed: int | None) -> int:
        return self.seed if seed is None else int(seed)

    def _draw(self, model: Model, n: int, known: Any = None, regions: Sequence[Region] = ()) -> Tensor:
        """Rows of a model, one column after another."""
        steps = model.family.default_steps or 1
        sampler = RegionSampler(regions, sampler=default_sampler(model.family, steps))
        rows: Tensor = Draws.of(model, n, n_steps=steps, sampler=sampler, known=known).draw(range(n)).cpu()
        return rows

    def _frame(self, X: X) -> Frame:  # noqa: N803
        """A table to be completed or priced, with the columns of the one that was learned."""
        codec = self._fitted()[1]
        frame = Frame.read(_path(X), codec.columns) if isinstance(X, (str, os.PathLike)) else Frame.of(X)
        found = frame.table.column_names
        if not (frame.named and self._named) and len(found) != self.n_features_in_:
            raise DataError(
                f"X has {len(found)} features, but TableModel is expecting {self.n_features_in_} features as input"
            )
        if not frame.named and self._named:
            frame = frame.renamed(self.feature_names_in_.tolist())
        for name in (column.name for column in codec.columns):
            if name not in frame.table.column_names:
                raise DataError(
                    f"there is no column '{name}', which the model was trained on; found {', '.join(found)}"
                )
        return frame


@contextmanager
def _unnamed(folder: str) -> Iterator[None]:
    """Scope whose errors and warnings do not name a file in a temporary folder, of which the user knows nothing."""
    name = re.compile(re.escape(folder) + r"\S*: ")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except (ConfigError, DataError) as error:
        raise type(error)(name.sub("", str(error))) from error
    finally:
        for warning in caught:
            warnings.warn(name.sub("", str(warning.message)), warning.category, stacklevel=4)


def _check_size(rows: int, columns: int) -> None:
    for number, what, least in ((columns, "feature", 1), (rows, "sample", LEAST)):
        if number < least:
            raise DataError(
                f"Found array with {number} {what}(s) (shape=({rows}, {columns})) while a minimum of {least} is "
                "required."
            )


def _path(name: str | os.PathLike[str]) -> Path:
    return Path(name).expanduser()


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(MOST)


def _plain(value: Any) -> Any:
    """A parameter as JSON has it: numbers of NumPy, and other sequences than lists."""
    return value.item() if hasattr(value, "item") else list(value)


def _option(value: Any) -> str:
    """A value as the text of an option of the command line."""
    return value if isinstance(value, str) else _toml(value)


def _toml(value: Any) -> str:
    """A value in TOML, in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _conditions(where: Any, codec: RowsCodec) -> list[str]:
    """Conditions as texts."""
    if where is None:
        return []
    if isinstance(where, str):
        return [where]
    if not isinstance(where, Mapping):
        return list(where)
    texts, columns = [], {column.name: column for column in codec.columns}
    for name, value in where.items():
        for operator, wanted in _pairs(value):
            if operator not in OPERATORS:
                raise ConfigError(
                    f"where['{name}']: expected a value, or a pair with one of {', '.join(OPERATORS)} such as "
                    f'(">", 4000), got {value!r}'
                )
            texts.append(f"{name}{operator}{_text(wanted, columns.get(name))}")
    return texts


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """Operators and values of a condition: 3, (">", 3) or [(">", 3), ("<", 9)]."""
    if isinstance(value, list):
        return [pair for part in value for pair in _pairs(part)]
    return [value] if isinstance(value, tuple) and len(value) == 2 else [("=", value)]


def _text(value: Any, column: Column | None) -> str:
    """A value as a cell of a column; "" for a gap."""
    text = str(value)
    if value is None or text in GAPS:
        return ""
    if hasattr(value, "isoformat") and column is not None:
        day = text.removesuffix(" 00:00:00")
        text = day if column.kind == "date" or len(day) > DAY else f"{day} 00:00:00"
        return column.respelled([text])[0]
    return text


def _print_progress(event: TrainingEvent) -> None:
    if event.metrics:
        print(f"step {event.step:,}  loss {event.metrics[-1]['loss']:.4g} nats")
