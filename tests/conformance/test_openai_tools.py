"""The official client's tool calls: auto, none, required and named, streamed or not, one or several."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.conformance.asking import TOOLS, WEATHER
from tests.conformance.server import MODEL

pytestmark = pytest.mark.ray

GREETING: Any = [{"role": "user", "content": "Hello!"}]
ADD = {"type": "function", "function": {"name": "add"}}


def answered(client: openai.OpenAI, stream: bool, **fields: Any) -> Any:
    """The choice, put together by the client's helper where it is streamed."""
    if not stream:
        return client.chat.completions.create(model=MODEL, tools=TOOLS, **fields).choices[0]
    with client.chat.completions.stream(model=MODEL, tools=TOOLS, **fields) as events:
        return events.get_final_completion().choices[0]


@pytest.mark.parametrize("stream", [False, True])
def test_auto(client: openai.OpenAI, stream: bool) -> None:
    for choice in (openai.omit, "auto"):
        answer = answered(client, stream, messages=WEATHER, tool_choice=choice, temperature=0)
        assert answer.finish_reason == "tool_calls"
        assert not answer.message.content
        (call,) = answer.message.tool_calls
        assert (call.type, call.function.name) == ("function", "get_weather")
        assert json.loads(call.function.arguments) == {"city": "Paris"}


@pytest.mark.parametrize("stream", [False, True])
def test_none(client: openai.OpenAI, stream: bool) -> None:
    answer = answered(client, stream, messages=WEATHER, tool_choice="none", temperature=0, max_tokens=20)
    assert not answer.message.tool_calls
    assert answer.finish_reason in ("stop", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_required(client: openai.OpenAI, stream: bool) -> None:
    answer = answered(client, stream, messages=GREETING, tool_choice="required", seed=1, parallel_tool_calls=False)
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    expected = {"get_weather": {"city"}, "add": {"a", "b"}}
    assert set(json.loads(call.function.arguments)) == expected[call.function.name]


@pytest.mark.parametrize("stream", [False, True])
def test_named(client: openai.OpenAI, stream: bool) -> None:
    answer = answered(client, stream, messages=GREETING, tool_choice=ADD, seed=1, parallel_tool_calls=False)
    assert answer.finish_reason in ("stop", "tool_calls")
    (call,) = answer.message.tool_calls
    assert call.function.name == "add"
    assert {type(value) for value in json.loads(call.function.arguments).values()} == {int}


@pytest.mark.parametrize("stream", [False, True])
def test_several_calls(client: openai.OpenAI, stream: bool) -> None:
    """What the tiny model makes of it is its own affair: all calls parse, and each has an id of its own."""
    for seed in range(3):
        answer = answered(client, stream, messages=GREETING, tool_choice="required", seed=seed, max_tokens=200)
        calls = answer.message.tool_calls
        assert len({call.id for call in calls}) == len(calls) >= 1
        if answer.finish_reason == "tool_calls":
            assert all(json.loads(call.function.arguments) for call in calls)


def test_fragments_of_a_stream(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model=MODEL, messages=WEATHER, tools=TOOLS, temperature=0, stream=True)
    fragments: Any = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert all(fragment.index == 0 for fragment in fragments)
    assert len([fragment.id for fragment in fragments if fragment.id]) == 1
    assert [fragment.type for fragment in fragments if fragment.type] == ["function"]
    assert [fragment.function.name for fragment in fragments if fragment.function.name] == ["get_weather"]
    assert json.loads("".join(fragment.function.arguments or "" for fragment in fragments)) == {"city": "Paris"}


def test_the_way_there_and_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL, messages=WEATHER, tools=TOOLS, temperature=0)
    message = first.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 21 degrees"}
    messages: Any = [*WEATHER, message, result]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, temperature=0)
    assert "sunny" in (answer.choices[0].message.content or "")


class GetWeather(BaseModel):
    city: str


def test_parsed_arguments(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MODEL,
        messages=GREETING,
        tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice="required",
        parallel_tool_calls=False,
        seed=1,
        max_tokens=100,
    )
    assert completion.choices[0].message.tool_calls
    (call,) = completion.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
