"""A listener in this process, and clients that send it bytes over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from serve_app.config import ListenConfig, LiveSettings
from serve_app.edge import Edge
from serve_app.edge.listener import Listener
from tests.serve_app.edge.apps import echo
from tests.serve_app.running import free_port

DEADLINE_S = 20.0
NO_TLS: Mapping[str, Path] = {}


async def only_lives(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without requests: it starts and ends."""
    for kind in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{kind}"
        await send({"type": f"lifespan.{kind}.complete"})


@contextlib.asynccontextmanager
async def listening(app: Any = echo, tls: Mapping[str, Path] = NO_TLS, **settings: Any) -> AsyncIterator[Listener]:
    """A listener whose edge stands round `app`; `listener.port` is where."""
    edge = Edge(app)
    listen = ListenConfig(port=free_port(), **tls)
    listener = Listener(only_lives, edge, listen=listen, drain_s=1.0)
    listener.configure(LiveSettings(access_log=False, **settings), None)
    orders: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener({"type": "lifespan"}, orders.get, said.put))
        orders.put_nowait({"type": "lifespan.startup"})
        async with asyncio.timeout(DEADLINE_S):
            await said.get()
            await listener.start()
        try:
            yield listener
        finally:
            orders.put_nowait({"type": "lifespan.shutdown"})


class Answer:
    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body

    @property
    def error(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        document = json.loads(self.body)
        assert set(document) == {"error"}
        assert set(document["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = document["error"]
        return error


def exchange(port: int, pieces: Iterable[bytes]) -> tuple[int, Answer | None]:
    """Send pieces until they end or the server hangs up; returns how many bytes it took, and its first answer."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
        response = HTTPResponse(connection)
        try:
            response.begin()
            return sent, Answer(response.status, response.read())
        except (HTTPException, ConnectionError):
            return sent, None
