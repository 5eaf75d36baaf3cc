"""Bounds on what a client may send: headers, the size of a body, and the time it takes."""

from __future__ import annotations

import asyncio
import re
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.errors import ExlpoolError
from serve_app.caller import BEGAN_AT_S
from serve_app.edge.errors import BadContentLength, BodyTooLarge, BodyTooSlow, HeadersTooLarge, UnknownTransferCoding
from serve_app.edge.request_id import HEADER
from serve_app.errors import error_response

_NUMBER = re.compile(r"[0-9]{1,19}")


def headers_too_large(max_bytes: int, max_headers: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"Send at most {max_headers} headers and {max_bytes} bytes of them.")


class HeaderBounds:
    """Refuses requests with too many or too long headers, or a path and query that are as long."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_headers: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_headers = max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._fits(scope):
            await self._app(scope, receive, send)
            return
        await error_response(headers_too_large(self._max_bytes, self._max_headers))(scope, receive, send)

    def _fits(self, scope: Scope) -> bool:
        # All but the one that `RequestId` has put there.
        headers = [pair for pair in scope["headers"] if pair[0] != HEADER.encode()]
        target = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        size = sum(len(name) + len(value) for name, value in headers)
        return len(headers) <= self._max_headers and size + target <= self._max_bytes


class BodyBounds:
    """Reads a whole body, in bounded space and time, before the API sees the request."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[BEGAN_AT_S] = time.monotonic()
        try:
            body = await self._read(Headers(scope=scope), receive)
        except ExlpoolError as error:
            await error_response(error, {"connection": "close"})(scope, receive, send)
            return
        if body is None:
            return  # the client went away before it had said what it wants
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        coding = headers.get("transfer-encoding", "chunked")
        if coding.strip().lower() != "chunked":
            raise UnknownTransferCoding(
                "Send the body as it is, or in chunks: no other Transfer-Encoding is understood."
            )
        announced = headers.get("content-length")
        if announced is not None:
            if not _NUMBER.fullmatch(announced):
                raise BadContentLength("Content-Length must be a number.", param="Content-Length")
            if int(announced) > self._max_bytes:
                raise self._too_large()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._collect(receive)
        except TimeoutError:
            raise BodyTooSlow(f"The request did not arrive within {self._timeout_s:g} s.") from None

    async def _collect(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"A request may have at most {self._max_bytes} bytes.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the whole body first, then whatever comes from the client, which is that it goes away."""
    pending: list[bytes] = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed
