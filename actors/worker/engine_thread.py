"""The thread that owns an engine: it takes commands from a queue, steps, and hands out one batch of news per turn.

No Ray here. The owner gives callbacks, all called on this thread: `on_progress` and `on_loaded` while the engine
loads, `on_news` after every turn that had something to say, and `on_end` once, when the thread is over, whatever has
ended it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from actors.engines.base import Emitted, Ended, Engine, EngineEvent, Prefilled, Started
from actors.errors import ExlpoolError, FatalEngineError
from actors.messages import AttemptFinished, AttemptStarted, Finished, LoadProgress, StepSample, WorkerLimits
from actors.worker.commands import Cancel, CancelStream, Command, Inspect, StepNews, Stop, Submit, WholeTruth
from actors.worker.engine_jobs import ThreadJob, failed_with, finished_by, portable
from actors.worker.output_columns import OutputColumns

logger = logging.getLogger(__name__)

QUIET_NEWS_S = 0.02
"""Steps in which running jobs only go on, for nobody who reads along, are told of together, at most so long after
each. Whoever hears of a step needs the interpreter, which this thread needs to keep the device busy."""
WHOLE_PIECE_S = 0.2
"""What is generated for fronts that read only the whole leaves in pieces of so long, all jobs' together: so much is
generated again if this worker dies."""


class EngineThread:
    """Runs an engine until it is stopped or cannot go on.

    The factory runs on this thread and returns an engine that is not loaded yet; `on_loaded` gets its limits once it
    is. What ends the thread, by `on_end(failure)`:

    - `Stop`: the engine is closed, and `failure` is None;
    - the engine could not be loaded: the reason;
    - a step failed, and so did the `reset` after it; or anything else that the engine or this thread does failed: the
      engine is in an unknown state, and `failure` is a `FatalEngineError`. News that were made by then are told first,
      so that every job whose end is known has told it.
    """

    def __init__(
        self,
        engine_factory: Callable[[], Engine],
        *,
        on_progress: Callable[[LoadProgress], None],
        on_loaded: Callable[[WorkerLimits], None],
        on_news: Callable[[StepNews], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._factory = engine_factory
        self._on_progress = on_progress
        self._on_loaded = on_loaded
        self._on_news = on_news
        self._on_end = on_end
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._jobs: dict[int, ThreadJob] = {}
        self._next_id = 1
        self._stopping = False
        self._untold: list[StepSample] = []
        self._untold_tokens = 0
        self._told_at_s = float("-inf")
        self._handed_over_at_s = float("-inf")
        self.steps = 0
        self.turn_began_at_s: float | None = None
        """time.monotonic() of the beginning of the latest turn; None while the thread waits for a command. Read by a
        watchdog on another thread: all that an engine does it does within a turn, so this is where it hangs."""
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
        failure: BaseException | None = None
        try:
            engine = self._factory()
            self._on_loaded(engine.load(self._on_progress))
            try:
                self._take_turns(engine)
            except BaseException as error:
                raise _fatal(error) from error
        except BaseException as error:  # noqa: BLE001 - the edge of the thread: whoever owns it hears of every failure
            failure = error
        if engine is not None:
            try:
                engine.close()
            except BaseException as error:
                logger.exception("The engine could not be closed")
                failure = failure or _fatal(error)
        self._on_end(failure)

    def _take_turns(self, engine: Engine) -> None:
        try:
            while not self._stopping:
                first = None if engine.has_work() else self._next_command()
                self._begin_turn(time.monotonic())
                news = StepNews()
                try:
                    self._turn(engine, first, news)
                finally:
                    # On the way out of a failure too: what is in the news has happened, and somebody waits for it.
                    self._tell(news)
        finally:
            self._end_turns()

    def _next_command(self) -> Command:
        """Wait for it: there is nothing to do without one."""
        self._end_turns()
        return self._commands.get()

    def _turn(self, engine: Engine, first: Command | None, news: StepNews) -> None:
        inspect = False
        for command in self._waiting(first):
            match command:
                case Submit():
                    self._submit(engine, command, news)
                case Cancel(stream_id, ticket):
                    self._cancel(engine, stream_id, ticket)
                case CancelStream(stream_id):
                    self._cancel(engine, stream_id, None)
                case Inspect():
                    inspect = True
                case Stop():
                    self._stopping = True
                    return
        if engine.has_work():
            failed = not self._step(engine, news)
            inspect = inspect or failed
            self._hand_over(news)
        changes = engine.page_changes()
        news.pages_added, news.pages_evicted = changes.added, changes.evicted
        if inspect:
            running = tuple(job.running_attempt() for job in self._jobs.values())
            news.truth = WholeTruth(engine.resident_pages(), running)

    def _begin_turn(self, now_s: float) -> None:
        self.turn_began_at_s = now_s

    def _end_turns(self) -> None:
        self.turn_began_at_s = None

    def _tell(self, news: StepNews) -> None:
        if news.empty:
            return
        now_s = time.monotonic()
        if news.sample is not None and not news.outputs and not news.urgent and now_s - self._told_at_s < QUIET_NEWS_S:
            self._untold.append(news.sample)
            self._untold_tokens += news.generated_tokens
            return
        news.earlier, self._untold = self._untold, []
        news.generated_tokens += self._untold_tokens
        self._untold_tokens = 0
        self._told_at_s = now_s
        self._on_news(news)

    def _waiting(self, first: Command | None) -> Iterator[Command]:
        """Commands in order, the one that ended the wait before the others, until there are none."""
        if first is not None:
            yield first
        while True:
            try:
                yield self._commands.get_nowait()
            except queue.Empty:
                return

    def _submit(self, engine: Engine, command: Submit, news: StepNews) -> None:
        job = ThreadJob(command.stream_id, command.request, time.monotonic())
        job_id, self._next_id = self._next_id, self._next_id + 1
        try:
            engine.submit(job.engine_job(job_id))
        except FatalEngineError as error:
            self._finish(job, failed_with(job.request, error), news)
            raise
        except Exception as error:
            refusal = portable(error, "The engine could not take the request up")
            if refusal is not error:
                logger.exception("The engine could not take a job up")
            self._finish(job, failed_with(job.request, refusal), news)
            return
        self._jobs[job_id] = job

    def _cancel(self, engine: Engine, stream_id: str, ticket: int | None) -> None:
        """Cancel the job of a ticket, or (None) all of a stream. There are few jobs, so they are looked through."""
        for job_id, job in self._jobs.items():
            if job.stream_id == stream_id and (ticket is None or job.request.ticket == ticket):
                engine.cancel(job_id)

    def _step(self, engine: Engine, news: StepNews) -> bool:
        """Returns whether the step went well. After one that did not, all jobs have failed and the engine is reset.

        :raises FatalEngineError: the engine says that its process cannot go on.
        :raises Exception: what `reset` failed with.
        """
        begin_s = time.monotonic()
        try:
            events = engine.step()
        except Exception as error:
            logger.exception("A step failed; its %d jobs fail and the engine is reset", len(self._jobs))
            self._fail_jobs(portable(error, "The engine failed in a step"), news)
            if isinstance(error, FatalEngineError):
                raise
            engine.reset()
            return False
        finally:
            self.steps += 1
        self._apply(events, time.monotonic() - begin_s, news)
        return True

    def _fail_jobs(self, failure: ExlpoolError, news: StepNews) -> None:
        for job in self._jobs.values():
            self._finish(job, failed_with(job.request, failure), news)
        self._jobs.clear()

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
                    self._finish(job, finished_by(job, event), news)
        news.started = [AttemptStarted(*job.attempt, job.cached_tokens) for job in started]
        news.sample = StepSample(duration_s, prefill_tokens, decoded)

    def _emit(self, job: ThreadJob, event: Emitted, news: StepNews) -> None:
        if not job.emitted:
            job.emitted = True
            news.first_tokens.append(job.attempt)
        elif job.request.whole:
            job.kept.append(event)
            return
        _columns(news, job).add(job.request.ticket, event.text, event.token_ids, event.logprobs)

    def _hand_over(self, news: StepNews) -> None:
        """From time to time, give away what is kept of whole requests."""
        now_s = time.monotonic()
        if now_s - self._handed_over_at_s < WHOLE_PIECE_S:
            return
        self._handed_over_at_s = now_s
        for job in self._jobs.values():
            if job.kept:
                _columns(news, job).add(job.request.ticket, *job.take_kept())

    def _finish(self, job: ThreadJob, finished: Finished, news: StepNews) -> None:
        columns = _columns(news, job)
        if job.kept:
            columns.add(job.request.ticket, *job.take_kept())
        columns.finish(job.request.ticket, finished)
        news.finished.append(AttemptFinished(*job.attempt, finished.completion_tokens))

    def __repr__(self) -> str:
        state = "in a turn" if self.turn_began_at_s is not None else "waiting"
        return f"<EngineThread: {state}, {len(self._jobs)} jobs, {self.steps} steps>"


def _columns(news: StepNews, job: ThreadJob) -> OutputColumns:
    columns = news.outputs.get(job.stream_id)
    if columns is None:
        columns = news.outputs[job.stream_id] = OutputColumns()
    return columns


def _fatal(error: BaseException) -> FatalEngineError:
    if isinstance(error, FatalEngineError):
        return error
    return FatalEngineError(f"The engine is beyond repair: {type(error).__name__}: {error}")
