"""Server-sent events: what stands in a chunk, and how a stream ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from actors.errors import ExlpoolError, WorkerDied
from actors.results import Delta, FinishReason
from serve_app.api.chat_choice import ChatChoiceText
from serve_app.api.schemas.chat import ChatCompletionChunk
from serve_app.api.schemas.common import PromptTokensDetails, UsageModel
from serve_app.api.sse import DONE, ChunkWriter, EventStream, Identity
from serve_app.api.tools import plan_tools
from serve_app.metrics.observed_request import ObservedRequest
from serve_app.metrics.observer import RequestRecord, Unobserved

IDENTITY = Identity("chatcmpl-1", 123, 'a "model"', "fp_1")
USAGE = UsageModel(
    prompt_tokens=1, completion_tokens=2, total_tokens=3, prompt_tokens_details=PromptTokensDetails(cached_tokens=0)
)


def parsed(event: str) -> dict[str, Any]:
    assert event.startswith("data: ")
    assert event.endswith("\n\n")
    assert event.count("\n") == 2
    return dict(json.loads(event.removeprefix("data: ")))


@given(st.text(), st.integers(0, 127), st.booleans())
def test_any_text_makes_a_chunk_of_the_schema(text: str, index: int, include_usage: bool) -> None:
    writer = ChunkWriter("chat.completion.chunk", IDENTITY, include_usage=include_usage)
    choice = ChatChoiceText(plan_tools(None, None), None)
    delta = Delta(text=text, token_ids=(1,), finish_reason=FinishReason.STOP)
    events = [writer.choice(index, fields) for fields in choice.chunks(delta)]
    chunks = [ChatCompletionChunk.model_validate(parsed(event)) for event in events]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert {chunk.choices[0].index for chunk in chunks} == {index}
    assert {chunk.model for chunk in chunks} == {IDENTITY.model}
    assert all(("usage" in parsed(event)) == include_usage for event in events)


def test_a_delta_without_text_makes_no_chunk() -> None:
    choice = ChatChoiceText(plan_tools(None, None), None)
    assert list(choice.chunks(Delta(text="", token_ids=(1,)))) == []


def test_the_usage_chunk_has_no_choices() -> None:
    writer = ChunkWriter("chat.completion.chunk", IDENTITY, include_usage=True)
    chunk = ChatCompletionChunk.model_validate(parsed(writer.usage(USAGE)))
    assert chunk.choices == []
    assert chunk.usage == USAGE


class Records(Unobserved):
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def ended(self, record: RequestRecord) -> None:
        self.records.append(record)


async def send_all(events: AsyncGenerator[str, None], *, leave_after: int | None = None) -> tuple[list[Message], str]:
    """The messages of a stream whose client leaves after so many of them, and the recorded outcome."""
    observer, sent, gone = Records(), [], asyncio.Event()
    response = EventStream("head", events, ObservedRequest(observer, "chat"), {"x-a": "b"})

    async def send(message: Message) -> None:
        sent.append(message)
        if leave_after is not None and len(sent) >= leave_after:
            gone.set()
        await asyncio.sleep(0)

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    await response({"type": "http"}, receive, send)
    (record,) = observer.records
    return sent, record.outcome


async def texts(*values: str, error: Exception | None = None, closed: list[bool]) -> AsyncGenerator[str, None]:
    try:
        for value in values:
            await asyncio.sleep(0)
            yield value
        if error is not None:
            raise error
    finally:
        closed.append(True)


def body_of(messages: list[Message]) -> str:
    return b"".join(message.get("body", b"") for message in messages).decode()


async def test_a_stream_sends_head_and_events() -> None:
    closed: list[bool] = []
    sent, outcome = await send_all(texts("a", DONE, closed=closed))
    assert sent[0]["status"] == 200
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"x-a"] == b"b"
    assert b"content-length" not in headers
    assert body_of(sent) == "heada" + DONE
    assert [message.get("more_body") for message in sent[1:]] == [True, True, True, False]
    assert (outcome, closed) == ("ok", [True])


@pytest.mark.parametrize(
    ("error", "code"), [(WorkerDied("It died."), "worker_died"), (ZeroDivisionError("secret"), "internal_error")]
)
async def test_a_failure_is_told_and_not_followed_by_done(error: Exception, code: str) -> None:
    closed: list[bool] = []
    sent, outcome = await send_all(texts("a", error=error, closed=closed))
    text = body_of(sent)
    assert text.startswith("heada")
    told = parsed(text.removeprefix("heada"))["error"]
    assert told["code"] == code == outcome
    assert isinstance(error, ExlpoolError) or "secret" not in text
    assert "[DONE]" not in text
    assert sent[-1]["more_body"] is False


@pytest.mark.parametrize("leave_after", [1, 2, 3])
async def test_a_client_that_leaves_closes_the_events(leave_after: int) -> None:
    closed: list[bool] = []

    async def endless() -> AsyncGenerator[str, None]:
        try:
            while True:
                await asyncio.sleep(0)
                yield "x"
        finally:
            closed.append(True)

    events = endless()
    await anext(events)  # as a service does before it answers
    _, outcome = await send_all(events, leave_after=leave_after)
    assert (outcome, closed) == ("disconnected", [True])
