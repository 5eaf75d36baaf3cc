"""Fronts and workers round one scheduler, in simulated time: workers run what they are given for as long as it takes,
fronts ask again when a worker fails, give up, or are told no. For the fuzzer `scheduler`."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from actors.messages import Admission, StepSample, WorkerLimits
from actors.scheduling.actions import Action, Probe, Refuse, Resync, Revoke, Start, StopWorker
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import (
    Cancelled,
    Event,
    Reported,
    Submitted,
    Tick,
    WorkerDown,
    WorkerExpected,
)
from actors.scheduling.recording import encode_event, encode_header
from tests.scheduling.real_worker import Key, RealWorker

FRONT = "f"
MAX_ATTEMPTS = 4
ANSWER_S = 0.3
"""After which a worker that is asked says what is true."""


@dataclass(frozen=True)
class Speed:
    step_s: float
    prefill_s: float


class TimedWorker(RealWorker):
    """One life of a worker that tells how fast it really is."""

    def __init__(self, slot: str, life: int, limits: WorkerLimits, speed: Speed) -> None:
        super().__init__(slot, life, limits)
        self.speed = speed
        self.asked = False
        self.hangs_until_s = 0.0

    def compute(self, key: Key) -> None:
        super().compute(key)
        tokens = self._steps.pop().prefill_tokens
        self._steps.append(StepSample(self.speed.prefill_s * tokens, tokens, 0))

    def end(self, key: Key, tokens: int) -> None:
        batch = len(self.jobs)
        super().end(key, tokens)
        self._steps[-1] = StepSample(self.speed.step_s, 0, batch)


@dataclass(eq=False)
class Ask:
    """A request as its front knows it. `outcome` is what became of it, once."""

    admission: Admission
    tokens: int
    worker: TimedWorker | None = None
    outcome: str = ""

    @property
    def key(self) -> Key:
        return self.admission.request_id, self.admission.attempt


@dataclass(eq=False)
class Slot:
    name: str
    limits: WorkerLimits
    speed: Speed
    life: int = 0
    worker: TimedWorker | None = None
    gone: bool = False


@dataclass
class World:
    """Use `at` to plan, then `run`. `check` is called after every event that the scheduler is told."""

    config: SchedulerConfig
    random: Random
    lost_share: float
    tick_s: float
    check: Callable[[World], None]
    now_s: float = 0.0
    slots: list[Slot] = field(default_factory=list)
    asks: dict[str, Ask] = field(default_factory=dict)
    recorded: list[str] = field(default_factory=list)
    said: list[list[Action]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0
        self.recorded.append(encode_header(self.config))
        self.scheduler = Scheduler(self.config, lambda now_s, event: self.recorded.append(encode_event(now_s, event)))

    def at(self, at_s: float, what: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._heap, (at_s, self._planned, what))

    def run(self, until_s: float) -> None:
        """Until nothing is planned and everybody has had an end; ticks go on while anybody waits or runs.

        :raises AssertionError: there is still somebody at `until_s`.
        """
        tick_at_s = 0.0
        while self._heap or self.scheduler.state.requests:
            due_s = self._heap[0][0] if self._heap else tick_at_s
            if self.scheduler.state.requests and tick_at_s <= due_s:
                self.now_s = max(self.now_s, tick_at_s)
                tick_at_s = self.now_s + self.tick_s
                self.handle(Tick())
            else:
                self.now_s, _, what = heapq.heappop(self._heap)
                tick_at_s = max(tick_at_s, self.now_s)
                what()
            assert self.now_s <= until_s, f"at {self.now_s:.0f} s there still are {self.scheduler.state.requests}"

    def handle(self, event: Event) -> None:
        actions = self.scheduler.handle(event, self.now_s)
        self.said.append(actions)
        for action in actions:
            match action:
                case Start(grant):
                    self._start(self.asks[grant.request_id], grant.attempt, grant.worker_id)
                case Refuse(refusal):
                    ask = self.asks[refusal.request_id]
                    assert ask.worker is None, "refused, although it has a place"
                    self._conclude(ask, f"refused: {refusal.reason.value}")
                case Revoke(revocation):
                    ask = self.asks[revocation.request_id]
                    if ask.admission.attempt == revocation.attempt and not ask.outcome:
                        self.at(self.now_s, lambda ask=ask, key=ask.key: self._again(ask, key))  # type: ignore[misc]
                case Resync(worker_id) | Probe(worker_id):
                    self._asked(worker_id)
                case StopWorker(worker_id):
                    self.at(self.now_s + 0.1, lambda name=worker_id: self.stop(name))  # type: ignore[misc]
        self.check(self)

    # Fronts.

    def submit(self, admission: Admission, tokens: int) -> None:
        self.asks[admission.request_id] = Ask(admission, tokens)
        self.handle(Submitted(admission, FRONT))

    def cancel(self, request_id: str) -> None:
        ask = self.asks[request_id]
        if not ask.outcome:
            self._drop(ask)
            self._conclude(ask, "cancelled")
            self.handle(Cancelled(*ask.key, FRONT))

    def _again(self, ask: Ask, key: Key) -> None:
        if ask.outcome or ask.key != key:
            return
        excluded = ask.admission.excluded_workers | ({ask.worker.worker_id} if ask.worker is not None else set())
        self._drop(ask)
        if ask.admission.attempt == MAX_ATTEMPTS:
            self._conclude(ask, "failed")
            return
        ask.admission = replace(ask.admission, attempt=ask.admission.attempt + 1, excluded_workers=frozenset(excluded))
        self.handle(Submitted(ask.admission, FRONT))

    def _drop(self, ask: Ask) -> None:
        if ask.worker is not None and ask.key in ask.worker.jobs:
            ask.worker.end(ask.key, 0)
        ask.worker = None

    def _conclude(self, ask: Ask, outcome: str) -> None:
        assert not ask.outcome, f"{ask.admission.request_id} was {ask.outcome}, and then {outcome}"
        ask.outcome = outcome

    # Workers.

    def _start(self, ask: Ask, attempt: int, worker_id: str) -> None:
        assert not ask.outcome, "started after its end"
        assert ask.admission.attempt == attempt, "an old attempt was started"
        assert ask.worker is None, "started twice"
        ask.worker = worker = self._worker(worker_id)
        assert worker is not None, "started on a worker that is gone"
        books = self.scheduler.state.fleet.by_id[worker_id]
        assert not books.on_trial or len(books.attempts) == 1, "a worker on trial was given a second attempt"
        worker.submit(ask.admission)
        first_s = worker.speed.prefill_s * ask.admission.prompt_tokens
        self.at(self.now_s + first_s, lambda key=ask.key: self._compute(worker, key))  # type: ignore[misc]
        end_s = first_s + worker.speed.step_s * ask.tokens
        self.at(self.now_s + end_s, lambda key=ask.key: self._finish(worker, ask, key))  # type: ignore[misc]

    def _compute(self, worker: TimedWorker, key: Key) -> None:
        if key in worker.jobs:
            worker.compute(key)
            self.report(worker)

    def _finish(self, worker: TimedWorker, ask: Ask, key: Key) -> None:
        if key not in worker.jobs or self._worker(worker.worker_id) is None:
            return
        if self.now_s < worker.hangs_until_s:
            self.at(worker.hangs_until_s, lambda: self._finish(worker, ask, key))
            return
        worker.end(key, ask.tokens)
        ask.worker = None
        self._conclude(ask, "finished")
        self.report(worker)

    def report(self, worker: TimedWorker) -> None:
        if self._worker(worker.worker_id) is None or self.now_s < worker.hangs_until_s:
            return
        report = worker.report(full=worker.asked)
        if self.random.random() < self.lost_share:
            return
        worker.asked = False
        self.handle(Reported(report))

    def _asked(self, worker_id: str) -> None:
        worker = self._worker(worker_id)
        if worker is not None:
            worker.asked = True
            self.at(max(self.now_s + ANSWER_S, worker.hangs_until_s), lambda: self.report(worker))

    def _worker(self, worker_id: str) -> TimedWorker | None:
        return next((s.worker for s in self.slots if s.worker is not None and s.worker.worker_id == worker_id), None)

    def expect(self, slot: Slot) -> None:
        self.handle(WorkerExpected(slot.name))

    def come_up(self, slot: Slot) -> None:
        if slot.worker is None and not slot.gone:
            slot.life += 1
            slot.worker = TimedWorker(slot.name, slot.life, slot.limits, slot.speed)
            self.handle(slot.worker.up(trial=slot.life > 2))

    def die(self, slot: Slot, restart_s: float) -> None:
        worker, slot.worker = slot.worker, None
        if worker is None:
            return
        self.handle(WorkerDown(worker.worker_id, "killed"))
        self.handle(WorkerExpected(slot.name))
        self.at(self.now_s + restart_s, lambda: self.come_up(slot))

    def stop(self, worker_id: str) -> None:
        """A drained worker is empty: it ends."""
        for slot in self.slots:
            if slot.worker is not None and slot.worker.worker_id == worker_id:
                assert not slot.worker.jobs, "stopped, although it runs something"
                slot.worker, slot.gone = None, True
                self.handle(WorkerDown(worker_id, "stopped"))
