"""What no decent client sends: headers, lengths and senders. Each is refused, and the next request is served."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.asking import SUM, SUM_ANSWER
from tests.conformance.server import BODY_TIMEOUT_S, MAX_BODY_BYTES, MODEL, SHORT, Server
from tests.conformance.wire import answer, connect, exchange, head, read, with_body
from tests.properties import examples

pytestmark = pytest.mark.ray

FUZZ = examples(100)
CHAT = json.dumps({"model": SHORT, "messages": SUM, "max_tokens": 2}).encode()
HUNDRED_MB = 100 * 1024 * 1024
FLOODS = 8
GROWTH_BYTES = HUNDRED_MB * FLOODS // 2
"""Serve's proxy takes in what comes until the refusal: memory swings by one body or two, and does not add up."""
FRAMING = {"content-length", "transfer-encoding", "connection", "upgrade", "expect"}
"""Headers that say where a request ends: wrong ones are a matter of their own."""

tokens = st.text("!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits, min_size=1, max_size=30)
known = st.sampled_from(
    [
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "Content-Encoding",
        "Content-Type",
        "Cookie",
        "Forwarded",
        "Host",
        "Origin",
        "OpenAI-Organization",
        "Range",
        "X-Api-Key",
        "X-Forwarded-For",
        "X-Request-Id",
        "X-Request-Timeout-Seconds",
        "X-Session-Id",
        "serve_multiplexed_model_id",
    ]
)
names = (known | tokens).filter(lambda name: name.lower() not in FRAMING)
values = st.binary(max_size=60).map(lambda value: bytes(byte for byte in value if byte >= 32 and byte != 127).strip())
requests = st.sampled_from(
    [("POST", "/v1/chat/completions"), ("POST", "/tokenize"), ("GET", "/v1/models"), ("GET", "/health"), ("PUT", "/x")]
)


@pytest.fixture(autouse=True)
def healthy(client: openai.OpenAI) -> Iterator[None]:
    """Whatever a test sent: the next request is served."""
    yield
    answered = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
    assert answered.choices[0].message.content == SUM_ANSWER


@FUZZ
@given(request=requests, headers=st.lists(st.tuples(names, values), max_size=6))
def test_any_headers(server: Server, request: tuple[str, str], headers: list[tuple[str, bytes]]) -> None:
    pairs = [(name.encode(), value) for name, value in headers]
    body = CHAT if request[0] == "POST" else b""
    data = head(server, *request, pairs) + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    found = answer(server, data)
    if found.status != 200:
        found.error()


@FUZZ
@given(st.binary(min_size=1, max_size=200))
def test_no_http_at_all(server: Server, data: bytes) -> None:
    found = exchange(server, data, half_close=True)
    if found is not None:
        assert found.status == 400
        found.error()


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: five\r\n\r\n",
        b"Content-Length: 99999999999999999999999999\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nnumber\r\nabc\r\n",
        b"No colon\r\n\r\n",
        b"Sp ace: x\r\n\r\n",
    ],
)
def test_broken_framing(server: Server, framing: bytes) -> None:
    """It is refused before anything is read of it: a proxy in front could take it for two requests."""
    found = answer(server, head(server) + framing)
    assert found.status == 400
    found.error()


@pytest.mark.parametrize("offered", [b"h2c", b"websocket", b"TLS/1.0"])
def test_offers_of_other_protocols(server: Server, offered: bytes) -> None:
    """They are ignored, and the body is not: Java's client offers HTTP/2 with every request."""
    headers = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", offered), (b"HTTP2-Settings", b"AAMAAABkAAQ")]
    data = head(server, headers=headers) + f"Content-Length: {len(CHAT)}\r\n\r\n".encode() + CHAT
    assert answer(server, data).status == 200
    assert answer(server, data.replace(b"Upgrade:", b"UPGRADE :")).status in (200, 400)


@pytest.mark.parametrize(
    "start", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"BREW /x HTTP/1.1\r\n\r\n"]
)
def test_other_protocols(server: Server, start: bytes) -> None:
    """HTTP/2, TLS, and a method that there is not."""
    found = answer(server, start)
    assert found.status == 400
    found.error()


@pytest.mark.parametrize("extra", [[(b"X-A", b"a" * 40_000)], [(b"X-%d" % i, b"") for i in range(150)]])
def test_too_many_or_too_long_headers(server: Server, extra: list[tuple[bytes, bytes]]) -> None:
    found = answer(server, head(server, headers=extra) + b"Content-Length: 2\r\n\r\n{}")
    assert found.status == 431
    assert found.error()["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "path", ["/v1/models/%ff%00%zz", "/v1/models/" + "a" * 5000, "//v1//models", "/v1/../etc", "/%"]
)
def test_odd_paths(server: Server, path: str) -> None:
    found = answer(server, head(server, "GET", path) + b"\r\n")
    assert found.status == 404
    found.error()


