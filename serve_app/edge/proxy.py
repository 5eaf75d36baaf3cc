"""What stands before Serve's own HTTP proxy, which takes orders from headers that are not the client's to send.

A request id that is no text ends in the proxy with a 500; other headers set time limits that are answered in no shape
that clients know, keep work alive for clients that left, or pin requests to replicas. And it sends chunks to clients of
HTTP/1.0, to which streams come as one whole here.
"""

from __future__ import annotations

import os

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.edge.http10 import WholeForHttp10
from serve_app.edge.request_id import HEADER, is_decent

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Serve's setting for it, read where a proxy runs."""
ORDERS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    }
)


class WithoutOrders:
    """Drops Serve's orders, and a request id that is not decent: Serve makes one of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if _may_pass(*pair)]}
        await self._app(scope, receive, send)


def _may_pass(name: bytes, value: bytes) -> bool:
    name = name.lower()
    return name not in ORDERS and (name != HEADER.encode() or is_decent(value.decode("latin-1")))


def middlewares() -> list[Middleware]:
    """Serve calls this in every proxy."""
    return [Middleware(WithoutOrders), Middleware(WholeForHttp10)]


def use_in_proxies() -> None:
    """Have the proxies of a Ray cluster that this process is about to start use it. Elsewhere the setting belongs into
    the environment of the nodes."""
    os.environ.setdefault(CALLBACK, f"{__name__}:middlewares")
