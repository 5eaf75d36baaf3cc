"""Server-sent events: chunks that are cheap to write, and the response that sends them.

The parts of a chunk that never change are rendered once; per chunk only the new text is.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors.errors import ExlpoolError
from serve_app.api.disconnect import ClientGone, UntilClientGone
from serve_app.api.schemas.common import UsageModel
from serve_app.errors import InternalError, error_json
from serve_app.metrics.observed_request import ObservedRequest

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
    """Sends `head` at once and then what `events` yields, until it ends, fails, or the client goes away.

    A failure is told as an error event; no [DONE] follows it, so that it never looks finished.
    """

    media_type = "text/event-stream"

    def __init__(
        self, head: str, events: AsyncGenerator[str, None], observed: ObservedRequest, headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._head = head
        self._events = events
        self._observed = observed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "disconnected"
        try:
            async with UntilClientGone(receive):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                outcome = await self._send_events(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            outcome = "disconnected"
        finally:
            await self._events.aclose()
            self._observed.end(outcome, self.status_code)

    async def _send_events(self, send: Send) -> str:
        """Returns how it ended."""
        error: ExlpoolError
        try:
            await send({"type": "http.response.body", "body": self._head.encode(), "more_body": True})
            async for text in self._events:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            return "ok"
        except ExlpoolError as failure:
            error = failure
        except Exception:
            logger.exception("A stream failed")
            error = InternalError("The server failed on this request; its log says why.")
        await send({"type": "http.response.body", "body": f"data: {error_json(error)}\n\n".encode(), "more_body": True})
        return error.code
