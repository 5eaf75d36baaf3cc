"""HTTP/1.1 for the front's own listener: uvicorn's, less what it leaves to a proxy in front of it."""

from __future__ import annotations

import re
from asyncio import TimerHandle, Transport
from dataclasses import dataclass

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from actors.errors import ExlpoolError
from serve_app.config import LiveSettings
from serve_app.edge.bounds import headers_too_large
from serve_app.edge.errors import BodyTooSlow, InvalidHttp
from serve_app.edge.http10 import OLD_VERSIONS, end_with_connection
from serve_app.errors import error_json

MAX_WAITING_REQUESTS = 16
"""Requests that one connection may send before the first of them is answered."""

_OFFER = re.compile(rb"(\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_IGNORED = rb"\1x-offer"
_CHUNK_LINE_BYTES = 32
"""What the framing of one chunk of a body may cost: its length in hex and the line ends."""
_HEADER_LINE_BYTES = 8
"""What a line of the head costs beyond its name and value, the request line's share included."""


@dataclass(frozen=True, slots=True)
class HeadBounds:
    """What a request's head is held to while it is read: the time for it from its first byte (and for the first byte
    of a connection), its size, and how many headers it has."""

    timeout_s: float
    max_bytes: int
    max_headers: int

    @classmethod
    def of(cls, settings: LiveSettings) -> HeadBounds:
        return cls(settings.body_timeout_s, settings.max_header_bytes, settings.max_headers)

    @property
    def max_raw_bytes(self) -> int:
        """What holds every head within `max_bytes`, with its colons, blanks and line ends."""
        return self.max_bytes + self.max_headers * _HEADER_LINE_BYTES


class HttpProtocol(HttpToolsProtocol):
    """One connection. The parser keeps what it has read of a head until the head is whole, and a head can be without
    end, so it is bounded here while it is read:

    - bytes, whatever they are: request line, headers, one endless line, the extensions of a body's chunks, trailers.
      `_framing_bytes` counts what came of a request without being its body. The read in which a request begins is not
      counted, so a connection holds the bound and one read (256 KiB with asyncio) at most, and a head within the bound
      is never refused here; the exact bound is `HeaderBounds`, which sees the whole head;
    - headers beyond `max_headers` are dropped, all but one, by which `HeaderBounds` knows; trailers are dropped, too;
    - time: a head that does not come in time is refused;
    - requests that are sent ahead of their answers.

    What is no HTTP is refused in the shape that clients know. Offers of another protocol are ignored, as HTTP allows:
    the parser would drop the body of such a request (Java's own client offers HTTP/2 with every one).
    """

    bounds = HeadBounds.of(LiveSettings())
    leaving = False
    """The listener ends: every answer that begins now is the last one of its connection, and says so."""

    _begun = False
    _reading_head = True
    _framing_bytes = 0
    _refused = False
    _head_deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._begun = True
        self._framing_bytes += len(data)
        super().data_received(_OFFER.sub(_IGNORED, data) if self._reading_head else data)
        self._framing_bytes = max(self._framing_bytes, 0)  # no credit for a body that came with its head
        if self._framing_bytes > self.bounds.max_raw_bytes:
            self._refuse(headers_too_large(self.bounds.max_bytes, self.bounds.max_headers))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._framing_bytes = 0
        self._forget_head()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_head and len(self.headers) <= self.bounds.max_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._forget_head()
        if len(self.pipeline) >= MAX_WAITING_REQUESTS:
            raise HttpParserError("too many requests at once")  # ends in `send_400_response`
        old = self.parser.get_http_version() in OLD_VERSIONS
        if old:
            self.expect_100_continue = False  # which such clients cannot mean
        super().on_headers_complete()
        if old:
            end_with_connection(self.cycle)  # whose task has not begun yet
        if self.leaving:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._framing_bytes -= _CHUNK_LINE_BYTES

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading_head = True
        super().on_message_complete()

    def announce_end(self) -> None:
        """Have the answer that is under way say that it is the last one, if it has not begun. One that has begun cannot
        say it any more, so its connection stays for the next request."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    @property
    def idle(self) -> bool:
        """No request is under way."""
        return self._reading_head and (self.cycle is None or self.cycle.response_complete)

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidHttp(msg))

    def _expect_head(self) -> None:
        self._head_deadline = self.loop.call_later(self.bounds.timeout_s, self._too_slow)

    def _forget_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _too_slow(self) -> None:
        if not self._begun:
            self.transport.close()  # whoever asks after all must not read the answer to something else
            return
        self._refuse(BodyTooSlow(f"The head of the request did not arrive within {self.bounds.timeout_s:g} s."))

    def _refuse(self, error: ExlpoolError) -> None:
        """Answer, and hang up: where the next request would begin is not known."""
        if self._refused:
            return
        self._refused = True
        self._forget_head()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = error_json(error).encode()
            head = b"content-type: application/json\r\nconnection: close\r\nx-should-retry: false\r\n"
            length = b"content-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + length + body)
        self.transport.close()

    def __repr__(self) -> str:
        state = "refused" if self._refused else "reading a head" if self._reading_head else "reading a body"
        return f"<HttpProtocol {self.client}: {state}, {self._framing_bytes} bytes of framing>"


def bounded_protocol(bounds: HeadBounds) -> type[HttpProtocol]:
    """The protocol of one listener, whose `bounds` may be changed while it listens."""
    return type("HttpProtocol", (HttpProtocol,), {"bounds": bounds})
