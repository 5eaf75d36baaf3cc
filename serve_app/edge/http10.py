"""Clients of HTTP/1.0 know no chunks: an answer whose length nobody knows yet ends with its connection."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

OLD_VERSIONS = frozenset({"0.9", "1.0"})


def end_with_connection(cycle: RequestResponseCycle) -> None:
    """Have uvicorn send an answer without a length as it comes, and hang up behind it. Call before the answer begins;
    connections of such clients are closed after every answer anyway."""
    plain, unframed = cycle.send, False

    async def send(message: Message) -> None:
        nonlocal unframed
        if message["type"] == "http.response.start":
            unframed = not _has_length(message)
            if unframed:
                cycle.chunked_encoding = False
        elif unframed:
            cycle.expected_content_length = len(message.get("body", b""))  # so every part is the last that is owed
        await plain(message)  # type: ignore[arg-type]

    cycle.send = send  # type: ignore[assignment,method-assign]


class WholeForHttp10:
    """Where the server behind us would chunk: collects the answer of an HTTP/1.0 client and gives it a length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("http_version") not in OLD_VERSIONS:
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and not _has_length(message):
                start = message
            elif start is None or message["type"] != "http.response.body":
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body = b"".join(parts)
                    length = (b"content-length", b"%d" % len(body))
                    await send({**start, "headers": [*start.get("headers", ()), length]})
                    await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, collect)


def _has_length(start: Message) -> bool:
    return any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))
