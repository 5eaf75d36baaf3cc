"""A front's link to one worker: one stream of output in, batches of attempts and cancellations out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from actors.front.attempt_output import Inbox
from actors.front.batching import TurnBatch, link_task
from actors.messages import GenerationRequest, StepOutput
from actors.ray_session import STREAM_BACKPRESSURE, cancel_stream

OPEN_TIMEOUT_S = 30.0
REOPEN_INTERVAL_S = 0.1


class WorkerLink:
    """Opened for one life of a worker (`worker_id`), useless after that life: `alive` is False then."""

    def __init__(self, front_id: str, worker_id: str, handle: Any) -> None:
        self.worker_id = worker_id
        self.alive = True
        self._front_id = front_id
        self._handle = handle
        self._inboxes: dict[int, Inbox] = {}
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submissions: TurnBatch[GenerationRequest] = TurnBatch(self._send)
        self._cancellations: TurnBatch[int] = TurnBatch(self._send_cancel)
        self._reader = link_task(self._read())

    async def start(self, request: GenerationRequest, inbox: Inbox) -> None:
        """Submit an attempt; its output goes to `inbox` until it finished or is cancelled."""
        self._inboxes[request.ticket] = inbox
        try:
            await asyncio.wait_for(asyncio.shield(self._opened), OPEN_TIMEOUT_S)
        except TimeoutError:
            self._lose(f"worker {self.worker_id} did not answer within {OPEN_TIMEOUT_S:.0f} s")
        if self.alive:
            self._submissions.add(request)
        else:
            inbox.lose(f"worker {self.worker_id} is gone")

    def cancel(self, ticket: int) -> None:
        """Give an attempt up: nothing more reaches its inbox, and the engine ends it before its next step."""
        if self._inboxes.pop(ticket, None) is not None and self.alive:
            self._cancellations.add(ticket)

    def shut_down(self) -> None:
        """Close without waiting: attempts that run are lost, and the worker cancels them when it sees this end."""
        self._lose("the link was closed")
        self._reader.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _send(self, requests: tuple[GenerationRequest, ...]) -> None:
        wanted = tuple(request for request in requests if request.ticket in self._inboxes)
        if not wanted:
            return  # given up while the call before was under way; its cancellation may have gone ahead of it
        try:
            accepted = await self._handle.submit.remote(self._front_id, self.worker_id, wanted)
        except (RayActorError, RayTaskError) as error:
            self._lose(_first_line(error))
            return
        if not accepted:
            self._lose(f"worker {self.worker_id} was restarted")

    async def _send_cancel(self, tickets: tuple[int, ...]) -> None:
        try:
            await self._handle.cancel.remote(self._front_id, tickets)
        except (RayActorError, RayTaskError) as error:
            self._lose(_first_line(error))

    async def _read(self) -> None:
        """Read the stream to its end. Until it is open a try may fail: a process learns late that Ray has restarted
        an actor, and the dispatcher may know before it."""
        deadline_s = time.monotonic() + OPEN_TIMEOUT_S
        while self.alive:
            reason = await self._read_once()
            if self._opened.done() or time.monotonic() > deadline_s:
                self._lose(reason)
            else:
                await asyncio.sleep(REOPEN_INTERVAL_S)

    async def _read_once(self) -> str:
        """Open the stream and read it; returns why it ended."""
        stream = self._handle.outputs.options(
            num_returns="streaming", _generator_backpressure_num_objects=STREAM_BACKPRESSURE
        ).remote(self._front_id)
        try:
            async for reference in stream:
                self._distribute(await reference)
        except (RayActorError, RayTaskError) as error:
            if isinstance(error, ActorDiedError):
                self._lose(_first_line(error))
            return _first_line(error)
        finally:
            cancel_stream(stream)
        return f"worker {self.worker_id} closed its stream"

    def _distribute(self, output: StepOutput) -> None:
        if not self._opened.done():
            self._opened.set_result(None)
        logprobs = output.logprobs or ((),) * len(output.tickets)
        for ticket, text, token_ids, values in zip(
            output.tickets, output.texts, output.token_ids, logprobs, strict=True
        ):
            inbox = self._inboxes.get(ticket)
            if inbox is not None:
                inbox.put(text, token_ids, values)
        for ticket, finished in output.finished:
            inbox = self._inboxes.pop(ticket, None)
            if inbox is not None:
                inbox.finish(finished)

    def _lose(self, reason: str) -> None:
        self.alive = False
        if not self._opened.done():
            self._opened.set_result(None)
        for inbox in self._inboxes.values():
            inbox.lose(reason)
        self._inboxes.clear()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
