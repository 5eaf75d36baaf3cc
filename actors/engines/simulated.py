"""A simulated engine: a model of an engine's time and memory, for tests and benchmarks of everything round an engine.

It paces its steps in real time, keeps pages and slots by ExLlamaV2's rules, fails on command, and its tokens follow
from the tokens before them, so that a completion that was spliced wrongly shows. It never runs unless asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from actors.config import EngineConfig
from actors.engines.base import (
    Capacity,
    Emitted,
    Ended,
    EngineEvent,
    EngineJob,
    LoadProgress,
    Prefilled,
    ProgressCallback,
    Started,
)
from actors.errors import ContextLengthExceeded, InvalidRequest, ModelError, UnsupportedParameter
from actors.messages import FinishReason, WorkerLimits
from actors.page_table import Allocation, PageTable
from actors.paging import PAGE_TOKENS, next_hash, page_hashes, pages_needed

SUPPORTED_PARAMETERS = frozenset(
    {"max_new_tokens", "min_new_tokens", "seed", "temperature", "stop_token_ids", "ignore_eos"}
)
DEFAULT_CACHE_TOKENS = 65536
FIRST_TOKEN_ID = 4
"""Generated ids start here: those below are left to special tokens."""
STALL_LIMIT_S = 3600.0
_MASK = (1 << 64) - 1
_LOAD_STAGES = 10


def _mix(state: int, token_id: int) -> int:
    """One step of a linear congruential generator (Knuth's MMIX constants) that also takes in a token."""
    return (state * 6364136223846793005 + token_id + 1442695040888963407) & _MASK


def _state_after(token_ids: Sequence[int], seed: int | None) -> int:
    state = 0 if seed is None else seed + 1
    for token_id in token_ids:
        state = _mix(state, token_id)
    return state


def _token(state: int, vocab_size: int) -> int:
    return FIRST_TOKEN_ID + (state >> 33) % (vocab_size - FIRST_TOKEN_ID)


def expected_tokens(
    token_ids: Sequence[int], count: int, *, seed: int | None = None, vocab_size: int = 2048
) -> tuple[int, ...]:
    """The first `count` tokens of the completion; without a seed the greedy one.

    A prompt that ends with the beginning of its own completion goes on where that stopped.
    """
    state = _state_after(token_ids, seed)
    tokens = []
    for _ in range(count):
        tokens.append(_token(state, vocab_size))
        state = _mix(state, tokens[-1])
    return tuple(tokens)


class _Job:
    __slots__ = ("done", "generated", "ids", "job", "pages", "started_s", "state", "stops")

    def __init__(self, job: EngineJob, pages: Allocation, now_s: float) -> None:
        self.job = job
        self.pages = pages
        self.ids = list(job.token_ids)
        self.done = pages.position
        """Tokens of the sequence whose keys and values are there."""
        self.generated = 0
        self.state = _state_after(job.token_ids, job.seed if job.params.temperature > 0 else None)
        self.stops = frozenset(job.params.stop_token_ids)
        self.started_s = now_s


class SimulatedEngine:
    """`clock` and `sleep` are given by tests that want no real time to pass."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options = config.simulated
        self._chunk_tokens = config.chunk_tokens
        self._max_batch_size = config.max_batch_size
        self._context_tokens = config.context_tokens or self._options.context_tokens
        self._total_pages = pages_needed(config.cache_tokens or DEFAULT_CACHE_TOKENS)
        self._clock = clock
        self._sleep = sleep
        self._steps = 0
        self._next_step_s: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._table = PageTable(self._total_pages)
        self._pending: deque[EngineJob] = deque()
        self._running: dict[int, _Job] = {}
        self._cancelled: set[int] = set()

    def load(self, progress: ProgressCallback) -> WorkerLimits:
        for done in range(_LOAD_STAGES):
            progress(LoadProgress("weights", done, _LOAD_STAGES))
            self._sleep(self._options.load_s / _LOAD_STAGES)
        if self._options.fail_load:
            raise ModelError("The simulated engine fails to load, as it was told to.")
        progress(LoadProgress("weights", _LOAD_STAGES, _LOAD_STAGES))
        return WorkerLimits(
            engine="simulated",
            model="simulated",
            context_tokens=self._context_tokens,
            total_pages=self._total_pages,
            max_batch_size=self._max_batch_size,
            vocab_size=self._options.vocab_size,
            eos_token_ids=(2,),
            supported_parameters=SUPPORTED_PARAMETERS,
        )

    def submit(self, job: EngineJob) -> None:
        unsupported = sorted(job.params.changed() - SUPPORTED_PARAMETERS)
        if unsupported:
            raise UnsupportedParameter(f"The simulated engine does not support {unsupported[0]}.", param=unsupported[0])
        if not job.token_ids or min(job.token_ids) < 0 or max(job.token_ids) >= self._options.vocab_size:
            raise InvalidRequest("The prompt is empty or holds ids outside the vocabulary.", param="prompt")
        total = len(job.token_ids) + job.max_new_tokens
        if total > self._context_tokens or pages_needed(total) > self._total_pages:
            raise ContextLengthExceeded(f"{total} tokens do not fit this worker.", param="max_new_tokens")
        self._pending.append(job)

    def cancel(self, job_id: int) -> None:
        if job_id in self._running or any(job.job_id == job_id for job in self._pending):
            self._cancelled.add(job_id)

    def has_work(self) -> bool:
        return bool(self._running or self._pending)

    def capacity(self) -> Capacity:
        return Capacity(
            self._table.free_pages, self._total_pages, len(self._running), len(self._pending), self._max_batch_size
        )

    def resident_pages(self) -> frozenset[bytes]:
        return self._table.resident()

    def reset(self) -> None:
        self._forget()

    def close(self) -> None:
        self._forget()

    def step(self) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        self._steps += 1
        self._fail_as_told()
        self._end_cancelled(events)
        self._start(events)
        prefilled = self._prefill(events)
        ready = [job for job in self._running.values() if job.generated or job.done >= len(job.ids) - 1]
        self._pace(len(ready), prefilled)
        stamp = f" {time.monotonic()!r}" if self._options.stamp_text else None
        for job in ready:
            self._decode(job, stamp, events)
        if not self.has_work():
            self._next_step_s = None
        return events

    def _fail_as_told(self) -> None:
        options = self._options
        if self._steps == options.fail_at_step:
            raise RuntimeError(f"The simulated engine fails in step {self._steps}, as it was told to.")
        if self._steps == options.exit_at_step:
            os._exit(1)
        if self._steps == options.stall_at_step:
            threading.Event().wait(STALL_LIMIT_S)

    def _end_cancelled(self, events: list[EngineEvent]) -> None:
        for job_id in self._cancelled:
            if job_id in self._running:
                self._end(self._running[job_id], FinishReason.CANCELLED, events)
            else:
                events.append(Ended(job_id=job_id, reason=FinishReason.CANCELLED, completion_tokens=0, cached_tokens=0))
        if self._cancelled:
            self._pending = deque(job for job in self._pending if job.job_id not in self._cancelled)
            self._cancelled.clear()

    def _start(self, events: list[EngineEvent]) -> None:
        while self._pending and len(self._running) < self._max_batch_size:
            job = self._pending[0]
            hashes = page_hashes(job.token_ids)
            total_pages = pages_needed(len(job.token_ids) + job.max_new_tokens)
            if self._table.pages_required(hashes, total_pages) > self._table.free_pages:
                return
            self._pending.popleft()
            self._running[job.job_id] = _Job(job, self._table.allocate(hashes, total_pages), self._clock())
            events.append(Started(job.job_id))

    def _prefill(self, events: list[EngineEvent]) -> int:
        """Compute prompts but for their last token, in order of start, within the step's budget of whole pages."""
        budget = self._chunk_tokens
        for job in self._running.values():
            if job.generated or budget < PAGE_TOKENS:
                continue
            prompt_tokens = len(job.ids)
            if job.done < prompt_tokens - 1:
                step = self._table.prefill(job.pages, prompt_tokens, budget)
                budget -= step.end - step.start
                job.done = job.pages.position
                events.append(Prefilled(job.job.job_id, step.end - step.start, job.pages.cached_tokens))
        return self._chunk_tokens - budget

    def _pace(self, jobs: int, prefill_tokens: int) -> None:
        """Wait for the end of the step. Deadlines follow one another without drift while steps are on time."""
        options = self._options
        duration_s = options.step_s + options.step_s_per_job * max(jobs - 1, 0)
        if options.prefill_tokens_per_s:
            duration_s += prefill_tokens / options.prefill_tokens_per_s
        now_s = self._clock()
        begin_s = now_s if self._next_step_s is None else max(self._next_step_s, now_s - duration_s)
        self._next_step_s = begin_s + duration_s
        if self._next_step_s > now_s:
            self._sleep(self._next_step_s - now_s)

    def _decode(self, job: _Job, stamp: str | None, events: list[EngineEvent]) -> None:
        token_id = _token(job.state, self._options.vocab_size)
        job.state = _mix(job.state, token_id)
        job.generated += 1
        job.ids.append(token_id)
        job.done += 1
        if job.done % PAGE_TOKENS == 0:
            self._complete_page(job)
        if token_id in job.stops and job.generated > job.job.params.min_new_tokens:
            self._end(job, FinishReason.STOP, events, stop_token_id=token_id)
            return
        events.append(Emitted(job.job.job_id, stamp or f" w{token_id}", (token_id,)))
        if job.generated >= job.job.max_new_tokens:
            self._end(job, FinishReason.LENGTH, events)

    def _complete_page(self, job: _Job) -> None:
        place = job.done // PAGE_TOKENS - 1
        self._table.fill(job.pages, job.done)
        page_ids = job.ids[job.done - PAGE_TOKENS : job.done]
        self._table.complete_page(job.pages, next_hash(job.pages.parent_hash(place), page_ids))

    def _end(
        self, job: _Job, reason: FinishReason, events: list[EngineEvent], stop_token_id: int | None = None
    ) -> None:
        cached_tokens = job.pages.cached_tokens
        self._table.release(job.pages)
        del self._running[job.job.job_id]
        events.append(
            Ended(
                job_id=job.job.job_id,
                reason=reason,
                completion_tokens=job.generated,
                cached_tokens=cached_tokens,
                generate_s=self._clock() - job.started_s,
                stop_token_id=stop_token_id,
            )
        )
