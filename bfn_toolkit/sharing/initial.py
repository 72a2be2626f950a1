"""The model that a training starts from: its settings beneath those of the experiment, and its weights.

Weights are taken by name and shape, and all others start fresh.  A line before the first step says which weights fit,
which do not, and which settings give them another meaning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.config.json_values import codec_to_json
from bfn_toolkit.config.layers import dotted
from bfn_toolkit.config.schema import fields_of
from bfn_toolkit.config.toml_files import Key
from bfn_toolkit.config.unstructure import destructure
from bfn_toolkit.data.codec import Codec
from bfn_toolkit.errors import BFNError, ConfigError, RunDirectoryError
from bfn_toolkit.registry.registry import Registry, default_registry
from bfn_toolkit.runs.run import Run
from bfn_toolkit.sharing.export import open_model
from bfn_toolkit.storage.files import digest
from bfn_toolkit.storage.safetensors_files import dumps

SHOWN = 5  # tensors or differences in a message
LETTERS = 60  # of a value in it
LEAST = 0.01  # share of the numbers that has to fit


@attrs.frozen
class Initial:
    """Weights that a training took from a model.

    Arguments:
        model: The model, as ``training.init`` names it.
        sha256: SHA-256 of its weights, as a file of safetensors.
        tensors: Names of the tensors that were taken.
        total: Number of tensors of the network.
        share: Share of their numbers that was taken.
        fresh: Tensors that were not taken, each with the shapes.
        unused: Names of tensors of the model without a place here.
        differences: Settings that give the weights another meaning, each with a line to write.
    """

    model: str
    sha256: str
    tensors: tuple[str, ...]
    total: int
    share: float
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the description of the weights that are trained from here."""
        return {"model": self.model, "sha256": self.sha256, "fresh": [line.partition(" ")[0] for line in self.fresh]}

    @property
    def lines(self) -> list[str]:
        """The tensors that were taken and those that were not, in words."""
        taken = f"{len(self.tensors)} of {self.total} tensors, {100 * self.share:.3g} % of the numbers"
        lists = {"fresh": self.fresh, "not used": self.unused}
        rest = [f"{name}: {_few(items)}" for name, items in lists.items() if items]
        here = f"{Path.cwd()}{os.sep}"
        return ["; ".join([f"{self.model.removeprefix(here)}: {taken}", *rest]), *self.differences]


def settings(
    model: str, network: str, metadata: Mapping[str, object], registry: Registry | None = None
) -> dict[str, Any]:
    """Family, network and, of a run, loss of a model, as the layer of a configuration.

    Options that the metadata of the data set state, such as the number of labels, are left out.

    Arguments:
        model: See :func:`~bfn_toolkit.sharing.export.open_model`.
        network: Name of the network that the user chose; "" for that of the model.  One that adapts another network,
            such as "lora", adapts that of the model.
        metadata: Metadata of the data set.
        registry: Registry that resolves the names of parts.
    Raises:
        RunDirectoryError: If there is no such model, or it is damaged.
        PluginError: If a plugin of it is missing.
    """
    registry, experiment = registry or default_registry(), _open(model).experiment
    found = {
        kind: _without(destructure(getattr(experiment, kind), registry, kind=kind), metadata)
        for kind in ("family", "network", "loss")
        if getattr(experiment, kind) is not None
    }
    own = found["network"]
    if network and network != own["name"] and "network" in _options_of("network", network, registry):
        found["network"] = {"name": network, "network": own}
    return found


def initialise(network: nn.Module, experiment: Experiment) -> Initial:
    """Gives a network the weights of the model in ``training.init``, in place.

    Arguments:
        network: The network of the experiment, with fresh weights, on the CPU.
        experiment: The experiment.
    Raises:
        ConfigError: If hardly anything fits, or what does not fit is not trained.
        NonFiniteError: If a weight of the model is NaN or infinite.
        RunDirectoryError: If there is no such model, or it is damaged.
        PluginError: If a plugin of it is missing.
    """
    model = experiment.training.init
    run, builder = _open(model), experiment.network
    theirs, source = run.experiment.network, run.model.network
    same = theirs == builder
    state = source.state_dict() if same else theirs.base_state(source)
    own = network.state_dict()
    names = {name: name for name in own} if same else builder.base_names(network)
    places = {name: own[place] for name, place in names.items()}
    fitting = [name for name, value in places.items() if name in state and _fits(value, state[name])]
    fresh = tuple(f"{name} {_shapes(state.get(name), value)}" for name, value in places.items() if name not in fitting)
    total = sum(value.numel() for value in places.values())
    taken = sum(places[name].numel() for name in fitting)
    differences = tuple(_differences(run, experiment))
    if taken < LEAST * total:
        reasons = "; ".join(differences) or "its network is different"
        raise ConfigError(
            f"training.init: of {model} {len(fitting)} of {len(places)} tensors fit, {100 * taken / total:.2g} % of "
            f"the numbers: {_few(fresh)}. The reason may be: {reasons}"
        )
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    if lost := [name for name, place in names.items() if name not in fitting and place in frozen]:
        layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in lost))
        raise ConfigError(
            f"training.init: {model} has no weights that fit {_few(lost)}, and the network does not train them: "
            f"{_few(fresh)}. Let it train them; of the network lora: --network.trained {json.dumps(json.dumps(layers))}"
        )
    with torch.no_grad():
        for name in fitting:
            places[name].copy_(state[name])
    return Initial(
        model=model,
        sha256=digest(dumps(source.state_dict())),
        tensors=tuple(names[name] for name in fitting),
        total=len(places),
        share=taken / total,
        fresh=fresh,
        unused=tuple(sorted(state.keys() - places.keys())),
        differences=differences,
    )


