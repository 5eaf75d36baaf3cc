"""HTTP/1.1 for the front's own listener: uvicorn's, less what it leaves to a proxy in front of it."""

from __future__ import annotations

import re
from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from actors.errors import ExlpoolError
from serve_app.edge.errors import BodyTooSlow, InvalidHttp
from serve_app.errors import error_json

_OFFER = re.compile(rb"(\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_IGNORED = rb"\1x-offer"


class HttpProtocol(HttpToolsProtocol):
    """What is no HTTP is refused in the shape that clients know; a head that does not come in time is too; and offers
    of another protocol are ignored, as HTTP allows: the parser would drop the body of such a request (Java's own client
    offers HTTP/2 with every one)."""

    head_timeout_s = 60.0
    """Time for the head of a request from its first byte, and for the first byte of a connection."""

    _begun = False
    _reading_head = True
    _head_deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._begun = True
        super().data_received(_OFFER.sub(_IGNORED, data) if self._reading_head else data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._forget_head()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._forget_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidHttp(msg))

    def _expect_head(self) -> None:
        self._head_deadline = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _forget_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _too_slow(self) -> None:
        if not self._begun:
            self.transport.close()  # whoever asks after all must not read the answer to something else
            return
        self._refuse(BodyTooSlow(f"The head of the request did not arrive within {self.head_timeout_s:g} s."))

    def _refuse(self, error: ExlpoolError) -> None:
        """Answer, and hang up: where the next request would begin is not known."""
        self._forget_head()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = error_json(error).encode()
            head = b"content-type: application/json\r\nconnection: close\r\nx-should-retry: false\r\n"
            length = b"content-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + length + body)
        self.transport.close()


def with_head_timeout(timeout_s: float) -> type[HttpProtocol]:
    """The protocol with this patience."""
    return type("HttpProtocol", (HttpProtocol,), {"head_timeout_s": timeout_s})
