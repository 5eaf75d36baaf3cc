"""Simulated workers: ExLlamaV2's start rules, the page table of real engines, and a linear model of step times.

A step starts what fits (in order; a job that was skipped `MAX_SKIPS` times lets nobody pass), computes one chunk of
every unfinished prompt, and decodes one token of all whose prompt is done. It takes
`base_s + per_job_s * decoding jobs + prompt tokens / prefill_tokens_per_s`, give or take some noise. Steps without
prefill are taken many at once until something happens, which changes nothing but the simulator's own speed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from actors.messages import AttemptFinished, AttemptStarted, StepReport, StepSample, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.paging.table import PageTable
from actors.scheduling.simulator.jobs import Job

MAX_SKIPS = 4
"""ExLlamaV2's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker. The defaults are those of a mid-range GPU with a 7B model at 4 bits and 128k tokens of cache."""

    total_pages: int = 512
    max_batch_size: int = 24
    base_s: float = 0.015
    per_job_s: float = 0.0006
    prefill_tokens_per_s: float = 5000.0
    chunk_tokens: int = 512
    noise: float = 0.05
    """Step times vary evenly by this share."""

    def at_speed(self, speed: float) -> WorkerSpec:
        """The same worker, `speed` times as fast."""
        return WorkerSpec(
            total_pages=self.total_pages,
            max_batch_size=self.max_batch_size,
            base_s=self.base_s / speed,
            per_job_s=self.per_job_s / speed,
            prefill_tokens_per_s=self.prefill_tokens_per_s * speed,
            chunk_tokens=self.chunk_tokens,
            noise=self.noise,
        )

    def limits(self) -> WorkerLimits:
        return WorkerLimits(
            engine="simulated",
            model="simulated",
            context_tokens=self.total_pages * PAGE_TOKENS,
            total_pages=self.total_pages,
            max_batch_size=self.max_batch_size,
            vocab_size=32_000,
            eos_token_ids=(2,),
            supported_parameters=frozenset(),
        )


