"""What workers do: come, report, fall silent, drain and go. Part of the scheduler, see `core.py`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from actors.messages import AttemptFinished, RunningAttempt, StepReport, WorkerLimits
from actors.scheduling import intake
from actors.scheduling.actions import Probe, Resync, StopWorker
from actors.scheduling.events import (
    Reported,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerLost,
    WorkerSuspected,
    WorkerUp,
)
from actors.scheduling.records import Request, RequestState, Worker, WorkerStatus, fits

if TYPE_CHECKING:
    from actors.scheduling.core import Scheduler

RESYNC_RETRY_S = 5.0
"""A resync that is not answered is asked for again after so long."""


class WorkerEvents:
    """Handles the events of workers. `expected` are the slots for which one may come, with the limits of the last."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._fleet = scheduler.fleet
        self.expected: dict[str, WorkerLimits | None] = {}

    def hopeful(self) -> bool:
        """Whether a request that waits may ever be placed."""
        return bool(self.expected) or any(w.status is not WorkerStatus.DRAINING for w in self._fleet)

    def known_limits(self) -> tuple[WorkerLimits, ...]:
        """Limits of the workers that are up or were before they went down; empty while nobody knows."""
        if not self.expected:
            return self._fleet.limits
        return (*self._fleet.limits, *{limits for limits in self.expected.values() if limits is not None})

    # Coming and going.

    def on_expected(self, event: WorkerExpected) -> None:
        if event.slot_name in self._fleet.by_slot:
            self._scheduler.ignore("worker expected in a slot that has one")
            return
        self.expected.setdefault(event.slot_name, None)

    def on_lost(self, event: WorkerLost) -> None:
        worker = self._fleet.by_slot.get(event.slot_name)
        if worker is not None:
            self._remove(worker, event.reason)
        elif event.slot_name not in self.expected:
            self._scheduler.ignore("unknown slot was lost")
        self.expected.pop(event.slot_name, None)
        self._give_up_what_is_hopeless()

    def _give_up_what_is_hopeless(self) -> None:
        if self.hopeful():
            self._scheduler.refusals.oversized()
        else:
            self._scheduler.refusals.everybody()

    def on_up(self, event: WorkerUp) -> None:
        fault = intake.limits_fault(event.limits)
        if event.worker_id in self._fleet.by_id:
            fault = "worker that is up already came up"
        if fault is not None:
            self._scheduler.ignore(fault)
            return
        old = self._fleet.by_slot.get(event.slot_name)
        if old is not None:
            self._remove(old, f"{event.worker_id} has taken its place")
        self.expected.pop(event.slot_name, None)
        worker = self._fleet.add(event.worker_id, event.slot_name, event.limits, event.sequence)
        worker.ledger.add_resident(event.resident_pages)
        for running in event.running:
            self._adopt(worker, running)
        self._scheduler.touched = None
        self._scheduler.refusals.oversized()

    def _adopt(self, worker: Worker, running: RunningAttempt) -> None:
        """Enter an attempt that the worker ran before this scheduler knew of it."""
        admission = running.admission
        known = self._scheduler.requests.get(admission.request_id)
        fault = intake.fault(admission)
        if known is not None and known.admission.attempt > admission.attempt:
            fault = "worker runs an old attempt"
        elif known is not None and known.worker is not None:
            fault = "worker runs an attempt that is booked elsewhere"
        request = Request(admission, self._scheduler.now_s, math.inf, 1.0, 0.0)
        if fault is None and not (fits(admission, worker.limits) and worker.could_start(request)):
            fault = "worker runs more than it can"
        if fault is not None:
            self._scheduler.ignore(fault)
            return
        if known is not None:
            self._scheduler.end(known, "runs already")
        request.expected_tokens = self._scheduler.lengths.expected(admission.tenant, admission.max_new_tokens)
        self._scheduler.requests[request.request_id] = request
        self._scheduler.book(request, worker, RequestState.RUNNING, running.cached_tokens)
        worker.prefilled(request)  # most likely: prefill is a small part of a life
        request.first_token_s = self._scheduler.now_s
        self._fleet.changed(worker)
        self._scheduler.note(request, "attempt {} runs on {}", admission.attempt, worker.worker_id)

    def on_down(self, event: WorkerDown) -> None:
        worker = self._fleet.by_id.get(event.worker_id)
        if worker is None:
            self._scheduler.ignore("unknown worker went down")
            return
        self._remove(worker, event.reason)
        if worker.status is not WorkerStatus.DRAINING:
            self.expected[worker.slot_name] = worker.limits

    def _remove(self, worker: Worker, reason: str) -> None:
        worker.stop_asked = True
        for request in list(worker.attempts.values()):
            self._scheduler.end(request, "worker {} is down: {}", worker.worker_id, reason)
        self._scheduler.matchmaker.worker_gone(worker.index)
        self._fleet.remove(worker)
        self._scheduler.touched = None

    def on_suspected(self, event: WorkerSuspected) -> None:
        worker = self._fleet.by_id.get(event.worker_id)
        if worker is None:
            self._scheduler.ignore("suspicion of an unknown worker")
            return
        if worker.status is WorkerStatus.UP:
            worker.status = WorkerStatus.SUSPECT
            self._fleet.changed(worker)
            self._scheduler.touched = None
        self._scheduler.actions.append(Probe(worker.worker_id))
        self._resync(worker)  # it may be idle, with its last report lost

    def on_draining(self, event: WorkerDraining) -> None:
        worker = self._fleet.by_id.get(event.worker_id)
        if worker is None or worker.status is WorkerStatus.DRAINING:
            self._scheduler.ignore("draining of an unknown or draining worker")
            return
        self._fleet.drain(worker)
        self._scheduler.matchmaker.worker_gone(worker.index)
        self._scheduler.touched = None
        self.stop_if_empty(worker)
        self._give_up_what_is_hopeless()

    def stop_if_empty(self, worker: Worker) -> None:
        """A draining worker that has nothing left to do is to be stopped, once."""
        if worker.status is WorkerStatus.DRAINING and not worker.attempts and not worker.stop_asked:
            worker.stop_asked = True
            self._scheduler.actions.append(StopWorker(worker.worker_id))

    # Reports.

    def on_reported(self, event: Reported) -> None:
        report = event.report
        worker = self._fleet.by_id.get(report.worker_id)
        if worker is None:
            self._scheduler.ignore("report of an unknown worker")
            return
        if report.sequence <= worker.sequence:
            self._scheduler.ignore("report came twice or late")
            return
        if worker.status is WorkerStatus.SUSPECT:
            worker.status = WorkerStatus.UP
        self._take_in(worker, report)
        self._scheduler.room_appeared(worker)

    def _take_in(self, worker: Worker, report: StepReport) -> None:
        gap = report.sequence != worker.sequence + 1
        worker.sequence = report.sequence
        if report.full:
            worker.ledger.replace_resident(report.pages_added)
            worker.resync_asked_s = None
        else:
            worker.ledger.add_resident(report.pages_added)
            worker.ledger.remove_resident(report.pages_evicted)
            if gap:
                self._scheduler.ignore("a report was lost")
            if gap and worker.resync_asked_s is None:
                self._resync(worker)
        worker.model.observe(report.steps)
        worker.progress_prefill(sum(step.prefill_tokens for step in report.steps))
        self._take_in_attempts(worker, report)
        if report.full:
            self._reconcile(worker, report)

    def _resync(self, worker: Worker) -> None:
        worker.resync_asked_s = self._scheduler.now_s
        self._scheduler.actions.append(Resync(worker.worker_id))

    def repeat_resyncs(self) -> None:
        """Ask again where the answer does not come."""
        for worker in self._fleet:
            asked_s = worker.resync_asked_s
            if asked_s is not None and self._scheduler.now_s - asked_s >= RESYNC_RETRY_S:
                self._resync(worker)

    def _take_in_attempts(self, worker: Worker, report: StepReport) -> None:
        now_s = self._scheduler.now_s
        for started in report.started:
            request = self._booked(worker, started.request_id, started.attempt)
            if request is not None:
                request.state = RequestState.RUNNING
                worker.cached(request, started.cached_tokens)
        for request_id, attempt in report.first_tokens:
            request = self._booked(worker, request_id, attempt)
            if request is not None:
                request.state = RequestState.RUNNING
                request.first_token_s = now_s
                worker.prefilled(request)
        for done in report.finished:
            request = self._booked(worker, done.request_id, done.attempt)
            if request is not None:
                self._finish(request, done)

    def _booked(self, worker: Worker, request_id: str, attempt: int) -> Request | None:
        request = worker.attempts.get(request_id)
        if request is None or request.admission.attempt != attempt:
            self._scheduler.ignore("report of an attempt that is not booked")
            return None
        return request

    def _finish(self, request: Request, done: AttemptFinished) -> None:
        tokens = min(max(done.completion_tokens, 0), request.admission.max_new_tokens)
        self._scheduler.counts["finished"] += 1
        if tokens:
            self._scheduler.lengths.observe(request.admission.tenant, tokens, request.admission.max_new_tokens)
        self._scheduler.end(request, "attempt {} finished after {} tokens", done.attempt, tokens, output_tokens=tokens)

    def _reconcile(self, worker: Worker, report: StepReport) -> None:
        """Confirm attempts that the worker holds, and give back those that it had confirmed and does not hold any more:
        their end was in a lost report. One that it has not confirmed may be on its way to it; its lease looks after
        that."""
        if report.running is not None:
            held = set(report.running)
        elif report.active_jobs == 0:
            held = set()
        else:
            return
        for request in list(worker.attempts.values()):
            if (request.request_id, request.admission.attempt) in held:
                request.state = RequestState.RUNNING
            elif request.state is RequestState.RUNNING:
                self._scheduler.end(request, "its end on {} was in a lost report", worker.worker_id)

    def expire_leases(self) -> None:
        """Give back grants that no report confirmed for too long: nobody acts on them."""
        latest_s = self._scheduler.now_s - self._scheduler.config.start_lease_s
        for worker in self._fleet:
            if worker.status is WorkerStatus.SUSPECT:
                continue
            for request in list(worker.prefilling.values()):
                if request.state is RequestState.GRANTED and request.granted_s <= latest_s:
                    self._scheduler.end(request, "its start on {} was never confirmed", worker.worker_id)
