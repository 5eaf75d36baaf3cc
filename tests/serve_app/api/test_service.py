"""Requests to generate over a scripted front: what no real engine does on command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from typing import Any, cast

import httpx
import pytest
from starlette.types import Message

from actors.builtin_model import builtin_model_path
from actors.errors import EngineFailure, NoHealthyWorker, Overloaded, UnsupportedParameter, WorkerDied
from actors.front.front import Front
from actors.messages import WorkerLimits
from actors.request.options import RequestOptions
from actors.request.prompt import PromptEncoder
from actors.results import Delta
from serve_app.api.app import create_api
from serve_app.config import ApiLimits
from serve_app.models.served import Models, ServedModel
from serve_app.models.text import ModelText
from tests.serve_app.api.recording import RecordingObserver
from tests.serve_app.fake_front import FakeFront, Script

LIMITS = WorkerLimits(
    engine="fake",
    model="fake",
    context_tokens=100,
    total_pages=8,
    max_batch_size=4,
    vocab_size=2048,
    eos_token_ids=(2,),
    supported_parameters=frozenset(),
)


class ScriptedFront(FakeFront):
    limits = (LIMITS,)


class BrokenFront(ScriptedFront):
    """Fails as nobody foresaw."""

    async def stream(self, prompt: Sequence[int], options: RequestOptions) -> AsyncGenerator[Delta, None]:
        raise ZeroDivisionError("secret")
        yield Delta(text="")


@cache
def text() -> ModelText:
    return ModelText(PromptEncoder.load(builtin_model_path()))


class OpenModel(ServedModel):
    """A served model whose front is there already."""

    def __init__(self, front: FakeFront) -> None:
        super().__init__("m", None, created=1)
        self._front = cast(Front, front)
        self._text = text()


def app_of(front: FakeFront, **limits: Any) -> tuple[Any, RecordingObserver]:
    observer = RecordingObserver()
    return create_api(Models([OpenModel(front)]), observer=observer, limits=ApiLimits(**limits)), observer


async def post(app: Any, endpoint: str = "completions", **fields: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post(f"/v1/{endpoint}", json={"model": "m", **fields})


def error_code(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_refusal_has_its_status_and_headers(stream: bool, n: int) -> None:
    front = ScriptedFront({5: Script(error=Overloaded("Full.", retry_after_s=1.5))})
    app, observer = app_of(front)
    response = await post(app, prompt=[5], stream=stream, n=n)
    assert (response.status_code, error_code(response)) == (429, "server_overloaded")
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("2", "1500")
    assert [record.outcome for record in observer.records] == ["server_overloaded"]
    assert observer.records[0].prompt_tokens == 0
    assert front.running == 0


async def test_one_refused_choice_refuses_the_stream_of_all() -> None:
    front = ScriptedFront({5: Script(["a"], hang=True), 6: Script(error=NoHealthyWorker("None."))})
    app, _ = app_of(front)
    response = await post(app, prompt=[[5], [6]], stream=True)
    assert response.status_code == 503
    assert front.running == 0


async def test_a_failure_in_a_stream_is_its_last_event() -> None:
    front = ScriptedFront({5: Script(["a ", "b "], error=WorkerDied("It died."))})
    app, observer = app_of(front)
    response = await post(app, prompt=[5, 6, 7], stream=True, stream_options={"include_usage": True})
    assert response.status_code == 200
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["a ", "b "]
    assert events[-1]["error"]["code"] == "worker_died"
    (record,) = observer.records
    assert (record.outcome, record.status) == ("worker_died", 200)
    assert (record.prompt_tokens, record.completion_tokens) == (3, 2)


async def test_a_whole_answer_that_fails_has_the_errors_status() -> None:
    app, _ = app_of(ScriptedFront({5: Script(["a "], error=EngineFailure("It broke."))}))
    response = await post(app, prompt=[5])
    assert (response.status_code, error_code(response)) == (500, "engine_failure")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_nobody_foresaw_is_a_500_without_details(stream: bool) -> None:
    app, observer = app_of(BrokenFront({}))
    response = await post(app, prompt=[5], stream=stream)
    assert (response.status_code, error_code(response)) == (500, "internal_error")
    assert "secret" not in response.text
    assert [record.outcome for record in observer.records] == ["internal_error"]


async def test_a_request_that_the_server_cancels_is_cancelled_and_told() -> None:
    front = ScriptedFront({5: Script(["a"], hang=True)})
    app, observer = app_of(front)
    task = asyncio.create_task(post(app, prompt=[5]))
    async with asyncio.timeout(5.0):
        while not front.running:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert front.running == 0
    assert [record.outcome for record in observer.records] == ["disconnected"]


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
async def test_a_client_that_leaves_while_it_sends_is_no_fault(path: str) -> None:
    app, _ = app_of(ScriptedFront({}))
    sent: list[Message] = []
    messages: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 499


async def test_usage_is_that_of_the_worker() -> None:
    app, _ = app_of(ScriptedFront({5: Script(["a", "b", "c"])}))
    whole = (await post(app, prompt=[5, 6], n=2)).json()["usage"]
    streamed = await post(app, prompt=[5, 6], n=2, stream=True, stream_options={"include_usage": True})
    events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"] == whole
    assert (whole["prompt_tokens"], whole["completion_tokens"], whole["total_tokens"]) == (2, 6, 8)


async def answered(app: Any, release: asyncio.Event, **fields: Any) -> tuple[list[int], str]:
    """Statuses and text of a streamed answer; `release` is set when a comment has come."""
    body = json.dumps({"model": "m", "stream": True, **fields}).encode()
    asked: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []
    text = b""

    async def receive() -> Message:
        if asked:
            return asked.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal text
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        text += message.get("body", b"")
        if b"keep-alive" in text:
            release.set()

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": headers}
    async with asyncio.timeout(10.0):
        await app(scope, receive, send)
    return statuses, text.decode()


async def test_a_stream_that_waits_sends_comments_before_its_first_text() -> None:
    release = asyncio.Event()
    app, _ = app_of(ScriptedFront({5: Script(["a"], after=release)}), keepalive_s=0.01)
    statuses, text = await answered(app, release, prompt=[5])
    assert statuses == [200]
    assert text.startswith(": keep-alive\n\n")
    assert [line for line in text.splitlines() if line.startswith("data")][-1] == "data: [DONE]"
    assert '"text": "a"' in text


async def test_a_refusal_that_comes_after_a_comment_is_told_under_the_names_of_the_request() -> None:
    release = asyncio.Event()
    error = UnsupportedParameter("min_new_tokens is too much.", param="min_new_tokens")
    app, observer = app_of(ScriptedFront({5: Script(after=release, error=error)}), keepalive_s=0.01)
    statuses, text = await answered(app, release, prompt=[5])
    told = json.loads(text.rsplit("data: ", 1)[1])["error"]
    assert (statuses, told["param"], told["message"]) == ([200], "min_tokens", "min_tokens is too much.")
    assert [(record.outcome, record.status) for record in observer.records] == [("unsupported_parameter", 200)]
