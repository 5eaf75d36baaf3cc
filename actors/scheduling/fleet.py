"""All workers that are up, as objects and as columns of numbers: placement looks at a thousand of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from actors.messages import WorkerLimits
from actors.scheduling.estimates import DEFAULT_TIMES, StepModel, StepTimes
from actors.scheduling.ledger import Ledger, PageIndex
from actors.scheduling.records import Worker, WorkerStatus, most_tokens

Floats = NDArray[np.float64]

PROFILE_STEPS = 32
"""Ends of attempts that a worker's column of expected releases holds; more are told in groups."""


class Column(IntEnum):
    """Rows of `Fleet.state`; a column of it is a worker."""

    UP = 0
    CONTEXT_TOKENS = 1
    TOTAL_PAGES = 2
    RESERVE_TOKENS = 3
    FREE_PAGES = 4
    FREE_SLOTS = 5
    BATCH = 6
    PENDING_PREFILL = 7
    BASE_S = 8
    PER_JOB_S = 9
    PREFILL_S = 10
    OUTSTANDING = 11
    FOREGROUND_PAGES = 12
    FOREGROUND_SLOTS = 13
    PEAK_PAGES = 14
    PEAK_SLOTS = 15
    PEAK_AT_S = 16
    BACKGROUND_PREFILLS = 17
    PREFILLS = 18


