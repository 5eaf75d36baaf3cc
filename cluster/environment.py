"""Settings in the environment: `EXLPOOL_CACHE_MODE=q4` is `cache_mode: q4`, and `EXLPOOL_HTTP__PORT=8080` is `port`
under `http`. They go before those of a file, and after those of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from actors.errors import ConfigurationError
from actors.wording import schema_of, similar_name
from cluster.config import OF_A_MODEL, ClusterConfig
from serve_app.config import ModelConfig

PREFIX = "EXLPOOL_"
_INSIDE = "__"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that holds a setting, and the place of that in a file: ("http", "port")."""

    name: str
    place: tuple[str, ...]
    value: Any


def variables(environment: Mapping[str, str]) -> tuple[list[Variable], list[str]]:
    """Those that hold settings, and a sentence for each that looks as if it did. An empty one holds none.

    :raises ConfigurationError: a list or mapping is not valid YAML.
    """
    found, strange = [], []
    known = dict(_known())
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or not text:
            continue
        place = known.get(name)
        if place is not None:
            found.append(Variable(name, place, _value(name, text)))
        else:
            meant = similar_name(name, list(known))
            hint = f"; did you mean {meant}?" if meant else "."
            strange.append(f"{name} of the environment is no setting and is not used{hint}")
    return found, strange


def nested(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """`{"http": {"port": 1}}` of ("http", "port") and 1."""
    for part in reversed(place):
        value = {part: value}
    made: dict[str, Any] = value
    return made


def merged(lower: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """Both, and in mappings both again; where they meet, `higher`."""
    together = dict(lower)
    for name, value in higher.items():
        below = together.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            together[name] = merged(below, value)
        else:
            together[name] = value
    return together


def _known() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every variable that can be set, and its place."""
    yield from _places(ClusterConfig, ())
    for name, place in _places(ModelConfig, ()):
        if place[0] in OF_A_MODEL:
            yield name, place


def _places(schema: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, field in schema.model_fields.items():
        place = (*above, name)
        yield PREFIX + _INSIDE.join(place).upper(), place
        inner = schema_of(field.annotation)
        if inner is not None and inner is not ModelConfig:
            yield from _places(inner, place)


def _value(name: str, text: str) -> Any:
    """A text, as it stands in a file; lists and mappings as YAML has them."""
    if text[0] not in "[{":
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name} is not valid YAML: {' '.join(str(error).split())}.", param=name) from None
