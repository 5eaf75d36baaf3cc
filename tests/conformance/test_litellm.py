"""LiteLLM with this server as an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest
from litellm.exceptions import AuthenticationError, BadRequestError, ContextWindowExceededError, NotFoundError

from tests.conformance.asking import MAX, SUM, SUM_ANSWER, TOOLS, WEATHER, Person
from tests.conformance.server import MODEL, Server

pytestmark = pytest.mark.ray


def options(server: Server, **fields: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{MODEL}",
        "api_base": server.api,
        "api_key": server.key,
        "temperature": 0,
        "timeout": 60,
        **fields,
    }


def test_a_completion(server: Server) -> None:
    answer: Any = litellm.completion(**options(server, messages=SUM))
    assert answer.choices[0].message.content == SUM_ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream(server: Server) -> None:
    chunks: Any = list(
        litellm.completion(**options(server, messages=SUM, stream=True, stream_options={"include_usage": True}))
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == SUM_ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == [
        "stop"
    ]
    assert any(getattr(chunk, "usage", None) for chunk in chunks)


async def test_an_async_stream(server: Server) -> None:
    stream: Any = await litellm.acompletion(**options(server, messages=SUM, stream=True))
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == SUM_ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_tools(server: Server, stream: bool) -> None:
    answer: Any = litellm.completion(**options(server, messages=WEATHER, tools=TOOLS, stream=stream))
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_structured_output(server: Server) -> None:
    answer: Any = litellm.completion(**options(server, messages=MAX, response_format=Person, max_tokens=60))
    assert Person.model_validate_json(answer.choices[0].message.content) == Person(name="Max", age=5)


def test_text_completion(server: Server) -> None:
    fields = options(server, prompt="Once upon a time,", max_tokens=10)
    answer: Any = litellm.text_completion(**{**fields, "model": f"text-completion-openai/{MODEL}"})
    assert "there was" in answer.choices[0].text


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"api_key": "wrong"}, AuthenticationError),
        ({"temperature": 9}, BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 6000}]}, ContextWindowExceededError),
        ({"model": "openai/nobody"}, NotFoundError),
    ],
)
def test_errors_have_their_types(server: Server, fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        litellm.completion(**options(server, **{"messages": SUM, "num_retries": 0, **fields}))
