"""Bounds: whatever a client sends, or does not send, it gets an answer in OpenAI's shape, in bounded space and time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve_app.config import LiveSettings
from serve_app.edge import Edge
from tests.serve_app.edge.apps import Exchange, client, edge, part

LIMIT = 4096


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 1024):
        yield b"x" * 1024


async def test_a_body_at_the_bound_passes() -> None:
    async with client(edge(max_body_bytes=LIMIT)) as http:
        assert (await http.post("/", content=b"x" * LIMIT)).json()["bytes"] == LIMIT
        assert (await http.post("/", content=chunks(LIMIT))).json()["bytes"] == LIMIT


async def test_a_larger_one_is_refused_announced_or_not() -> None:
    async with client(edge(max_body_bytes=LIMIT)) as http:
        for answer in (
            await http.post("/", content=b"x" * (LIMIT + 1)),
            await http.post("/", content=chunks(LIMIT * 4)),
        ):
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert answer.headers["connection"] == "close"


async def test_an_announced_one_is_refused_unread() -> None:
    exchange = Exchange([], [(b"content-length", b"104857600")])
    assert await exchange.run(edge(max_body_bytes=LIMIT)) == 413


async def test_reading_stops_at_the_bound() -> None:
    endless = [part(b"x" * 1024, more=True)] * 1000
    exchange = Exchange(endless)
    assert await exchange.run(edge(max_body_bytes=LIMIT)) == 413
    assert len(exchange._messages) == 1000 - LIMIT // 1024 - 1


@pytest.mark.parametrize("value", [b"-1", b"x", b"", b"1e3", b"9" * 30, "１２".encode()])
async def test_a_content_length_that_is_no_number(value: bytes) -> None:
    exchange = Exchange([part(b"", more=False)], [(b"content-length", value)])
    assert await exchange.run(edge()) == 400
    assert json.loads(exchange.sent[1]["body"])["error"]["param"] == "Content-Length"


async def test_a_slow_sender_is_cut_off() -> None:
    exchange = Exchange([part(b"{", more=True)])
    assert await exchange.run(edge(body_timeout_s=0.05)) == 408
    assert json.loads(exchange.sent[1]["body"])["error"]["code"] == "request_timeout"


async def test_nobody_answers_a_client_that_went_away() -> None:
    exchange = Exchange([part(b"{", more=True), {"type": "http.disconnect"}])
    assert await exchange.run(edge()) is None


async def test_the_api_still_hears_a_client_go_away() -> None:
    async def api(_: Scope, receive: Receive, __: Send) -> None:
        heard.extend([await receive(), await receive()])

    heard: list[Message] = []
    app = Edge(api)
    app.configure(LiveSettings(), None)
    await Exchange([part(b"{", more=True), part(b"}", more=False), {"type": "http.disconnect"}]).run(app)
    assert heard == [part(b"{}", more=False), {"type": "http.disconnect"}]


@pytest.mark.parametrize(
    "headers",
    [{f"x-{number}": "y" for number in range(200)}, {"x-long": "y" * 40_000}, {"y" * 40_000: "x"}],
    ids=["many", "long value", "long name"],
)
async def test_headers_are_bounded(headers: dict[str, str]) -> None:
    async with client(edge()) as http:
        answer = await http.get("/", headers=headers)
        assert answer.status_code == 431
        assert answer.json()["error"]["code"] == "headers_too_large"


async def test_the_query_counts_too() -> None:
    async with client(edge()) as http:
        assert (await http.get("/?" + "q" * 40_000)).status_code == 431


async def test_bytes_that_are_no_text_do_no_harm() -> None:
    exchange = Exchange([part(b"\xff\xfe\x00", more=False)], [(b"x-odd", b"\xff\x00\xfe"), (b"x-request-id", b"\xff")])
    assert await exchange.run(edge()) == 200


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"identity"])
async def test_another_transfer_coding_is_refused(coding: bytes) -> None:
    exchange = Exchange([part(b"{}", more=False)], [(b"transfer-encoding", coding)])
    assert await exchange.run(edge()) == 501
    headers = dict(exchange.sent[0]["headers"])
    assert headers[b"x-should-retry"] == b"false"
    assert json.loads(exchange.sent[1]["body"])["error"]["code"] == "unsupported_transfer_encoding"