def _open(model: str) -> Run:
    try:
        return open_model(model)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"training.init: {error}") from error


def _options_of(kind: str, name: str, registry: Registry) -> Sequence[str]:
    """Names of the options of a part; none if there is no such part, which is reported elsewhere."""
    try:
        return list(fields_of(registry.get(kind, name).entry.build))
    except BFNError:
        return ()


def _without(table: Mapping[str, Any], metadata: Mapping[str, object]) -> dict[str, Any]:
    """A table without the options that the metadata of a data set state; of parts, without those that it lacks."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        stated = metadata.get(key)
        if key not in metadata:
            found[key] = _without(value, metadata) if isinstance(value, Mapping) else value
        elif isinstance(stated, Mapping) and isinstance(value, Mapping):
            found[key] = {
                name: _without(part, facts if isinstance(facts := stated[name], Mapping) else {})
                for name, part in value.items()
                if name in stated and isinstance(part, Mapping)
            }
    return found


def _fits(here: Tensor, there: Tensor) -> bool:
    kinds = [(value.is_floating_point(), value.is_complex()) for value in (here, there)]
    return here.shape == there.shape and kinds[0] == kinds[1]


def _shapes(there: Tensor | None, here: Tensor) -> str:
    found = "nothing" if there is None else tuple(there.shape)
    return f"{found} in the model, {tuple(here.shape)} here"


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _differences(run: Run, experiment: Experiment) -> Iterator[str]:
    """Settings in which a model differs from an experiment, except for the shape of the data, in words."""
    registry = default_registry()
    there = {
        "family": destructure(run.experiment.family, registry, kind="family"),
        "network": destructure(run.experiment.network.base, registry, kind="network"),
    }
    here = {
        "family": destructure(experiment.family, registry, kind="family"),
        "network": destructure(experiment.network.base, registry, kind="network"),
    }
    found = [one for one in _changes(there, here) if one[0][-1] not in ("site_shape", "axes")]
    for key, then, now in found[:SHOWN]:
        line = f"{dotted(key)} is {_shown(then)} in the model, {_shown(now)} here"
        plain = isinstance(then, (bool, int, float, str)) and isinstance(now, (bool, int, float, str))
        option = dotted(key).removesuffix(".name")
        yield f"{line}; to keep it: --{option} {_shown(then)}" if plain else line
    if len(found) > SHOWN:
        yield f"{len(found) - SHOWN} more settings of family and network differ"
    yield from _codec_differences(run.codec, experiment, registry)


def _codec_differences(theirs: Codec, experiment: Experiment, registry: Registry) -> Iterator[str]:
    """Differences in the meaning of the numbers of the data, in words."""
    ours = experiment.dataset.codec
    if theirs.class_names != ours.class_names and theirs.class_names and ours.class_names:
        line = f"the classes are {_shown(theirs.class_names)} in the model, {_shown(ours.class_names)} here"
        again = ""
        if all(len(name) == 1 for name in theirs.class_names) and "alphabet" in fields_of(type(experiment.dataset)):
            again = f"; to keep them: --dataset.alphabet {json.dumps(''.join(theirs.class_names), ensure_ascii=False)}"
        yield f"{line}, so a class number of the model means another class here{again}"
        return
    there, here = (codec_to_json(codec, registry) for codec in (theirs, ours))
    changed = [dotted(key) for key, _, _ in _changes(there, here)]
    if changed:
        yield (
            f"the data are encoded in another way ({_few(changed)}), so a number of the model means another value "
            "here, which the training has to learn anew"
        )


def _changes(there: Any, here: Any, key: Key = ()) -> Iterator[tuple[Key, Any, Any]]:
    """Places at which two plain values differ, and what is there; None stands for nothing."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        if there.get("name") != here.get("name"):
            yield (*key, "name"), there.get("name"), here.get("name")
            return
        for name in [*there, *(name for name in here if name not in there)]:
            yield from _changes(there.get(name), here.get(name), (*key, name))
    elif there != here:
        yield key, there, here


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}..."
