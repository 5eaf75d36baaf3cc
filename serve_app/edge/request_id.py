"""Every request has an id: the client's own if it is a decent one, else a new one."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_DECENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
_KEY = "request_id"


def is_decent(request_id: str) -> bool:
    """Whether it is short, plain text that may go into logs and headers."""
    return _DECENT.fullmatch(request_id) is not None


def request_id_of(scope: Scope) -> str:
    """The id of a request that came through `RequestId`."""
    return str(scope.get("state", {}).get(_KEY, ""))


def path_of(scope: Scope) -> str:
    """The path inside the application, whatever prefix it is served under."""
    return str(scope["path"]).removeprefix(scope.get("root_path", "")) or "/"


class RequestId:
    """Puts the id into the request's state and its headers, so that nothing behind this sees a client's indecent one.

    With `announce` it is also put into the response; Serve's proxy does that itself.
    """

    def __init__(self, app: ASGIApp, *, announce: bool) -> None:
        self._app = app
        self._announce = announce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if is_decent(given) else secrets.token_hex(16)
        scope.setdefault("state", {})[_KEY] = request_id
        MutableHeaders(scope=scope)[HEADER] = request_id

        async def send_announced(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_announced if self._announce else send)
