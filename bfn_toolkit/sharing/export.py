"""Runs as saved models: written with a model card, uploaded, and opened again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.errors import ConfigError, RunDirectoryError
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.runs.records import EXPERIMENT, read_evaluation
from bfn_toolkit.runs.run import Run, Weights
from bfn_toolkit.sharing import hub, pretrained
from bfn_toolkit.sharing.zoo import located


def export_run(run: Run, directory: str | Path, *, card: Mapping[str, Any] | None = None, force: bool = False) -> None:
    """Writes the model of a run as :meth:`bfn_toolkit.BFN.save_pretrained` does, with facts of the run on its card.

    Arguments:
        run: The run.
        directory: Directory of the model.
        card: Fields of :class:`~bfn_toolkit.sharing.model_card.Card` that replace those of the run.
        force: Whether to replace a model that is there.
    Raises:
        ConfigError: If ``directory`` is not empty, or a field of the card does not exist.
        NonFiniteError: If a weight is NaN or infinite; nothing is written then.
        ResourceError: If a file cannot be written.
    """
    architecture = pretrained.Architecture(run.experiment.family, run.experiment.network, run.model.codec)
    fields = {**_card(run), **(card or {})}
    pretrained.save(architecture, run.model.network, directory, fields, force=force, seen=run.seen, sizes=run.sizes)


def push_run(
    run: Run, repo_id: str, *, card: Mapping[str, Any] | None = None, private: bool = True, token: str | None = None
) -> str:
    """Uploads the output of :func:`export_run`; arguments and errors are those of :meth:`bfn_toolkit.BFN.push_to_hub`.

    Returns:
        The address of the model.
    """

    def save(folder: Path) -> None:
        export_run(run, folder, card=card)

    return hub.push(save, repo_id, private=private, token=token)


def open_model(
    path: str | Path,
    *,
    checkpoint: str = "final",
    weights: str = "auto",
    allow_nonfinite: bool = False,
    allow_plugin_mismatch: bool = False,
) -> Run:
    """Opens a run directory, or a saved model: a run that can be sampled, and has no data, loss or metrics.

    Arguments:
        path: The directory, or the name of a model of a zoo: "zoo:digits".
        checkpoint: State of a run; see :meth:`bfn_toolkit.Run.open`.
        weights: Weights of a run; see there.
        allow_nonfinite: Whether weights may be NaN or infinite.
        allow_plugin_mismatch: Whether plugins may be of another major version than in training.
    Raises:
        ConfigError: If ``checkpoint`` or ``weights`` is set for a saved model, which has one state.
        RunDirectoryError: If the directory is neither, or a file of it is damaged.
        PluginError: If a plugin is not installed, or only in another major version.
    """
    folder = located(path)
    trust = {"allow_nonfinite": allow_nonfinite, "allow_plugin_mismatch": allow_plugin_mismatch}
    if not (folder / pretrained.CONFIG).is_file() or (folder / EXPERIMENT).exists():
        return Run.open(folder, checkpoint=checkpoint, weights=weights, **trust)
    if (checkpoint, weights) != ("final", "auto"):
        raise ConfigError(f"{path} is a saved model, which has one state; leave out --checkpoint and --weights")
    saved = pretrained.load(folder, **trust)
    family, builder = saved.architecture.family, saved.architecture.network
    model = BFN(family, saved.network, builder, saved.architecture.codec)
    with attrs.validators.disabled():  # nobody else makes an experiment without data
        experiment = Experiment(dataset=None, family=family, network=builder, loss=None)  # type: ignore[arg-type]
    state = Weights("saved", 0, pretrained.CONFIG)
    return Run(experiment, model.eval(), (), folder, state, saved.conditions, sizes=saved.sizes)


def _card(run: Run) -> dict[str, Any]:
    """Fields of the card from the run, with the last evaluation only if it was of the same weights."""
    kinds = ("family", "dataset")
    family, dataset = (default_registry().name_of(kind, type(getattr(run.experiment, kind))) for kind in kinds)
    # The recorded text, because writing it anew needs the metadata of the data.
    text = run.experiment.to_toml() if run.text is None else run.text
    try:
        scores = (None if run.path is None else read_evaluation(run.path)) or {}
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; without the file, the card has no scores") from error
    judged = (scores.pop("experiment", None), scores.pop("weights", None)) == (run.identity, attrs.asdict(run.weights))
    return {
        "title": f"Bayesian flow network: {family} on {dataset}",
        "tags": (family, dataset),
        "data": dataset,
        "seed": run.experiment.seed,
        "command": f"bfn train --config {EXPERIMENT}",
        "weights": str(run.weights),
        "experiment": text,
        "metrics": dict(_scores(scores)) if judged else {},
    }


def _scores(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of an evaluation by dotted names."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _scores(value, f"{prefix}{name}.")
        elif value not in (None, "") and not isinstance(value, list):  # a list may name rows of private data
            yield f"{prefix}{name}", value
