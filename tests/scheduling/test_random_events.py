"""Random fronts, workers, clocks and accidents round one scheduler. After every event its invariants hold, and workers
with real page tables take everything that it starts; in the end every request had one outcome and nothing is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.messages import (
    Admission,
    AttemptFinished,
    AttemptStarted,
    Refusal,
    RefusalReason,
    StepReport,
    StepSample,
    WorkerLimits,
)
from actors.results import Priority
from actors.scheduling import matching
from actors.scheduling.actions import Probe, Refuse, Resync, Start, StopWorker
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
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
from actors.scheduling.policies import POLICIES
from actors.scheduling.records import RequestState
from tests.scheduling.pool import LIMITS, admission
from tests.scheduling.real_worker import Key, RealWorker

SLOTS = ("a", "b", "c")
LEASE_S = 3000.0
"""Longer than any test goes on, so that only the starts of fronts that are gone run out."""
CONFIG = SchedulerConfig(
    max_queued_requests=12, max_wait_s=120.0, max_batch_wait_s=240.0, start_lease_s=LEASE_S, seed=3
)
PAGES, BATCHES = (4, 12, 16), (1, 3, 8)
HOW = st.sampled_from(["heard", "heard", "heard", "lost", "twice"])
CHAINS = st.text("pq", max_size=4)
NONSENSE = (
    WorkerDown("x#1", "who?"),
    WorkerSuspected("x#1"),
    WorkerDraining("x#1"),
    WorkerLost("x", "who?"),
    WorkerUp("a#0", "a", replace(LIMITS, total_pages=-1)),
    Cancelled("nobody"),
    TenantsWeighed({"x": -1.0}),
)
AT_ONCE = (RefusalReason.INVALID, RefusalReason.DUPLICATE)


@dataclass(eq=False)
class Front:
    """A request as its front knows it."""

    admission: Admission
    ghost: bool
    """The front is gone: it never acts on a grant."""
    state: str = "waiting"
    """waiting, placed, orphaned (its worker died), or an outcome."""
    worker: RealWorker | None = None

    @property
    def key(self) -> Key:
        return self.admission.request_id, self.admission.attempt


class RandomEvents(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        many=st.sampled_from([2, 64]),
        max_skips=st.sampled_from([1, 3]),
        workers=st.lists(st.tuples(st.sampled_from(PAGES), st.sampled_from(BATCHES)), min_size=1, max_size=3),
    )
    def begin(self, policy: str, many: int, max_skips: int, workers: list[tuple[int, int]]) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(matching, "MANY_WORKERS", many)
        self.patch.setattr(matching, "MAX_SKIPS", max_skips)
        self.config = replace(CONFIG, policy=policy)
        self.scheduler = Scheduler(self.config)
        self.now_s = 0.0
        self.fronts: dict[str, Front] = {}
        self.workers: dict[str, RealWorker] = {}
        self.lives = 0
        self.barred: set[str] = set()
        """Ids of workers that are suspect or draining."""
        self.draining: set[str] = set()
        self.resyncs: set[str] = set()
        self.sent: list[StepReport] = []
        self.stopped: list[str] = []
        for slot, (total_pages, max_batch_size) in zip(SLOTS, workers, strict=False):
            self._come_up(slot, replace(LIMITS, total_pages=total_pages, max_batch_size=max_batch_size))

    # What the scheduler says.

    def handle(self, event: Event, now_s: float | None = None) -> list[Refusal]:
        """Returns what it refuses at once, which is about a submission, not about a request."""
        at_once = []
        for action in self.scheduler.handle(event, self.now_s if now_s is None else now_s):
            match action:
                case Start():
                    self._start(action)
                case Refuse(refusal) if refusal.reason in AT_ONCE:
                    at_once.append(refusal)
                case Refuse(refusal):
                    front = self.fronts[refusal.request_id]
                    assert front.state == "waiting", "refused, although it does not wait"
                    front.state = "refused"
                case Resync(worker_id):
                    self.resyncs.add(worker_id)
                case Probe(worker_id):
                    assert worker_id in self.barred
                case StopWorker(worker_id):
                    assert worker_id in self.draining
                    assert worker_id not in self.stopped, "stopped twice"
                    self.stopped.append(worker_id)
        self.scheduler.validate()
        return at_once

    def _start(self, action: Start) -> None:
        front = self.fronts[action.grant.request_id]
        assert front.state == "waiting", "started, although it does not wait"
        assert front.key == (action.grant.request_id, action.grant.attempt)
        worker = next(w for w in self.workers.values() if w.worker_id == action.grant.worker_id)
        assert worker.worker_id not in self.barred, "started on a worker that nothing may be placed on"
        front.state, front.worker = "placed", worker
        if not front.ghost:
            worker.submit(front.admission)

    def _of(self, *states: str) -> list[Front]:
        return [front for front in self.fronts.values() if front.state in states]

    # Fronts.

    @rule(
        several=st.lists(st.tuples(CHAINS, st.sampled_from([1, 1, 200, 700, 2000])), min_size=1, max_size=8),
        tail=st.sampled_from([1, 100, 255]),
        priority=st.sampled_from(list(Priority)),
        tenant=st.sampled_from(["x", "y"]),
        timeout_s=st.sampled_from([None, None, 0.01, 20.0]),
        excluded=st.sampled_from([(), (), ("a#1", "b#2")]),
        ghost=st.sampled_from([False, False, False, True]),
    )
    def submit(
        self, several: list[tuple[str, int]], tail: int, *, ghost: bool, excluded: tuple[str, ...], **fields: Any
    ) -> None:
        for chain, new_tokens in several:
            name = f"r{len(self.fronts)}"
            asked = admission(
                name,
                256 * len(chain) + tail,
                new_tokens,
                page_hashes=tuple(chain[: length + 1].encode() for length in range(len(chain))),
                excluded_workers=frozenset(excluded),
                **fields,
            )
            self.fronts[name] = Front(asked, ghost)
            assert self.handle(Submitted(asked)) == []

    @rule(
        fields=st.sampled_from(
            [
                {"prompt_tokens": 0},
                {"prompt_tokens": -300},
                {"max_new_tokens": -1},
                {"attempt": 0},
                {"timeout_s": -1.0},
                {"page_hashes": (b"p", b"p")},
            ]
        )
    )
    def submit_nonsense(self, fields: dict[str, Any]) -> None:
        (refusal,) = self.handle(Submitted(admission("nonsense", **fields)))
        assert refusal.reason is RefusalReason.INVALID

    @precondition(lambda self: self._of("waiting", "placed"))
    @rule(data=st.data(), how=st.sampled_from(["unchanged", "changed", "older"]))
    def submit_again(self, data: st.DataObject, how: str) -> None:
        asked = data.draw(st.sampled_from(self._of("waiting", "placed"))).admission
        known = asked.request_id in self.scheduler.requests
        if how == "changed" and known:
            (refusal,) = self.handle(Submitted(replace(asked, max_new_tokens=asked.max_new_tokens + 1)))
            assert refusal.reason is RefusalReason.DUPLICATE
        elif how == "older" and asked.attempt > 1 and known:
            assert self.handle(Submitted(replace(asked, attempt=asked.attempt - 1))) == []
        elif known:
            assert self.handle(Submitted(asked)) == []

    @precondition(lambda self: self._of("orphaned", "placed"))
    @rule(data=st.data(), exclude=st.booleans())
    def retry(self, data: st.DataObject, exclude: bool) -> None:
        """A front gives an attempt up, or lost it, and asks for the next one."""
        front = data.draw(st.sampled_from(self._of("orphaned", "placed")))
        self._drop(front)
        excluded = {front.worker.worker_id} if exclude and front.worker is not None else set()
        asked = front.admission
        front.admission = replace(
            asked, attempt=asked.attempt + 1, excluded_workers=asked.excluded_workers | frozenset(excluded)
        )
        front.state, front.worker = "waiting", None
        assert self.handle(Submitted(front.admission)) == []

    @precondition(lambda self: self._of("waiting", "placed"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        front = data.draw(st.sampled_from(self._of("waiting", "placed")))
        self._drop(front)
        front.state = "cancelled"
        self.handle(Cancelled(front.admission.request_id))

    def _drop(self, front: Front) -> None:
        """A front tells the worker to stop."""
        if front.worker is not None and front.key in front.worker.jobs:
            front.worker.end(front.key, 0)

    # Workers.

    @rule(
        slot=st.sampled_from(SLOTS),
        total_pages=st.sampled_from(PAGES),
        max_batch_size=st.sampled_from(BATCHES),
        reserve_tokens=st.sampled_from([0, 0, 5]),
    )
    def come_up(self, slot: str, total_pages: int, max_batch_size: int, reserve_tokens: int) -> None:
        limits = replace(LIMITS, total_pages=total_pages, max_batch_size=max_batch_size, reserve_tokens=reserve_tokens)
        self._come_up(slot, limits)

    def _come_up(self, slot: str, limits: WorkerLimits) -> None:
        self.lives += 1
        self._die(slot)
        worker = self.workers[slot] = RealWorker(slot, self.lives, limits)
        self.handle(worker.up())

    def _die(self, slot: str) -> None:
        worker = self.workers.pop(slot, None)
        for front in self._of("placed"):
            if front.worker is worker and worker is not None:
                front.state = "orphaned" if front.key in worker.jobs else "ended"

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), restarted=st.sampled_from([True, True, False]))
    def die(self, data: st.DataObject, restarted: bool) -> None:
        worker = data.draw(st.sampled_from(list(self.workers.values())))
        self._die(worker.slot)
        self.handle(WorkerDown(worker.worker_id, "it burned"))
        self.handle(WorkerExpected(worker.slot) if restarted else WorkerLost(worker.slot, "for good"))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), event=st.sampled_from([WorkerSuspected, WorkerDraining]))
    def bar(self, data: st.DataObject, event: type[WorkerSuspected] | type[WorkerDraining]) -> None:
        worker_id = data.draw(st.sampled_from(list(self.workers.values()))).worker_id
        self.barred.add(worker_id)
        if event is WorkerDraining:
            self.draining.add(worker_id)
        self.handle(event(worker_id))

    @rule(event=st.sampled_from(NONSENSE))
    def speak_nonsense(self, event: Event) -> None:
        self.handle(event)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(slot=st.sampled_from(SLOTS))
    def lose(self, slot: str) -> None:
        self._die(slot)
        self.handle(WorkerLost(slot, "for good"))

    @rule(slot=st.sampled_from(SLOTS))
    def expect(self, slot: str) -> None:
        self.handle(WorkerExpected(slot))

    @precondition(lambda self: any(worker.jobs for worker in self.workers.values()))
    @rule(data=st.data(), end=st.booleans(), tokens=st.integers(-5, 3000))
    def work(self, data: st.DataObject, end: bool, tokens: int) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers.values() if worker.jobs]))
        key = data.draw(st.sampled_from(sorted(worker.jobs)))
        if not end:
            worker.compute(key)
            return
        worker.end(key, tokens)
        self.fronts[key[0]].state = "finished"

    @rule(tokens=st.integers(1, 300), share=st.sampled_from([1, 2, 3]), how=HOW)
    def work_everywhere(self, tokens: int, share: int, how: str) -> None:
        """Every worker computes all prompts, finishes one job in `share`, and reports; time passes."""
        self.now_s += 0.5
        for worker in list(self.workers.values()):
            for number, key in enumerate(list(worker.jobs)):
                worker.compute(key)
                if number % share == 0:
                    worker.end(key, tokens)
                    self.fronts[key[0]].state = "finished"
            self._report(worker, how)

    # Reports.

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), how=HOW)
    def report(self, data: st.DataObject, how: str) -> None:
        worker = data.draw(st.sampled_from(list(self.workers.values())))
        self._report(worker, how)

    def _report(self, worker: RealWorker, how: str = "heard") -> None:
        full = worker.worker_id in self.resyncs
        report = worker.report(full=full)
        if how == "lost":
            return
        if full:
            self.resyncs.discard(worker.worker_id)
        if worker.worker_id not in self.draining:
            self.barred.discard(worker.worker_id)
        self.sent.append(report)
        for _ in range(2 if how == "twice" else 1):
            self.handle(Reported(report))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat_an_old_report(self, data: st.DataObject) -> None:
        self.handle(Reported(data.draw(st.sampled_from(self.sent))))

    @rule(data=st.data(), tokens=st.integers(-(10**6), 10**6), duration_s=st.floats())
    def report_nonsense(self, data: st.DataObject, tokens: int, duration_s: float) -> None:
        """Of attempts that are not, of another life, and with impossible numbers."""
        known = [worker.worker_id for worker in self.workers.values()]
        worker_id = data.draw(st.sampled_from([*known, "x#1"]))
        live = {key for worker in self.workers.values() for key in worker.jobs}
        strangers = [key for key in [("r0", 9), ("r1", 7), ("no", 1)] if key not in live]
        worker = next((w for w in self.workers.values() if w.worker_id == worker_id), None)
        if worker is not None:
            worker.sequence += 1
            if worker_id not in self.draining:
                self.barred.discard(worker_id)
        self.handle(
            Reported(
                StepReport(
                    worker_id=worker_id,
                    sequence=worker.sequence if worker else tokens,
                    started=tuple(AttemptStarted(*key, tokens) for key in strangers),
                    finished=tuple(AttemptFinished(*key, tokens) for key in strangers),
                    pages_evicted=(b"never",),
                    steps=(StepSample(duration_s, -tokens, tokens),),
                )
            )
        )

    # Time.

    @rule(after_s=st.sampled_from([0.0, 0.01, 0.1, 1.0, 15.0]))
    def tick(self, after_s: float) -> None:
        self.now_s += after_s
        self.handle(Tick())

    @rule(now_s=st.sampled_from([-1.0, 0.0, float("nan"), float("inf"), float("-inf")]))
    def tick_wrongly(self, now_s: float) -> None:
        self.handle(Tick(), now_s)

    @rule(weight=st.sampled_from([0.5, 3.0]))
    def weigh(self, weight: float) -> None:
        self.handle(TenantsWeighed({"x": weight}))

    @rule(data=st.data())
    def restart_the_scheduler(self, data: st.DataObject) -> None:
        """It comes back empty; workers and fronts tell it what is true, in any order."""
        self.scheduler = Scheduler(self.config)
        self.resyncs.clear()
        self.stopped.clear()
        self.barred -= {worker.worker_id for worker in self.workers.values()}
        self.draining -= {worker.worker_id for worker in self.workers.values()}
        for front in self._of("placed"):
            if front.worker is None or front.key not in front.worker.jobs:
                front.state = "ended"
        for worker in self.workers.values():
            self.handle(WorkerExpected(worker.slot))
        told: list[Event] = [worker.up() for worker in self.workers.values()]
        told += [Submitted(front.admission) for front in self._of("waiting")]
        for event in data.draw(st.permutations(told)):
            self.handle(event)

    # What always holds.

    @invariant()
    def who_waits_is_queued_and_what_runs_is_booked(self) -> None:
        requests = self.scheduler.requests
        for front in self._of("waiting"):
            assert requests[front.admission.request_id].state is RequestState.QUEUED
            assert requests[front.admission.request_id].admission == front.admission
        for worker in self.workers.values():
            for name, attempt in worker.jobs:
                booked = requests[name]
                assert booked.admission.attempt == attempt
                assert booked.worker is not None
                assert booked.worker.worker_id == worker.worker_id
        assert len(self.scheduler.queue) == len(self._of("waiting"))

    @invariant()
    def the_books_are_never_below_the_truth(self) -> None:
        for worker in self.workers.values():
            assert self.scheduler.fleet.by_id[worker.worker_id].ledger.free_pages <= worker.table.free_pages

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(12):
            for worker in list(self.workers.values()):
                for key in list(worker.jobs):
                    worker.end(key, 5)
                    self.fronts[key[0]].state = "finished"
                self.resyncs.add(worker.worker_id)
                self._report(worker)
            self.tick(61.0 if self._of("waiting") else 0.1)
        self.tick(LEASE_S)
        self.who_waits_is_queued_and_what_runs_is_booked()
        self._nothing_is_left()
        self.patch.undo()

    def _nothing_is_left(self) -> None:
        assert self.scheduler.requests == {}
        assert self.scheduler.matchmaker.reserved == {}
        assert len(self.scheduler.fleet.referenced) == 0
        for worker in self.workers.values():
            books = self.scheduler.fleet.by_id[worker.worker_id].ledger
            assert books.free_pages == worker.table.free_pages == worker.limits.total_pages
            assert books.resident == worker.table.resident()
        known = {page for worker in self.workers.values() for page in worker.table.resident()}
        assert len(self.scheduler.fleet.known) == len(known)
        ghosts = [front for front in self._of("placed") if front.ghost]
        outcomes = self._of("finished", "refused", "cancelled", "ended", "orphaned")
        assert len(ghosts) + len(outcomes) == len(self.fronts), "a request had no outcome"


RandomEvents.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRandomEvents = RandomEvents.TestCase
