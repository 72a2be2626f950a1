"""Run directories: everything about one training run, in files that people can read.

====================== ===========================================================
``experiment.toml``    complete: ``bfn train --config`` repeats the run from it
``metrics.jsonl``      one object a step: step, loss, grad_norm, lr (and valid_loss)
``model.safetensors``  weights to sample from, once training has ended
``model.json``         their description: format, versions, step, plugins, experiment
``SHA256SUMS``         digests of both, for ``sha256sum -c``
``checkpoints/``       training states (:mod:`~bfn_toolkit.runs.checkpoints`)
``nonfinite/``         reports of losses that were not finite
``evaluation.json``    the last evaluation
``samples.*``          samples, in a format of the data's codec
``figures/``           pictures
``report.html``        a page about the run
====================== ===========================================================

All of them say which experiment they belong to (:mod:`~bfn_toolkit.runs.records`).
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.data.codec import Codec
from bfn_toolkit.data.conditions import ConditionSpec, SizeSpec, recorded, recorded_sizes
from bfn_toolkit.data.dataset import Batch, Rows, Split
from bfn_toolkit.data.rows import bytes_per_row, prepared_rows, spread
from bfn_toolkit.errors import BFNWarning, ConfigError, DataError, RunDirectoryError
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs.blueprints import build, saved_sizes
from bfn_toolkit.runs.checkpoints import find_checkpoint, list_checkpoints, load_checkpoint, read_state
from bfn_toolkit.runs.metrics_log import StoredMetrics
from bfn_toolkit.runs.model_files import DESCRIPTION, WEIGHTS, load_description, load_model
from bfn_toolkit.runs.provenance import check_providers, recorded_codec
from bfn_toolkit.runs.records import (
    EXPERIMENT,
    all_facts,
    check_facts,
    data_changes,
    identity,
    parsed,
    places,
    recorded_experiment,
    stored_fingerprint,
)
from bfn_toolkit.storage.files import read_checked
from bfn_toolkit.storage.safetensors_files import loads

SHOWN = 2**28  # bytes of a split that figures and distances take


@attrs.frozen
class Weights:
    """Origin of the weights of a model.

    Arguments:
        kind: "ema" for the moving average, "raw" for those in training, "saved" for a model saved without its run.
        step: Number of optimiser steps.
        source: "final", or the name of the checkpoint.
        sha256: SHA-256 of the file that holds them; "" for a model in memory.
    """

    kind: str
    step: int
    source: str
    sha256: str = ""

    def __str__(self) -> str:
        if self.kind == "saved":
            return f"those of {self.source}"
        kind = "moving average of the weights" if self.kind == "ema" else "weights"
        return f"{kind} after step {self.step} ({self.source})"


@attrs.frozen(eq=False)
class Run:
    """A trained model and where it came from.

    Arguments:
        experiment: Data, family, network, loss and options.
        model: The model, ready to sample.
        metrics: One mapping per logged step until these weights; of a run directory they are read when they are needed.
        path: The run directory, or None for a run that was kept in memory.
        weights: Origin of the model's weights.
        seen: Summary of each condition in the training rows; None if not recorded.
        source: :attr:`Dataset.source <bfn_toolkit.Dataset.source>` of the training; None if not recorded.
        sizes: Sizes of the training rows, if they are padded and it was recorded.
        data: Fingerprint of the training and validation rows; None if not recorded.
        text: The experiment as it was recorded, in TOML; None if it was not.
    """

    experiment: Experiment
    model: BFN
    metrics: Sequence[Mapping[str, float]]
    path: Path | None = None
    weights: Weights = Weights("raw", 0, "in memory")
    seen: Mapping[str, ConditionSpec] | None = None
    source: Mapping[str, Any] | None = None
    sizes: SizeSpec | None = None
    data: str | None = None
    text: str | None = None
    _present: list[str] = attrs.field(factory=list, init=False, repr=False)  # fingerprint of the rows as they are now

    def __repr__(self) -> str:
        size = sum(weight.numel() for weight in self.model.network.parameters())
        place = "kept in memory" if self.path is None else f"in {self.path}"
        parts = (self.experiment.dataset, self.experiment.family, self.experiment.network)
        names = ", ".join(type(part).__name__ for part in parts if part is not None)
        return f"Run({names} with {size:,} parameters; {self.weights}; {place})"

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        checkpoint: str = "final",
        weights: str = "auto",
        allow_nonfinite: bool = False,
        allow_plugin_mismatch: bool = False,
    ) -> Run:
        """Reads a run directory.

        Arguments:
            path: The directory.
            checkpoint: "final" for the model at the end of training (before that, the last checkpoint), "last", "best"
                (the lowest validation loss), or a step.
            weights: "ema", "raw", or "auto" for the average where there is one.
            allow_nonfinite: Whether weights may be NaN or infinite.
            allow_plugin_mismatch: Whether plugins may be of another major version than in training.
        Raises:
            RunDirectoryError: If it is not one, or a file of it is damaged.
            PluginError: If a plugin that trained it is not installed, or only in another major version.
        """
        if weights not in ("auto", "ema", "raw"):
            raise ConfigError(f"expected the weights auto, ema or raw, got '{weights}'")
        folder = check_run(Path(path))
        facts, source = _facts(folder, checkpoint, weights)
        check_facts(facts, source)
        check_providers(facts["plugins"], allow_mismatch=allow_plugin_mismatch)
        experiment = recorded_experiment(folder, facts, source)
        has_ema = experiment.training.ema_decay > 0.0
        if weights == "ema" and not has_ema:
            raise ConfigError(f"{folder} has no moving average of the weights; it was trained with ema_decay = 0")
        kind = "ema" if has_ema and weights != "raw" else "raw"
        content = _weights(folder) if source.name == DESCRIPTION else b""
        network = build(experiment.family, experiment.network, saved_sizes(folder))
        model = BFN(experiment.family, network, experiment.network)
        expected = model.network.state_dict()
        if source.name == DESCRIPTION:
            state = loads(content, folder / WEIGHTS, expected, allow_nonfinite=allow_nonfinite)
            found = Weights(kind, facts["step"], "final", str(facts.get("sha256", "")))
        else:
            read = load_checkpoint(source, expected, has_ema, allow_nonfinite=allow_nonfinite)
            state = dict(read.ema if kind == "ema" and read.ema is not None else read.weights)
            found = Weights(kind, read.step, source.name, read.digests[kind])
        model.network.load_state_dict(state)
        model.codec = recorded_codec(facts, folder) or model.codec
        return cls(
            experiment,
            model.eval(),
            StoredMetrics(folder, facts["metrics"]),
            folder,
            found,
            seen=recorded(facts.get("conditions"), folder),
            source=facts.get("source"),
            sizes=recorded_sizes(facts.get("sizes"), source),
            data=facts.get("data"),
            text=facts["experiment"],
        )

    @property
    def identity(self) -> str:
        """SHA-256 of what matters in the experiment."""
        return identity(parsed(self.text or self.experiment.to_toml()), self.experiment.dataset)

    @property
    def codec(self) -> Codec:
        """The way from the user's data to those of the model and back, as at the training."""
        return self.model.codec

    def rows(self, name: Split, device: torch.device | str = "cpu") -> Rows:
        """Rows of the data set that it was trained on, prepared and on a device when they are read.

        Raises:
            DataError: If they cannot be read, or their source is not that of the training.
        """
        rows = self.rows_as_now(name, device)
        changed = "; ".join(self.source_changes())
        if changed and not self.source and not places(self.experiment.dataset):
            words = "the data are drawn, and other rows come out than in the training, as with another torch or CPU"
            warnings.warn(f"{words}; rows that the model has seen could be in the test split", BFNWarning, stacklevel=2)
        elif changed:
            raise DataError(
                f"the data are not those that the model was trained on: {changed}. Rows that it has seen "
                "could be in the test split. Restore the data of the training, or train anew; samples do not need them"
            )
        return rows

    def source_changes(self) -> list[str]:
        """Changes of the source of the data since the training, in words; none if it was not recorded."""
        if self.source is None:
            return []
        dataset = self.experiment.dataset
        if not self.source and self.data is not None:  # a data set that does not say what it reads
            if not self._present:
                self._present.append(stored_fingerprint(dataset))
            return data_changes(dataset, {}, self.data, self._present[0])
        return data_changes(dataset, self.source)

    def rows_as_now(self, name: Split, device: torch.device | str = "cpu") -> Rows:
        """Rows of the data set as its source is now, which may have changed since the training.

        Raises:
            DataError: If they cannot be read.
        """
        dataset = self.experiment.dataset
        if dataset is None:
            raise DataError(
                f"{self.path} is a model without data, which this needs; use the run directory that it came from"
            )
        try:
            return prepared_rows(dataset, name, torch.device(device))
        except DataError as error:
            if self.path is None:
                raise
            place = self.path / EXPERIMENT
            raise DataError(
                f"{error}. This needs the data of the run: restore them, or write their new place into {place} "
                "(nothing else there may change). Samples and 'bfn plot --flows' do not need them"
            ) from error

    def split(self, name: Split) -> Batch:
        """Examples of the data set that it was trained on, in memory.

        Of stored rows (:meth:`Dataset.rows <bfn_toolkit.Dataset.rows>`) that would take more than :data:`SHOWN` bytes
        these are rows at equal distances.

        Raises:
            DataError: If they cannot be read.
        """
        return _in_memory(self.rows(name), name)

    def split_as_now(self, name: Split) -> Batch:
        """Examples as :meth:`split` has them, of a source that may have changed since the training."""
        return _in_memory(self.rows_as_now(name), name)

    def save_pretrained(
        self, directory: str | Path, *, card: Mapping[str, Any] | None = None, force: bool = False
    ) -> None:
        """Writes the model into a directory to share; see :func:`bfn_toolkit.sharing.export.export_run`."""
        from bfn_toolkit.sharing.export import export_run

        export_run(self, directory, card=card, force=force)

    def push_to_hub(
        self, repo_id: str, *, card: Mapping[str, Any] | None = None, private: bool = True, token: str | None = None
    ) -> str:
        """Uploads the model to the Hugging Face Hub; see :func:`bfn_toolkit.sharing.export.push_run`."""
        from bfn_toolkit.sharing.export import push_run

        return push_run(self, repo_id, card=card, private=private, token=token)


