"""The dispatcher's mind: `Scheduler.handle(event, now_s)` returns what has to happen.

No I/O, no threads and no clock: the same events give the same actions. Requests and their states are changed here and
nowhere else; `workers.py` does the same for workers, and `refusals.py` decides who is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from actors.messages import Admission, Grant, RefusalReason
from actors.paging.hashes import PAGE_TOKENS
from actors.scheduling import intake
from actors.scheduling.actions import Action, Start
from actors.scheduling.backpressure import WaitEstimator
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.estimates import OutputLengths
from actors.scheduling.events import (
    Cancelled,
    Event,
    Reported,
    Submitted,
    TenantsWeighed,
    Tick,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerLost,
    WorkerSuspected,
    WorkerUp,
)
from actors.scheduling.fair_queue import FairQueue
from actors.scheduling.fleet import Fleet
from actors.scheduling.journal import Entry, Journal
from actors.scheduling.matching import Match, Matchmaker
from actors.scheduling.policies import make_policy
from actors.scheduling.records import Request, RequestState, Worker
from actors.scheduling.refusals import Refusals
from actors.scheduling.statistics import SchedulerStatistics
from actors.scheduling.summary import summarize
from actors.scheduling.validation import validate
from actors.scheduling.workers import WorkerEvents


class Scheduler:
    """Admits, queues and places requests. Not thread-safe: one owner calls it.

    :raises ConfigurationError: there is no such policy.
    """

    def __init__(self, config: SchedulerConfig | None = None) -> None:
        self.config = config or SchedulerConfig()
        policy = make_policy(self.config.policy, self.config.seed)
        self.now_s = 0.0
        self.requests: dict[str, Request] = {}
        self.queue = FairQueue(self.config.tenant_weights)
        self.fleet = Fleet()
        self.matchmaker = Matchmaker(self.queue, self.fleet, policy)
        self.waits = WaitEstimator(self.fleet, self.config.seed)
        self.lengths = OutputLengths()
        self.actions: list[Action] = []
        self.touched: set[int] | None = set()
        """Indexes of workers where room appeared in this event; None: look at everything again."""
        self.counts: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.journal = Journal()
        self._arrived: Request | None = None
        self._foreground_starts = 0
        self.workers = WorkerEvents(self)
        self.refusals = Refusals(self)
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Submitted: self._on_submitted,
            Cancelled: self._on_cancelled,
            TenantsWeighed: self._on_tenants_weighed,
            Tick: self._on_tick,
            WorkerExpected: self.workers.on_expected,
            WorkerLost: self.workers.on_lost,
            WorkerUp: self.workers.on_up,
            WorkerDown: self.workers.on_down,
            WorkerSuspected: self.workers.on_suspected,
            WorkerDraining: self.workers.on_draining,
            Reported: self.workers.on_reported,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take in an event; returns what has to be done, in order.

        `now_s` is of any steady clock. One that steps back, or is no number, is taken to stand still.
        """
        if now_s >= self.now_s and now_s < math.inf:
            self.now_s = now_s
        else:
            self.ignore("clock stepped back or is no time")
        self.touched = set()
        self._handlers[type(event)](event)
        self.refusals.expire()
        self._match()
        if self._arrived is not None and self._arrived in self.queue and len(self.fleet):
            self.refusals.press_back(self._arrived)
        self._arrived = None
        actions, self.actions = self.actions, []
        return actions

    def story(self, request_id: str) -> tuple[Entry, ...]:
        """What happened to a request, when and why, oldest first. Old requests are forgotten."""
        return self.journal.story(request_id)

    def statistics(self, now_s: float) -> SchedulerStatistics:
        """The whole state in numbers, as of `now_s`."""
        return summarize(self, max(now_s, self.now_s))

    def validate(self) -> None:
        """Check the invariants: pages conserved, each request in exactly one state, no worker above its limits.

        :raises AssertionError: one is broken, which is a fault of this package.
        """
        validate(self)

    # Events of requests.

    def _on_submitted(self, event: Submitted) -> None:
        admission = event.admission
        self.counts["submitted"] += 1
        known = self.requests.get(admission.request_id)
        if known is not None and admission.attempt <= known.admission.attempt:
            self.refusals.duplicate(known, admission)
            return
        fault = intake.fault(admission)
        if fault is not None:
            self.refusals.tell(admission.request_id, RefusalReason.INVALID, fault)
            return
        if known is not None:
            self.end(known, "attempt {} is over, attempt {} follows", known.admission.attempt, admission.attempt)
        if not self.refusals.at_the_door(admission):
            self._enqueue(admission)

    def _on_tenants_weighed(self, event: TenantsWeighed) -> None:
        if all(0.0 < weight < math.inf for weight in event.weights.values()):
            self.queue.weigh(event.weights)
        else:
            self.ignore("a weight that is not above 0")

    def _enqueue(self, admission: Admission) -> None:
        timeout_s = math.inf if admission.timeout_s is None else admission.timeout_s
        expected = self.lengths.expected(admission.tenant, admission.max_new_tokens)
        request = Request(
            admission=admission,
            arrived_s=self.now_s,
            deadline_s=self.now_s + min(self.refusals.bound_s(admission), timeout_s),
            expected_tokens=expected,
            work=0.0,
            overtakers=self._foreground_starts,
        )
        request.work = self.waits.work(admission.prompt_tokens, expected, request.own_pages, self.now_s)
        request.work_ahead = self.queue.work_ahead(request)
        self.requests[request.request_id] = self._arrived = request
        self.queue.push(request)
        self.note(request, "attempt {} queued as {}", admission.attempt, admission.priority.value)

    def _on_cancelled(self, event: Cancelled) -> None:
        request = self.requests.get(event.request_id)
        if request is None:
            self.ignore("cancellation of an unknown request")
            return
        self.counts["cancelled"] += 1
        self.end(request, "cancelled while {}", request.state.value)

    def _on_tick(self, event: Tick) -> None:
        self.workers.expire_leases()
        self.workers.repeat_resyncs()
        self.fleet.age_releases()
        self.touched = None

    # What follows every event.

    def _match(self) -> None:
        if not self.queue or not len(self.fleet):
            return
        for match in self.matchmaker.matches(self.now_s, self.touched, self.waits.drain_s(self.queue.work)):
            self._start(match)

    def _start(self, match: Match) -> None:
        request, worker = match
        admission = request.admission
        waited_s = self.now_s - request.arrived_s
        overtaken = request.overtakers != self._foreground_starts and not request.foreground
        if not overtaken and not math.isnan(request.estimated_wait_s):
            self.waits.started(request.estimated_wait_s, waited_s, request.wait_scale)
        self._foreground_starts += request.foreground
        pages = self.fleet.known.leading(admission.page_hashes, 1 << worker.index)
        miss_tokens = admission.prompt_tokens - pages * PAGE_TOKENS
        self._leave_queue(request)
        self.queue.charge_start(request, miss_tokens)
        self.waits.prefilled(admission.prompt_tokens, miss_tokens)
        self.counts["started"] += 1
        self.counts["prompt_tokens"] += admission.prompt_tokens
        self.counts["prefix_hit_tokens"] += pages * PAGE_TOKENS
        self.book(request, worker, RequestState.GRANTED, pages * PAGE_TOKENS)
        self.note(
            request,
            "attempt {} granted on {} after {:.3f} s: {} of {} prompt pages are there, {} others run, {} pages left, "
            "score {:.4g} by {}",
            admission.attempt,
            worker.worker_id,
            waited_s,
            pages,
            len(admission.page_hashes),
            len(worker.attempts) - 1,
            worker.ledger.free_pages,
            request.place_score,
            self.config.policy,
        )
        self.actions.append(Start(Grant(request.request_id, admission.attempt, worker.worker_id)))

    # The only places where a request changes its state.

    def book(self, request: Request, worker: Worker, state: RequestState, cached_tokens: int) -> None:
        """Enter a request into a worker's books as GRANTED or RUNNING."""
        worker.book(request, self.now_s, cached_tokens)
        request.state = state
        self.fleet.changed(worker)

    def end(self, request: Request, why: str, *values: object, output_tokens: float | None = None) -> None:
        """Forget a request, in whatever state it is, and give back all that it holds.

        Its tenant is charged for `output_tokens`; None: nobody knows, so for what it is likely to have had.
        """
        del self.requests[request.request_id]
        worker = request.worker
        if worker is None:
            self._leave_queue(request)
        else:
            if output_tokens is None:
                output_tokens = worker.likely_output_tokens(request, self.now_s)
            self.queue.settle(request, output_tokens)
            worker.release(request)
            self.room_appeared(worker)
        self.note(request, why, *values)

    def _leave_queue(self, request: Request) -> None:
        self.queue.remove(request)
        index = self.matchmaker.forget(request)
        if index is not None:
            self._touch(index)

    def room_appeared(self, worker: Worker) -> None:
        """A worker has more room than before, or another status."""
        self.fleet.changed(worker)
        self._touch(worker.index)
        self.workers.stop_if_empty(worker)

    def _touch(self, index: int) -> None:
        if self.touched is not None:
            self.touched.add(index)

    def note(self, request: Request, template: str, *values: object) -> None:
        """Add a line to a request's story."""
        self.journal.note(request.request_id, self.now_s, template, *values)

    def ignore(self, reason: str) -> None:
        """Count an event, or a part of one, that made no sense."""
        self.ignored[reason] += 1
