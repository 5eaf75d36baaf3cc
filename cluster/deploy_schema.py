"""The keys that Serve's configuration knows. Serve ignores all others, so a slip of the pen goes unnoticed for days."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from actors.errors import ConfigurationError


def require_known_keys(document: Mapping[str, Any]) -> None:
    """:raises ConfigurationError: naming the first key that Serve would ignore, and what was probably meant."""
    _check(ServeDeploySchema, document, "")


def _check(schema: type[BaseModel], values: Mapping[str, Any], path: str) -> None:
    known = list(schema.model_fields)
    for key, value in values.items():
        if key not in schema.model_fields:
            similar = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"known are {', '.join(known)}."
            raise ConfigurationError(f"{path}{key} is not known to Serve: {hint}", param=f"{path}{key}")
        inner = _schema_of(schema.model_fields[key].annotation)
        if inner is None:
            continue
        if isinstance(value, Mapping):
            _check(inner, value, f"{path}{key}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check(inner, item, f"{path}{key}.{index}.")


def _schema_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model that a field holds, by itself, in a list, or as one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, list, typing.Annotated):
        for part in typing.get_args(annotation):
            found = _schema_of(part)
            if found is not None:
                return found
    return None
