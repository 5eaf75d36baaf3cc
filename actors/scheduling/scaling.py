"""How many workers a pool should have: more when requests would wait too long, fewer when they are not needed. Pure,
like the rest of this package: `Scaling.target(now_s, load)` says it.

It grows when the wait that is foreseen, or that somebody has had, is beyond a bound and stays so for a moment; by as
much as the wait is too long, but no more than twofold, and not again before the new ones can generate. It shrinks to
what the load of the last while would have fitted on with room to spare. A new worker counts as needed when it comes,
so it stays for at least that while: nothing flaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.scheduling.state import SchedulerState

HOLD_S = 2.0
"""The wait has to be too long for so long: a burst that is over by then needs no worker."""
FULL_SHARE = 0.6
"""A pool is small enough when this share of its slots or pages is in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a pool has to do at a moment. `workers` are those that are to stay; `starting` of them cannot generate yet.
    `needed` workers would hold what runs, with room to spare."""

    workers: int
    starting: int
    queued: int
    wait_s: float
    needed: int


class Scaling:
    """Decides for one pool, between `min_workers` and `max_workers`."""

    def __init__(self, *, min_workers: int, max_workers: int, up_wait_s: float, down_after_s: float) -> None:
        self._min_workers = min_workers
        self._max_workers = max_workers
        self._up_wait_s = up_wait_s
        self._down_after_s = down_after_s
        self._too_long_since_s: float | None = None
        self._last_needed_s: dict[int, float] = {}
        """When so many workers, or more, were needed last."""

    def target(self, now_s: float, load: Load) -> int:
        """How many workers there should be now."""
        wanted = self._grown(now_s, load)
        needed = load.workers if load.queued else min(load.needed, load.workers)
        for count in range(1, max(wanted, load.workers) + 1):
            if count <= needed or count > load.workers or count not in self._last_needed_s:
                self._last_needed_s[count] = now_s
        if wanted > load.workers:
            return wanted
        lately = [count for count, at_s in self._last_needed_s.items() if now_s - at_s < self._down_after_s]
        return max(min(max(lately, default=0), load.workers), self._min_workers)

    def _grown(self, now_s: float, load: Load) -> int:
        """With as many more as the wait asks for."""
        if load.workers == 0 and load.queued:
            return 1
        if load.starting or not load.queued or load.wait_s <= self._up_wait_s:
            self._too_long_since_s = None
            return load.workers
        if self._too_long_since_s is None:
            self._too_long_since_s = now_s
        if now_s - self._too_long_since_s < HOLD_S:
            return load.workers
        self._too_long_since_s = None
        wanted = min(math.ceil(load.workers * load.wait_s / self._up_wait_s), 2 * load.workers, self._max_workers)
        return max(wanted, load.workers)

    def __repr__(self) -> str:
        return f"<Scaling between {self._min_workers} and {self._max_workers} workers>"


def load_of(state: SchedulerState, now_s: float, *, workers: int, starting: int) -> Load:
    """What a scheduler's requests ask of its pool. Costs time in proportion to what waits: for now and then."""
    fleet, queue = state.fleet, state.queue
    oldest_s = max((now_s - request.arrived_s for request in queue), default=0.0)
    foreseen_s = state.waits.wait_s(queue.work, None) if queue else 0.0
    slots = sum(worker.limits.max_batch_size for worker in fleet)
    pages = sum(worker.ledger.total_pages for worker in fleet)
    needed = 0
    if slots and pages:
        taken = sum(len(worker.attempts) for worker in fleet) / slots
        used = sum(worker.ledger.used_pages for worker in fleet) / pages
        needed = math.ceil(len(fleet) * max(taken, used) / FULL_SHARE)
    return Load(workers=workers, starting=starting, queued=len(queue), wait_s=max(oldest_s, foreseen_s), needed=needed)
