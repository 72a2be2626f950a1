"""Model cards: what a person should know of a model before using it, as Markdown under a few lines of YAML.

The form is that of the Hugging Face Hub: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from bfn_toolkit.errors import ConfigError, did_you_mean

LIBRARY = "bfn-toolkit"
STEPS = 100  # of a sample in the example, unless the family is tied to a number


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _text(_: Any, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"card: {field.name}: expected a string, got {value!r}")


def _tags(_: Any, field: attrs.Attribute[Any], value: Iterable[object]) -> None:
    if not all(isinstance(tag, str) and tag for tag in value):
        raise ConfigError(f"card: {field.name}: expected strings, got {value!r}")


def _metrics(_: Any, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"card: {field.name}: expected a mapping of names to numbers, got {value!r}")


@attrs.frozen(kw_only=True)
class Card:
    """What a model card says besides what the model's configuration knows; all of it may be left out.

    Arguments:
        title: Its headline.
        license: Under which the model may be used, as the Hub names it ("mit", "apache-2.0", ...).  Nobody but the
            author can say, so there is no default.
        tags: Words to find it by.
        text: What the author says: what it is for, and what it cannot do.
        data: What it was trained on.
        seed: Seed of the training.
        command: Command line that trained it.
        weights: Which weights they are.
        experiment: The experiment, in TOML.
        metrics: What was measured, by name.
    """

    title: str = attrs.field(default="Bayesian flow network", validator=_text)
    license: str = attrs.field(default="", validator=_text)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_strings, validator=_tags)
    text: str = attrs.field(default="", validator=_text)
    data: str = attrs.field(default="", validator=_text)
    seed: int | None = None
    command: str = attrs.field(default="", validator=_text)
    weights: str = attrs.field(default="", validator=_text)
    experiment: str = attrs.field(default="", validator=_text)
    metrics: Mapping[str, Any] = attrs.field(factory=dict, validator=_metrics, hash=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Card:
        """The card with these fields.

        Raises:
            ConfigError: If there is no such field, or its value cannot be one.
        """
        known = [field.name for field in attrs.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(
                    f"card: no field '{name}'.{did_you_mean(str(name), known)} Fields: {', '.join(known)}"
                )
        return cls(**fields)

    def render(self, name: str, config: Mapping[str, Any], numbers: int, n_steps: int | None) -> str:
        """The card as Markdown.

        Arguments:
            name: Directory to load the model from, in the example.
            config: Content of ``config.json``.
            numbers: How many numbers the weights are.
            n_steps: Number of steps that the family is tied to, or None.
        """
        made = {f"{key} {_code(part['name'])}": _origin(part) for key, part in config["plugins"].items()}
        versions = {"bfn-toolkit": config["bfn-toolkit"], "torch": config["torch"]}
        told = {"data": self.data, "seed": self.seed, "command": _code(self.command), "weights": self.weights}
        training = {key: value for key, value in told.items() if value not in (None, "")}
        sections = [
            self._front_matter(),
            f"# {' '.join(self.title.split())}",
            self.text.strip(),
            "## Use",
            _fenced("python", _EXAMPLE.format(name=json.dumps(name), steps=n_steps or STEPS)),
            "## Model",
            _table({**made, "numbers in the weights": f"{numbers:,}", **versions}),
            "## Training" if training or self.experiment else "",
            _table(training),
            "`experiment.toml`:" if self.experiment else "",
            _fenced("toml", self.experiment),
            "## Evaluation" if self.metrics else "",
            _table(self.metrics),
        ]
        return "\n\n".join(section for section in sections if section) + "\n"

    def _front_matter(self) -> str:
        license_ = {"license": self.license} if self.license else {}
        table = {"library_name": LIBRARY, **license_, "tags": list(dict.fromkeys([*_TAGS, *self.tags]))}
        # JSON is YAML too, and has one way only to write a string.
        return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in table.items()), "---"])


_TAGS = ("bayesian-flow-network", "generative-model")
_EXAMPLE = """from bfn_toolkit import BFN

model = BFN.from_pretrained({name})
samples = model.sample(16, n_steps={steps})
"""


def _origin(part: Mapping[str, str]) -> str:
    """What has to be installed."""
    distribution, version = part["distribution"], part["version"]
    return _code(f'pip install "{distribution}=={version}"') if version else distribution


def _code(text: str) -> str:
    return text and f"`{text}`"


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```" if text else ""


def _table(rows: Mapping[str, Any]) -> str:
    lines = (f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *lines]) if rows else ""


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
