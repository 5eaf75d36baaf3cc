"""How the dispatcher follows a worker, by the worker's own stream of reports, through all of its lives.

A stream that ends says little about the worker, so what is done depends on how it ended and on who answers next:

- the worker's actor is dead for good, its engine could not be loaded, or it was closed: the slot is lost;
- anything else (the process died and is restarted, its node is out of reach, a message was lost on the way): nothing
  more is placed there, and the stream is opened again. If the same life answers, it tells the whole truth and goes on:
  what it runs was never given up. If another life answers, or nobody within RECONNECT_GRACE_S, the old one is down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError

from actors.dispatcher.slots import Slot, Slots
from actors.errors import ExlpoolError, NoHealthyWorker, first_line
from actors.messages import Listening, LoadProgress, StepReport, WorkerNews, WorkerReady
from actors.ray_failures import plain_reason
from actors.ray_session import cancel_stream, open_stream
from actors.scheduling.events import (
    Event,
    Reported,
    WorkerDown,
    WorkerExpected,
    WorkerLost,
    WorkerSuspected,
    WorkerUp,
)

logger = logging.getLogger(__name__)

RECONNECT_INTERVAL_S = 0.2
"""Between two tries to reach a worker."""
RECONNECT_GRACE_S = 5.0
"""A worker whose stream broke is taken for down when it has not answered for so long."""


SILENCE_S = 30.0
"""A worker says something every few seconds (`actors.worker.worker`). A stream that has said nothing for so long is
broken."""


class WorkerFollower:
    """Follows the worker of one slot. `handle_event` feeds the scheduler."""

    def __init__(self, slot: Slot, slots: Slots, handle_event: Callable[[Event], object]) -> None:
        self._slot = slot
        self._slots = slots
        self._handle_event = handle_event
        self._broken_at_s: float | None = None
        self._stream: Any = None

    def break_stream(self) -> bool:
        """Cancel the stream that is being read, as a broken connection would; returns whether there is one. For tests
        of what follows."""
        if self._stream is None:
            return False
        cancel_stream(self._stream)
        return True

    async def follow(self) -> None:
        """Returns when there will be no worker in the slot any more."""
        while True:
            try:
                await self._read()
                reason: Exception = NoHealthyWorker(f"Worker {self._slot.name} was closed.")
            except ActorDiedError as error:
                logger.error("Worker %s is not started again: %s", self._slot.name, first_line(error))
                reason = NoHealthyWorker(f"Worker {self._slot.name} died too often: it is not started again.")
            except Exception as error:  # noqa: BLE001 - whatever breaks a stream, it is opened again
                cause = error.cause if isinstance(error, RayTaskError) else error
                if not isinstance(cause, ExlpoolError):
                    await self._broken(error)
                    await asyncio.sleep(RECONNECT_INTERVAL_S)
                    continue
                reason = cause
            await self._lost(reason)
            return

    async def _read(self) -> None:
        """Read one stream of reports to its end."""
        slot = self._slot
        stream = self._stream = open_stream(slot.handle.reports)
        try:
            hello = await self._first_message(stream)
            self._broken_at_s = None
            slot.cut_off = False
            if slot.worker_id is not None and hello.worker_id != slot.worker_id:
                await self._down(f"{hello.worker_id} has taken its place")
            while True:
                news: WorkerNews = await self._next_message(stream)
                await self._take_in(news)
        except StopAsyncIteration:
            return
        finally:
            self._stream = None
            cancel_stream(stream)

    async def _first_message(self, stream: Any) -> Listening:
        """Wait for an answer. A worker may be long in starting, so without one the stream is only asked for anew. One
        that was up, and with it what runs there, is down after the grace."""
        patience_s = SILENCE_S
        if self._slot.worker_id is not None and self._broken_at_s is not None:
            patience_s = max(self._broken_at_s + RECONNECT_GRACE_S - time.monotonic(), 0.0)
        try:
            async with asyncio.timeout(patience_s):
                first: Listening = await (await anext(stream))
        except TimeoutError:
            await self._down(f"it has not answered for {patience_s:.1f} s")
            raise TimeoutError(f"no answer for {patience_s:.1f} s") from None
        return first

    async def _next_message(self, stream: Any) -> Any:
        try:
            async with asyncio.timeout(SILENCE_S):
                return await (await anext(stream))
        except TimeoutError:
            raise TimeoutError(f"nothing was heard for {SILENCE_S:g} s") from None

    async def _take_in(self, news: WorkerNews) -> None:
        slot = self._slot
        match news:
            case LoadProgress():
                slot.progress = news
                await self._slots.announce()
            case WorkerReady():
                self._ready(news)
                await self._slots.announce()
            case StepReport():
                slot.generated_tokens += news.generated_tokens
                slot.finished_requests += len(news.finished)
                self._handle_event(Reported(news))

    def _ready(self, news: WorkerReady) -> None:
        slot = self._slot
        slot.count_life(news)
        if slot.worker_id == news.worker_id:  # it was never away: it says what it holds, as after a lost report
            whole = StepReport(
                worker_id=news.worker_id,
                sequence=news.sequence,
                pages_added=tuple(news.resident_pages),
                full=True,
                running=tuple((r.admission.request_id, r.admission.attempt) for r in news.running),
            )
            self._handle_event(Reported(whole))
            return
        slot.worker_id, slot.limits = news.worker_id, news.limits
        self._handle_event(
            WorkerUp(
                worker_id=news.worker_id,
                slot_name=slot.name,
                limits=news.limits,
                resident_pages=news.resident_pages,
                running=news.running,
                sequence=news.sequence,
            )
        )

    async def _broken(self, error: Exception) -> None:
        slot = self._slot
        if self._broken_at_s is None:
            self._broken_at_s = time.monotonic()
            logger.warning(
                "Worker %s is not heard; its stream is asked for again: %s",
                slot.worker_id or slot.name,
                first_line(error),
            )
        if slot.worker_id is None:
            return
        if time.monotonic() - self._broken_at_s > RECONNECT_GRACE_S:
            await self._down(plain_reason(error))
        elif not slot.cut_off:
            slot.cut_off = True
            self._handle_event(WorkerSuspected(slot.worker_id))
            await self._slots.announce()

    async def _down(self, reason: str) -> None:
        slot = self._slot
        if slot.worker_id is None:
            return
        logger.warning("Worker %s is down: %s", slot.worker_id, reason)
        self._handle_event(WorkerDown(slot.worker_id, reason))
        slot.worker_id = None
        slot.restarts += 1
        self._handle_event(WorkerExpected(slot.name))
        await self._slots.announce()

    async def _lost(self, reason: Exception) -> None:
        slot = self._slot
        logger.error("Worker %s is lost: %s", slot.name, reason)
        if slot.worker_id is not None:
            self._handle_event(WorkerDown(slot.worker_id, str(reason)))
        slot.worker_id, slot.limits, slot.failure = None, None, reason
        self._handle_event(WorkerLost(slot.name, str(reason)))
        await self._slots.announce()

    def __repr__(self) -> str:
        state = "reading" if self._broken_at_s is None else "reconnecting"
        return f"<WorkerFollower of {self._slot!r}: {state}>"