class Fleet:
    """The workers by id and by index. Whoever changes a worker calls `changed` afterwards."""

    def __init__(self) -> None:
        self.known = PageIndex()
        self.referenced = PageIndex()
        self.by_id: dict[str, Worker] = {}
        self.by_slot: dict[str, Worker] = {}
        self.by_index: list[Worker | None] = []
        self.draining: list[Worker] = []
        """Workers that are being emptied, in the order in which that began."""
        self.state: Floats = np.zeros((len(Column), 8))
        self.release_s: Floats = np.full((PROFILE_STEPS, 8), np.inf)
        self.release_pages: Floats = np.zeros((PROFILE_STEPS, 8))
        self._stale: set[Worker] = set()
        self._limits: Counter[WorkerLimits] = Counter()
        self._free_indexes: list[int] = []

    def __len__(self) -> int:
        return len(self.by_id)

    def __repr__(self) -> str:
        return f"<Fleet: {', '.join(map(repr, self)) or 'empty'}>"

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.by_id.values())

    @property
    def limits(self) -> tuple[WorkerLimits, ...]:
        """The different limits of workers that are not being emptied."""
        return tuple(self._limits)

    def sizes_tokens(self) -> dict[int, int]:
        """How many of the workers that are not being emptied take requests of at most so many tokens."""
        sizes: dict[int, int] = {}
        for limits, count in self._limits.items():
            tokens = most_tokens(limits, limits.total_pages)
            sizes[tokens] = sizes.get(tokens, 0) + count
        return sizes

    def add(
        self, worker_id: str, slot_name: str, limits: WorkerLimits, sequence: int, *, on_trial: bool = False
    ) -> Worker:
        """Enter a new worker. Neither its id nor its slot may be in use."""
        index = self._free_indexes.pop() if self._free_indexes else len(self.by_index)
        if index == len(self.by_index):
            self.by_index.append(None)
            self._grow(index + 1)
        ledger = Ledger(limits.total_pages, 1 << index, self.known, self.referenced)
        worker = Worker(worker_id, slot_name, limits, ledger, index, sequence, StepModel(self.mean_times()))
        worker.on_trial = on_trial
        self.by_id[worker_id] = self.by_slot[slot_name] = worker
        self.by_index[index] = worker
        self._limits[limits] += 1
        self.changed(worker)
        return worker

    def remove(self, worker: Worker) -> None:
        """Forget a worker, whose attempts must have been released."""
        worker.ledger.close()
        del self.by_id[worker.worker_id]
        del self.by_slot[worker.slot_name]
        self.by_index[worker.index] = None
        self.state[:, worker.index] = 0.0
        self._stale.discard(worker)
        self._free_indexes.append(worker.index)
        if worker.status is WorkerStatus.DRAINING:
            self.draining.remove(worker)
        else:
            self._forget_limits(worker)

    def drain(self, worker: Worker) -> None:
        """Nothing may be placed on this worker any more."""
        worker.status = WorkerStatus.DRAINING
        self.draining.append(worker)
        self._forget_limits(worker)
        self.changed(worker)

    def keep(self, worker: Worker) -> None:
        """A worker that was being emptied may be used again."""
        worker.status = WorkerStatus.UP
        self.draining.remove(worker)
        self._limits[worker.limits] += 1
        self.changed(worker)

    def _forget_limits(self, worker: Worker) -> None:
        self._limits[worker.limits] -= 1
        if not self._limits[worker.limits]:
            del self._limits[worker.limits]

    def changed(self, worker: Worker) -> None:
        """Bring a worker's numbers up to date."""
        limits, ledger, times = worker.limits, worker.ledger, worker.model.times
        batch = len(worker.attempts)
        self._stale.add(worker)
        self.state[:, worker.index] = (
            worker.status is WorkerStatus.UP,
            limits.context_tokens,
            limits.total_pages,
            limits.reserve_tokens,
            ledger.total_pages - ledger.used_pages,
            worker.most_attempts - batch,
            batch,
            worker.pending_prefill_tokens,
            times.base_s,
            times.per_job_s,
            times.prefill_s,
            worker.outstanding_tokens,
            worker.foreground_pages,
            worker.foreground_slots,
            worker.peak_pages,
            worker.peak_slots,
            worker.peak_at_s,
            worker.background_prefills,
            len(worker.prefilling),
        )

    def refresh_releases(self, now_s: float) -> None:
        """Bring the expected releases of all changed workers up to date."""
        for worker in self._stale:
            self._profile(worker, now_s)
        self._stale.clear()

    def age_releases(self) -> None:
        """Time went by without news: have all expected releases looked at again."""
        self._stale.update(worker for worker in self.by_id.values() if worker.attempts)

    def _profile(self, worker: Worker, now_s: float) -> None:
        ends = worker.expected_ends(now_s)
        group = -(-len(ends) // PROFILE_STEPS) or 1
        times = [end_s for end_s, _ in ends[group - 1 :: group]]
        total, sums = 0, []
        for _, pages in ends:
            total += pages
            sums.append(total)
        index, count = worker.index, len(times)
        self.release_s[:, index] = np.inf
        self.release_s[:count, index] = times
        self.release_pages[:, index] = worker.limits.total_pages
        self.release_pages[:count, index] = sums[group - 1 :: group]
        if count:  # when the last attempt ends, everything is free, whatever was shared
            self.release_s[count - 1, index] = ends[-1][0]
            self.release_pages[count - 1, index] = worker.limits.total_pages

    def column(self, row: Column) -> Floats:
        return self.state[row, : len(self.by_index)]

    def any_slot(self) -> bool:
        """Whether any worker could take one more attempt, pages aside."""
        return bool(((self.column(Column.UP) > 0.0) & (self.column(Column.FREE_SLOTS) > 0.0)).any())

    def mean_times(self) -> StepTimes:
        """The mean speed of workers that are up."""
        if not self.by_id:
            return DEFAULT_TIMES
        base_s, per_job_s, prefill_s = (
            float(self.column(row).sum()) / len(self.by_id)
            for row in (Column.BASE_S, Column.PER_JOB_S, Column.PREFILL_S)
        )
        return StepTimes(base_s, per_job_s, prefill_s)

    def _grow(self, workers: int) -> None:
        size = self.state.shape[1]
        if workers <= size:
            return
        self.state = np.pad(self.state, ((0, 0), (0, size)))
        self.release_s = np.pad(self.release_s, ((0, 0), (0, size)), constant_values=np.inf)
        self.release_pages = np.pad(self.release_pages, ((0, 0), (0, size)))
