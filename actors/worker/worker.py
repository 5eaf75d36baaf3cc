"""The worker: a Ray actor round one engine.

The engine runs on a thread of its own (`engine_thread`), which for ExLlamaV2 has a process of its own
(`engine_process`); this actor's event loop carries commands to it and its output away. Whoever wants to hear something
opens a stream (`outputs` for a front, `reports` for the dispatcher), always with Ray's generator backpressure on, so
that Ray closes the stream here when the listener's process is gone.

The engine of a first life starts with `start`, that of a later one when a listener of the reports says so: at once, or
after a pause where lives before it were short.

How a worker ends:

- the engine cannot be loaded: `reports` raises the reason, and the worker stays, useless, until it is killed;
- `close`: the engine is closed between two steps, and all streams end;
- anything else that ends the engine or fails on this event loop: what is known is told, and the process ends, so that
  every stream ends with it and Ray starts a clean one. A worker that can no longer step does not stay.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.errors import ExlpoolError, FatalEngineError
from actors.messages import (
    Cancellation,
    GenerationRequest,
    Heartbeat,
    Listening,
    LoadProgress,
    StepOutput,
    WorkerCommand,
    WorkerLimits,
    WorkerNews,
    WorkerReady,
)
from actors.model_files.fingerprint import ModelCopy
from actors.model_files.prompt_files import read_files
from actors.ray_session import own_gpus, own_node, own_node_id
from actors.supervisor import Supervisor, end_process
from actors.worker.changes import Changes
from actors.worker.commands import Cancel, CancelStream, Command, Inspect, StepNews, Stop, Submit
from actors.worker.engine_jobs import portable
from actors.worker.engine_process import EngineProcess, start_engine
from actors.worker.engine_thread import EngineThread
from actors.worker.model_look import ModelLook, here, look_at_model, with_digests
from actors.worker.output_stream import HEARTBEAT_S, OutputStreams
from actors.worker.step_reports import ReportBuilder

T = TypeVar("T")
logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.02
"""At most one report in this time."""
QUIET_REPORT_INTERVAL_S = 0.25
"""The same while running jobs only go on: nothing then changes what the dispatcher may place here."""
LAST_WORDS_S = 2.0
"""For streams to carry away what is known, before the process of a broken engine ends."""


class Worker:
    """One life of a worker. Ray restarts the process after a crash; the new life has a new `worker_id`."""

    def __init__(self, slot_name: str, config: EngineConfig) -> None:
        self._worker_id = f"{slot_name}#{secrets.token_hex(4)}"
        self._listening = Listening(self._worker_id, own_node_id(), own_node(), own_gpus())
        if not self._listening.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them to who has claimed none
        self._loop = asyncio.get_running_loop()
        self._supervisor = Supervisor(f"worker {self._worker_id}")
        self._streams = OutputStreams()
        self._reports = ReportBuilder(self._worker_id)
        self._ready_wanted = False
        """A new listener of the reports waits for the whole truth, with which it begins."""
        self._ready: WorkerReady | None = None
        self._limits: WorkerLimits | None = None
        self._progress: LoadProgress | None = None
        self._failure: BaseException | None = None
        self._look = ModelLook()
        """At what the engine loads; empty until then."""
        self._ended = asyncio.Event()
        self._changed = Changes()
        self._config = config
        self._starting = False
        self._engine: EngineThread | EngineProcess | None = None
        """None until it is started."""

    async def start(self) -> None:
        """Start the engine. Whoever makes a worker calls this, so that its first life need not wait for a listener."""
        self._start_engine()

    def _start_engine(self) -> None:
        if not self._starting and not self._ended.is_set():
            self._starting = True
            self._supervisor.start("start the engine", self._look_and_start(), on_end=self._note_not_started)

    async def _look_and_start(self) -> None:
        """See that all is there on this node, and what model it is, before the weights are read."""
        self._look = await asyncio.to_thread(look_at_model, self._config)
        self._changed.set()
        if not self._ended.is_set():
            self._engine = start_engine(
                self._config,
                on_progress=lambda progress: self._post(self._note_progress, progress),
                on_loaded=lambda limits: self._post(self._note_loaded, limits),
                on_news=lambda news: self._post(self._deliver, news),
                on_end=lambda failure: self._post(self._note_ended, failure),
            )

    def _note_not_started(self, failure: BaseException | None) -> None:
        """Nothing to load, or the machine has no process or no thread left for it."""
        if failure is not None and not self._ended.is_set():
            if not isinstance(failure, ExlpoolError):  # those are told
                logger.error("The engine of worker %s could not be started", self._worker_id, exc_info=failure)
            self._note_ended(failure)

    def _tell_engine(self, command: Command) -> None:
        """What comes before the engine is about nothing that it has."""
        if self._engine is not None:
            self._engine.send(command)

    def _post(self, function: Callable[[T], None], value: T) -> None:
        """Called on the engine's threads: have the event loop take something in."""
        self._loop.call_soon_threadsafe(self._take_in, function, value)

    # On the event loop.

    def _take_in(self, function: Callable[[T], None], value: T) -> None:
        """A callback that raised would only be logged, and what it brought would be lost for good."""
        try:
            function(value)
        except BaseException as error:  # noqa: BLE001 - the edge of the actor: it cannot go on, and says so
            end_process(f"Worker {self._worker_id}, which could not take in what its engine told it,")(error)

    def _note_progress(self, progress: LoadProgress) -> None:
        self._progress = progress
        self._changed.set()

    def _note_loaded(self, limits: WorkerLimits) -> None:
        self._limits = limits if self._look.copy is None else with_digests(limits, self._look.copy)
        self._changed.set()

    def _note_ended(self, failure: BaseException | None) -> None:
        self._failure = failure
        self._ended.set()
        self._changed.set()
        self._streams.close_all()
        if failure is not None and (self._limits is not None or isinstance(failure, FatalEngineError)):
            what = f"Worker {self._worker_id}, whose engine is beyond repair ({failure}),"
            self._supervisor.start("last words", self._last_words(), on_end=end_process(what))

    async def _last_words(self) -> None:
        """Wait until every stream was read to its end, or was given the time for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while self._streams or self._reports:
                    await self._changed.next()

    def _deliver(self, news: StepNews) -> None:
        self._streams.put(news.outputs)
        self._reports.add(news)
        if news.truth is not None and self._ready_wanted:
            self._ready_wanted = False
            self._reports.clear()  # the truth has it all, and counts as a report itself
            self._reports.sequence += 1
            assert self._limits is not None, "an engine that steps is loaded"
            self._ready = WorkerReady(
                worker_id=self._worker_id,
                limits=self._limits,
                resident_pages=news.truth.resident_pages,
                sequence=self._reports.sequence,
                running=news.truth.running,
                generated_tokens=self._reports.generated_tokens,
                finished_requests=self._reports.finished_requests,
            )
        self._changed.set()

    # Fronts.

    async def outputs(self, stream_id: str) -> AsyncIterator[Listening | StepOutput]:
        """One message per step that made something for this stream, after one that says who listens.

        One that its front has given up already for a newer one ends at once, without a word, and so does every one that
        comes when the engine has ended. When a stream ends, for whatever reason, all its jobs are cancelled.
        """
        stream = None if self._ended.is_set() else self._streams.open(stream_id)
        if stream is None:
            return
        try:
            yield self._listening
            while (output := await stream.take()) is not None:
                yield output
        finally:
            self._streams.forget(stream_id, stream)
            self._changed.set()
            self._tell_engine(CancelStream(stream_id))

    async def take_commands(self, stream_id: str, commands: tuple[WorkerCommand, ...]) -> bool:
        """Hand attempts and cancellations to the engine, in their order. False: this worker does not know the stream,
        or has no engine, yet or any more, and nothing was taken up.

        An attempt that is cancelled ends with a `Finished` of its own unless it already had.
        """
        if stream_id not in self._streams or self._engine is None or self._ended.is_set():
            return False
        for command in commands:
            match command:
                case GenerationRequest():
                    self._engine.send(Submit(stream_id, command))
                case Cancellation(ticket):
                    self._engine.send(Cancel(stream_id, ticket))
        return True

    # The dispatcher.

    async def reports(self, start_after_s: float = 0.0) -> AsyncIterator[WorkerNews]:
        """Who this is, which model it has, progress while that loads, one `WorkerReady`, then step reports while the
        worker lives.

        The engine starts `start_after_s` from now, unless it does so earlier for another listener. The stream says who
        this is again whenever there is nothing else to tell for HEARTBEAT_S, and ends when the worker is closed. One
        listener at a time: the dispatcher.
        :raises ModelError: the engine could not be loaded; the worker stays, useless, until it is killed.
        """
        if start_after_s > 0.0:
            self._loop.call_later(start_after_s, self._start_engine)
        else:
            self._start_engine()
        yield self._listening
        told: ModelCopy | None = None
        while self._limits is None:
            self._raise_if_load_failed()
            if self._ended.is_set():
                return
            if self._look.copy is not None and told is None:
                told = self._look.copy
                yield told
            if self._progress is not None:
                progress, self._progress = self._progress, None
                yield progress
            if not await self._changed.next_within(HEARTBEAT_S):
                yield self._listening
        if self._look.copy is not None and told is None:
            yield self._look.copy
        self._ready_wanted, self._ready = True, None
        self._tell_engine(Inspect())
        while self._ready is None and not self._ended.is_set():
            if not await self._changed.next_within(HEARTBEAT_S):
                yield self._listening
        if self._ready is not None:
            yield self._ready
        while not self._ended.is_set():
            if not await self._changed.next_within(HEARTBEAT_S):
                yield self._listening
            if self._reports and not self._reports.urgent:
                await self._urgent_change()
            if self._reports:
                yield self._reports.take()
                self._changed.set()  # whoever waits for the reports to be told
                await asyncio.sleep(REPORT_INTERVAL_S)
        if self._reports:
            yield self._reports.take()
        if self._failure is not None:
            await (
                asyncio.Event().wait()
            )  # this process is about to end; a stream that ended before it would mean "closed"

    async def _urgent_change(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_REPORT_INTERVAL_S):
                while not self._reports.urgent and not self._ended.is_set():
                    await self._changed.next()

    def _raise_if_load_failed(self) -> None:
        if self._failure is not None:
            raise here(portable(self._failure, "The engine could not be loaded"))

    async def resync(self) -> None:
        """Have the next report carry the whole truth about resident pages and running attempts."""
        self._tell_engine(Inspect())

    async def prompt_files(self) -> dict[str, bytes]:
        """The files that fronts make prompts with, for one on a node that does not have them.

        :raises ModelError: they cannot be read, or are too large to be sent.
        """
        if self._look.prompt_files is not None:
            return self._look.prompt_files
        return await asyncio.to_thread(read_files, self._config.model or builtin_model_path())

    async def heartbeat(self) -> Heartbeat:
        engine = self._engine
        if engine is None:
            return Heartbeat(self._worker_id, 0, 0.0, os.getpid())
        began_at_s = engine.turn_began_at_s
        age_s = 0.0 if began_at_s is None else time.monotonic() - began_at_s
        return Heartbeat(self._worker_id, engine.steps, age_s, os.getpid())

    async def end(self, worker_id: str, reason: str) -> None:
        """End this process if it is the life that is meant."""
        if worker_id == self._worker_id:
            logger.critical("Worker %s is ended: %s", worker_id, reason)
            os._exit(1)

    async def close(self, timeout_s: float = 10.0) -> None:
        """Stop the engine between two steps and give back what it holds.

        :raises TimeoutError: it does not stop.
        """
        if self._engine is None:
            self._note_ended(None)
        self._tell_engine(Stop())
        async with asyncio.timeout(timeout_s):
            await self._ended.wait()

    async def debug_state(self) -> dict[str, int]:
        """Numbers for tests of what is left over."""
        return {"streams": len(self._streams), "tasks": len(asyncio.all_tasks()) - 1}

    def __repr__(self) -> str:
        return f"<Worker {self._worker_id}>"  # short, since Ray puts it before every line of the actor's log
