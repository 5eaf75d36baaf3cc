"""LangChain's `ChatOpenAI`, as it comes."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

from tests.conformance.asking import TOOLS, Person
from tests.conformance.server import MODEL, Server

pytestmark = pytest.mark.ray

QUESTION = "What is 2+3?"
ABOUT_MAX = "Max is 5 years old. Reply in JSON with name and age."


@pytest.fixture(scope="module")
def llm(server: Server) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=server.api, api_key=SecretStr(server.key), temperature=0, timeout=60)


def test_invoke(llm: ChatOpenAI) -> None:
    answer = llm.invoke([SystemMessage("Be short."), HumanMessage(QUESTION)])
    assert answer.content == "2 + 3 = 5"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def test_stream(llm: ChatOpenAI) -> None:
    whole: Any = None
    for chunk in llm.stream(QUESTION, stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == "2 + 3 = 5"
    assert whole.usage_metadata["total_tokens"] > 0


async def test_many_at_once(llm: ChatOpenAI) -> None:
    answers = await llm.abatch([f"What is {number}+1?" for number in range(1, 9)])
    assert [answer.content for answer in answers] == [f"{number} + 1 = {number + 1}" for number in range(1, 9)]


def test_tools(llm: ChatOpenAI) -> None:
    bound = llm.bind_tools(TOOLS)
    asked = HumanMessage("What is the weather in Paris?")
    answer = bound.invoke([asked])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = ToolMessage("sunny, 21 degrees", tool_call_id=call["id"])
    assert "sunny" in str(bound.invoke([asked, answer, result]).content)


def test_streamed_tools(llm: ChatOpenAI) -> None:
    whole: Any = None
    for chunk in llm.bind_tools(TOOLS, tool_choice="required").stream("What is the weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["name"] == "get_weather"
    assert whole.tool_calls[0]["args"] == {"city": "Paris"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(llm: ChatOpenAI, method: Any) -> None:
    answer = llm.with_structured_output(Person, method=method).invoke(ABOUT_MAX)
    assert isinstance(answer, Person)
    if method != "function_calling":  # which the tiny model knows for other tools only
        assert answer == Person(name="Max", age=5)


@pytest.fixture
def completions(server: Server) -> OpenAI:
    return OpenAI(model=MODEL, base_url=server.api, api_key=SecretStr(server.key), temperature=0, max_tokens=20)


def test_plain_completions(completions: OpenAI) -> None:
    text = completions.invoke("Once upon a time,")
    assert "there was a" in text
    assert "".join(completions.stream("Once upon a time,")) == text
    assert completions.batch(["Once upon a time,"] * 2) == [text] * 2


def test_errors_are_those_of_the_client(llm: ChatOpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        llm.invoke(QUESTION, temperature=9)
