"""The dispatcher's mind: `Scheduler.handle(event, now_s)` returns what has to happen.

No I/O, no clock, no randomness of its own: the same events give the same actions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from actors.messages import Admission, Grant, Priority, Refusal, RefusalReason, StepReport, WorkerLimits
from actors.paging import pages_needed
from actors.scheduling.actions import Action, Probe, Refuse, Resync, Start, StopWorker
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.events import (
    Cancelled,
    Event,
    Reported,
    Submitted,
    Tick,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerLost,
    WorkerSuspected,
    WorkerUp,
)
from actors.scheduling.journal import Entry, Journal
from actors.scheduling.ledger import Ledger, PageIndex
from actors.scheduling.records import Request, RequestState, Worker, WorkerStatus, fits
from actors.scheduling.statistics import SchedulerStatistics, WaitErrorStatistics, WorkerStatistics

LOOKAHEAD = 16


class Scheduler:
    """Admits, queues and places requests. Not thread-safe: one owner calls it."""

    def __init__(self, config: SchedulerConfig | None = None) -> None:
        self.config = config or SchedulerConfig()
        self._now_s = 0.0
        self._actions: list[Action] = []
        self._journal = Journal()
        self._requests: dict[str, Request] = {}
        self._queue: dict[str, Request] = {}
        self._workers: dict[str, Worker] = {}
        self._expected: dict[str, WorkerLimits | None] = {}
        self._known = PageIndex()
        self._referenced = PageIndex()
        self._free_indexes: list[int] = []
        self._order = 0
        self._submitted = self._started = self._finished = self._cancelled = 0
        self._prompt_tokens = self._hit_tokens = 0
        self._refused: Counter[RefusalReason] = Counter()
        self._ignored: Counter[str] = Counter()
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Submitted: self._on_submitted,
            Cancelled: self._on_cancelled,
            WorkerExpected: self._on_expected,
            WorkerLost: self._on_lost,
            WorkerUp: self._on_up,
            WorkerDown: self._on_down,
            WorkerSuspected: self._on_suspected,
            WorkerDraining: self._on_draining,
            Reported: self._on_reported,
            Tick: self._on_tick,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take in an event at `now_s` seconds of any steady clock; one that steps back is taken to stand still."""
        if math.isfinite(now_s):
            self._now_s = max(self._now_s, now_s)
        self._handlers[type(event)](event)
        self._expire()
        self._place()
        actions, self._actions = self._actions, []
        return actions

    def story(self, request_id: str) -> tuple[Entry, ...]:
        """What happened to a request, oldest first."""
        return self._journal.story(request_id)

    # Requests.

    def _on_submitted(self, event: Submitted) -> None:
        admission = event.admission
        self._submitted += 1
        known = self._requests.get(admission.request_id)
        if known is not None:
            if admission.attempt <= known.admission.attempt:
                self._duplicate(known, admission)
                return
            self._end(known, f"attempt {known.admission.attempt} is over, attempt {admission.attempt} follows")
        fault = _fault(admission)
        if fault is not None:
            self._refuse(admission.request_id, RefusalReason.INVALID, fault)
        elif not self._workers and not self._expected:
            self._refuse(admission.request_id, RefusalReason.NO_WORKER, "No worker is up and none is expected.")
        elif self._oversized(admission):
            self._refuse(admission.request_id, RefusalReason.OVERSIZED, self._size_message(admission))
        elif len(self._queue) >= self.config.max_queued_requests:
            text = f"{len(self._queue)} requests wait already, which is the bound."
            self._refuse(admission.request_id, RefusalReason.QUEUE_FULL, text, 1.0)
        else:
            self._enqueue(admission)

    def _duplicate(self, known: Request, admission: Admission) -> None:
        if admission == known.admission:
            self._ignore("submitted again unchanged")
        elif admission.attempt < known.admission.attempt:
            self._ignore("submission of an old attempt")
        else:
            text = f"Request {admission.request_id!r} attempt {admission.attempt} is {known.state} already."
            self._refuse(admission.request_id, RefusalReason.DUPLICATE, text)

    def _enqueue(self, admission: Admission) -> None:
        bound_s = self.config.max_batch_wait_s if admission.priority is Priority.BATCH else self.config.max_wait_s
        timeout_s = math.inf if admission.timeout_s is None else admission.timeout_s
        self._order += 1
        request = Request(admission, self._now_s, self._now_s + min(bound_s, timeout_s), self._order)
        self._requests[admission.request_id] = self._queue[admission.request_id] = request
        self._journal.note(admission.request_id, self._now_s, "attempt {} queued", admission.attempt)

    def _refuse(self, request_id: str, reason: RefusalReason, message: str, retry_after_s: float | None = None) -> None:
        self._refused[reason] += 1
        self._journal.note(request_id, self._now_s, "refused ({}): {}", reason.value, message)
        self._actions.append(Refuse(Refusal(request_id, reason, message, retry_after_s)))

    def _ignore(self, reason: str) -> None:
        self._ignored[reason] += 1

    def _oversized(self, admission: Admission) -> bool:
        limits = self._known_limits()
        return bool(limits) and not any(fits(admission, limit) for limit in limits)

    def _known_limits(self) -> list[WorkerLimits]:
        return [w.limits for w in self._workers.values()] + [limit for limit in self._expected.values() if limit]

    def _size_message(self, admission: Admission) -> str:
        limits = self._known_limits()
        tokens = admission.prompt_tokens + admission.max_new_tokens
        return (
            f"{admission.prompt_tokens} prompt tokens and {admission.max_new_tokens} new ones need "
            f"{pages_needed(tokens)} pages of 256 tokens; the largest worker has {max(x.total_pages for x in limits)} "
            f"pages and a context of {max(x.context_tokens for x in limits)} tokens."
        )

    def _on_cancelled(self, event: Cancelled) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            self._ignore("cancellation of an unknown request")
            return
        self._cancelled += 1
        self._end(request, "cancelled")

    def _end(self, request: Request, why: str) -> None:
        """Forget a request and give back what it holds."""
        del self._requests[request.request_id]
        self._queue.pop(request.request_id, None)
        worker = request.worker
        if worker is not None and request.booking is not None:
            worker.ledger.release(request.booking)
            worker.outstanding_tokens -= request.tokens
            del worker.attempts[request.request_id]
            self._stop_if_empty(worker)
        self._journal.note(request.request_id, self._now_s, "{}", why)

    # Workers.

    def _on_expected(self, event: WorkerExpected) -> None:
        self._expected.setdefault(event.slot_name, None)

    def _on_lost(self, event: WorkerLost) -> None:
        for worker in [w for w in self._workers.values() if w.slot_name == event.slot_name]:
            self._remove(worker, event.reason)
        self._expected.pop(event.slot_name, None)
        self._refuse_all_if_hopeless()

    def _refuse_all_if_hopeless(self) -> None:
        if self._expected or any(w.status is not WorkerStatus.DRAINING for w in self._workers.values()):
            return
        for request in list(self._queue.values()):
            self._end(request, "no worker is left")
            self._refuse(request.request_id, RefusalReason.NO_WORKER, "No worker is up and none is expected.")

    def _on_up(self, event: WorkerUp) -> None:
        if event.worker_id in self._workers:
            self._ignore("worker that is up already came up")
            return
        for old in [w for w in self._workers.values() if w.slot_name == event.slot_name]:
            self._remove(old, f"replaced by {event.worker_id}")
        self._expected.pop(event.slot_name, None)
        index = self._free_indexes.pop() if self._free_indexes else len(self._workers)
        ledger = Ledger(event.limits.total_pages, 1 << index, self._known, self._referenced)
        ledger.add_resident(event.resident_pages)
        worker = Worker(event.worker_id, event.slot_name, event.limits, ledger, index, event.sequence)
        self._workers[event.worker_id] = worker
        for running in event.running:
            self._adopt(worker, running.admission)

    def _adopt(self, worker: Worker, admission: Admission) -> None:
        known = self._requests.get(admission.request_id)
        if known is not None and known.admission.attempt > admission.attempt:
            self._ignore("worker runs an old attempt")
            return
        if known is not None:
            self._end(known, "runs already")
        self._order += 1
        request = Request(admission, self._now_s, math.inf, self._order)
        self._requests[admission.request_id] = request
        self._book(request, worker)
        request.state = RequestState.RUNNING
        self._journal.note(admission.request_id, self._now_s, "runs on {}", worker.worker_id)

    def _on_down(self, event: WorkerDown) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None:
            self._ignore("unknown worker went down")
            return
        self._remove(worker, event.reason)
        self._expected[worker.slot_name] = worker.limits

    def _remove(self, worker: Worker, reason: str) -> None:
        del self._workers[worker.worker_id]
        worker.stop_asked = True
        for request in list(worker.attempts.values()):
            self._end(request, f"worker {worker.worker_id} is down: {reason}")
        worker.ledger.close()
        self._free_indexes.append(worker.index)

    def _on_suspected(self, event: WorkerSuspected) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.status is WorkerStatus.SUSPECT:
            self._ignore("suspicion of an unknown or suspected worker")
            return
        if worker.status is WorkerStatus.UP:
            worker.status = WorkerStatus.SUSPECT
        self._actions.append(Probe(worker.worker_id))

    def _on_draining(self, event: WorkerDraining) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.status is WorkerStatus.DRAINING:
            self._ignore("draining of an unknown or draining worker")
            return
        worker.status = WorkerStatus.DRAINING
        self._stop_if_empty(worker)
        self._refuse_all_if_hopeless()

    def _stop_if_empty(self, worker: Worker) -> None:
        if worker.status is WorkerStatus.DRAINING and not worker.attempts and not worker.stop_asked:
            worker.stop_asked = True
            self._actions.append(StopWorker(worker.worker_id))

    def _on_reported(self, event: Reported) -> None:
        report = event.report
        worker = self._workers.get(report.worker_id)
        if worker is None:
            self._ignore("report of an unknown worker")
            return
        if worker.status is WorkerStatus.SUSPECT:
            worker.status = WorkerStatus.UP
        if report.sequence <= worker.sequence:
            self._ignore("report came twice")
            return
        self._reconcile_pages(worker, report)
        worker.sequence = report.sequence
        for started in report.started:
            request = worker.attempts.get(started.request_id)
            if request is None or request.admission.attempt != started.attempt:
                self._ignore("start of an attempt that is not booked")
                continue
            request.state = RequestState.RUNNING
        for done in report.finished:
            request = worker.attempts.get(done.request_id)
            if request is None or request.admission.attempt != done.attempt:
                self._ignore("end of an attempt that is not booked")
                continue
            self._finished += 1
            self._end(request, f"finished after {done.completion_tokens} tokens")

    def _reconcile_pages(self, worker: Worker, report: StepReport) -> None:
        if report.full:
            worker.ledger.replace_resident(report.pages_added)
            worker.resync_asked = False
            return
        if report.sequence != worker.sequence + 1 and not worker.resync_asked:
            worker.resync_asked = True
            self._actions.append(Resync(worker.worker_id))
        worker.ledger.add_resident(report.pages_added)
        worker.ledger.remove_resident(report.pages_evicted)

    # Time and placement.

    def _on_tick(self, event: Tick) -> None:
        for worker in self._workers.values():
            for request in list(worker.attempts.values()):
                overdue = self._now_s - request.granted_s > self.config.start_lease_s
                if request.state is RequestState.GRANTED and overdue:
                    self._end(request, f"its start on {worker.worker_id} was never confirmed")

    def _expire(self) -> None:
        for request in [r for r in self._queue.values() if r.deadline_s <= self._now_s]:
            waited_s = self._now_s - request.arrived_s
            self._end(request, "deadline")
            text = f"It waited {waited_s:.1f} s without a place, which is its time limit."
            self._refuse(request.request_id, RefusalReason.DEADLINE, text)

    def _place(self) -> None:
        if not self._workers:
            return
        for looked_at, request in enumerate(list(self._queue.values())):
            if looked_at >= LOOKAHEAD:
                return
            worker = self._choose(request)
            if worker is not None:
                self._start(request, worker)

    def _choose(self, request: Request) -> Worker | None:
        able = [w for w in self._workers.values() if fits(request.admission, w.limits)]
        preferred = [w for w in able if w.worker_id not in request.admission.excluded_workers]
        ready = [w for w in preferred or able if w.status is WorkerStatus.UP and self._startable(request, w)]
        return min(ready, key=lambda w: (w.outstanding_tokens, w.index), default=None)

    def _startable(self, request: Request, worker: Worker) -> bool:
        taken = worker.ledger.pages_to_take(worker.pages_for(request), request.admission.page_hashes)
        return worker.free_slots > 0 and taken <= worker.ledger.free_pages

    def _start(self, request: Request, worker: Worker) -> None:
        del self._queue[request.request_id]
        self._started += 1
        admission = request.admission
        hits = self._known.leading(admission.page_hashes, 1 << worker.index)
        self._prompt_tokens += admission.prompt_tokens
        self._hit_tokens += hits * 256
        self._book(request, worker)
        request.state = RequestState.GRANTED
        self._journal.note(
            request.request_id,
            self._now_s,
            "attempt {} granted on {}, {} of its {} prompt pages are resident",
            admission.attempt,
            worker.worker_id,
            hits,
            len(admission.page_hashes),
        )
        self._actions.append(Start(Grant(request.request_id, admission.attempt, worker.worker_id)))

    def _book(self, request: Request, worker: Worker) -> None:
        request.worker = worker
        request.granted_s = self._now_s
        request.booking, _ = worker.ledger.book(worker.pages_for(request), request.admission.page_hashes)
        worker.outstanding_tokens += request.tokens
        worker.attempts[request.request_id] = request

    def statistics(self, now_s: float) -> SchedulerStatistics:
        """The whole state in numbers at `now_s`."""
        oldest_s = min((r.arrived_s for r in self._queue.values()), default=now_s)
        return SchedulerStatistics(
            policy=self.config.policy,
            now_s=now_s,
            queued_requests=Counter(r.admission.priority for r in self._queue.values()),
            running_requests=len(self._requests) - len(self._queue),
            oldest_wait_s=max(now_s - oldest_s, 0.0),
            estimated_wait_s=0.0,
            submitted=self._submitted,
            started=self._started,
            finished=self._finished,
            cancelled=self._cancelled,
            refused=dict(self._refused),
            ignored=dict(self._ignored),
            prompt_tokens=self._prompt_tokens,
            prefix_hit_tokens=self._hit_tokens,
            est_wait_error=WaitErrorStatistics(),
            workers=tuple(_worker_statistics(w) for w in self._workers.values()),
            tenants=(),
            expected_slots=tuple(self._expected),
        )


