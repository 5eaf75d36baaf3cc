"""The worker: a Ray actor round one engine.

The engine runs on a thread of its own (`engine_thread`), which for ExLlamaV2 has a process of its own
(`engine_process`); this actor's event loop carries commands to it and its output away. Whoever wants to hear something
opens a stream (`outputs` for a front, `reports` for the dispatcher), always with Ray's generator backpressure on, so
that Ray closes the stream here when the listener's process is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from actors.config import EngineConfig
from actors.errors import FatalEngineError
from actors.messages import (
    Admission,
    GenerationRequest,
    Heartbeat,
    LoadProgress,
    RunningAttempt,
    StepOutput,
    WorkerLimits,
    WorkerNews,
    WorkerReady,
)
from actors.worker.engine_process import start_engine
from actors.worker.engine_thread import Cancel, CancelFront, Inspect, StepNews, Stop, Submit
from actors.worker.output_columns import OutputColumns
from actors.worker.step_reports import ReportBuilder

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.02
"""At most one report in this time."""
QUIET_REPORT_INTERVAL_S = 0.25
"""The same while running jobs only go on: nothing then changes what the dispatcher may place here."""


class _Outbox:
    """Output for one front, from the engine thread to the stream that the front reads."""

    def __init__(self) -> None:
        self.columns = OutputColumns()
        self.filled = asyncio.Event()

    def put(self, columns: OutputColumns) -> None:
        if self.columns:
            self.columns.extend(columns)
        else:
            self.columns = columns
        self.filled.set()

    async def take(self) -> StepOutput:
        await self.filled.wait()
        self.filled.clear()
        columns, self.columns = self.columns, OutputColumns()
        return columns.message()


def _running_attempt(request: GenerationRequest) -> RunningAttempt:
    admission = Admission(
        request_id=request.request_id,
        attempt=request.attempt,
        prompt_tokens=len(request.token_ids),
        max_new_tokens=request.max_new_tokens,
        page_hashes=request.page_hashes,
    )
    return RunningAttempt(admission, cached_tokens=0)


class Worker:
    """One life of a worker. Ray restarts the process after a crash; the new life has a new `worker_id`."""

    def __init__(self, slot_name: str, config: EngineConfig) -> None:
        self._worker_id = f"{slot_name}#{secrets.token_hex(4)}"
        self._loop = asyncio.get_running_loop()
        self._outboxes: dict[str, _Outbox] = {}
        self._reports = ReportBuilder(self._worker_id)
        self._running: dict[tuple[str, int], GenerationRequest] = {}
        self._limits: WorkerLimits | None = None
        self._progress: LoadProgress | None = None
        self._failure: Exception | None = None
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._thread = start_engine(
            config,
            on_progress=lambda progress: self._post(self._note_progress, progress),
            on_loaded=lambda limits: self._post(self._note_loaded, limits),
            on_step=lambda news: self._post(self._deliver, news),
            on_end=self._thread_ended,
        )

    # On the engine thread.

    def _post(self, function: object, *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]

    def _thread_ended(self, failure: Exception | None) -> None:
        if isinstance(failure, FatalEngineError):
            logger.critical("The engine is beyond repair, the worker ends: %s", failure)
            os._exit(1)
        self._post(self._note_ended, failure)

    # On the event loop.

    def _note_progress(self, progress: LoadProgress) -> None:
        self._progress = progress
        self._changed.set()

    def _note_loaded(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._changed.set()

    def _note_ended(self, failure: Exception | None) -> None:
        self._failure = failure
        self._ended.set()
        self._changed.set()

    def _deliver(self, news: StepNews) -> None:
        for front_id, columns in news.outputs.items():
            outbox = self._outboxes.get(front_id)
            if outbox is not None:
                outbox.put(columns)
        for done in news.finished:
            self._running.pop((done.request_id, done.attempt), None)
        self._reports.add(news)
        self._changed.set()

    async def outputs(self, front_id: str) -> AsyncIterator[StepOutput]:
        """One message per step that made something for this front; the first one is empty and says "I listen".

        When the stream closes for whatever reason, all jobs of the front are cancelled.
        """
        outbox = self._outboxes[front_id] = _Outbox()
        try:
            yield StepOutput()
            while True:
                yield await outbox.take()
        finally:
            if self._outboxes.get(front_id) is outbox:
                del self._outboxes[front_id]
                self._thread.send(CancelFront(front_id))

    async def reports(self) -> AsyncIterator[WorkerNews]:
        """Progress while the model loads, then one `WorkerReady`, then step reports for as long as the worker lives.

        Ends when the worker is closed. One listener at a time: the dispatcher.
        :raises ModelError: the engine could not be loaded; the worker stays, useless, until it is killed.
        """
        while self._limits is None:
            self._raise_if_ended()
            if self._progress is not None:
                progress, self._progress = self._progress, None
                yield progress
            await self._change()
        running = tuple(_running_attempt(request) for request in self._running.values())
        yield WorkerReady(self._worker_id, self._limits, self._reports.pages, self._reports.sequence, running)
        while not self._ended.is_set():
            await self._change()
            if self._reports and not self._reports.urgent:
                await self._urgent_change()
            if self._reports:
                yield self._reports.take(tuple(self._running))
                await asyncio.sleep(REPORT_INTERVAL_S)
        self._raise_if_ended()

    async def _urgent_change(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_REPORT_INTERVAL_S):
                while not self._reports.urgent and not self._ended.is_set():
                    await self._change()

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _raise_if_ended(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def submit(self, front_id: str, worker_id: str, requests: tuple[GenerationRequest, ...]) -> bool:
        """Queue attempts for the engine. False: this is not the worker that was meant, but a later life of it."""
        if worker_id != self._worker_id or front_id not in self._outboxes:
            return False
        for request in requests:
            self._running[request.request_id, request.attempt] = request
            self._thread.send(Submit(front_id, request))
        return True

    async def cancel(self, front_id: str, tickets: tuple[int, ...]) -> None:
        """End attempts; each ends with a `Finished` of its own unless it already had."""
        for ticket in tickets:
            self._thread.send(Cancel(front_id, ticket))

    async def resync(self) -> None:
        """Have the next report carry the whole truth about resident pages."""
        self._thread.send(Inspect())

    async def heartbeat(self) -> Heartbeat:
        started_at_s = self._thread.step_started_at_s
        age_s = 0.0 if started_at_s is None else time.monotonic() - started_at_s
        return Heartbeat(self._worker_id, self._thread.steps, age_s, os.getpid())

    async def close(self, timeout_s: float = 10.0) -> None:
        """Stop the engine between two steps and give back what it holds."""
        self._thread.send(Stop())
        await asyncio.wait_for(self._ended.wait(), timeout_s)
