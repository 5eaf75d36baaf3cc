"""The keys that Serve's configuration knows. Serve ignores all others, so a slip of the pen goes unnoticed for days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from actors.errors import ConfigurationError
from actors.wording import place_told, schema_of, similar_name

Place = tuple[int | str, ...]


def require_known_keys(document: Mapping[str, Any]) -> None:
    """:raises ConfigurationError: naming the first key that Serve would ignore, and what was probably meant."""
    _check(ServeDeploySchema, document, ())


def _check(schema: type[BaseModel], values: Mapping[str, Any], place: Place) -> None:
    known = list(schema.model_fields)
    for key, value in values.items():
        here = (*place, str(key))
        if key not in schema.model_fields:
            similar = similar_name(str(key), known)
            hint = f"did you mean {similar!r}?" if similar else f"known are {', '.join(known)}."
            raise ConfigurationError(
                f"{place_told(here)} is not known to Serve: {hint}", param=".".join(str(part) for part in here)
            )
        inner = schema_of(schema.model_fields[key].annotation)
        if inner is None:
            continue
        if isinstance(value, Mapping):
            _check(inner, value, here)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check(inner, item, (*here, index))
