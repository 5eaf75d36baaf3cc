"""A commented file for `exlpool up`, made of the settings and their descriptions, so it cannot fall behind them."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.wording import schema_of
from cluster.config import ClusterConfig
from serve_app.config import ModelConfig

_HEAD = """\
# A deployment: `exlpool up FILE` brings it up, `exlpool status` says what runs where, `exlpool down` ends it.
# What stands behind `#` is as it is by default; `exlpool config --schema` is the same for programs.
"""
_SET: Mapping[tuple[str, ...], Any] = {
    ("name",): "exlpool",
    ("http", "host"): "127.0.0.1",
    ("http", "port"): 8000,
    ("models", "name"): "builtin",
    ("models", "workers"): 2,
    ("fronts", "min_replicas"): 1,
    ("fronts", "max_replicas"): 4,
}
"""What the example says itself."""
_FIRST = ("name", "http", "models", "fronts", "keys_file")
_FIRST_OF_A_MODEL = ("name", "model", "engine", "workers", "min_workers", "max_workers")
_LEFT_OUT = frozenset({("models", "simulated"), ("models", "detached")})
"""For tests, and what has one value only."""


def example() -> str:
    """The file, which is valid as it is."""
    return _HEAD + "\n" + "\n".join(_lines(ClusterConfig, (), "", said=True)) + "\n"


def _lines(schema: type[BaseModel], above: tuple[str, ...], indent: str, *, said: bool) -> Iterator[str]:
    """The settings of a section; `said`: the example says some of them itself, else all are comments."""
    for name, field in _in_order(schema, _FIRST if not above else _FIRST_OF_A_MODEL):
        place = (*above, name)
        if place in _LEFT_OUT:
            continue
        inner = schema_of(field.annotation)
        has_said = said and any(one[: len(place)] == place for one in _SET)
        mark = "" if has_said else "# "
        told = f" # {field.description}{choices(field.annotation)}"
        if inner is None or not _is_section(field):
            value = _SET[place] if place in _SET else field.get_default(call_default_factory=True)
            yield f"{indent}{mark}{name}: {shown(value)}{told}"
        elif inner is ModelConfig:
            yield f"{indent}{mark}{name}:{told}"
            first, *others = _lines(inner, place, "", said=has_said)
            yield f"{indent}  - {first}"
            yield from (f"{indent}    {line}" for line in others)
        else:
            yield f"{indent}{mark}{name}:{told}"
            for line in _lines(inner, place, "", said=has_said):
                bare = line if has_said else line.removeprefix("# ")
                yield f"{indent}{mark}  {bare}"


def _in_order(schema: type[BaseModel], first: tuple[str, ...]) -> Iterator[tuple[str, FieldInfo]]:
    fields = schema.model_fields
    yield from ((name, fields[name]) for name in first if name in fields)
    yield from ((name, field) for name, field in fields.items() if name not in first)


def choices(annotation: Any) -> str:
    """The words that a setting may have, where they are few."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        words = [one.value for one in annotation]
    else:
        words = list(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else []
    return f" ({', '.join(map(str, words))})" if len(words) > 1 else ""


def _is_section(field: FieldInfo) -> bool:
    return schema_of(field.annotation) is not None


def shown(value: Any) -> str:
    """A value as it stands in YAML, on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(getattr(value, "value", value), default_flow_style=True).removesuffix("\n...\n").strip()