class SimulatedWorker:
    """One life of a worker. Times are those of the simulation's clock."""

    def __init__(self, worker_id: str, spec: WorkerSpec, seed: int) -> None:
        self.worker_id = worker_id
        self.spec = spec
        self.table = PageTable(spec.total_pages)
        self.pending: list[Job] = []
        self.active: list[Job] = []
        self.sequence = 0
        self.until_s: float | None = None
        """End of the steps that are going on; None while it is idle."""
        self._random = random.Random(seed)
        self._resident: frozenset[bytes] = frozenset()
        """Pages that were resident when the last step ended; what the one that goes on computes is not there yet."""
        self._told = self._resident
        self._from_s = 0.0
        self._step_s = 0.0
        self._steps = 0
        self._started: list[AttemptStarted] = []
        self._first: list[tuple[str, int]] = []
        self._finished: list[AttemptFinished] = []
        self._samples: list[StepSample] = []
        self._tokens = 0

    def submit(self, job: Job, now_s: float) -> None:
        """Take a job; it is looked at when the step that is going on ends."""
        job.skips = 0
        self.pending.append(job)
        if self.until_s is None or self._steps <= 1:
            return
        done = min(max(math.ceil((now_s - self._from_s) / self._step_s - 1e-9), 1), self._steps)
        self._steps, self.until_s = done, self._from_s + done * self._step_s

    def can_ever_run(self, job: Job) -> bool:
        """Whether an empty worker could run it."""
        return pages_needed(job.prompt_tokens + job.max_new_tokens) <= self.spec.total_pages

    def die(self, now_s: float) -> list[Job]:
        """The process is gone: count the steps that had ended; returns all jobs it had, in its own order."""
        if self.until_s is not None:
            done = math.floor((now_s - self._from_s) / self._step_s + 1e-9)
            self._emit(min(max(done, 0), self._steps))
        return self.pending + self.active

    def begin(self, now_s: float) -> None:
        """Begin the next steps, if there is anything to do; `until_s` tells when they end."""
        self._start_pending()
        self.until_s = None
        if not self.active:
            return
        prefill = sum(self._prefill(job) for job in self.active if job.prefill_left)
        decoding = sum(not job.prefill_left for job in self.active)
        noise = 1.0 + self.spec.noise * self._random.uniform(-1.0, 1.0)
        self._step_s = noise * (
            self.spec.base_s + self.spec.per_job_s * decoding + prefill / self.spec.prefill_tokens_per_s
        )
        left = 1 if prefill else min(job.left_tokens - job.generated for job in self.active)
        self._from_s, self._steps = now_s, max(left, 1)
        self.until_s = now_s + self._steps * self._step_s
        self._samples.append(StepSample(self._step_s, prefill, decoding))

    def _prefill(self, job: Job) -> int:
        """One chunk of a job's prompt; returns how many tokens of it were computed."""
        assert job.allocation is not None
        step = self.table.prefill(job.allocation, job.total_prompt_tokens, self.spec.chunk_tokens)
        tokens = step.end - step.start
        job.prefill_left = job.total_prompt_tokens - job.allocation.position
        if job.prefill_left == 1:  # the last token is computed with the first decode, in the same step
            job.prefill_left = 0
            tokens += 1
        job.computed_tokens += tokens
        return tokens

    def _start_pending(self) -> None:
        waiting: list[Job] = []
        blocked = False
        for job in self.pending:
            total = pages_needed(job.prompt_tokens + job.max_new_tokens)
            fits = len(self.active) < self.spec.max_batch_size and not blocked
            if fits and self.table.pages_required(job.pages, total) <= self.table.free_pages:
                job.allocation = self.table.allocate(job.pages, total)
                job.prefill_left = job.total_prompt_tokens - job.allocation.position
                job.generated = 0
                self.active.append(job)
                self._started.append(AttemptStarted(job.job_id, job.attempt, job.allocation.cached_tokens))
            else:
                job.skips += 1
                blocked = blocked or job.skips > MAX_SKIPS
                waiting.append(job)
        self.pending = waiting

    def end(self, now_s: float) -> list[Job]:
        """The steps end: count their tokens; returns the jobs that are done."""
        self._emit(self._steps)
        done = [job for job in self.active if job.generated >= job.left_tokens]
        for job in done:
            self._finish(job, now_s)
        self._resident = self.table.resident()
        return done

    def _emit(self, steps: int) -> None:
        """So many steps gave a token each to every job whose prompt is done."""
        if not steps:
            return
        for job in self.active:
            if job.prefill_left:
                continue
            if not job.generated:
                self._first.append((job.job_id, job.attempt))
                if job.first_token_s is None:
                    job.first_token_s = self._from_s + self._step_s
            job.generated += steps
            self._tokens += steps

    def _finish(self, job: Job, now_s: float) -> None:
        assert job.allocation is not None
        self.active.remove(job)
        cached_tokens = job.prompt_tokens + job.output_tokens - 1  # the last one was never fed back
        self.table.fill(job.allocation, cached_tokens)
        for name in job.all_pages[len(job.pages) : cached_tokens // PAGE_TOKENS]:
            self.table.complete_page(job.allocation, name)
        self.table.release(job.allocation)
        job.allocation = None
        self._finished.append(AttemptFinished(job.job_id, job.attempt, job.generated))
        job.done_s = now_s

    def report(self) -> StepReport:
        """What changed since the last report."""
        self.sequence += 1
        resident, told = self._resident, self._told
        report = StepReport(
            worker_id=self.worker_id,
            sequence=self.sequence,
            started=tuple(self._started),
            first_tokens=tuple(self._first),
            finished=tuple(self._finished),
            pages_added=() if resident is told else tuple(resident - told),
            pages_evicted=() if resident is told else tuple(told - resident),
            steps=tuple(self._samples),
            generated_tokens=self._tokens,
        )
        self._told = resident
        self._started, self._first, self._finished, self._samples, self._tokens = [], [], [], [], 0
        return report
