"""Model cards: facts to know before using a model, as Markdown under a few lines of YAML.

The form is that of the Hugging Face Hub: https://huggingface.co/docs/hub/model-cards.  ``huggingface_hub.ModelCard``
is not used, so that a model has the same bytes with and without the extra ``hub``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from bfn_toolkit.errors import ConfigError, did_you_mean
from bfn_toolkit.registry.registry import BUILT_IN

CONFIG, CARD = "config.json", "README.md"  # files of a saved model
LIBRARY = "bfn-toolkit"
STEPS = 100  # number of messages in the example, unless the family has a fixed number


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _expected(what: str, fits: Callable[[Any], bool]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise ConfigError(f"card: {field.name}: expected {what}, got {value!r}")

    return check


_text = _expected("a string", lambda value: isinstance(value, str))
_tags = _expected("strings", lambda value: all(isinstance(tag, str) and tag for tag in value))
_metrics = _expected("a mapping of names to numbers", lambda value: isinstance(value, Mapping))


@attrs.frozen(kw_only=True)
class Card:
    """Contents of a model card that are not in the model's configuration; all are optional.

    Arguments:
        name: Name to load the model by, in the example; by default that of its directory.
        title: Headline.
        summary: Line on what the model draws, for a list of models.
        license: Licence of the model, by its identifier on the Hub ("mit", "apache-2.0", ...).  Only the author can
            choose it, so there is no default.
        tags: Search terms.
        text: Text of the author: purpose and limits of the model.
        data: Training data.
        data_license: Licence of the training data.
        seed: Seed of the training.
        command: Command line that trained it.
        weights: Origin of the weights.
        experiment: The experiment, in TOML.
        quality: The measurement that says most, for a list of models: "W1 0.013".
        metrics: Measurements by name.
    """

    name: str = attrs.field(default="", validator=_text)
    title: str = attrs.field(default="Bayesian flow network", validator=_text)
    summary: str = attrs.field(default="", validator=_text)
    license: str = attrs.field(default="", validator=_text)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_strings, validator=_tags)
    text: str = attrs.field(default="", validator=_text)
    data: str = attrs.field(default="", validator=_text)
    data_license: str = attrs.field(default="", validator=_text)
    seed: int | None = None
    command: str = attrs.field(default="", validator=_text)
    weights: str = attrs.field(default="", validator=_text)
    experiment: str = attrs.field(default="", validator=_text)
    quality: str = attrs.field(default="", validator=_text)
    metrics: Mapping[str, Any] = attrs.field(factory=dict, validator=_metrics, hash=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Card:
        """The card with these fields.

        Raises:
            ConfigError: If there is no such field, or its value is not valid.
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
            name: Directory of the model.
            config: Content of ``config.json``.
            numbers: Number of weights.
            n_steps: Fixed number of steps of the family, or None.
        """
        made = {f"{key} {_code(part['name'])}": _origin(part) for key, part in config["plugins"].items()}
        versions = {"bfn-toolkit": config["bfn-toolkit"], "torch": config["torch"]}
        facts = {
            "data": self.data,
            "licence of the data": self.data_license,
            "seed": self.seed,
            "command": _code(self.command),
            "weights": self.weights,
        }
        training = _table({key: value for key, value in facts.items() if value not in (None, "")})
        experiment = f"`experiment.toml`:\n\n```toml\n{self.experiment.rstrip()}\n```" if self.experiment else ""
        listed = {name: getattr(self, name) for name in ("license", *LISTED)}
        head = {"library_name": LIBRARY, **{name: value for name, value in listed.items() if value}}
        head["tags"] = list(dict.fromkeys([*_TAGS, *self.tags]))
        sections = [
            # JSON is also YAML, with only one way to write a string.
            "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"]),
            f"# {' '.join(self.title.split())}",
            self.text.strip(),
            _EXAMPLE.format(name=json.dumps(self.name or name), steps=n_steps or STEPS),
            "## Model",
            _table({**made, "parameters": f"{numbers:,}", **versions}),
            "## Training" if training or experiment else "",
            training,
            experiment,
            "## Evaluation" if self.metrics else "",
            _table(self.metrics),
        ]
        return "\n\n".join(section for section in sections if section) + "\n"


LISTED = ("summary", "data_license", "quality")  # fields that a list of models shows


def listed_fields(card: str) -> dict[str, str]:
    r"""Fields of a card for a list of models, from its front matter; "" for one that is missing or not a string.

    >>> listed_fields('---\nlicense: "mit"\nsummary: "Digits"\n---\n# Title')
    {'summary': 'Digits', 'data_license': '', 'quality': ''}
    """
    head = card.partition("---\n")[2].partition("\n---")[0]
    pairs = dict(line.partition(": ")[::2] for line in head.splitlines())
    return {name: _string(pairs.get(name, "")) for name in LISTED}


def _string(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


_TAGS = ("bayesian-flow-network", "generative-model")
_EXAMPLE = """## Use

```python
from bfn_toolkit import BFN

model = BFN.from_pretrained({name})
samples = model.sample(16, n_steps={steps})
```"""


def _origin(part: Mapping[str, str]) -> str:
    """The distribution to install."""
    distribution, version = part["distribution"], part["version"]
    if distribution == BUILT_IN or not version:
        return f"{distribution} {version}".strip()
    return _code(f'pip install "{distribution}=={version}"')


def _code(text: str) -> str:
    return text and f"`{text}`"


def _table(rows: Mapping[str, Any]) -> str:
    lines = (f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *lines]) if rows else ""


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
