"""Small ASGI applications to put the edge round, and ways to call them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from serve_app.caller import caller_of
from serve_app.config import LiveSettings
from serve_app.edge import Edge
from serve_app.edge.keys import KeyRing
from serve_app.edge.request_id import request_id_of

LOCAL = ("127.0.0.1", 40_000)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it got."""
    request = Request(scope, receive)
    body = await request.body()
    caller = caller_of(request)
    answer = {
        "bytes": len(body),
        "tenant": caller.tenant,
        "max_priority": caller.max_priority,
        "request_id": request_id_of(scope),
        "header": request.headers.get("x-request-id"),
    }
    await JSONResponse(answer)(scope, receive, send)


def edge(keys: KeyRing | None = None, **settings: Any) -> Edge:
    made = Edge(echo)
    made.configure(LiveSettings(**settings), keys)
    return made


def client(app: Any, *, address: str = "127.0.0.1", base_url: str = "http://127.0.0.1:8000") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 40_000)), base_url=base_url)


class Exchange:
    """One raw HTTP exchange: the messages that come, and those that were sent."""

    def __init__(
        self, messages: Iterable[Message], headers: Iterable[tuple[bytes, bytes]] = (), path: str = "/"
    ) -> None:
        self._messages = list(messages)
        self.sent: list[Message] = []
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "client": LOCAL,
            "server": ("127.0.0.1", 8000),
        }

    async def receive(self) -> Message:
        if not self._messages:
            await asyncio.Event().wait()  # a client that says nothing more
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: Any) -> int | None:
        """The status that was answered; None: nothing was."""
        await app(self.scope, self.receive, self.send)
        return int(self.sent[0]["status"]) if self.sent else None


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}
