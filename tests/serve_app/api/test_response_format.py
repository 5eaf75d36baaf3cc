"""`response_format` and the `guided_*` fields: one constraint, checked, or a refusal that names the field."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.sampling import sampling_params
from serve_app.api.response_format import Constraint, ResponseFormat, text_constraint
from tests.checking import shared_checker

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


async def checked(fields: dict[str, Any]) -> None:
    constraint = text_constraint(**fields)
    assert constraint is not None
    await constraint.check(shared_checker())


def test_text_is_no_constraint() -> None:
    assert text_constraint() is None
    assert text_constraint(ResponseFormat()) is None
    assert text_constraint(ResponseFormat(type="text"), guided_regex="a") == Constraint("regex", "a", "guided_regex")


@pytest.mark.parametrize(
    ("fields", "kind", "source", "param"),
    [
        ({"response_format": ResponseFormat(type="json_object")}, "json_schema", {"type": "object"}, "response_format"),
        (
            {"response_format": ResponseFormat(type="json_schema", schema=SCHEMA, name="x", strict=True)},
            "json_schema",
            SCHEMA,
            "response_format",
        ),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", SCHEMA, "guided_json"),
        ({"guided_regex": "a|b"}, "regex", "a|b", "guided_regex"),
        ({"guided_grammar": 'start: "a"'}, "lark", 'start: "a"', "guided_grammar"),
    ],
)
def test_each_field_becomes_a_sampling_parameter(fields: dict[str, Any], kind: str, source: Any, param: str) -> None:
    constraint = text_constraint(**fields)
    assert constraint is not None
    assert constraint.param == param
    grammar = sampling_params(**constraint.sampling()).grammar
    assert grammar is not None
    assert grammar[0] == kind
    assert (json.loads(grammar[1]) if kind == "json_schema" else grammar[1]) == source


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "{}", "guided_regex": "a"}, "guided_regex"),
        ({"response_format": ResponseFormat(type="json_object"), "guided_grammar": 'start: "a"'}, "guided_grammar"),
        ({"guided_regex": "a", "guided_grammar": 'start: "a"'}, "guided_grammar"),
    ],
)
def test_two_at_once_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match="exclude each other") as caught:
        text_constraint(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"response_format": ResponseFormat(type="json_schema")}, "response_format", "needs a schema"),
        (
            {"response_format": ResponseFormat(type="json_schema", schema={"type": "objct"})},
            "response_format",
            "response_format cannot be used: .*objct",
        ),
        ({"response_format": ResponseFormat(type="json_schema", schema={"a": {1}})}, "response_format", "not JSON"),
        ({"guided_json": "{"}, "guided_json", "guided_json cannot be used"),
        ({"guided_json": "[]"}, "guided_json", "JSON object"),
        ({"guided_json": {"a": object()}}, "guided_json", "not JSON"),
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"guided_grammar": "start: b"}, "guided_grammar", "unknown name"),
        ({"guided_grammar": ""}, "guided_grammar", "Empty grammar"),
    ],
)
def test_what_cannot_be_compiled_is_refused(fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        asyncio.run(checked(fields))
    assert caught.value.param == param
    assert caught.value.status == 400
