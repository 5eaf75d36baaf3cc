"""One line per request: what, how it ended, how long it took. No content and no key, unless content is asked for."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.caller import Caller
from serve_app.edge.request_id import path_of, request_id_of

logger = logging.getLogger("ray.serve.exlpool.access")
"""Below Serve's logger, which writes to the replica's log."""

MAX_LOGGED_BYTES = 16_384
MAX_PATH_CHARACTERS = 200
QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Asked all day by machines; logged only when they go wrong."""


class AccessLog:
    def __init__(self, app: ASGIApp, *, content: bool) -> None:
        self._app = app
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, content=self._content)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.log()


class _Exchange:
    """Counts and, if asked to, keeps what passes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, content: bool) -> None:
        self._scope, self._receive, self._send, self._content = scope, receive, send, content
        self._started_s = time.monotonic()
        self._status = 0
        self._sent_bytes = 0
        self._complete = False
        self._asked, self._answered = bytearray(), bytearray()

    async def receive(self) -> Message:
        message = await self._receive()
        if self._content and message["type"] == "http.request":
            _keep(self._asked, message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self._sent_bytes += len(body)
            self._complete = not message.get("more_body", False)
            if self._content:
                _keep(self._answered, body)
        await self._send(message)

    def log(self) -> None:
        path = path_of(self._scope)
        if path in QUIET_PATHS and self._status in (200, 503):
            return
        caller = self._scope.get("state", {}).get("caller")
        logger.info(
            "%s %s %s %.3fs %d bytes%s tenant=%r id=%s",
            self._scope["method"],
            ascii(path[:MAX_PATH_CHARACTERS])[1:-1],
            self._status or "-",
            time.monotonic() - self._started_s,
            self._sent_bytes,
            "" if self._complete else " (cut off)",
            caller.tenant if isinstance(caller, Caller) else "",
            request_id_of(self._scope),
        )
        if self._content:
            logger.info(
                "%s asked %r answered %r", request_id_of(self._scope), bytes(self._asked), bytes(self._answered)
            )


def _keep(target: bytearray, body: bytes) -> None:
    target += body[: MAX_LOGGED_BYTES - len(target)]
