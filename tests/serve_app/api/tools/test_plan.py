"""What a request's tools and choice come to."""

from __future__ import annotations

import asyncio
import json

import pytest

from actors.errors import InvalidRequest
from actors.results import FinishReason
from serve_app.api.response_format import Constraint
from serve_app.api.tools import Tool, ToolCallParser, ToolChoice, plan_tools
from serve_app.models.tool_format import FORMATS
from tests.checking import shared_checker
from tests.serve_app.api.tools.offered import ADD, NOW, TAG, TOOLS, WEATHER

HERMES = FORMATS["hermes"]
SCHEMA = Constraint("json_schema", '{"type": "object"}', "response_format")
REGEX = Constraint("regex", "a+", "guided_regex")


def test_without_tools_everything_passes_through() -> None:
    for choice in (None, ToolChoice("none")):
        plan = plan_tools(None, choice, constraint=REGEX)
        assert plan.template_tools is None
        assert plan.sampling() == {"regex": "a+"}
        parser = plan.parser()
        assert [event.text for event in parser.push("<tool_call>")] == ["<tool_call>"]  # type: ignore[union-attr]
        assert parser.finish() == []


def test_auto_is_the_default_and_binds_nothing() -> None:
    plan = plan_tools([WEATHER, NOW], None, tool_format=HERMES)
    assert plan.choice == ToolChoice("auto")
    assert plan.sampling() == {}
    assert plan.template_tools == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the weather in a city.",
                "parameters": WEATHER.parameters,
            },
        },
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    ]


def test_with_choice_none_the_model_does_not_learn_of_the_tools() -> None:
    plan = plan_tools(TOOLS, ToolChoice("none"), constraint=SCHEMA)  # any model will do
    assert plan.template_tools is None
    assert plan.sampling() == {"json_schema": SCHEMA.source}
    assert plan.parser().push("<tool_call>") != []


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "add")])
@pytest.mark.parametrize("constraint", [None, SCHEMA, REGEX])
def test_demanded_calls_take_the_place_of_a_constraint(choice: ToolChoice, constraint: Constraint | None) -> None:
    plan = plan_tools(TOOLS, choice, tool_format=HERMES, constraint=constraint)
    assert list(plan.sampling()) == ["lark"]
    assert [tool["function"]["name"] for tool in plan.template_tools or ()] == [tool.name for tool in TOOLS]
    assert ("get_weather" in plan.sampling()["lark"]) == (choice.mode == "required")


def test_auto_with_a_schema_is_either() -> None:
    plan = plan_tools([ADD], None, tool_format=HERMES, constraint=SCHEMA)
    assert "document" in plan.sampling()["lark"]


@pytest.mark.parametrize(("name", "constraint"), [("hermes", REGEX), ("llama3_json", SCHEMA)])
def test_constraints_that_leave_no_room_for_a_call_are_refused(name: str, constraint: Constraint) -> None:
    with pytest.raises(InvalidRequest, match="cannot be combined with tools") as caught:
        plan_tools([ADD], None, tool_format=FORMATS[name], constraint=constraint)
    assert caught.value.param == constraint.param


@pytest.mark.parametrize(
    ("tools", "choice", "param", "reason"),
    [
        (None, ToolChoice("auto"), "tool_choice", "needs tools"),
        (None, ToolChoice("required"), "tool_choice", "needs tools"),
        (None, ToolChoice("named", "add"), "tool_choice", "needs tools"),
        ([], None, "tools", "empty"),
        ([], ToolChoice("none"), "tools", "empty"),
        ([ADD], ToolChoice("named", "sub"), "tool_choice", "'sub'"),
        ([ADD, ADD], None, "tools", "Two tools"),
        ([Tool(name="")], None, "tools", "1 to 64"),
        ([Tool(name="a b")], None, "tools", "'a b'"),
        ([Tool(name="é")], ToolChoice("none"), "tools", "letters"),
        ([Tool(name="x" * 65)], None, "tools", "64"),
        ([Tool(name=f"t{i}") for i in range(129)], None, "tools", "129"),
    ],
)
def test_wrong_requests_are_refused_by_field(
    tools: list[Tool] | None, choice: ToolChoice | None, param: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        plan_tools(tools, choice, tool_format=HERMES)
    assert caught.value.param == param
    assert caught.value.status == 400


def test_a_model_that_knows_no_calls_refuses_tools() -> None:
    with pytest.raises(InvalidRequest, match=r"hermes, llama3_json, mistral") as caught:
        plan_tools([ADD], None, tool_format=None)
    assert caught.value.param == "tools"


def test_tools_that_are_too_much_together_are_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x" * 100 + str(i) for i in range(50)]}}}
    tools = [Tool(name=f"t{i}", parameters=schema) for i in range(60)]
    plan = plan_tools(tools, ToolChoice("required"), tool_format=HERMES)
    assert plan.constraint is not None
    with pytest.raises(InvalidRequest, match="The grammar of these tools cannot be used: it is longer") as caught:
        asyncio.run(plan.constraint.check(shared_checker()))
    assert caught.value.param == "tools"


def parser_after(text: str) -> ToolCallParser:
    parser = plan_tools(TOOLS, None, tool_format=HERMES).parser()
    parser.push(text)
    parser.finish()
    return parser


CALL = "<tool_call>" + json.dumps({"name": "now", "arguments": {}}) + "</tool_call>"


@pytest.mark.parametrize(
    ("choice", "text", "reason", "told"),
    [
        (ToolChoice("auto"), "text", FinishReason.STOP, "stop"),
        (ToolChoice("auto"), CALL, FinishReason.STOP, "tool_calls"),
        (ToolChoice("required"), CALL + CALL, FinishReason.STOP, "tool_calls"),
        (ToolChoice("named", "now"), CALL, FinishReason.STOP, "stop"),
        (ToolChoice("auto"), CALL, FinishReason.LENGTH, "length"),
        (ToolChoice("auto"), CALL[:-20], FinishReason.LENGTH, "length"),
        (ToolChoice("auto"), CALL + CALL[:-14], FinishReason.STOP, "stop"),  # a stop string inside the call
    ],
)
def test_the_finish_reason(choice: ToolChoice, text: str, reason: FinishReason, told: str) -> None:
    plan = plan_tools(TOOLS, choice, tool_format=HERMES)
    assert plan.finish_reason(reason, parser_after(text)) == told


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.ERROR])
def test_a_failure_never_looks_like_an_end(reason: FinishReason) -> None:
    plan = plan_tools([TAG], None, tool_format=HERMES)
    with pytest.raises(ValueError, match="no OpenAI finish reason"):
        plan.finish_reason(reason, plan.parser())
