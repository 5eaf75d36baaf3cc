"""Bytes to the server over a bare socket, and what comes back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from tests.conformance.server import Server

TIMEOUT_S = 20.0
"""A server that says nothing for so long hangs."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes

    def error(self) -> dict[str, str | None]:
        """The error, which must be a 4xx in OpenAI's shape."""
        assert 400 <= self.status < 500, self
        assert self.content_type == "application/json", self
        document = json.loads(self.body)
        assert set(document) == {"error"}, self
        error: dict[str, str | None] = document["error"]
        assert set(error) == {"message", "type", "param", "code"}, self
        assert isinstance(error["message"], str), self
        assert isinstance(error["code"], str), self
        return error


def head(
    server: Server,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """A request's head, with the key, to be followed by what frames the body and an empty line."""
    lines = [
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode(),
        f"Authorization: Bearer {server.key}\r\nContent-Type: application/json\r\n".encode(),
        *(name + b": " + value + b"\r\n" for name, value in headers),
    ]
    return b"".join(lines)


def with_body(server: Server, body: bytes, path: str = "/v1/chat/completions") -> bytes:
    """A whole, well-formed request."""
    return head(server, path=path) + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)


def read(connection: socket.socket) -> Answer | None:
    """The answer; None: the connection was closed without one. Fails when nothing comes."""
    response = HTTPResponse(connection)
    try:
        response.begin()
        body = response.read()
    except (HTTPException, ConnectionError):
        return None
    return Answer(response.status, response.headers.get_content_type(), body)


def exchange(server: Server, data: bytes | Iterable[bytes], *, half_close: bool = False) -> Answer | None:
    """Send `data` as far as the server takes it, and read the answer. `half_close` says that nothing follows."""
    with connect(server) as connection:
        try:
            for piece in [data] if isinstance(data, bytes) else data:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it has heard enough; what it said is there to be read
        return read(connection)


def answer(server: Server, data: bytes | Iterable[bytes]) -> Answer:
    """The answer to what must be answered."""
    found = exchange(server, data)
    assert found is not None, "closed without an answer"
    return found
