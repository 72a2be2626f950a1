"""The experiment that the files of a run belong to.

``model.json`` and the ``state.json`` of each checkpoint hold the text of the experiment that made them, and the size
and the SHA-256 of the lines of ``metrics.jsonl`` until then; ``evaluation.json`` holds the SHA-256 of the weights that
it is about, and of itself; ``SHA256SUMS`` and ``MANIFEST.json`` hold those of the other files.  So a file of another
run, or a changed one, is noticed.

What changes no number may differ: comments, the order of the lines, :data:`RESUME_SAFE_OPTIONS`, and the place of the
data, whose content has a fingerprint of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.config.toml_files import parse_toml, read_toml
from bfn_toolkit.errors import BFNError, ConfigError, DataError, RunDirectoryError
from bfn_toolkit.runs.checkpoints import list_checkpoints, read_state
from bfn_toolkit.runs.metrics_log import METRICS, StoredMetrics, is_record
from bfn_toolkit.runs.model_files import DESCRIPTION, load_description
from bfn_toolkit.runs.provenance import differences, fingerprint
from bfn_toolkit.storage.files import digest
from bfn_toolkit.storage.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from bfn_toolkit.runs.run import Run

EXPERIMENT, EVALUATION = "experiment.toml", "evaluation.json"
# Training options that cannot change the numbers of a run.
RESUME_SAFE_OPTIONS = ("checkpoint_every", "keep", "on_save_error", "timeout", "trackers", "workers")
SHOWN = 5  # differences in a message
LETTERS = 200  # of a value in it
LIBRARY = "bfn-toolkit"

Table = Mapping[str, Any]


def places(dataset: Any) -> list[str]:
    """Options of a data set that say where its data lie."""
    fields = attrs.fields(type(dataset)) if attrs.has(type(dataset)) else ()
    return [field.name for field in fields if isinstance(getattr(dataset, field.name), Path)]


def what_matters(experiment: Table, dataset: Any) -> dict[str, Any]:
    """The table of an experiment without the options that change no number of a run."""

    def without(part: str, names: Iterable[str]) -> Any:
        table = experiment.get(part)
        return {k: v for k, v in table.items() if k not in names} if isinstance(table, Mapping) else table

    training, data = without("training", RESUME_SAFE_OPTIONS), without("dataset", places(dataset))
    return {**experiment, "training": training, "dataset": data}


def identity(experiment: Table, dataset: Any) -> str:
    """SHA-256 of what matters in an experiment."""
    return digest(json.dumps(what_matters(experiment, dataset), sort_keys=True, default=str).encode())


def changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Differences between two tables, in words."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        if before != now:
            yield f"{key}: {_shown(before)} then, {_shown(now)} now"
        return
    for name in [*before, *(name for name in now if name not in before)]:
        yield from changes(before.get(name), now.get(name), f"{key}.{name}" if key else name)


def changed_settings(before: Table, now: Table, dataset: Any) -> list[str]:
    """Changes of environment, plugins, data and options that may change the numbers of a run, in words."""
    found = differences(before["environment"], now["environment"])
    for key, plugin in now["plugins"].items():
        then, name = before["plugins"].get(key, plugin), plugin["distribution"]
        if then != plugin and name != LIBRARY:  # which is in the environment
            found.append(f"{name}: {then['version']} then, {plugin['version']} now")
    found += ["data"] if before["data"] != now["data"] else []
    then, present = (what_matters(parsed(state["experiment"]), dataset) for state in (before, now))
    return list(dict.fromkeys([*found, *changes(then, present)]))


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}..."


def parsed(text: str) -> dict[str, Any]:
    """The table of an experiment that a run recorded as TOML.

    Raises:
        ConfigError: If it is not TOML.
    """
    return parse_toml(text, "its experiment")[0]


def check_facts(facts: Table, path: Path) -> None:
    """Checks the form of the facts in ``model.json`` or ``state.json`` that are used before the weights.

    Raises:
        RunDirectoryError: If they have another.
    """
    plugins, inexact = facts.get("plugins"), facts.get("inexact")
    words = ("name", "distribution", "version")
    sound = (
        isinstance(plugins, Mapping)
        and all(isinstance(one, Mapping) for one in plugins.values())
        and all(isinstance(one.get(word), str) for one in plugins.values() for word in words)
        and isinstance(inexact, list)
        and all(isinstance(one, Mapping) and isinstance(one.get("experiment"), str) for one in inexact)
        and is_record(facts.get("metrics"))
        and isinstance(facts.get("source"), (Mapping, type(None)))
        and isinstance(facts.get("experiment"), str)
    )
    if sound:
        try:
            table = parsed(facts["experiment"])
            sound = all(isinstance(table.get(name), Mapping) for name in ("training", "dataset"))
        except ConfigError as error:
            raise RunDirectoryError(f"{path} is damaged: {error}") from error
    if not sound:
        raise RunDirectoryError(
            f"{path} does not say which experiment it belongs to; it is damaged, or of another version of bfn-toolkit"
        )


def recorded_experiment(folder: Path, facts: Table, path: Path) -> Experiment:
    """The experiment that made a state, on the data whose place ``experiment.toml`` states.

    Arguments:
        folder: The run directory.
        facts: The facts about the state.
        path: File of the facts, for messages.
    Raises:
        RunDirectoryError: If ``experiment.toml`` cannot be read, or is not of this experiment.
    """
    try:
        table, _ = read_toml(folder / EXPERIMENT, str(folder / EXPERIMENT))
        recorded = parsed(facts["experiment"])
        experiment = Experiment.from_mapping(recorded, complete=True)
        _check_same(folder, table, facts, path, experiment.dataset)
        data = {name: table["dataset"][name] for name in places(experiment.dataset) if name in table["dataset"]}
        if data.items() <= recorded["dataset"].items():
            return experiment
        moved = Experiment.from_mapping({**recorded, "dataset": {**recorded["dataset"], **data}}, complete=True)
    except ConfigError as error:
        raise RunDirectoryError(str(error)) from error
    then = {name: recorded["dataset"].get(name) for name in data}
    _check_moved(moved.dataset, facts, f"{folder / EXPERIMENT}: {'; '.join(changes(then, data, 'dataset'))}")
    return moved


def _check_moved(dataset: Any, facts: Table, place: str) -> None:
    """Checks that data at another place than in the training are the same: otherwise it could be another run.

    Raises:
        RunDirectoryError: If they are not, or cannot be read.
    """
    source, data = facts.get("source"), facts.get("data")
    if source is None and data is None:  # of imported weights
        return
    try:
        found = data_changes(dataset, source or {}, None if source else data)
    except DataError as error:
        found = [str(error)]
    if found:
        raise RunDirectoryError(
            f"{place}; the place of data that moved may change, but these are not those of the training: "
            f"{'; '.join(found)}"
        )


def data_changes(dataset: Any, source: Table, data: str | None = None, present: str | None = None) -> list[str]:
    """Changes of the data since a training, in words.

    Arguments:
        dataset: The data as they are now.
        source: :attr:`Dataset.source <bfn_toolkit.Dataset.source>` at the training.
        data: Fingerprint of the stored rows at the training, for a data set without a source; None to read none.
        present: Their fingerprint now, if it is known.
    """
    now = json.loads(json.dumps(dict(dataset.source)))  # as it was recorded
    found = [
        f"another {key}" if isinstance(now.get(key), str) else f"{key}: {source.get(key)} then, {now.get(key)} now"
        for key in {**now, **source}
        if source.get(key) != now.get(key)
    ]
    if not found and data is not None:
        found = ["other rows"] if data != (present or stored_fingerprint(dataset)) else []
    return found


def stored_fingerprint(dataset: Any) -> str:
    """Fingerprint of the training and validation rows as they are stored."""
    return fingerprint(dataset.rows("train"), dataset.rows("valid"))


def _check_same(folder: Path, table: Table, facts: Table, path: Path, dataset: Any) -> None:
    """Checks that facts are of the experiment of a run directory: now, or before a change that was recorded."""
    now, known = identity(table, dataset), _history(facts, dataset)
    if now in known or any(now == later[0] and known[0] in later for later in _histories(folder, dataset)):
        return
    differ = list(changes(what_matters(parsed(facts["experiment"]), dataset), what_matters(table, dataset)))
    more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    raise RunDirectoryError(
        f"{folder / EXPERIMENT} is not that of {path}: {'; '.join(differ[:SHOWN])}{more}. "
        "One of them was edited, or is of another run; restore it"
    )


def _history(facts: Table, dataset: Any) -> list[str]:
    """Identities of the experiments of a state, from the last to the first."""
    return [identity(parsed(facts["experiment"]), dataset), *(entry["experiment"] for entry in facts["inexact"][::-1])]


def _histories(folder: Path, dataset: Any) -> Iterator[list[str]]:
    """The histories of all sound states of a run."""
    for facts, path in all_facts(folder):
        try:
            check_facts(facts, path)
        except RunDirectoryError:
            continue
        yield _history(facts, dataset)


def all_facts(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Facts about the sound checkpoints of a run, from the last to the first, and about its model; and their places."""
    for listed in reversed(list_checkpoints(folder)):
        with suppress(RunDirectoryError):  # a running training may just have removed it
            yield read_state(listed.path), listed.path
    with suppress(RunDirectoryError):
        yield load_description(folder), folder / DESCRIPTION


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of files of a run that are damaged, or do not belong to its sound states, each with the reason."""
    states = [*all_facts(folder)]
    for facts, path in states:
        try:
            check_facts(facts, path)
            recorded_experiment(folder, facts, path)
        except BFNError as error:
            yield EXPERIMENT, str(error)
            return
    if states:
        stored = StoredMetrics(folder, states[-1][0]["metrics"])
        if stored.fault:
            yield METRICS, stored.fault
    try:
        read_evaluation(folder)
    except RunDirectoryError as error:
        yield EVALUATION, str(error)


def write_evaluation(run: Run, scores: Table) -> None:
    """Writes scores of a run into its directory, with the experiment and the weights that they are about.

    Raises:
        ResourceError: If they cannot be written.
    """
    assert run.path is not None
    record = {**scores, "experiment": run.identity, "weights": attrs.asdict(run.weights)}
    write_sealed(run.path / EVALUATION, record)


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The scores of the last evaluation; None if there are none.

    Raises:
        RunDirectoryError: If they are not as they were written.
    """
    return read_sealed(folder / EVALUATION) if os.path.lexists(folder / EVALUATION) else None
