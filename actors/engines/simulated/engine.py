"""The simulated engine itself: admission, prefill and decoding of jobs against a clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from actors.config import EngineConfig
from actors.engines.base import (
    Capacity,
    Emitted,
    Ended,
    EngineEvent,
    EngineJob,
    PageChanges,
    Prefilled,
    ProgressCallback,
    Started,
)
from actors.engines.checks import check_job
from actors.engines.simulated.faults import ScriptedFaults
from actors.engines.simulated.job import SimulatedJob
from actors.engines.simulated.schedule import StepSchedule
from actors.engines.simulated.tokens import EOS_TOKEN, FIRST_TOKEN, next_state, next_token
from actors.engines.text import CompletionText, Release, StopStrings
from actors.errors import EngineFailure, InvalidRequest, ModelError
from actors.messages import LoadProgress, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, next_hash, pages_needed
from actors.paging.table import PageTable
from actors.results import FinishReason

DEFAULT_CACHE_TOKENS = 65536
SUPPORTED_PARAMETERS = frozenset(
    {"max_new_tokens", "min_new_tokens", "seed", "temperature", "stop", "stop_token_ids", "ignore_eos"}
)
LOAD_STAGES = 10


class SimulatedEngine:
    """An `Engine` (actors.engines.base) with ExLlamaV2's page rules and the step times of `config.simulated`.

    A step takes `step_s` + `step_s_per_job` for every running job but the first + the prompt tokens that it computes at
    `prefill_tokens_per_s`. Steps follow one another without drift: each is due at a fixed time after the one before.
    A token's text is " w" and its id, or with `stamp_text` a space and the `time.monotonic()` of its step.
    `clock` and `sleep` are for tests without waiting.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._options = config.simulated
        self._faults = ScriptedFaults(config.simulated)
        self._clock = clock
        self._sleep = sleep
        self._limits: WorkerLimits | None = None
        self._table = PageTable(pages_needed(config.cache_tokens or DEFAULT_CACHE_TOKENS))
        self._pending: deque[SimulatedJob] = deque()
        self._prefilling: list[SimulatedJob] = []
        self._decoding: dict[int, SimulatedJob] = {}
        self._live: dict[int, SimulatedJob] = {}
        self._cancelled: dict[int, SimulatedJob] = {}
        self._schedule = StepSchedule(config.simulated, clock, sleep)
        self._steps = 0
        self._stamp = ""

    def __repr__(self) -> str:
        return (
            f"<SimulatedEngine after {self._steps} steps: {len(self._live) - len(self._pending)} jobs run, "
            f"{len(self._pending)} wait, {self._table.free_pages} of {self._table.total_pages} pages free>"
        )

    def load(self, progress: ProgressCallback) -> WorkerLimits:
        options = self._options
        for stage in range(LOAD_STAGES):
            progress(LoadProgress("weights", stage, LOAD_STAGES))
            self._sleep(options.load_s / LOAD_STAGES)
            if options.fail_load:
                raise ModelError("The simulated engine was told to fail to load (simulated.fail_load).")
        progress(LoadProgress("weights", LOAD_STAGES, LOAD_STAGES))
        self._limits = WorkerLimits(
            engine="simulated",
            model="simulated",
            context_tokens=self._config.context_tokens or options.context_tokens,
            total_pages=self._table.total_pages,
            max_batch_size=self._config.max_batch_size,
            vocab_size=options.vocab_size,
            eos_token_ids=(EOS_TOKEN,),
            supported_parameters=SUPPORTED_PARAMETERS,
        )
        return self._limits

    def submit(self, job: EngineJob) -> None:
        if self._limits is None:
            raise EngineFailure("The simulated engine is not loaded, or was closed.")
        check_job(job, self._limits)
        if job.job_id in self._live:
            raise InvalidRequest(f"Job {job.job_id} is there already.", param="job_id")
        self._faults.at_submit(job.token_ids[0])
        text = CompletionText(self, (), StopStrings(job.params.stop)) if job.params.stop else None
        made = self._live[job.job_id] = SimulatedJob(job, text)
        self._pending.append(made)

    def cancel(self, job_id: int) -> None:
        job = self._live.get(job_id)
        if job is not None:
            self._cancelled[job_id] = job

    def has_work(self) -> bool:
        return bool(self._live)

    def step(self) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        if not self._live:
            return events
        self._steps += 1
        self._faults.at_step(self._steps)
        self._end_cancelled(events)
        self._start(events)
        computed_tokens = self._prefill(events)
        if not self._decoding and not self._prefilling:
            self._schedule.pause()
            return events
        now_s = self._schedule.wait(len(self._decoding) + len(self._prefilling), computed_tokens)
        self._decode(now_s, events)
        if not self._live:
            self._schedule.pause()
        return events

    def capacity(self) -> Capacity:
        active = len(self._live) - len(self._pending)
        return Capacity(
            self._table.free_pages, self._table.total_pages, active, len(self._pending), self._config.max_batch_size
        )

    def resident_pages(self) -> frozenset[bytes]:
        return self._table.resident()

    def page_changes(self) -> PageChanges:
        return PageChanges(*self._table.take_changes())

    def reset(self) -> None:
        self._faults.at_reset()
        self._forget()

    def close(self) -> None:
        self._forget()
        self._limits = None
        self._faults.at_close()

    def _forget(self) -> None:
        self._table.clear()
        self._pending.clear()
        self._prefilling.clear()
        self._decoding.clear()
        self._live.clear()
        self._cancelled.clear()
        self._schedule.pause()

    def piece(self, token_id: int) -> bytes:
        """What a token adds to a text in the step that goes on."""
        return (self._stamp or f" w{token_id}").encode()

    def _end_cancelled(self, events: list[EngineEvent]) -> None:
        if not self._cancelled:
            return
        now_s = self._clock()
        for job in self._cancelled.values():
            if job.allocation is None:
                self._pending.remove(job)
            elif job.job_id not in self._decoding:
                self._prefilling.remove(job)
            events.append(job.ended(FinishReason.CANCELLED, now_s))
            self._leave(job)
        self._cancelled.clear()

    def _start(self, events: list[EngineEvent]) -> None:
        while self._pending:
            job = self._pending[0]
            active = len(self._live) - len(self._pending)
            required = self._table.pages_required(job.job.page_hashes, job.total_pages)
            if active >= self._config.max_batch_size or required > self._table.free_pages:
                return
            self._pending.popleft()
            self._faults.at_start(job.token_ids[0])
            job.allocation = self._table.allocate(job.job.page_hashes, job.total_pages)
            job.started_s = self._clock()
            self._prefilling.append(job)
            events.append(Started(job.job_id))

    def _prefill(self, events: list[EngineEvent]) -> int:
        """Compute prompts in order of start until the step's budget is spent, the last page of it whole."""
        budget = self._config.chunk_tokens
        for job in list(self._prefilling):
            allocation, last = job.allocation, len(job.job.token_ids) - 1
            assert allocation is not None
            before, cached = allocation.position, allocation.cached_tokens
            computed = 0
            while budget > computed and allocation.position < last:
                step = self._table.prefill(allocation, last + 1, max(budget - computed, PAGE_TOKENS))
                computed += step.end - step.start
            budget -= computed
            if allocation.position > before or allocation.cached_tokens > cached or allocation.position == last:
                events.append(Prefilled(job.job_id, computed, allocation.cached_tokens))
            if allocation.position == last:
                self._prefilling.remove(job)
                self._decoding[job.job_id] = job
                job.plan()
            if budget <= 0:
                break
        return self._config.chunk_tokens - budget

    def _decode(self, now_s: float, events: list[EngineEvent]) -> None:
        """One token for every job whose prompt is done."""
        self._stamp = stamp = f" {now_s!r}" if self._options.stamp_text else ""
        choices = self._options.vocab_size - FIRST_TOKEN
        over: list[SimulatedJob] = []
        for job in self._decoding.values():
            token = next_token(job.state, job.salt, choices)
            job.state = next_state(job.state, token)
            job.token_ids.append(token)
            job.generated += 1
            if job.generated < job.quiet_until:
                events.append(Emitted(job.job_id, stamp or f" w{token}", (token,)))
                continue
            if job.generated == 1:
                job.first_token_s = now_s
            if job.computed_tokens % PAGE_TOKENS == 0:
                self._complete_page(job)
            ended = self._accept(job, token, now_s, events)
            if ended is None:
                job.plan()
            else:
                events.append(ended)
                over.append(job)
        for job in over:
            self._leave(job)

    def _complete_page(self, job: SimulatedJob) -> None:
        allocation, end = job.allocation, job.computed_tokens
        assert allocation is not None
        self._table.fill(allocation, end)
        parent = allocation.parent_hash(end // PAGE_TOKENS - 1)
        self._table.complete_page(allocation, next_hash(parent, job.token_ids[end - PAGE_TOKENS : end]))

    def _accept(self, job: SimulatedJob, token: int, now_s: float, events: list[EngineEvent]) -> Ended | None:
        """Emit what may be seen of a job after its new token; returns its end if that was the last."""
        # The order matters: a stop token is not shown, whatever text it would complete; a stop string ends the job even
        # with the last token that it may have; and only then does the length.
        params, length_tokens = job.job.params, job.job.resumed_tokens + job.generated
        if token in job.stop_ids and length_tokens > params.min_new_tokens:
            if job.text is not None:
                self._emit(job, job.text.finish(), events)
            return job.ended(FinishReason.STOP, now_s, stop_token_id=token)
        if job.text is None:
            release = Release(self.piece(token).decode(), (token,))
        else:
            release = job.text.push(token, may_stop=length_tokens >= params.min_new_tokens)
        self._emit(job, release, events)
        if release.stop is not None:
            return job.ended(FinishReason.STOP, now_s, stop_string=release.stop)
        if job.generated < job.job.max_new_tokens:
            return None
        if job.text is not None:
            self._emit(job, job.text.finish(), events)
        return job.ended(FinishReason.LENGTH, now_s)

    def _emit(self, job: SimulatedJob, release: Release, events: list[EngineEvent]) -> None:
        if release.text or release.token_ids:
            events.append(Emitted(job.job_id, release.text, release.token_ids))

    def _leave(self, job: SimulatedJob) -> None:
        """Give back what a job holds."""
        del self._live[job.job_id]
        self._decoding.pop(job.job_id, None)
        if job.allocation is not None:
            if job.generated:
                self._table.fill(job.allocation, job.computed_tokens)
            self._table.release(job.allocation)