@pytest.mark.parametrize(
    "type_", [b"text/plain", b"multipart/form-data; boundary=x", b"", b"\xff/\xfe", b"application/"]
)
def test_other_types(server: Server, type_: bytes) -> None:
    request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + server.key.encode()
    found = answer(server, request + b"\r\nContent-Type: " + type_ + b"\r\nContent-Length: 2\r\n\r\n{}")
    assert found.status == 415
    found.error()


def test_orders_to_serve_are_not_obeyed(server: Server) -> None:
    orders = [
        (b"X-Request-Timeout-Seconds", b"0.000001"),
        (b"X-Request-Id", b"\xff\xfe\x80"),
        (b"X-Session-Id", b"\xff"),
    ]
    found = answer(server, head(server, headers=orders) + f"Content-Length: {len(CHAT)}\r\n\r\n".encode() + CHAT)
    assert found.status == 200, found


def test_bodies_cut_short(server: Server) -> None:
    """Where the length says so, it is wrong JSON."""
    for size in range(0, len(CHAT), 3):
        found = answer(server, with_body(server, CHAT[:size]))
        assert found.status == 400
        assert found.error()["code"] == "invalid_request"


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
def test_clients_that_leave_in_the_middle(server: Server, framing: bytes) -> None:
    """Nobody is there to be told: the connection just ends."""
    for size in (0, 1, len(CHAT)):
        assert exchange(server, head(server) + framing + CHAT[:size], half_close=True) is None


def test_a_hundred_megabytes_that_are_announced(server: Server) -> None:
    """Refused before any of it is read."""
    found = answer(server, head(server) + f"Content-Length: {HUNDRED_MB}\r\n\r\n".encode())
    assert found.status == 413
    assert found.error()["code"] == "request_too_large"


def test_a_hundred_megabytes_of_unknown_length(server: Server) -> None:
    before = server.resident_bytes()
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    pieces = [head(server) + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * (HUNDRED_MB // 65536), b"0\r\n\r\n"]
    for _ in range(FLOODS):
        found = answer(server, pieces)
        assert found.status == 413
        assert found.error()["code"] == "request_too_large"
    assert server.resident_bytes() - before < GROWTH_BYTES


def test_the_largest_body(server: Server) -> None:
    """What is just allowed is read and judged by what it says."""
    frame = json.dumps({"model": SHORT, "messages": [{"role": "user", "content": "?"}]})
    body = frame.replace("?", "x" * (MAX_BODY_BYTES - len(frame) + 1)).encode()
    assert len(body) == MAX_BODY_BYTES
    error = answer(server, with_body(server, body)).error()
    assert error["code"] == "context_length_exceeded"
    assert "characters" in str(error["message"])  # not tokens: it was not encoded only to be refused
    assert answer(server, with_body(server, body + b" ")).status == 413


def test_slow_senders(server: Server, client: openai.OpenAI) -> None:
    """Many at once, each a byte now and then; others are served meanwhile."""
    start = head(server) + b"Content-Length: 1000\r\n\r\n"
    with ExitStack() as stack:
        began_s = time.monotonic()
        slow = [stack.enter_context(connect(server)) for _ in range(40)]
        for connection in slow:
            connection.sendall(start + b"{")
        answered: Any = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
        assert answered.choices[0].message.content == SUM_ANSWER
        while time.monotonic() - began_s < BODY_TIMEOUT_S / 2:
            for connection in slow:
                connection.sendall(b" ")
            time.sleep(0.1)  # that is what is slow about it
        for connection in slow:
            found = read(connection)
            assert found is not None
            assert found.status == 408
            assert found.error()["code"] == "request_timeout"
        assert BODY_TIMEOUT_S <= time.monotonic() - began_s < BODY_TIMEOUT_S + 5.0


def test_connections_that_say_nothing(server: Server, client: openai.OpenAI) -> None:
    """They hold nothing that others need, and are not kept."""
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(100)]
        for connection in silent[50:]:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        answered = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
        assert answered.choices[0].message.content == SUM_ANSWER
        assert [read(connection) for connection in silent[:50]] == [None] * 50
        for connection in silent[50:]:
            found = read(connection)
            assert found is not None
            assert found.status == 408
            found.error()
