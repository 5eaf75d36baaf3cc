"""A request's body becomes a schema, or one sentence about what is wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from email.message import Message
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers
from starlette.requests import Request

from actors.errors import InvalidRequest
from serve_app.api.body_size import MAX_CONTAINERS, MAX_ENTRIES, MAX_VALUES, holds_too_much, may_hold_too_much
from serve_app.api.schemas.common import RequestModel
from serve_app.errors import BodyTooComplex, UnsupportedBody

LONG_BODY_BYTES = 65_536
"""Larger ones are read on a thread: what is done with them before and after pydantic lets others run."""

Schema = TypeVar("Schema", bound=RequestModel)


async def parse_body(request: Request, schema: type[Schema]) -> tuple[Schema, int]:
    """The body, and its size in bytes.

    :raises InvalidRequest: not JSON, or not what the schema wants; `param` names the field.
    """
    _require_json(request.headers)
    body = await request.body()
    if len(body) < LONG_BODY_BYTES:
        return _parse(body, schema), len(body)
    return await asyncio.to_thread(_parse, body, schema), len(body)


def _parse(body: bytes, schema: type[Schema]) -> Schema:
    if may_hold_too_much(body) and holds_too_much(body):
        raise BodyTooComplex(
            f"A body may hold {MAX_VALUES} values, {MAX_CONTAINERS} lists and objects, and {MAX_ENTRIES} entries of "
            "objects: send several requests instead."
        )
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _require_json(headers: Headers) -> None:
    codings = [coding.strip().lower() for value in headers.getlist("content-encoding") for coding in value.split(",")]
    unknown = [coding for coding in codings if coding not in ("identity", "")]
    if unknown:
        raise UnsupportedBody(
            f"Send the body as it is: a Content-Encoding such as {unknown[0][:_SHOWN]!r} is not understood.",
            param="Content-Encoding",
        )
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    kind = message.get_content_type()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedBody("Send the request as JSON, with the header Content-Type: application/json.")
    charset = message.get_content_charset("unknown")
    if message.get_param("charset") is not None and charset not in _CHARSETS:
        raise UnsupportedBody(
            f"JSON is sent in UTF-8, and not in {charset[:_SHOWN]!r}: leave `charset` out of Content-Type.",
            param="Content-Type",
        )


_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_SHOWN = 40
"""Characters of a header that an error quotes."""


def _refusal(error: ValidationError) -> InvalidRequest:
    """The first wrong field; of the ways in which a value misses every type it might have, the one that came
    furthest."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    same_field = [other for other in errors if other["loc"][:1] == first["loc"][:1]]
    worst = max(same_field, key=_distance)
    param = _field_name(worst["loc"])
    if worst["type"] == "missing":
        return InvalidRequest(f"Missing required parameter: {param!r}.", param=param)
    return InvalidRequest(f"{param or 'The body'}: {worst['msg']}.", param=param)


def _distance(error: ErrorDetails) -> tuple[bool, int, int]:
    """How far a value came as one type of a union, by what stopped it. A value of the right type that is out of bounds
    came further than one of another type; an error deep inside further than one at the surface; and one behind many
    good items further than one at the first."""
    path = _path(error["loc"])
    last = path[-1] if path else 0
    return not error["type"].endswith("_type"), len(path), last if isinstance(last, int) else 0


def _path(location: Sequence[Any]) -> list[str | int]:
    """A location without pydantic's own words for the members of a union, such as `list[str]` or `TextPart`, and
    without the keys of a mapping, which are the caller's."""
    if "[key]" in location:
        location = location[: location.index("[key]") - 1]
    return [
        part
        for place, part in enumerate(location)
        if isinstance(part, int) or place == 0 or (part.isidentifier() and part.islower() and part not in _TYPE_NAMES)
    ]


_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "dict", "list"})


def _field_name(location: Sequence[Any]) -> str | None:
    """`messages[0].role`, as OpenAI names fields."""
    name = ""
    for part in _path(location):
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name or None