def _in_memory(rows: Rows, name: Split) -> Batch:
    """All rows; of stored ones that would take more than :data:`SHOWN` bytes, rows at equal distances."""
    if isinstance(rows, Batch):
        return rows
    with seeded(0, "prepare", name):
        size = bytes_per_row(rows[torch.arange(1)])
        return rows[spread(len(rows), SHOWN // size)]


def load_run(path: str | Path) -> BFN:
    """The model of a run directory, ready to sample, on the CPU.

    Raises:
        RunDirectoryError: If it is not a run directory, or a file of it is damaged.
    """
    return Run.open(path).model


def check_run(folder: Path) -> Path:
    """Returns a folder that is a run directory.

    Raises:
        RunDirectoryError: If it is not.
    """
    if not folder.is_dir():
        found = "it does not exist" if not folder.exists() else "it is not a directory"
        raise RunDirectoryError(f"{folder} is not a run directory: {found}. 'bfn train --out {folder}' makes one")
    if not (folder / EXPERIMENT).is_file():
        saved = (folder / "config.json").is_file()
        hint = ", but a saved model, which bfn sample and BFN.from_pretrained read" if saved else ""
        raise RunDirectoryError(f"{folder} is not a run directory: it holds no {EXPERIMENT}{hint}")
    return folder


def _facts(folder: Path, checkpoint: str, weights: str) -> tuple[Mapping[str, Any], Path]:
    """Facts about the chosen state of a run, and its place: ``model.json``, or the folder of a checkpoint.

    Raises:
        RunDirectoryError: If there is none, or it is damaged.
    """
    has_model = (folder / DESCRIPTION).exists()
    if checkpoint == "final" and has_model:
        try:
            facts = load_description(folder)
        except RunDirectoryError as error:
            raise _with_advice(error, folder) from error
        # The model at the end is the average where there is one; everything else is in the checkpoints.
        if weights in ("auto", facts.get("weights")):
            return facts, folder / DESCRIPTION
    listed, passed = find_checkpoint(folder, "last" if checkpoint == "final" else checkpoint)
    if checkpoint == "final" and (folder / WEIGHTS).exists() and not has_model:
        passed = [f"a crash left {folder / WEIGHTS} without {DESCRIPTION}", *passed]
    for fault in passed:
        warnings.warn(f"skipped: {fault}", BFNWarning, stacklevel=3)
    if listed is None and has_model and weights == "ema":
        raise ConfigError(f"{folder} has no moving average of the weights; it was trained with ema_decay = 0")
    if listed is None and has_model:
        raise RunDirectoryError(f"{folder} holds no checkpoints, but a model; leave out --checkpoint and --weights")
    if listed is None:
        raise RunDirectoryError(
            f"{folder} holds neither {DESCRIPTION} nor checkpoints: its training did not get so far. "
            f"Continue it with: bfn train --resume {folder}"
        )
    return read_state(listed.path), listed.path


def _weights(folder: Path) -> bytes:
    """The file of the model of a run, after checking every byte of it.

    Raises:
        RunDirectoryError: If it is missing or damaged.
    """
    try:
        return read_checked(folder, WEIGHTS)
    except RunDirectoryError as error:
        raise _with_advice(error, folder) from error


def _with_advice(error: RunDirectoryError, folder: Path) -> RunDirectoryError:
    """An error about the model of a run, with what is left of it."""
    if all(listed.fault for listed in list_checkpoints(folder)):
        return error
    name = shlex.quote(str(folder))
    return RunDirectoryError(
        f"{error}. The checkpoints remain: add --checkpoint last, or write the model anew: bfn train --resume {name}"
    )


def read_experiment(folder: Path, *, allow_plugin_mismatch: bool = False) -> Experiment:
    """The experiment of a run directory as its file is now, after checking that its plugins are installed.

    Raises:
        RunDirectoryError: If it is not a run directory.
        PluginError: If a plugin is missing, or of another major version.
    """
    check_run(folder)
    for facts, path in all_facts(folder):
        check_facts(facts, path)
        check_providers(facts["plugins"], allow_mismatch=allow_plugin_mismatch)
        break
    try:
        return Experiment.from_toml(folder / EXPERIMENT, base=None, complete=True)
    except ConfigError as error:
        raise RunDirectoryError(str(error)) from error


def load_weights(folder: Path, network: nn.Module) -> None:
    """Loads the model of a directory into a network of the same architecture, after checking all of it.

    Raises:
        RunDirectoryError: If a file is missing or damaged, or does not fit the network.
    """
    network.load_state_dict(load_model(folder, network.state_dict()))
