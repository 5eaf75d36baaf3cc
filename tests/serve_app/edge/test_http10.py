"""Old clients: no chunks for HTTP/1.0, whichever server stands before the application."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from serve_app.edge.http10 import WholeForHttp10
from tests.serve_app.edge.apps import Exchange
from tests.serve_app.edge.listening import DEADLINE_S, listening

PARTS = [b"one ", b"", b"two"]


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for part in PARTS:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def with_length(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def raw(port: int, request: bytes) -> tuple[list[bytes], bytes]:
    """All that the server says until it hangs up: the lines of the head, and the rest."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(DEADLINE_S):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.lower().split(b"\r\n"), body


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_stream_ends_with_its_connection(version: bytes) -> None:
    async with listening(streaming) as listener:
        head, body = await raw(
            listener.port, b"GET / HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n\r\n" % version
        )
    assert (b"transfer-encoding: chunked" in head) == (version == b"1.1")
    assert b"connection: close" in head
    assert body == (b"one two" if version == b"1.0" else b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_an_answer_with_a_length_keeps_it() -> None:
    async with listening(with_length) as listener:
        head, body = await raw(listener.port, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n\r\n")
    assert b"content-length: 2" in head
    assert body == b"{}"


async def test_an_old_client_expects_nothing_before_the_answer() -> None:
    request = b"POST / HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    async with listening(with_length) as listener:
        head, _ = await raw(listener.port, request)
    assert head[0] == b"http/1.1 200 ok"


@pytest.mark.parametrize(("version", "answered"), [("1.0", [b"one two"]), ("1.1", [*PARTS, b""])])
async def test_a_server_that_would_chunk_gets_the_whole(version: str, answered: list[bytes]) -> None:
    exchange = Exchange([])
    exchange.scope["http_version"] = version
    assert await exchange.run(WholeForHttp10(streaming)) == 200
    start, *bodies = exchange.sent
    assert [message["body"] for message in bodies] == answered
    lengths: list[bytes] = [value for name, value in start["headers"] if name == b"content-length"]
    assert lengths == ([b"7"] if version == "1.0" else [])
