"""Random fronts, workers, clocks and accidents round one scheduler. After every event its invariants hold, and workers
with real page tables take everything that it starts; no request ends without its front having asked for it or being
told; in the end every request had one outcome and nothing is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.messages import (
    Admission,
    AttemptFinished,
    AttemptStarted,
    Grant,
    RefusalReason,
    Revocation,
    StepReport,
    StepSample,
    WorkerLimits,
)
from actors.results import Priority
from actors.scheduling import matching
from actors.scheduling.actions import Action, Probe, Refuse, Resync, Revoke, Start, StopWorker
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import (
    Cancelled,
    Event,
    FrontGone,
    Reported,
    Settling,
    Submitted,
    TenantsWeighed,
    Tick,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerKept,
    WorkerLost,
    WorkerUp,
)
from actors.scheduling.policies import POLICIES
from actors.scheduling.recording import encode_event, encode_header, replay
from actors.scheduling.records import RequestState
from tests.properties import examples
from tests.scheduling.pool import LIMITS, admission
from tests.scheduling.real_worker import Key, RealWorker

SLOTS = ("a", "b", "c")
FRONTS = ("f", "g")
LEASES_S = (25.0, 3000.0)
"""One that runs out although the attempt runs, if its reports are lost; one only where nobody acts on a start."""

AGES_S = st.sampled_from([0.0, 0.5, 30.0])
STALLS_S = (1.0, 20.0, 3000.0)
CONFIG = SchedulerConfig(max_queued_requests=12, max_wait_s=120.0, max_batch_wait_s=240.0, seed=3)
PAGES, BATCHES = (4, 12, 16), (1, 3, 8)
HOW = st.sampled_from(["heard", "heard", "heard", "lost", "twice"])
CHAINS = st.text("pq", max_size=4)
NONSENSE = (
    WorkerDown("x#1", "who?"),
    WorkerDraining("x#1"),
    WorkerKept("x#1"),
    WorkerLost("x", "who?"),
    WorkerUp("a#0", "a", replace(LIMITS, total_pages=-1)),
    Cancelled("nobody", 1, "f"),
    FrontGone(""),
    FrontGone("stranger"),
    TenantsWeighed({"x": -1.0}),
)
AT_ONCE = (RefusalReason.INVALID, RefusalReason.DUPLICATE)


@dataclass(eq=False)
class Front:
    """A request as its front knows it."""

    admission: Admission
    front_id: str
    ghost: bool
    """It is given up without a word: nobody ever acts on its grant."""
    state: str = "waiting"
    """waiting, placed, orphaned (its worker died, or its place was taken back), or an outcome."""
    worker: RealWorker | None = None

    @property
    def key(self) -> Key:
        return self.admission.request_id, self.admission.attempt


class RandomEvents(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        many=st.sampled_from([2, 64]),
        max_skips=st.sampled_from([1, 3]),
        lease_s=st.sampled_from(LEASES_S),
        stall_s=st.sampled_from(STALLS_S),
        workers=st.lists(st.tuples(st.sampled_from(PAGES), st.sampled_from(BATCHES)), min_size=1, max_size=3),
    )
    def begin(
        self, policy: str, many: int, max_skips: int, lease_s: float, stall_s: float, workers: list[tuple[int, int]]
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(matching, "MANY_WORKERS", many)
        self.patch.setattr(matching, "MAX_SKIPS", max_skips)
        self.config = replace(CONFIG, policy=policy, start_lease_s=lease_s, stall_timeout_s=stall_s)
        self._new_scheduler()
        self.now_s = 0.0
        self.asking: Front | None = None
        self.superseded: tuple[str, str, int] | None = None
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

    def _new_scheduler(self) -> None:
        """With a record of everything that it is told, which is replayed in the end."""
        self.recorded = [encode_header(self.config)]
        self.said: list[list[Action]] = []
        self.scheduler = Scheduler(self.config, lambda now_s, event: self.recorded.append(encode_event(now_s, event)))

    # What the scheduler says.

    def handle(self, event: Event, now_s: float | None = None) -> list[Refuse]:
        """Returns what it refuses at once, which is about a submission, not about a request."""
        at_once = []
        tried = [worker for worker in self.scheduler.state.fleet if worker.on_trial]
        actions = self.scheduler.handle(event, self.now_s if now_s is None else now_s)
        for worker in tried:
            reported = isinstance(event, Reported) and event.report.worker_id == worker.worker_id
            assert worker.on_trial or reported, "a trial was over, although nothing was heard of the worker"
        self.said.append(actions)
        for action in actions:
            match action:
                case Start():
                    self._start(action)
                case Refuse(refusal) if refusal.reason in AT_ONCE:
                    at_once.append(action)
                case Refuse(refusal, front_id):
                    front = self.fronts[refusal.request_id]
                    assert front.state == "waiting", "refused, although it does not wait"
                    assert front.front_id == front_id
                    front.state = "refused"
                case Revoke(revocation, front_id):
                    self._revoke(revocation, front_id)
                case Resync(worker_id):
                    self.resyncs.add(worker_id)
                case Probe(worker_id):
                    assert worker_id in {worker.worker_id for worker in self.workers.values()}
                    self.barred.add(worker_id)
                case StopWorker(worker_id):
                    assert worker_id in self.draining
                    assert worker_id not in self.stopped, "stopped twice"
                    self.stopped.append(worker_id)
        self.scheduler.validate()
        return at_once

    def _start(self, action: Start) -> None:
        front = self.fronts[action.grant.request_id]
        assert front.key == (action.grant.request_id, action.grant.attempt)
        assert front.front_id == action.front_id
        if front.state == "placed":
            assert front is self.asking, "started twice, although nobody asked again"
            assert front.worker is not None
            assert action.grant.worker_id == front.worker.worker_id, "placed twice"
            return
        assert front.state == "waiting", "started, although it does not wait"
        worker = next(w for w in self.workers.values() if w.worker_id == action.grant.worker_id)
        assert worker.worker_id not in self.barred, "started on a worker that nothing may be placed on"
        books = self.scheduler.state.fleet.by_id[worker.worker_id]
        assert not books.on_trial or len(books.attempts) == 1, "a worker that is on trial was given a second attempt"
        front.state, front.worker = "placed", worker
        if not front.ghost:
            worker.submit(front.admission)

    def _revoke(self, revocation: Revocation, front_id: str) -> None:
        front = self.fronts[revocation.request_id]
        if revocation.moved:
            assert front.worker is not None
            assert front.worker.worker_id in self.draining, "moved from a worker that is not being emptied"
            assert self.scheduler.state.hopeful(), "moved, although there is nowhere to go"
            front_id = front_id or front.front_id  # all fronts are told
        if front.admission.attempt != revocation.attempt or front.front_id != front_id:
            assert (front_id, revocation.request_id, revocation.attempt) == self.superseded, "who is this for?"
            return
        assert front.state in ("placed", "finished", "gone"), "taken back, although its front did not have it"
        if front.state == "placed":  # else its front has had its end, and what it is told means nothing
            self._drop(front)
            front.state = "orphaned"

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
        front_id=st.sampled_from(FRONTS),
    )
    def submit(
        self,
        several: list[tuple[str, int]],
        tail: int,
        *,
        ghost: bool,
        front_id: str,
        excluded: tuple[str, ...],
        **fields: Any,
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
            self.fronts[name] = Front(asked, front_id, ghost)
            assert self.handle(Submitted(asked, front_id)) == []

    @rule(
        fields=st.sampled_from(
            [
                {"prompt_tokens": 0},
                {"prompt_tokens": -300},
                {"max_new_tokens": -1},
                {"attempt": 0},
                {"timeout_s": -1.0},
                {"age_s": -1.0},
                {"page_hashes": (b"p", b"p")},
            ]
        )
    )
    def submit_nonsense(self, fields: dict[str, Any]) -> None:
        (action,) = self.handle(Submitted(admission("nonsense", **fields), "f"))
        assert action.refusal.reason is RefusalReason.INVALID

    @precondition(lambda self: self._of("waiting", "placed"))
    @rule(data=st.data(), how=st.sampled_from(["unchanged", "changed", "older", "another front"]))
    def submit_again(self, data: st.DataObject, how: str) -> None:
        front = self.asking = data.draw(st.sampled_from(self._of("waiting", "placed")))
        asked, front_id = front.admission, front.front_id
        known = self.scheduler.state.requests.get(asked.request_id)
        if known is None:  # placed, but its end has been reported, or its scheduler has forgotten it
            return
        owned = known.front_id == front_id
        if how == "another front" and owned:
            asked, front_id = replace(asked, attempt=data.draw(st.integers(1, asked.attempt))), "stranger"
        elif how == "changed" and owned:
            asked = replace(asked, max_new_tokens=asked.max_new_tokens + 1)
        elif how == "older" and asked.attempt > 1 and owned:
            asked = replace(asked, attempt=asked.attempt - 1)
        told = self.handle(Submitted(asked, front_id))
        refused = [(action.front_id, action.refusal.reason) for action in told]
        wrong = asked.attempt == front.admission.attempt and asked != front.admission
        stranger = front_id != front.front_id
        assert refused == ([(front_id, RefusalReason.DUPLICATE)] if wrong or stranger else [])
        if not (wrong or stranger) and asked is front.admission and front.state == "placed":
            assert known.front_id == front_id
            assert Start(Grant(*front.key, front.worker.worker_id), front_id) in self.said[-1]  # type: ignore[union-attr]
        self.asking = None

    @precondition(lambda self: self._of("orphaned", "placed"))
    @rule(data=st.data(), exclude=st.booleans())
    def retry(self, data: st.DataObject, exclude: bool) -> None:
        """A front gives an attempt up, or lost it, and asks for the next one."""
        front = data.draw(st.sampled_from(self._of("orphaned", "placed")))
        excluded = {front.worker.worker_id} if exclude and front.worker is not None else set()
        self._next_attempt(front, frozenset(excluded))
        assert self.handle(Submitted(front.admission, front.front_id)) == []

    def _next_attempt(self, front: Front, excluded: frozenset[str] = frozenset()) -> None:
        self._drop(front)
        asked = front.admission
        excluded |= asked.excluded_workers
        front.admission = replace(asked, attempt=asked.attempt + 1, excluded_workers=excluded, age_s=self.now_s)
        front.state, front.worker = "waiting", None

    @precondition(lambda self: self._of("waiting", "placed"))
    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        """A later attempt comes from another front than the earlier one, which is told, if anybody knows of it."""
        front = data.draw(st.sampled_from(self._of("waiting", "placed")))
        known = self.scheduler.state.requests.get(front.admission.request_id)
        before = self.superseded = (front.front_id, *front.key)
        self._next_attempt(front)
        front.front_id = "g" if front.front_id == "f" else "f"
        assert self.handle(Submitted(front.admission, front.front_id)) == []
        told = [
            (action.front_id, action.revocation.request_id, action.revocation.attempt)
            for action in self.said[-1]
            if isinstance(action, Revoke)
        ]
        assert (before in told) == (known is not None and known.front_id != "")
        self.superseded = None

    @precondition(lambda self: self._of("waiting", "placed"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        front = data.draw(st.sampled_from(self._of("waiting", "placed")))
        self._drop(front)
        front.state = "cancelled"
        self.handle(Cancelled(*front.key, front.front_id))
        assert front.admission.request_id not in self.scheduler.state.requests

    @precondition(lambda self: self._of("waiting", "placed"))
    @rule(data=st.data(), by_another=st.booleans())
    def cancel_wrongly(self, data: st.DataObject, by_another: bool) -> None:
        """An earlier attempt, or another front's request: nothing may come of it, but that its own time may be up."""
        front = data.draw(st.sampled_from(self._of("waiting", "placed")))
        known = self.scheduler.state.requests.get(front.admission.request_id)
        if by_another and known is not None and known.front_id:
            self.handle(Cancelled(*front.key, "stranger"))
        else:
            self.handle(Cancelled(front.key[0], front.key[1] - 1, front.front_id))
        left = None if front.state == "refused" else known
        assert self.scheduler.state.requests.get(front.admission.request_id) is left

    @rule(front_id=st.sampled_from(FRONTS))
    def front_goes(self, front_id: str) -> None:
        """Workers hear of it too, and drop what they did for it. The death of a worker is still told of what ran there,
        since the front may only have been cut off from here."""
        for front in self._of("waiting", "placed", "orphaned"):
            if front.front_id == front_id:
                self._drop(front)
                front.state = "cancelled"
        self.handle(FrontGone(front_id))
        left = [request for request in self.scheduler.state.requests.values() if request.front_id == front_id]
        assert all(request.state is RequestState.RUNNING for request in left)
        for request in left:
            front = self.fronts[request.request_id]
            if front.state == "cancelled":
                front.state = "gone"

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
        trial=st.booleans(),
    )
    def come_up(self, slot: str, total_pages: int, max_batch_size: int, reserve_tokens: int, trial: bool) -> None:
        limits = replace(LIMITS, total_pages=total_pages, max_batch_size=max_batch_size, reserve_tokens=reserve_tokens)
        self._come_up(slot, limits, trial=trial)

    def _come_up(self, slot: str, limits: WorkerLimits, *, trial: bool = False) -> None:
        self.lives += 1
        dead = self.workers.get(slot)
        worker = self.workers[slot] = RealWorker(slot, self.lives, limits)
        self._bury(dead, worker.up(trial=trial))

    def _bury(self, worker: RealWorker | None, *events: Event) -> None:
        """A worker is dead, and the scheduler is told: it tells the fronts of all that was placed there. Those of which
        it does not know who asked hear it from their own links."""
        placed = [front for front in self._of("placed") if worker is not None and front.worker is worker]
        requests = self.scheduler.state.requests
        owned = [
            front for front in placed if (r := requests.get(front.admission.request_id)) is not None and r.front_id
        ]
        for event in events:
            self.handle(event)
        assert all(front.state == "orphaned" for front in owned), "a front was not told of the end of its attempt"
        for front in placed:
            front.state = "orphaned"

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), restarted=st.sampled_from([True, True, False]))
    def die(self, data: st.DataObject, restarted: bool) -> None:
        worker = data.draw(st.sampled_from(list(self.workers.values())))
        del self.workers[worker.slot]
        after = WorkerExpected(worker.slot) if restarted else WorkerLost(worker.slot, "for good")
        self._bury(worker, WorkerDown(worker.worker_id, "it burned"), after)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), grace_s=st.sampled_from([None, 0.0, 1.0, 20.0]))
    def drain(self, data: st.DataObject, grace_s: float | None) -> None:
        worker_id = data.draw(st.sampled_from(list(self.workers.values()))).worker_id
        self.barred.add(worker_id)
        self.draining.add(worker_id)
        self.handle(WorkerDraining(worker_id, grace_s))

    @precondition(lambda self: self.draining & {worker.worker_id for worker in self.workers.values()})
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        known = self.draining & {worker.worker_id for worker in self.workers.values()}
        worker_id = data.draw(st.sampled_from(sorted(known)))
        if worker_id not in self.stopped:
            self.draining.discard(worker_id)
            self.barred.discard(worker_id)  # before it is told, since it may be used at once, or doubted
        self.handle(WorkerKept(worker_id))

    @rule(event=st.sampled_from(NONSENSE))
    def speak_nonsense(self, event: Event) -> None:
        self.handle(event)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(slot=st.sampled_from(SLOTS))
    def lose(self, slot: str) -> None:
        self._bury(self.workers.pop(slot, None), WorkerLost(slot, "for good"))

    @rule(slot=st.sampled_from(SLOTS), limits=st.sampled_from([None, LIMITS]))
    def expect(self, slot: str, limits: WorkerLimits | None) -> None:
        self.handle(WorkerExpected(slot, limits))

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
        self._new_scheduler()
        self.resyncs.clear()
        self.stopped.clear()
        self.barred -= {worker.worker_id for worker in self.workers.values()}
        self.draining -= {worker.worker_id for worker in self.workers.values()}
        for front in self._of("placed"):
            if front.worker is None or front.key not in front.worker.jobs:
                front.state = "ended"
        for worker in self.workers.values():
            self.handle(WorkerExpected(worker.slot))
        told: list[Event] = [worker.up(trial=data.draw(st.booleans())) for worker in self.workers.values()]
        ages: dict[str, Any] = {"age_s": data.draw(AGES_S), "waited_s": data.draw(AGES_S)}
        told += [Submitted(replace(front.admission, **ages), front.front_id) for front in self._of("waiting")]
        told.append(Settling(data.draw(st.sampled_from([0.0, 0.05, 2.0]))))
        for event in data.draw(st.permutations(told)):
            self.handle(event)

    # What always holds.

    @invariant()
    def who_waits_is_queued_and_what_runs_is_booked(self) -> None:
        requests = self.scheduler.state.requests
        for front in self._of("waiting"):
            assert requests[front.admission.request_id].state is RequestState.QUEUED
            assert requests[front.admission.request_id].admission == front.admission
            assert requests[front.admission.request_id].front_id == front.front_id
        for worker in self.workers.values():
            for name, attempt in worker.jobs:
                booked = requests[name]
                assert booked.admission.attempt == attempt
                assert booked.front_id in ("", self.fronts[name].front_id)
                assert booked.worker is not None
                assert booked.worker.worker_id == worker.worker_id
        assert len(self.scheduler.state.queue) == len(self._of("waiting"))

    @invariant()
    def nobody_waits_for_what_has_ended(self) -> None:
        """Whoever believes to have a place has one by the books, or its worker ran it and will say its end."""
        requests = self.scheduler.state.requests
        for front in self._of("placed"):
            known = requests.get(front.admission.request_id)
            assert known is not None, "a request ended, and its front was not told"
            assert known.admission.attempt == front.admission.attempt

    @invariant()
    def the_books_are_never_below_the_truth(self) -> None:
        for worker in self.workers.values():
            assert self.scheduler.state.fleet.by_id[worker.worker_id].ledger.free_pages <= worker.table.free_pages

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
        self.tick(self.config.start_lease_s)  # finds what is late, or asks for the truth first
        for worker in self.workers.values():
            self._report(worker)
        self.tick(0.1)
        self.who_waits_is_queued_and_what_runs_is_booked()
        self._nothing_is_left()
        self._replayed()
        self.patch.undo()

    def _nothing_is_left(self) -> None:
        assert self.scheduler.state.requests == {}
        assert self.scheduler.state.matchmaker.reserved == {}
        assert len(self.scheduler.state.fleet.referenced) == 0
        for worker in self.workers.values():
            books = self.scheduler.state.fleet.by_id[worker.worker_id].ledger
            assert books.free_pages == worker.table.free_pages == worker.limits.total_pages
            assert books.resident == worker.table.resident()
        known = {page for worker in self.workers.values() for page in worker.table.resident()}
        assert len(self.scheduler.state.fleet.known) == len(known)
        outcomes = self._of("finished", "refused", "cancelled", "gone", "ended", "orphaned")
        assert len(outcomes) == len(self.fronts), "a request had no outcome"

    def _replayed(self) -> None:
        """What was recorded gives the same actions again."""
        assert [actions for _, _, actions in replay(self.recorded)] == self.said


RandomEvents.TestCase.settings = settings(examples(150), stateful_step_count=50)
TestRandomEvents = RandomEvents.TestCase
