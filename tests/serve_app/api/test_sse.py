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
from actors.results import Delta, FinishReason, Timing
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


def streamed(events: AsyncGenerator[str, None], *, keepalive_s: float = 60.0) -> tuple[EventStream, Records]:
    observer = Records()
    observed = ObservedRequest(observer, "chat")
    observed.timing = Timing(queue_s=0.01, prefill_s=0.02, first_token_s=0.03, total_s=0.03)
    return EventStream(events, observed, keepalive_s=keepalive_s), observer


async def send_all(
    events: AsyncGenerator[str, None], *, leave_after: int | None = None, keepalive_s: float = 60.0
) -> tuple[list[Message], str]:
    """The messages of a stream whose client leaves after so many of them, and the recorded outcome."""
    response, observer = streamed(events, keepalive_s=keepalive_s)
    sent: list[Message] = []
    gone = asyncio.Event()

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


async def test_a_stream_sends_all_events() -> None:
    closed: list[bool] = []
    sent, outcome = await send_all(texts("a", DONE, closed=closed))
    assert sent[0]["status"] == 200
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert (headers[b"x-queue-time-ms"], headers[b"x-prefill-time-ms"]) == (b"10.0", b"20.0")
    assert b"content-length" not in headers
    assert body_of(sent) == "a" + DONE
    assert [message.get("more_body") for message in sent[1:]] == [True, True, False]
    assert (outcome, closed) == ("ok", [True])


FAILURES = [(WorkerDied("It died."), "worker_died", 500), (ZeroDivisionError("secret"), "internal_error", 500)]


@pytest.mark.parametrize(("error", "code"), [(error, code) for error, code, _ in FAILURES])
async def test_a_failure_is_told_and_not_followed_by_done(error: Exception, code: str) -> None:
    closed: list[bool] = []
    sent, outcome = await send_all(texts("a", error=error, closed=closed))
    text = body_of(sent)
    assert text.startswith("a")
    told = parsed(text.removeprefix("a"))["error"]
    assert told["code"] == code == outcome
    assert isinstance(error, ExlpoolError) or "secret" not in text
    assert "[DONE]" not in text
    assert sent[-1]["more_body"] is False


@pytest.mark.parametrize(("error", "code", "status"), FAILURES)
async def test_a_failure_before_anything_was_sent_is_raised(error: Exception, code: str, status: int) -> None:
    closed: list[bool] = []
    response, observer = streamed(texts(error=error, closed=closed))

    async def send(message: Message) -> None:
        pytest.fail("nothing is to be sent")

    with pytest.raises(type(error)):
        await response({"type": "http"}, forever, send)
    assert [(record.outcome, record.status) for record in observer.records] == [(code, status)]
    assert closed == [True]


async def forever() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


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

    _, outcome = await send_all(endless(), leave_after=leave_after)
    assert (outcome, closed) == ("disconnected", [True])


class Talk:
    """A stream that says a text when the test wants it to, and what is sent of it."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.said: asyncio.Queue[str | None] = asyncio.Queue()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.closed = False
        self.error = error

    async def events(self) -> AsyncGenerator[str, None]:
        try:
            while (text := await self.said.get()) is not None:
                yield text
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        await self.sent.put(message)

    async def next_sent(self) -> Any:
        """The status, or the text that comes next."""
        async with asyncio.timeout(5.0):
            message = await self.sent.get()
        return message["status"] if message["type"] == "http.response.start" else message["body"].decode()


COMMENT = ": keep-alive\n\n"


async def test_a_silent_stream_sends_comments_and_a_late_failure_is_its_last_event() -> None:
    talk = Talk(error=WorkerDied("It died."))
    response, observer = streamed(talk.events(), keepalive_s=0.01)
    answering = asyncio.create_task(response({"type": "http"}, forever, talk.send))
    assert [await talk.next_sent() for _ in range(3)] == [200, COMMENT, COMMENT]
    talk.said.put_nowait("a")
    while (text := await talk.next_sent()) == COMMENT:
        pass
    assert text == "a"
    assert await talk.next_sent() == COMMENT
    talk.said.put_nowait(None)
    await answering
    rest = [await talk.next_sent() for _ in range(talk.sent.qsize())]
    assert parsed(rest[-2])["error"]["code"] == "worker_died"
    assert rest[-1] == ""
    assert [(record.outcome, record.status) for record in observer.records] == [("worker_died", 200)]


async def test_a_stream_that_talks_sends_no_comments() -> None:
    talk = Talk()
    response, _ = streamed(talk.events(), keepalive_s=0.5)
    answering = asyncio.create_task(response({"type": "http"}, forever, talk.send))
    for number in range(20):
        talk.said.put_nowait(str(number))
        assert await talk.next_sent() == (200 if number == 0 else str(number - 1))
    talk.said.put_nowait(None)
    await answering


async def test_a_connection_that_takes_no_comment_has_no_client() -> None:
    talk = Talk()
    response, observer = streamed(talk.events(), keepalive_s=0.01)

    async def broken(message: Message) -> None:
        raise OSError("broken pipe")

    await response({"type": "http"}, forever, broken)
    assert talk.closed
    assert [record.outcome for record in observer.records] == ["disconnected"]
