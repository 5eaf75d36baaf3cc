"""Tool calls through the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.serve_app.api.conftest import MODEL

pytestmark = pytest.mark.ray


def tool(name: str, **properties: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": f"Do {name}", "parameters": parameters}}


TOOLS: Any = [tool("get_weather", city="string"), tool("add", a="integer", b="integer")]
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
NAMED = {"type": "function", "function": {"name": "add"}}


def test_the_model_calls_a_tool_of_its_own_accord(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, temperature=0)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    call: Any = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_a_streamed_call_is_the_whole_one_in_fragments(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, temperature=0, stream=True))
    fragments: list[Any] = [
        call for chunk in chunks for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices
    ]
    assert [fragment.function.name for fragment in fragments if fragment.function.name] == ["get_weather"]
    assert len([fragment.id for fragment in fragments if fragment.id]) == 1
    assert {fragment.index for fragment in fragments} == {0}
    arguments = "".join(fragment.function.arguments or "" for fragment in fragments)
    assert json.loads(arguments) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_the_stream_helper_puts_a_call_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=ASK, tools=TOOLS, temperature=0) as stream:
        final = stream.get_final_completion()
    calls: Any = final.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_a_demanded_call_always_comes_and_parses(client: openai.OpenAI, choice: Any, reason: str, stream: bool) -> None:
    for seed in range(3):
        options: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "seed": seed, "parallel_tool_calls": False}
        messages: Any = [{"role": "user", "content": "Hello!"}]
        if stream:
            with client.chat.completions.stream(model=MODEL, messages=messages, **options) as events:
                final: Any = events.get_final_completion()
        else:
            final = client.chat.completions.create(model=MODEL, messages=messages, **options)
        message = final.choices[0].message
        assert len(message.tool_calls) == 1
        arguments = json.loads(message.tool_calls[0].function.arguments)
        name = message.tool_calls[0].function.name
        assert set(arguments) == ({"city"} if name == "get_weather" else {"a", "b"})
        assert name == "add" or choice == "required"
        assert final.choices[0].finish_reason == reason


def test_none_means_no_calls(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=30
    )
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_several_choices_each_have_their_calls(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required", n=3, seed=1, parallel_tool_calls=False
    )
    for choice in answer.choices:
        assert choice.message.tool_calls
        assert len(choice.message.tool_calls) == 1


def test_a_result_goes_back_to_the_model(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, temperature=0)
    message = first.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 21 degrees"}
    messages: Any = [*ASK, message, result]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, temperature=0)
    assert "sunny" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools"),
    ],
)
def test_wrong_tools_are_refused(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASK, **fields)
    assert caught.value.param == param
