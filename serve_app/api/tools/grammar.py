"""The Lark grammars (llguidance's dialect) under which a model can write nothing but valid tool calls.

A call is written as `{"name": "f", "arguments": {…}}` with exactly the white space of json.dumps, its arguments under
the tool's own schema, so that references inside that schema keep their root. Marks that are tokens of the vocabulary
are named by their id: to a grammar, such a token is no text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import InvalidRequest
from actors.request.grammar.kinds import COMPACT_JSON
from serve_app.api.tools.definitions import Tool
from serve_app.models.tool_format import ToolFormat

_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_SAYS_MORE = frozenset(
    ("additionalProperties", "patternProperties", "minProperties", "$ref", "allOf", "anyOf", "oneOf")
)
"""Keywords of an object that may allow or demand properties which it does not list."""


RefusedSchemas = Mapping[str, InvalidRequest]
"""Why schemas cannot be compiled, as far as that is known, by their source."""


@dataclass(frozen=True, slots=True)
class ArgumentsSchema:
    """`subject` is what a message calls it."""

    schema: dict[str, Any]
    source: str
    subject: str


def schema_of(tool: Tool) -> ArgumentsSchema:
    """The schema of a tool's arguments, an object.

    Where it lists properties and says nothing of others, there are no others: a model under a grammar would go on
    inventing them, and what remains is still valid.

    :raises InvalidRequest: it describes something else than an object.
    """
    subject = f"The parameters of tool {tool.name!r}"
    schema = dict(_NO_ARGUMENTS) if tool.parameters is None else {"type": "object"} | dict(tool.parameters)
    if schema["type"] != "object":
        raise InvalidRequest(f"{subject} describe no object: their type is {schema['type']!r}.", param="tools")
    if _lists_all(schema):
        schema["additionalProperties"] = False
    try:
        source = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{subject} are not JSON: {error}.", param="tools") from None
    return ArgumentsSchema(schema, source, subject)


def _usable_schema(tool: Tool, refused: RefusedSchemas) -> dict[str, Any]:
    found = schema_of(tool)
    if found.source in refused:
        raise refused[found.source]
    return found.schema


def _lists_all(schema: Mapping[str, Any]) -> bool:
    """Whether the properties that an object's schema lists can be all that it has."""
    listed, demanded = schema.get("properties"), schema.get("required", [])
    if not isinstance(listed, dict) or not isinstance(demanded, list) or _SAYS_MORE & schema.keys():
        return False
    return all(name in listed for name in demanded if isinstance(name, str))


def enforced_calls(tool_format: ToolFormat, tools: Sequence[Tool], *, parallel: bool, refused: RefusedSchemas) -> str:
    """Calls of these tools and nothing else: one, or one and more if both the format and `parallel` allow it.

    :raises InvalidRequest: the parameters of a tool cannot be enforced.
    """
    rules = _rules_of_calls(tool_format, [(tool.name, _usable_schema(tool, refused)) for tool in tools], parallel)
    return "\n".join(["start: calls", *rules])


def optional_calls(
    tool_format: ToolFormat,
    tools: Sequence[Tool],
    *,
    parallel: bool,
    refused: RefusedSchemas,
    document_schema: str | None = None,
) -> str:
    """Any text and calls in it; behind the opening mark nothing but a call can stand. With `document_schema`: either
    calls or a document that it accepts.

    Calls match the schemas of their tools; where one cannot be enforced and its tool is not strict, any object does.

    :raises InvalidRequest: the parameters of a strict tool cannot be enforced.
    """
    schemas = [(tool.name, _schema_if_possible(tool, refused)) for tool in tools]
    rules = _rules_of_calls(tool_format, schemas, parallel)
    if document_schema is not None:
        return "\n".join(["start: calls | document", f"document: {_json(json.loads(document_schema))}", *rules])
    return "\n".join([*_text_and_calls(tool_format, parallel), *rules])


def _schema_if_possible(tool: Tool, refused: RefusedSchemas) -> dict[str, Any]:
    try:
        return _usable_schema(tool, refused)
    except InvalidRequest:
        if tool.strict:
            raise
        return {"type": "object"}


def _text_and_calls(tool_format: ToolFormat, parallel: bool) -> list[str]:
    text = "TEXT: /(.|\\n)+/"
    if not tool_format.opening:
        return ["start: calls | TEXT?", "TEXT: /[^{](.|\\n)*/"]
    if tool_format.opening in tool_format.token_ids:
        return [f"start: (TEXT? opened){'*' if parallel else '?'} TEXT?", "opened: opening inside", text]
    return [
        f"start: opened{'*' if parallel else '?'} TEXT?",
        "opened: up_to_opening inside",
        f"up_to_opening[lazy]: /(.|\\n)*/ {json.dumps(tool_format.opening)}",
        text,
    ]


def _rules_of_calls(
    tool_format: ToolFormat, schemas: Sequence[tuple[str, Mapping[str, Any]]], parallel: bool
) -> list[str]:
    """The rule `calls`, and below it `opening` (if the format has one) and `inside`, which stands behind an opening."""
    several = parallel and tool_format.parallel
    rules = _rules_of_list(several) if tool_format.listed else _rules_of_blocks(tool_format, several)
    if tool_format.opening:
        rules.append(f"opening: {_mark(tool_format, tool_format.opening)}")
    rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(schemas))))
    for place, (name, schema) in enumerate(schemas):
        rules += _rules_of_call(tool_format, place, name, schema)
    return rules


def _rules_of_list(several: bool) -> list[str]:
    more = ' (", " call)*' if several else ""
    return ["calls: opening inside", f'inside: " "? "[" call{more} "]"']


def _rules_of_blocks(tool_format: ToolFormat, several: bool) -> list[str]:
    line = r' "\n"? '
    opening, begin = ("opening ", line) if tool_format.opening else ("", "")
    end = line + _mark(tool_format, tool_format.closing) if tool_format.closing else ""
    more = f"({line}{opening}inside)*" if several else ""
    return [f"calls: {opening}inside {more}", f"inside: {begin}call{end}"]


def _rules_of_call(tool_format: ToolFormat, place: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    head = f'{{"name": {json.dumps(name)}, "{tool_format.arguments_key}": '
    return [
        f'call_{place}: {json.dumps(head)} arguments_{place} "}}"',
        f"arguments_{place}: {_json(schema)}",
    ]


def _mark(tool_format: ToolFormat, mark: str) -> str:
    token_id = tool_format.token_ids.get(mark)
    return json.dumps(mark) if token_id is None else f"<[{token_id}]>"


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": COMPACT_JSON})
