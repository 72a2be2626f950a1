"""Zoos: installed packages of saved models, which are opened by name: ``zoo:digits``.

A distribution names its zoos in its entry points, each with the package whose folders are saved models:

.. code-block:: toml

    [project.entry-points."bfn_toolkit.zoos"]
    theirs = "their_models"

A package is found but not imported, so that nothing in it is executed.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from bfn_toolkit.errors import PluginError, RunDirectoryError, did_you_mean
from bfn_toolkit.registry.registry import entry_points
from bfn_toolkit.sharing.model_card import CARD, CONFIG, listed_fields
from bfn_toolkit.untrusted import open_regular, tensors_header

GROUP = "bfn_toolkit.zoos"
OURS = "zoo"  # the zoo of bfn-zoo, which people may ask for before it is installed
MAX_CARD = 2**20  # bytes of a card that are read
# A name of one letter is a drive of Windows.
_REFERENCE = re.compile(r"([A-Za-z][\w-]+):(.*)", re.ASCII | re.DOTALL)


@attrs.frozen
class Zoo:
    """A package of saved models.

    Arguments:
        name: Name before the colon.
        package: Name of the package.
        distribution: The distribution that brings it.
    """

    name: str
    package: str
    distribution: str

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the models by name, in order.

        Raises:
            PluginError: If the package cannot be found.
        """
        top, *inner = self.package.split(".")
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        roots = [] if spec is None else [Path(place, *inner) for place in spec.submodule_search_locations or ()]
        folders = [folder for root in roots if root.is_dir() for folder in root.iterdir()]
        if not any(root.is_dir() for root in roots):
            raise PluginError(
                f"zoo '{self.name}': the package {self.package} of {self.distribution} cannot be found; "
                f"write: pip install --force-reinstall {self.distribution}"
            )
        return {folder.name: folder for folder in sorted(folders) if (folder / CONFIG).is_file()}


@attrs.frozen
class ZooModel:
    """Facts of a saved model for a list.

    Arguments:
        name: Name to open it by: "zoo:digits".
        summary: Line on what it draws.
        parameters: Number of its parameters; None if its weights cannot be read.
        size: Bytes of its files.
        quality: The measurement that says most.
        data_license: Licence of the training data.
        path: Its folder.
    """

    name: str
    summary: str
    parameters: int | None
    size: int
    quality: str
    data_license: str
    path: Path

    @classmethod
    def of(cls, name: str, folder: Path) -> ZooModel:
        """Reads the facts of a model, none of which is trusted."""
        files = [path for path in folder.iterdir() if path.is_file()]
        return cls(
            name=name,
            parameters=_parameters([path for path in files if path.suffix == ".safetensors"]),
            size=sum(path.stat().st_size for path in files),
            path=folder,
            **listed_fields(card_of(folder)),
        )


def zoos() -> Mapping[str, Zoo]:
    """The installed zoos by name.

    Raises:
        PluginError: If two distributions bring zoos of one name.
    """
    found: dict[str, Zoo] = {}
    for point in entry_points(GROUP):
        zoo = Zoo(point.name, point.value, "" if point.dist is None else point.dist.name)
        other = found.setdefault(zoo.name, zoo)
        if other != zoo:
            both = f"{other.distribution} and {zoo.distribution}"
            raise PluginError(f"{both} both bring a zoo named '{zoo.name}'; uninstall one of them")
    return dict(sorted(found.items()))


def located(model: str | Path) -> Path:
    """The folder of a model, which is named by its path or as "zoo:digits".

    A path that exists is always meant as one; "./zoo:digits" is never a model of a zoo.

    Raises:
        RunDirectoryError: If there is no such zoo, or no such model in it.
        PluginError: If the zoo's package cannot be found.
    """
    path = Path(model)
    named = _REFERENCE.fullmatch(str(model))
    if named is None or path.exists():
        return path
    name, animal = named.groups()
    installed = zoos()
    if name not in installed:
        hint = " Write: pip install bfn-zoo, or in a checkout of bfn-toolkit: pip install ./zoo" if name == OURS else ""
        raise RunDirectoryError(
            f"{model} is neither a folder nor a model of a zoo: no zoo named '{name}' is installed."
            f"{did_you_mean(name, installed)} Installed: {', '.join(installed) or 'none'}.{hint}"
        )
    models = installed[name].models
    if animal not in models:
        raise RunDirectoryError(
            f"zoo '{name}' has no model named '{animal}'.{did_you_mean(animal, models)} Its models: {', '.join(models)}"
        )
    return models[animal]


def is_zoo_model(model: str | Path) -> bool:
    """Whether a name is that of a model of a zoo, rather than a path."""
    return _REFERENCE.fullmatch(str(model)) is not None and not Path(model).exists()


def card_of(folder: Path) -> str:
    """The card of a saved model; "" if there is none that can be read."""
    try:
        with open_regular(folder / CARD) as file:
            return file.read(MAX_CARD).decode(errors="replace")
    except OSError:
        return ""


def _parameters(files: list[Path]) -> int | None:
    """Number of the numbers in files of weights."""
    try:
        return sum(math.prod(entry["shape"]) for path in files for entry in _entries(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entries(path: Path) -> list[dict[str, list[int]]]:
    with open_regular(path) as file:
        header = tensors_header(file, path.stat().st_size)
    return [entry for name, entry in header.items() if name != "__metadata__"]
