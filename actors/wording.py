"""What pydantic finds wrong, in the words of whoever wrote the file or the command line.

Somebody who writes `workers: many` knows numbers, texts and lists, entry 1 of a list, and the names of settings. He has
never heard of tuples, of `models.0.engine`, or of extra inputs.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from actors.errors import ConfigurationError

_SHOWN_CHARACTERS = 80
_NOWHERE = "what is set"
_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
_OF_ITS_OWN = "a mapping of settings"
_WANTED = {
    "bool": "true or false",
    "dataclass": _OF_ITS_OWN,
    "dict": _OF_ITS_OWN,
    "finite_number": "a finite number",
    "float": "a number",
    "frozen_set": "a list",
    "int": "a whole number",
    "list": "a list",
    "mapping": _OF_ITS_OWN,
    "model": _OF_ITS_OWN,
    "model_attributes": _OF_ITS_OWN,
    "none_required": "nothing",
    "path": "a path",
    "set": "a list",
    "string": "a text",
    "tuple": "a list",
}
"""What a value should be, by the first part of the error's type."""
_BOUNDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda bound: f"above {_number(bound['gt'])}",
    "greater_than_equal": lambda bound: f"at least {_number(bound['ge'])}",
    "less_than": lambda bound: f"below {_number(bound['lt'])}",
    "less_than_equal": lambda bound: f"at most {_number(bound['le'])}",
    "multiple_of": lambda bound: f"a multiple of {_number(bound['multiple_of'])}",
    "too_short": lambda bound: f"a list of at least {_counted(bound['min_length'], 'entry', 'entries')}",
    "too_long": lambda bound: f"a list of at most {_counted(bound['max_length'], 'entry', 'entries')}",
    "string_too_short": lambda bound: f"at least {_counted(bound['min_length'], 'character', 'characters')} long",
    "string_too_long": lambda bound: f"at most {_counted(bound['max_length'], 'character', 'characters')} long",
    "string_pattern_mismatch": lambda bound: f"of the form {bound['pattern']}",
    "literal_error": lambda bound: f"one of {_without_quotes(bound['expected'])}",
    "enum": lambda bound: f"one of {_without_quotes(bound['expected'])}",
}


def setting_error(
    error: ValidationError,
    schema: type[BaseModel],
    *,
    top: tuple[int | str, ...] = (),
    also: Sequence[str] = (),
) -> ConfigurationError:
    """The first fault, in one sentence; a misspelt name is told the right one.

    `schema` is what was validated. What stands at `top` of it was written at the top by the user, beside the settings
    that are known there also.
    """
    first = error.errors(include_url=False)[0]
    if first["loc"][: len(top)] == top:
        first["loc"] = first["loc"][len(top) :]
    location = first["loc"]
    told = fault_told(first)
    if first["type"] in _UNKNOWN:
        *parents, name = location
        meant = similar_name(str(name), [*_names_at(schema, parents), *(() if parents else also)])
        told += f", did you mean {meant!r}?" if meant else "."
    else:
        told += "."
    return ConfigurationError(told, param=".".join(str(part) for part in location) or "configuration")


def fault_told(fault: ErrorDetails) -> str:
    """Where something is wrong, what should be there, and what is; without a full stop."""
    kind, where = fault["type"], place_told(fault["loc"])
    if kind == "value_error":
        told = str(fault["ctx"]["error"]) if "ctx" in fault else fault["msg"]
        return f"{where}{' ' if told.startswith('must ') else ': '}{told}" if where else told
    where = where or _NOWHERE
    if kind in _UNKNOWN:
        return f"{where} is no setting"
    if kind == "missing":
        return f"{where} is missing"
    wanted = _wanted(kind, dict(fault.get("ctx") or {}))
    told = f"{where}: {fault['msg']}" if wanted is None else f"{where} must be {wanted}"
    return f"{told}, not {shown(fault['input'])}"


def value_told(error: ValidationError) -> str:
    """What is wrong with a value that has no place of its own, such as an option's on the command line."""
    first = error.errors(include_url=False)[0]
    first["loc"] = ()
    return f"{fault_told(first).removeprefix(_NOWHERE).lstrip(': ')}."


def place_told(location: Sequence[int | str]) -> str:
    """`models, entry 1: simulated.step_s` of ("models", 0, "simulated", "step_s")."""
    told = ""
    for previous, part in zip((None, *location), location, strict=False):
        if isinstance(part, int):
            told += f"{', ' if told else ''}entry {part + 1}"
        else:
            told += f"{': ' if isinstance(previous, int) else '.' if told else ''}{part}"
    return told


def shown(value: Any) -> str:
    """A value as somebody wrote it, or about so: never more than a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = repr(value.value if isinstance(value, Enum) else value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def not_utf8(error: UnicodeDecodeError) -> str:
    """Which byte is none of a text, and where, in one clause."""
    return f"byte {error.start + 1}, 0x{error.object[error.start]:02x}, is not UTF-8"


def similar_name(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant."""
    found = difflib.get_close_matches(name, known, n=1)
    return found[0] if found else None


def schema_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model that a field holds, by itself, in a list, or as one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, tuple, typing.Annotated):
        for part in typing.get_args(annotation):
            found = schema_of(part)
            if found is not None:
                return found
    return None


def _wanted(kind: str, bounds: dict[str, Any]) -> str | None:
    if kind in _BOUNDS:
        return _BOUNDS[kind](bounds)
    for ending in ("_type", "_parsing", "_from_float", "_parsing_size", "_unicode", "_sub_type"):
        if kind.endswith(ending) and kind.removesuffix(ending) in _WANTED:
            return _WANTED[kind.removesuffix(ending)]
    return _WANTED.get(kind)


def _names_at(schema: type[BaseModel], parents: Sequence[int | str]) -> list[str]:
    """The settings that are known at a place."""
    inner: type[BaseModel] | None = schema
    for part in parents:
        if inner is not None and isinstance(part, str):
            inner = schema_of(inner.model_fields[part].annotation) if part in inner.model_fields else None
    return [] if inner is None else list(inner.model_fields)


def _without_quotes(expected: str) -> str:
    return expected.replace("'", "")


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
