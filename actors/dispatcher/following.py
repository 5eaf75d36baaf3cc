"""How the dispatcher follows a worker, by the worker's own stream of reports, through all of its lives.

A stream that ends says little about the worker, so what is done depends on how it ended and on who answers next:

- the worker's actor is dead for good, its engine could not be loaded, it has another copy of the model than the others,
  or it was closed: the slot is lost;
- anything else (the process died and is restarted, its node is out of reach, a message was lost on the way): nothing
  more is placed there, and the stream is opened again. If the same life answers, it tells the whole truth and goes on:
  what it runs was never given up. If another life answers, or nobody within RECONNECT_GRACE_S, the old one is down.

A stream that is open and says nothing is judged by ticks: the worker is suspected, and asked. A life that the watchdog
has ended is fenced: whatever it still says is not heard, and it is told to end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayTaskError

from actors.dispatcher.restart_pauses import RestartPauses
from actors.dispatcher.slots import Slot, Slots
from actors.errors import ExlpoolError, ModelError, NoHealthyWorker, first_line
from actors.messages import Listening, LoadProgress, StepReport, WorkerNews, WorkerReady
from actors.model_files.fingerprint import ModelCopy
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


FIRST_ANSWER_S = 10.0
"""A stream that was asked for and has not begun after so long is asked for anew: the call may have gone to a process
that was about to end."""
SUSPECT_SILENCE_S = 4.0
"""A worker that can generate says something every 2 s at the latest, whatever its engine does
(`actors.worker.output_stream.HEARTBEAT_S`): one that is silent for so long is suspected."""
LOADING_SILENCE_S = 60.0
"""The same while it starts and loads: to read and link large libraries may stop a whole process for long."""
SILENCE_S = 30.0
"""A stream that has said nothing for so long is broken."""
PAUSE_STAGE = "pause after deaths, of seconds"
"""What people see as the stage of loading while a worker waits before it starts again."""


class _OtherModel(Exception):
    """The worker has another copy of the model than the pool; says which."""


class WorkerFollower:
    """Follows the worker of one slot. `handle_event` feeds the scheduler, `probe(slot, worker_id)` asks the watchdog to
    look at a life of which the scheduler does not know; `pauses` are of this slot."""

    def __init__(
        self,
        slot: Slot,
        slots: Slots,
        *,
        handle_event: Callable[[Event], object],
        probe: Callable[[Slot, str], object],
        pauses: RestartPauses,
    ) -> None:
        self._slot = slot
        self._slots = slots
        self._handle_event = handle_event
        self._probe = probe
        self._pauses = pauses
        self._broken_at_s: float | None = None
        self._stream: Any = None
        self._silent_s = 0.0
        """Time that this process has waited for a word of the present life."""
        self._given_up: str | None = None
        """The life that was ended last, or is to end."""

    def break_stream(self) -> bool:
        """Cancel the stream that is being read, as a broken connection would; returns whether there is one. For tests
        of what follows."""
        if self._stream is None:
            return False
        cancel_stream(self._stream)
        return True

    def tick(self, passed_s: float) -> None:
        """So much time has passed; a pause of this whole process counts as one tick, since it is nobody's silence."""
        slot = self._slot
        before_s, self._silent_s = self._silent_s, self._silent_s + passed_s
        if slot.life is None or slot.failure is not None:
            return
        if slot.worker_id is not None:
            if self._silent_s >= SUSPECT_SILENCE_S > before_s:  # the scheduler has it probed, again and again
                logger.warning("Worker %s is silent for %g s", slot.worker_id, self._silent_s)
                self._handle_event(WorkerSuspected(slot.worker_id))
        elif self._silent_s >= LOADING_SILENCE_S and self._broken_at_s is None:
            self._silent_s = 0.0
            self._probe(slot, slot.life)

    async def give_up(self, worker_id: str, reason: str) -> None:
        """This life was ended, or its end was ordered: it is down, and gets no word in any more."""
        if self._slot.life == worker_id:
            self._given_up = worker_id
            await self._down(reason)

    async def follow(self) -> None:
        """Returns when there will be no worker in the slot any more."""
        while True:
            try:
                await self._read()
                reason: Exception = NoHealthyWorker(f"Worker {self._slot.name} was closed.")
            except ActorDiedError as error:
                logger.error("Worker %s is not started again: %s", self._slot.name, first_line(error))
                reason = NoHealthyWorker(f"Worker {self._slot.name} died too often: it is not started again.")
            except _OtherModel as error:
                ray.kill(self._slot.handle, no_restart=True)
                reason = ModelError(str(error))
            except Exception as error:  # noqa: BLE001 - whatever breaks a stream, it is opened again
                cause = error.cause if isinstance(error, RayTaskError) else error
                if not isinstance(cause, ExlpoolError) or self._pauses.ever_up:
                    if isinstance(cause, ExlpoolError):
                        self._begin_anew(cause)
                    await self._broken(error)
                    await asyncio.sleep(RECONNECT_INTERVAL_S)
                    continue
                reason = cause
            await self.lose(reason)
            return

    async def _read(self) -> None:
        """Read one stream of reports to its end."""
        slot = self._slot
        died_at_s = self._broken_at_s or time.monotonic()
        pause_s = 0.0 if slot.life is None else self._pauses.next_pause_s(died_at_s)
        stream = self._stream = open_stream(slot.handle.reports, pause_s)
        try:
            hello = await self._first_message(stream)
            self._fence(hello.worker_id)
            self._silent_s = 0.0
            self._broken_at_s = None
            slot.unheard = slot.cut_off = False
            slot.node, slot.gpus = hello.node, hello.gpus
            if slot.life is not None and hello.worker_id != slot.life:
                await self._another_life(hello.worker_id, died_at_s)
            if slot.life != hello.worker_id:
                slot.life = hello.worker_id
                await self._slots.announce()
            while True:
                news: WorkerNews = await self._next_message(stream)
                self._fence(hello.worker_id)
                self._silent_s = 0.0
                await self._take_in(news)
        except StopAsyncIteration:
            return
        finally:
            self._stream, slot.unheard = None, True
            cancel_stream(stream)

    def _fence(self, worker_id: str) -> None:
        """:raises TimeoutError: this life was given up. It may only have been stopped for a while, and go on."""
        if worker_id == self._given_up:
            self._slot.handle.end.remote(worker_id, "it was given up")
            raise TimeoutError(f"{worker_id} was given up, and is told to end")

    async def _another_life(self, worker_id: str, died_at_s: float) -> None:
        """The life before is over, and this one has begun: at once, or with a pause.

        :raises NoHealthyWorker: no life ever came so far as to generate.
        """
        slot, pauses = self._slot, self._pauses
        pauses.died(died_at_s)
        await self._down(f"{worker_id} has taken its place")
        if pauses.hopeless:
            slot.handle.close.remote()
            raise NoHealthyWorker(f"Worker {slot.name} died again and again while it was loaded.")
        slot.progress = slot.copy = None
        if pauses.pause_s:
            logger.warning("Worker %s, which died again, waits for %g s before it starts", worker_id, pauses.pause_s)
            slot.progress = LoadProgress(PAUSE_STAGE, 0, math.ceil(pauses.pause_s))
        await self._slots.announce()

    def _begin_anew(self, failure: ExlpoolError) -> None:
        """A worker that was up before can be loaded: what is in its way now may be gone in a while, as the memory of a
        process that has just ended."""
        logger.error("Worker %s could not be loaded again, and begins anew: %s", self._slot.name, failure)
        ray.kill(self._slot.handle, no_restart=False)

    async def _first_message(self, stream: Any) -> Listening:
        """Wait for an answer. A worker may be long in starting, so without one the stream is only asked for anew. One
        that was up, and with it what runs there, is down after the grace."""
        patience_s = FIRST_ANSWER_S
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
            case ModelCopy():
                objection = self._slots.objection(slot, news)
                if objection is not None:
                    raise _OtherModel(objection)
                slot.copy = news
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
        self._pauses.came_up(time.monotonic())
        self._handle_event(
            WorkerUp(
                worker_id=news.worker_id,
                slot_name=slot.name,
                limits=news.limits,
                resident_pages=news.resident_pages,
                running=news.running,
                sequence=news.sequence,
                trial=self._pauses.pause_s > 0.0,
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
        slot.worker_id = slot.copy = None
        slot.restarts += 1
        if not slot.leaving:
            self._handle_event(WorkerExpected(slot.name))
        await self._slots.announce()

    async def lose(self, reason: Exception) -> None:
        """There will be no worker in the slot any more, as it was wished or not."""
        slot = self._slot
        if slot.leaving:
            logger.info("Worker %s has left the pool", slot.name)
        else:
            logger.error("Worker %s is lost: %s", slot.name, reason)
        if slot.worker_id is not None and not slot.leaving:
            self._handle_event(WorkerDown(slot.worker_id, str(reason)))
        slot.worker_id, slot.limits, slot.failure = None, None, slot.failure or reason
        self._handle_event(WorkerLost(slot.name, str(reason)))
        await self._slots.announce()

    def __repr__(self) -> str:
        state = "reading" if self._broken_at_s is None else "reconnecting"
        return f"<WorkerFollower of {self._slot!r}: {state}>"
