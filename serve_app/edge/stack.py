"""The edge as one ASGI application round the API, whose settings can change while it runs."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.config import LiveSettings
from serve_app.edge.access_log import AccessLog
from serve_app.edge.auth import Auth
from serve_app.edge.bounds import BodyBounds, HeaderBounds
from serve_app.edge.errors import NotConfigured
from serve_app.edge.keys import KeyRing
from serve_app.edge.rate_ticket import RATE_HEADERS, OwnRates, Rates
from serve_app.edge.request_id import RequestId
from serve_app.errors import error_response

EXPOSED_HEADERS = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry", *RATE_HEADERS)
NOT_CONFIGURED_RETRY_S = 1.0


class Edge:
    """Closed until `configure` is called, since nobody knows before that who may come in; call it again whenever
    settings or keys change. Requests that are under way go on as they began."""

    def __init__(self, api: ASGIApp, *, rates: Rates | None = None, announce_request_id: bool = True) -> None:
        """`rates` may be shared with other edges, of this process and of others."""
        self._api = api
        self._announce_request_id = announce_request_id
        self._rates = rates or OwnRates()
        self._stack: ASGIApp | None = None

    def configure(self, settings: LiveSettings, keys: KeyRing | None) -> None:
        app: ASGIApp = BodyBounds(self._api, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        app = Auth(app, keys=keys, rates=self._rates, remote_without_keys=settings.remote_without_keys)
        if settings.cors_origins:
            app = CORSMiddleware(
                app,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "HEAD", "POST", "OPTIONS"),
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            )
        app = HeaderBounds(app, max_bytes=settings.max_header_bytes, max_headers=settings.max_headers)
        if settings.access_log or settings.log_content:
            app = AccessLog(app, content=settings.log_content)
        self._stack = RequestId(app, announce=self._announce_request_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stack is not None:
            await self._stack(scope, receive, send)
        elif scope["type"] == "lifespan":  # which no client reaches
            await self._api(scope, receive, send)
        elif scope["type"] == "http":
            closed = NotConfigured("This server is not configured yet.", retry_after_s=NOT_CONFIGURED_RETRY_S)
            await error_response(closed)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013})

    def __repr__(self) -> str:
        return f"<Edge: {'closed' if self._stack is None else 'configured'}>"
