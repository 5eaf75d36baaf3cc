"""A worker with the page table of real engines, for tests: it runs what it is given, or fails."""

from __future__ import annotations

from actors.messages import (
    Admission,
    AttemptFinished,
    AttemptStarted,
    RunningAttempt,
    StepReport,
    StepSample,
    WorkerLimits,
)
from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.paging.table import Allocation, PageTable
from actors.scheduling.events import WorkerUp

Key = tuple[str, int]


class RealWorker:
    """One life of a worker. What happens is collected until somebody takes the report."""

    def __init__(self, slot: str, life: int, limits: WorkerLimits) -> None:
        self.slot, self.worker_id, self.limits = slot, f"{slot}#{life}", limits
        self.table = PageTable(limits.total_pages)
        self.jobs: dict[Key, tuple[Admission, Allocation]] = {}
        self.sequence = 0
        self._told: frozenset[bytes] = frozenset()
        self._clear()

    def _clear(self) -> None:
        self._started: list[AttemptStarted] = []
        self._first: list[Key] = []
        self._finished: list[AttemptFinished] = []
        self._steps: list[StepSample] = []

    def submit(self, admission: Admission) -> None:
        """Take a job up.

        :raises ValueError: there are not enough pages.
        :raises AssertionError: there is no slot.
        """
        tokens = admission.prompt_tokens + admission.max_new_tokens
        assert tokens <= self.limits.context_tokens, "longer than the context"
        assert len(self.jobs) < self.limits.max_batch_size, "more jobs than slots"
        allocation = self.table.allocate(admission.page_hashes, pages_needed(tokens + self.limits.reserve_tokens))
        key = (admission.request_id, admission.attempt)
        self.jobs[key] = (admission, allocation)
        self._started.append(AttemptStarted(*key, allocation.cached_tokens))

    def compute(self, key: Key) -> None:
        """Compute a job's prompt."""
        admission, allocation = self.jobs[key]
        before = allocation.position
        while allocation.position < admission.prompt_tokens - 1:
            self.table.prefill(allocation, admission.prompt_tokens, 2 * PAGE_TOKENS)
        self._steps.append(StepSample(0.05, allocation.position - before, len(self.jobs) - 1))
        self._first.append(key)

    def end(self, key: Key, tokens: int) -> None:
        """A job is done, or was cancelled."""
        self.table.release(self.jobs.pop(key)[1])
        self._finished.append(AttemptFinished(*key, tokens))
        self._steps.append(StepSample(0.02, 0, len(self.jobs) + 1))

    def report(self, *, full: bool) -> StepReport:
        """What happened since the last one, or with `full` the whole truth."""
        self.sequence += 1
        resident = self.table.resident()
        before = frozenset[bytes]() if full else self._told
        report = StepReport(
            worker_id=self.worker_id,
            sequence=self.sequence,
            started=tuple(self._started),
            first_tokens=tuple(self._first),
            finished=tuple(self._finished),
            pages_added=tuple(resident - before),
            pages_evicted=tuple(before - resident),
            full=full,
            running=tuple(self.jobs) if full else None,
            steps=tuple(self._steps),
        )
        self._told = resident
        self._clear()
        return report

    def up(self, *, trial: bool = False) -> WorkerUp:
        """What it tells a scheduler that is new to it."""
        running = tuple(RunningAttempt(admission, 0) for admission, _ in self.jobs.values())
        self._told = self.table.resident()
        return WorkerUp(self.worker_id, self.slot, self.limits, self._told, running, self.sequence, trial)
