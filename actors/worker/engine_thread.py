"""The thread that owns an engine: it takes commands from a queue, steps, and hands out one batch of news per step.

No Ray here. The owner gives two callbacks, both called on this thread: `on_step` after every step that had something
to say, and `on_end` once, when the thread is over.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from actors.engines.base import Emitted, Ended, Engine, EngineEvent, EngineJob, Prefilled, Started
from actors.errors import EngineFailure, ExlpoolError, FatalEngineError
from actors.messages import (
    AttemptFinished,
    AttemptStarted,
    Finished,
    GenerationRequest,
    LoadProgress,
    StepSample,
    WorkerLimits,
)
from actors.worker.engine_jobs import ThreadJob, failed_with, finished_by, joined
from actors.worker.output_columns import OutputColumns

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submit:
    front_id: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    front_id: str
    ticket: int


@dataclass(frozen=True, slots=True)
class CancelFront:
    """Cancel all jobs of a front that is gone."""

    front_id: str


@dataclass(frozen=True, slots=True)
class Inspect:
    """Have `on_step` called with the full list of resident pages, whether or not anything happened."""


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Submit | Cancel | CancelFront | Inspect | Stop

QUIET_NEWS_S = 0.02
"""Steps in which running jobs only go on, for nobody who reads along, are told of together, at most so long after
each. Whoever hears of a step needs the interpreter, which this thread needs to keep the device busy."""


@dataclass(slots=True)
class StepNews:
    """What one turn of the loop brought. `outputs` has an entry per front that has something to hear.

    `pages_added` and `pages_evicted` say how the resident pages have changed, `resident_pages` is all of them, where
    that was asked for.
    `earlier` are steps that nobody was told of yet; `generated_tokens` counts theirs too.
    """

    outputs: dict[str, OutputColumns]
    sample: StepSample | None
    started: list[AttemptStarted]
    first_tokens: list[tuple[str, int]]
    finished: list[AttemptFinished]
    pages_added: tuple[bytes, ...]
    pages_evicted: tuple[bytes, ...]
    resident_pages: frozenset[bytes] | None
    full: bool
    free_pages: int
    active_jobs: int
    generated_tokens: int
    earlier: list[StepSample] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        """Nothing here changes what anybody may do next."""
        told = self.outputs or self.started or self.first_tokens or self.finished or self.full
        return not told and not self.pages_added and not self.pages_evicted


class EngineThread:
    """Runs an engine until it is stopped or its engine is beyond repair.

    `load` must have been called on the engine by `engine_factory`'s caller, that is: the factory runs on this thread
    and returns a constructed engine, `on_loaded` gets its limits once `load` is through.
    """

    def __init__(
        self,
        engine_factory: Callable[[], Engine],
        *,
        on_progress: Callable[[LoadProgress], None],
        on_loaded: Callable[[WorkerLimits], None],
        on_step: Callable[[StepNews], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._factory = engine_factory
        self._on_progress = on_progress
        self._on_loaded = on_loaded
        self._on_step = on_step
        self._on_end = on_end
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._jobs: dict[int, ThreadJob] = {}
        self._ids: dict[tuple[str, int], int] = {}
        self._next_id = 1
        self._stopping = False
        self._untold: list[StepSample] = []
        self._untold_tokens = 0
        self._told_at_s = float("-inf")
        self.steps = 0
        self.step_started_at_s: float | None = None
        """time.monotonic() of the step that is going on; None between steps. Read by a watchdog on another thread."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        """Queue a command; it takes effect before the next step. Never blocks."""
        self._commands.put(command)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; returns whether it ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # Everything below runs on the thread.

    def _run(self) -> None:
        engine: Engine | None = None
        failure: Exception | None = None
        try:
            engine = self._factory()
            self._on_loaded(engine.load(self._on_progress))
            while not self._stopping:
                self._turn(engine)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: whoever owns it hears of every failure
            failure = error
        finally:
            if engine is not None:
                engine.close()
            self._on_end(failure)

    def _turn(self, engine: Engine) -> None:
        news = StepNews({}, None, [], [], [], (), (), None, False, 0, 0, 0)
        self._take_commands(engine, news)
        if engine.has_work():
            self._step(engine, news)
        self._describe(engine, news)
        if news.sample or not news.quiet:
            self._tell(news)

    def _tell(self, news: StepNews) -> None:
        now_s = time.monotonic()
        if news.quiet and news.sample is not None and now_s - self._told_at_s < QUIET_NEWS_S:
            self._untold.append(news.sample)
            self._untold_tokens += news.generated_tokens
            return
        news.earlier, self._untold = self._untold, []
        news.generated_tokens += self._untold_tokens
        self._untold_tokens = 0
        self._told_at_s = now_s
        self._on_step(news)

    def _take_commands(self, engine: Engine, news: StepNews) -> None:
        block = not engine.has_work()
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return
            block = False
            match command:
                case Submit():
                    self._submit(engine, command, news)
                case Cancel(front_id, ticket):
                    job_id = self._ids.get((front_id, ticket))
                    if job_id is not None:
                        engine.cancel(job_id)
                case CancelFront(front_id):
                    for (owner, _), job_id in self._ids.items():
                        if owner == front_id:
                            engine.cancel(job_id)
                case Inspect():
                    news.full = True
                case Stop():
                    self._stopping = True
                    return

    def _submit(self, engine: Engine, command: Submit, news: StepNews) -> None:
        request = command.request
        job_id = self._next_id
        self._next_id += 1
        job = ThreadJob(command.front_id, request, time.monotonic())
        engine_job = EngineJob(
            job_id=job_id,
            token_ids=request.token_ids,
            page_hashes=request.page_hashes,
            max_new_tokens=request.max_new_tokens,
            seed=request.seed,
            params=request.params,
        )
        try:
            engine.submit(engine_job)
        except FatalEngineError:
            raise
        except ExlpoolError as error:
            self._finish(job, failed_with(request, error), news)
            return
        except Exception as error:
            # The protocol promises that a refused job has touched nothing, so the others go on whatever this is.
            logger.exception("The engine could not take a job up")
            failure = EngineFailure(f"The engine could not take the request up: {type(error).__name__}: {error}")
            self._finish(job, failed_with(request, failure), news)
            return
        self._jobs[job_id] = job
        self._ids[command.front_id, request.ticket] = job_id

    def _step(self, engine: Engine, news: StepNews) -> None:
        begin_s = time.monotonic()
        self._begin_step(begin_s)
        try:
            events = engine.step()
        except FatalEngineError:
            raise
        except Exception as error:
            logger.exception("A step failed; its %d jobs fail and the engine is reset", len(self._jobs))
            self._recover(engine, error, news)
            return
        finally:
            self._end_step()
        self._apply(events, time.monotonic() - begin_s, news)

    def _begin_step(self, now_s: float) -> None:
        self.step_started_at_s = now_s

    def _end_step(self) -> None:
        self.step_started_at_s = None
        self.steps += 1

    def _recover(self, engine: Engine, error: Exception, news: StepNews) -> None:
        failure = EngineFailure(f"The engine failed in a step: {type(error).__name__}: {error}")
        for job in self._jobs.values():
            self._finish(job, failed_with(job.request, failure), news)
        self._jobs.clear()
        self._ids.clear()
        engine.reset()
        news.full = True

    def _apply(self, events: list[EngineEvent], duration_s: float, news: StepNews) -> None:
        prefill_tokens = decoded = 0
        started: list[ThreadJob] = []
        for event in events:
            job = self._jobs[event.job_id]
            match event:
                case Emitted():
                    decoded += 1
                    news.generated_tokens += len(event.token_ids)
                    self._emit(job, event, news)
                case Prefilled():
                    prefill_tokens += event.tokens
                    job.cached_tokens = event.cached_tokens
                case Started():
                    job.started_at_s = time.monotonic()
                    started.append(job)
                case Ended():
                    del self._jobs[event.job_id]
                    del self._ids[job.front_id, job.request.ticket]
                    self._finish(job, finished_by(job, event), news)
        news.started = [AttemptStarted(j.request.request_id, j.request.attempt, j.cached_tokens) for j in started]
        news.sample = StepSample(duration_s, prefill_tokens, decoded)

    def _emit(self, job: ThreadJob, event: Emitted, news: StepNews) -> None:
        if not job.emitted:
            job.emitted = True
            news.first_tokens.append((job.request.request_id, job.request.attempt))
        if job.request.whole:
            job.kept.append(event)
            return
        columns = news.outputs.get(job.front_id)
        if columns is None:
            columns = news.outputs[job.front_id] = OutputColumns()
        columns.add(job.request.ticket, event.text, event.token_ids, event.logprobs)

    def _finish(self, job: ThreadJob, finished: Finished, news: StepNews) -> None:
        request = job.request
        columns = news.outputs.setdefault(job.front_id, OutputColumns())
        if job.kept:
            columns.add(request.ticket, *joined(job.kept))
        columns.finish(request.ticket, finished)
        news.finished.append(AttemptFinished(request.request_id, request.attempt, finished.completion_tokens))

    def _describe(self, engine: Engine, news: StepNews) -> None:
        changes = engine.page_changes()
        news.pages_added, news.pages_evicted = changes.added, changes.evicted
        if news.full:
            news.resident_pages = engine.resident_pages()
        capacity = engine.capacity()
        news.free_pages = capacity.free_pages
        news.active_jobs = capacity.active_jobs