def _worker_statistics(worker: Worker) -> WorkerStatistics:
    return WorkerStatistics(
        worker_id=worker.worker_id,
        slot_name=worker.slot_name,
        state=worker.status.value,
        attempts=len(worker.attempts),
        max_batch_size=worker.limits.max_batch_size,
        total_pages=worker.ledger.total_pages,
        free_pages=worker.ledger.free_pages,
        resident_pages=len(worker.ledger.resident),
        pending_prefill_tokens=0,
        step_base_s=0.0,
        step_per_job_s=0.0,
        prefill_s_per_token=0.0,
    )


def _fault(admission: Admission) -> str | None:
    """What is wrong with an admission, or None."""
    if admission.attempt < 1:
        return f"attempt must be at least 1, not {admission.attempt}."
    if admission.prompt_tokens < 1:
        return f"prompt_tokens must be at least 1, not {admission.prompt_tokens}."
    if admission.max_new_tokens < 1:
        return f"max_new_tokens must be at least 1, not {admission.max_new_tokens}."
    if admission.timeout_s is not None and not admission.timeout_s > 0:
        return f"timeout_s must be above 0, not {admission.timeout_s}."
    pages = len(admission.page_hashes)
    if pages > (admission.prompt_tokens - 1) // 256:
        return f"{pages} page hashes are too many for {admission.prompt_tokens} prompt tokens."
    if len(set(admission.page_hashes)) != pages:
        return "A page hash occurs twice."
    return None
