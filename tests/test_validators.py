"""Laws of the validators: one way to speak, in Python and in files, and no other way beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from bfn_toolkit import Entry, Experiment, Registry, hookimpl, validators
from bfn_toolkit.config.schema import fields_of
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.registry.registry import default_registry
from bfn_toolkit.validators import Validator

INF, NAN = math.inf, math.nan


def problem(validator: Validator, value: object) -> str | None:
    """What a class with a field "x" says of a value, without the name of the class."""
    made = attrs.make_class("Made", {"x": attrs.field(validator=validator)})
    try:
        made(value)
    except ConfigError as error:
        return str(error).removeprefix("Made.x: ")
    return None


@pytest.mark.parametrize(
    ("validator", "value", "expected"),
    [
        (validators.integer(), -(10**400), None),
        (validators.integer(ge=1), 1, None),
        (validators.integer(ge=1), 0, "expected x >= 1, got 0"),
        (validators.integer(le=3), 4, "expected x <= 3, got 4"),
        (validators.integer(ge=0, le=2**63 - 1), -1, "expected 0 <= x <= 2**63 - 1, got -1"),
        (validators.integer(ge=0, le=9), 10**400, "expected 0 <= x <= 9, got an integer of 1329 bits"),
        (validators.integer(ge=1), True, "expected an integer, got True"),
        (validators.integer(ge=1), 2.0, "expected an integer, got 2.0"),
        (validators.integer(ge=1), "x" * 99, f"expected an integer, got '{'x' * 76}..."),
        (validators.number(), 3, None),
        (validators.number(), INF, "expected a finite number, got inf"),
        (validators.number(), NAN, "expected a finite number, got nan"),
        (validators.number(), False, "expected a number, got False"),
        (validators.number(gt=0), 0.0, "expected x > 0, got 0.0"),
        (validators.number(gt=0), INF, "expected a finite number, x > 0, got inf"),
        (validators.number(gt=0, le=INF), INF, None),
        (validators.number(gt=0, le=INF), NAN, "expected a finite number, 0 < x <= inf, got nan"),
        (validators.number(ge=0, lt=1), 0, None),
        (validators.number(ge=0, lt=1), 1, "expected 0 <= x < 1, got 1"),
        (validators.number(lt=1), 10**400, "expected x < 1, got an integer of 1329 bits"),
        (validators.finite, ((1.0, 2), [3.0]), None),
        (validators.finite, ((1.0, 2), [-INF]), "expected finite numbers, got -inf"),
        (validators.one_of("ddp", "fsdp"), "fsdp", None),
        (validators.one_of("ddp", "fsdp"), "dpp", "expected one of ddp, fsdp, got 'dpp'; did you mean 'ddp'?"),
        (validators.one_of("ddp", "fsdp"), [], "expected one of ddp, fsdp, got []"),
        (validators.instance_of(int), 3, None),
        (validators.instance_of(int), "3", "expected an int, got '3'"),
        (validators.optional(validators.integer(ge=1)), None, None),
        (validators.optional(validators.integer(ge=1)), 0, "expected x >= 1, got 0"),
    ],
)
def test_a_validator_says_what_was_expected_and_found(
    validator: Validator, value: object, expected: str | None
) -> None:
    assert problem(validator, value) == expected


WRONG = [  # a table of an experiment, its part, an option and a wrong value
    ("training", "", "lr", 0.0),
    ("training", "", "steps", 0),
    ("training", "", "warmup", 401),
    ("training", "", "device", "cuda:x"),
    ("network", "siren", "width", 0),
    ("network", "mlp", "dropout", 1.0),
    ("family", "gaussian", "sigma_1", 1.0),
    ("family", "categorical", "beta_1", INF),
    ("dataset", "toy2d", "count", 1),
    ("loss", "discrete-time", "n_steps", 0),
]


@pytest.mark.parametrize(("table", "name", "key", "value"), WRONG, ids=lambda word: str(word))
def test_python_and_files_say_the_same(table: str, name: str, key: str, value: object) -> None:
    cls: Any = default_registry().get(table, name).entry.build if name else fields_of(Experiment)[table][1]
    with pytest.raises(ConfigError) as in_python:
        cls(**{key: value})
    with pytest.raises(ConfigError) as in_a_file:
        Experiment.from_mapping({table: {**({"name": name} if name else {}), key: value}}, base="default")
    (line,) = str(in_a_file.value).splitlines()
    assert line.startswith(f"{table}.{key}: ")
    assert str(in_python.value) == line.replace(f"{table}.", f"{cls.__name__}.", 1)


def test_an_error_of_a_whole_value_stands_at_the_field_that_it_names() -> None:
    with pytest.raises(ConfigError, match=r"^network\.width: expected an even width, got 3$"):
        Experiment.from_mapping({"network": {"name": "even", "width": 3}}, registry=_with_even(), base="default")


@attrs.frozen
class Even:
    """A network that checks its fields together."""

    kind = "network"
    width: int = 2

    def __attrs_post_init__(self) -> None:
        if self.width % 2:
            raise ConfigError(f"Even.width: expected an even width, got {self.width}")


def _with_even() -> Registry:
    registry = Registry.from_entry_points()
    registry.register(
        SimpleNamespace(bfn_networks=hookimpl(lambda: [Entry("even", Even)], specname="bfn_networks")), "even"
    )
    return registry


def _simple(validator: Any) -> Iterator[Any]:
    """The validators that a combination consists of."""
    inner = getattr(validator, "_validators", None) or [getattr(validator, "validator", None)]
    if inner == [None]:
        yield validator
    else:
        for one in inner:
            yield from _simple(one)


def test_no_part_has_validators_of_another_kind() -> None:
    builds = {registered.entry.build for registered in default_registry().entries()}
    checked = 0
    for cls in builds:
        for field, _ in fields_of(cls).values():
            for validator in _simple(field.validator) if field.validator is not None else ():
                checked += 1
                module = getattr(validator, "__module__", type(validator).__module__)
                assert not re.match(r"attrs?\b", module), (
                    f"{cls.__name__}.{field.name}: write one of bfn_toolkit.validators"
                )
    assert checked > 50
