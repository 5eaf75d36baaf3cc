"""How the scheduler says no: at arrival, after a wait, when nobody is left. Part of the scheduler, see `core.py`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from actors.messages import Admission, Refusal, RefusalReason, WorkerLimits
from actors.results import Priority
from actors.scheduling import intake
from actors.scheduling.actions import Refuse
from actors.scheduling.records import Request, fits

if TYPE_CHECKING:
    from actors.scheduling.core import Scheduler

_NO_WORKER = "No worker is up and none is expected to come."


class Refusals:
    """Decides who is refused, and tells it. `counts` has the reasons of all that were."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.counts: Counter[RefusalReason] = Counter()
        self._checked_limits: frozenset[WorkerLimits] = frozenset()
        """Limits of which at least one fits every request that waits; empty while nobody knows any."""

    def tell(self, request_id: str, reason: RefusalReason, message: str, retry_after_s: float | None = None) -> None:
        """Tell a front no. The request must not be known any more, or belong to another submission."""
        scheduler = self._scheduler
        self.counts[reason] += 1
        scheduler.journal.note(request_id, scheduler.now_s, "refused ({}): {}", reason.value, message)
        scheduler.actions.append(Refuse(Refusal(request_id, reason, message, retry_after_s)))

    def bound_s(self, admission: Admission) -> float:
        """The longest that a request of this class may wait, its own time limit aside."""
        config = self._scheduler.config
        return config.max_batch_wait_s if admission.priority is Priority.BATCH else config.max_wait_s

    def _retry_after_s(self) -> float:
        """Until half of the queue, or of the longest wait, will be free."""
        waits = self._scheduler.waits
        wait_s = waits.wait_s(self._scheduler.queue.work, None)
        return waits.retry_after_s(wait_s, min(wait_s, self._scheduler.config.max_wait_s))

    # At arrival.

    def at_the_door(self, admission: Admission) -> bool:
        """Refuse what is well formed and may not wait all the same; returns whether it was refused."""
        scheduler, name = self._scheduler, admission.request_id
        limits = scheduler.workers.known_limits()
        if not scheduler.workers.hopeful():
            self.tell(name, RefusalReason.NO_WORKER, _NO_WORKER)
        elif limits and not any(fits(admission, limit) for limit in limits):
            self.tell(name, RefusalReason.OVERSIZED, intake.size_message(admission, limits))
        elif len(scheduler.queue) >= scheduler.config.max_queued_requests and admission.attempt == 1:
            text = f"{len(scheduler.queue)} requests wait already, which is the bound."
            self.tell(name, RefusalReason.QUEUE_FULL, text, self._retry_after_s())
        else:
            return False
        return True

    def duplicate(self, known: Request, admission: Admission) -> None:
        """What was submitted before is ignored; something else under its name is refused."""
        if admission == known.admission:
            self._scheduler.ignore("submitted again unchanged")
        elif admission.attempt < known.admission.attempt:
            self._scheduler.ignore("submission of an old attempt")
        else:
            text = f"Request {admission.request_id!r}, attempt {admission.attempt}, is {known.state.value} already."
            self.tell(admission.request_id, RefusalReason.DUPLICATE, text)

    def press_back(self, request: Request) -> None:
        """Refuse a request that has just arrived, and has to wait, if it would wait too long."""
        waits = self._scheduler.waits
        place_wait_s = request.place_wait_s if request.wants >= 0 else None
        if place_wait_s is not None:
            waits.looked(place_wait_s)
        request.estimated_wait_s, request.wait_scale = waits.wait_s(request.work_ahead, place_wait_s), waits.scale
        bound_s = request.deadline_s - request.arrived_s
        if request.estimated_wait_s <= bound_s or request.admission.attempt > 1:
            return
        text = (
            f"It would wait about {request.estimated_wait_s:.1f} s for a worker, with "
            f"{len(self._scheduler.queue) - 1} other requests waiting; {bound_s:.1f} s are the most it may."
        )
        retry_after_s = waits.retry_after_s(request.estimated_wait_s, bound_s)
        self._scheduler.end(request, "not admitted")
        self.tell(request.request_id, RefusalReason.WAIT_TOO_LONG, text, retry_after_s)

    # Later.

    def expire(self) -> None:
        """Refuse whoever has waited for as long as it may."""
        scheduler = self._scheduler
        for request in scheduler.queue.expired(scheduler.now_s):
            waited_s = scheduler.now_s - request.arrived_s
            timeout_s = request.admission.timeout_s
            scheduler.end(request, "waited {:.1f} s, which is its limit", waited_s)
            if timeout_s is not None and timeout_s <= self.bound_s(request.admission):
                text = f"It waited {waited_s:.1f} s for a worker; its own time limit was {timeout_s:.1f} s."
                self.tell(request.request_id, RefusalReason.DEADLINE, text)
            else:
                text = f"It waited {waited_s:.1f} s for a worker, the longest that a request may."
                self.tell(request.request_id, RefusalReason.WAIT_TOO_LONG, text, self._retry_after_s())

    def oversized(self) -> None:
        """Workers came or went: refuse whoever waits and fits none of those that there are or will be again."""
        limits = self._scheduler.workers.known_limits()
        if not limits or self._checked_limits == set(limits):
            self._checked_limits = frozenset(limits)
            return
        self._checked_limits = frozenset(limits)
        for request in list(self._scheduler.queue):
            if not any(fits(request.admission, limit) for limit in limits):
                self._scheduler.end(request, "fits no worker")
                text = intake.size_message(request.admission, limits)
                self.tell(request.request_id, RefusalReason.OVERSIZED, text)

    def everybody(self) -> None:
        """Nobody will ever come: refuse whoever waits."""
        for request in list(self._scheduler.queue):
            self._scheduler.end(request, "no worker is left")
            self.tell(request.request_id, RefusalReason.NO_WORKER, _NO_WORKER)
