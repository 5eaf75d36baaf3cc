"""A stream that has nothing to say for a while says so, or a proxy on its way would take it for dead and cut it.

What is sent is a comment, which every reader of server-sent events skips. It is sent while a request waits for a place,
while its prompt is computed, and while it goes on elsewhere after its worker was lost.

A comment needs the status 200 before it, and a refusal must keep its own. Nearly every refusal comes within
milliseconds: a queue that is full, no worker, a request that fits none. So the first comment waits as long as every
other one, and a failure that comes later than that is told in the stream, as one in mid-stream is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Message, Send

COMMENT = b": keep-alive\n\n"


class EventSender:
    """Sends the texts of one stream. `begin` makes the message that stands before the first, when it comes to that."""

    def __init__(self, send: Send, begin: Callable[[], Message], keepalive_s: float) -> None:
        self.begun = False
        """The status is sent, or on its way."""
        self._send = send
        self._begin = begin
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._spoke_at_s = self._loop.time()
        self._busy = False
        self._comment_sent: asyncio.Future[None] | None = None

    async def text(self, text: str, *, more: bool = True) -> None:
        """Send a text, after the comment that may be on its way."""
        if self._comment_sent is not None:
            await self._comment_sent
        self._busy = True
        await self._write(text.encode(), more=more)
        self._busy = False

    async def break_silence(self) -> None:
        """Send a comment after every `keepalive_s` without a text, until cancelled."""
        while True:
            await asyncio.sleep(self._spoke_at_s + self._keepalive_s - self._loop.time())
            if self._busy:  # the client does not read as fast as it is sent to: it has enough
                self._spoke_at_s = self._loop.time()
            elif self._loop.time() >= self._spoke_at_s + self._keepalive_s:
                await self._comment()

    async def _comment(self) -> None:
        self._comment_sent = self._loop.create_future()
        try:
            await self._write(COMMENT, more=True)
        finally:
            if not self._comment_sent.done():  # cancelled with who waited for it
                self._comment_sent.set_result(None)
            self._comment_sent = None

    async def _write(self, body: bytes, *, more: bool) -> None:
        if not self.begun:
            self.begun = True
            await self._send(self._begin())
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._spoke_at_s = self._loop.time()
