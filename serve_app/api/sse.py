"""Server-sent events: chunks that are cheap to write, and the response that sends them.

The parts of a chunk that never change are rendered once; per chunk only the new text is.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from actors.errors import ExlpoolError
from serve_app.api.disconnect import ClientGone, UntilClientGone
from serve_app.api.schemas.common import UsageModel
from serve_app.api.silence import EventSender
from serve_app.api.timing import timing_headers
from serve_app.errors import InternalError, error_json
from serve_app.metrics.observed_request import CLIENT_GONE_STATUS, ObservedRequest

logger = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """What all chunks of an answer have in common."""

    answer_id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, model: str, fingerprint: str) -> Identity:
        return cls(f"{prefix}-{secrets.token_hex(16)}", int(time.time()), model, fingerprint)


class ChunkWriter:
    """Writes the chunks of one answer."""

    def __init__(self, object_name: str, identity: Identity, *, include_usage: bool) -> None:
        head = {
            "id": identity.answer_id,
            "object": object_name,
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": identity.fingerprint,
        }
        self._head = f'data: {json.dumps(head)[:-1]}, "choices": ['
        self._tail = '}], "usage": null}\n\n' if include_usage else "}]}\n\n"

    def choice(self, index: int, fields: str) -> str:
        """A chunk with one choice; `fields` are its fields but the index, as JSON without the braces."""
        return f'{self._head}{{"index": {index}, {fields}{self._tail}'

    def usage(self, usage: UsageModel) -> str:
        """The chunk without choices."""
        return f'{self._head}], "usage": {usage.model_dump_json()}}}\n\n'


class EventStream(Response):
    """Sends what `events` yields, until it ends, fails, or the client goes away; a comment when it is silent for long.

    A failure that comes before anything was sent is raised, so that it has its own status. A later one is told as an
    error event; no [DONE] follows it, so that it never looks finished.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], observed: ObservedRequest, *, keepalive_s: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._observed = observed
        self._keepalive_s = keepalive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """:raises Exception: it failed, or was refused, before anything was sent."""
        sender = EventSender(send, self._begin, self._keepalive_s)
        outcome, status = "disconnected", CLIENT_GONE_STATUS
        try:
            async with UntilClientGone(receive) as client:
                client.gone_with("keeping the connection alive", sender.break_silence())
                outcome = await self._send_events(sender)
                await sender.text("", more=False)
        except ClientGone:
            outcome = "disconnected"
            if not sender.begun:
                await Response(status_code=CLIENT_GONE_STATUS)(scope, receive, send)
        except Exception as failure:
            error = failure if isinstance(failure, ExlpoolError) else InternalError("")
            outcome, status = error.code, error.status
            raise
        finally:
            await self._events.aclose()
            self._observed.end(outcome, self.status_code if sender.begun else status)

    def _begin(self) -> Message:
        if self._observed.timing is not None:
            self.headers.update(timing_headers(self._observed.timing, whole=False))
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def _send_events(self, sender: EventSender) -> str:
        """Returns how it ended."""
        error: ExlpoolError
        try:
            async for text in self._events:
                await sender.text(text)
            return "ok"
        except Exception as failure:
            if not sender.begun:
                raise
            if isinstance(failure, ExlpoolError):
                error = failure
            else:
                logger.exception("A stream failed")
                error = InternalError("The server failed on this request; its log says why.")
        await sender.text(f"data: {error_json(error)}\n\n")
        return error.code
