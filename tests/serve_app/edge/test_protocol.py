"""What a connection holds of a request is bounded while the request is read, before anybody knows who sends it."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from starlette.types import Receive, Scope, Send

from serve_app.config import LiveSettings
from serve_app.edge.protocol import MAX_WAITING_REQUESTS
from tests.serve_app.edge.apps import echo
from tests.serve_app.edge.listening import DEADLINE_S, Answer, exchange, listening

MAX_BYTES = 8192
MAX_HEADERS = 20
FLOOD_BYTES = 24 * 1024 * 1024
PIECE_BYTES = 64 * 1024
MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Far below the flood; a few reads of 256 KiB, the client's own buffer, and what logging takes."""
START = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """A start, and then the piece again and again."""
    whole = piece * (PIECE_BYTES // len(piece))
    yield start
    yield from itertools.repeat(whole, FLOOD_BYTES // len(whole))


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "one header line without end": (START + b"X-A: ", b"a"),
    "one header name without end": (START, b"a"),
    "headers without end": (START, b"X-Some: thing\r\n"),
    "empty headers without end": (START, b"a:\r\n"),
    "blanks before a value": (START + b"X-A:", b" "),
    "a target without end": (b"GET /", b"a"),
    "a query without end": (b"GET /?", b"a=b&"),
    "extensions of a chunk": (CHUNKED + b"1;", b"a=b;"),
    "one trailer without end": (CHUNKED + b"0\r\nX-A: ", b"a"),
    "trailers without end": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Some: thing\r\n"),
    "the head of the next request": (START + b"Content-Length: 0\r\n\r\n" + START + b"X-A: ", b"a"),
}


@pytest.fixture
def kept() -> Iterator[Callable[[], int]]:
    """The most bytes that were allocated at once since the test began."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def ask(port: int) -> Answer | None:
    """A decent request on a connection of its own."""
    request = START + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    _, answer = await asyncio.to_thread(exchange, port, [request])
    return answer


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_is_refused_and_not_kept(flood: str, kept: Callable[[], int]) -> None:
    start, piece = FLOODS[flood]
    async with listening(max_header_bytes=MAX_BYTES, max_headers=MAX_HEADERS) as listener:
        sent, answer = await asyncio.to_thread(exchange, listener.port, endless(start, piece))
        assert sent < FLOOD_BYTES, "the server hangs up"
        assert kept() < MAX_KEPT_BYTES
        assert answer is not None
        if flood != "the head of the next request":  # whose first request has an answer of its own
            assert answer.status == 431
            assert answer.error["code"] == "headers_too_large"
        following = await ask(listener.port)
        assert following is not None
        assert following.status == 200


async def test_many_floods_at_once_are_not_kept(kept: Callable[[], int]) -> None:
    """Heads just below the bound are all that many connections can make the server hold."""
    connections = 40
    start, piece = FLOODS["one header line without end"]
    async with listening(max_header_bytes=MAX_BYTES) as listener:
        floods = (asyncio.to_thread(exchange, listener.port, endless(start, piece)) for _ in range(connections))
        answers = await asyncio.gather(*floods)
    assert {answer.status for _, answer in answers if answer is not None} == {431}
    assert kept() < connections * 2 * 256 * 1024


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_head_within_the_bound_passes_however_it_comes(size: int) -> None:
    """The bound counts names, values and target: blanks and line ends do not make a head too large."""
    names = [b"x-%02d" % number for number in range(MAX_HEADERS - 2)]
    length = (MAX_BYTES - 200) // len(names)
    headers = b"".join(name + b": " + b"v" * (length - len(name)) + b"\r\n" for name in names)
    request = START.replace(b"Host", b"Connection: close\r\nHost", 1) + headers + b"\r\n"
    pieces = [request[at : at + size] for at in range(0, len(request), size)]
    async with listening(max_header_bytes=MAX_BYTES, max_headers=MAX_HEADERS) as listener:
        _, answer = await asyncio.to_thread(exchange, listener.port, pieces)
    assert answer is not None
    assert answer.status == 200, answer.body


async def test_one_header_too_many_is_refused() -> None:
    async with listening(max_headers=MAX_HEADERS) as listener:
        for extra, status in ((0, 200), (1, 431), (1000, 431)):
            more = b"".join(b"x-%d: y\r\n" % number for number in range(MAX_HEADERS - 2 + extra))
            _, answer = await asyncio.to_thread(exchange, listener.port, [START + more + b"Connection: close\r\n\r\n"])
            assert answer is not None
            assert answer.status == status


@pytest.mark.parametrize("size", [1, 100, 200_000])
async def test_bodies_in_chunks_pass_whatever_their_size(size: int) -> None:
    """What frames a body of many small chunks is more than the bound of a head, and no reason to refuse it."""
    count = max(400_000 // size // 8, 1)
    chunk = b"%x\r\n" % size + b" " * size + b"\r\n"
    start = START + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [start, *([chunk * count] * 4), b"0\r\nX-Trailer: dropped\r\n\r\n"]
    async with listening(max_header_bytes=MAX_BYTES) as listener:
        _, answer = await asyncio.to_thread(exchange, listener.port, pieces)
    assert answer is not None
    assert answer.status == 200, answer.body
    assert f'"bytes":{4 * count * size}'.encode() in answer.body


async def test_a_connection_goes_on_after_a_large_body() -> None:
    """A body is not counted as the head of the request after it."""
    body = b" " * 300_000
    request = START + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = START + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    async with listening(max_header_bytes=MAX_BYTES) as listener:
        _, answer = await asyncio.to_thread(exchange, listener.port, [request, request, last])
    assert answer is not None
    assert answer.status == 200


async def test_requests_sent_ahead_are_bounded(kept: Callable[[], int]) -> None:
    """A read of 256 KiB holds thousands of requests; only so many are taken while the first is not answered."""
    release = asyncio.Event()
    begun = 0

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await release.wait()
        await echo(scope, receive, send)

    flood = itertools.repeat(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000, 100)
    async with listening(slow) as listener:
        sent, answer = await asyncio.to_thread(exchange, listener.port, flood)
        release.set()
        assert answer is not None
        assert answer.status == 400
        assert answer.error["code"] == "invalid_request"
    assert begun == 1
    assert kept() < MAX_KEPT_BYTES
    assert sent < 7_000_000


async def test_a_few_requests_sent_ahead_are_all_answered() -> None:
    request = START + b"Content-Length: 0\r\n\r\n"
    last = START + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    async with listening() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request * (MAX_WAITING_REQUESTS - 1) + last)
        async with asyncio.timeout(DEADLINE_S):
            answers = await reader.read()
        writer.close()
    assert answers.count(b"HTTP/1.1 200") == MAX_WAITING_REQUESTS


async def test_bounds_change_while_the_server_listens() -> None:
    request = START + b"X-A: " + b"a" * 4000 + b"\r\nConnection: close\r\n\r\n"
    async with listening(max_header_bytes=MAX_BYTES) as listener:
        for bound, status in ((MAX_BYTES, 200), (1024, 431), (MAX_BYTES, 200)):
            listener.configure(LiveSettings(max_header_bytes=bound), None)
            pieces = [request[:2000], request[2000:]]
            _, answer = await asyncio.to_thread(exchange, listener.port, pieces)
            assert answer is not None
            assert answer.status == status
