"""Tools with schemas of every kind, all of whose arguments are short."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.api.tools import Tool

WEATHER = Tool(
    name="get_weather",
    description="Get the weather in a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
)
ADD = Tool(
    name="add",
    description="Add two numbers.",
    parameters={
        "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
        "required": ["a", "b"],
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 99}},
    },
)
NOW = Tool(name="now")
TAG = Tool(
    name="tag-it.v2",
    parameters={
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string", "pattern": '^[a-z"\\\\]{1,4}$'}, "maxItems": 3},
            "where": {
                "anyOf": [
                    {"type": "null"},
                    {
                        "type": "object",
                        "properties": {"x": {"type": "boolean"}},
                        "required": ["x"],
                        "additionalProperties": False,
                    },
                ]
            },
        },
        "required": ["tags", "where"],
    },
    strict=True,
)
TOOLS = [WEATHER, ADD, NOW, TAG]


def check_call(tools: list[Tool], name: str, arguments: str) -> Any:
    """The call is of one of the tools, and its arguments are an object that the tool's own schema accepts."""
    jsonschema: Any = pytest.importorskip("jsonschema")
    (tool,) = (tool for tool in tools if tool.name == name)
    value = json.loads(arguments)
    assert isinstance(value, dict)
    jsonschema.validate(value, dict(tool.parameters) if tool.parameters is not None else {"maxProperties": 0})
    return value
