"""The other side of the scheduler, for tests: what fronts and workers would say, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from actors.messages import (
    Admission,
    AttemptFinished,
    AttemptStarted,
    Refusal,
    Revocation,
    RunningAttempt,
    StepReport,
    StepSample,
    WorkerLimits,
)
from actors.scheduling.actions import Action, Refuse, Revoke, Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import Cancelled, Event, Reported, Submitted, Tick, WorkerUp
from actors.scheduling.records import Request
from actors.scheduling.statistics import WorkerStatistics

FRONT = "f"
"""The front that asks, where a test names none."""

LIMITS = WorkerLimits(
    engine="simulated",
    model="none",
    context_tokens=4096,
    total_pages=16,
    max_batch_size=4,
    vocab_size=2048,
    eos_token_ids=(2,),
    supported_parameters=frozenset(),
)


def pages(*names: str) -> tuple[bytes, ...]:
    """Names that stand for page hashes."""
    return tuple(name.encode() for name in names)


def admission(
    request_id: str, prompt_tokens: int = 300, max_new_tokens: int = 200, *, attempt: int = 1, **fields: Any
) -> Admission:
    """An admission; by default one of 2 pages."""
    return Admission(
        request_id=request_id,
        attempt=attempt,
        prompt_tokens=prompt_tokens,
        max_new_tokens=max_new_tokens,
        **fields,
    )


def request(request_id: str = "r", prompt_tokens: int = 300, max_new_tokens: int = 200, **fields: Any) -> Request:
    """A waiting request as the scheduler keeps it, which is expected to use half of its bound."""
    return Request(
        admission=admission(request_id, prompt_tokens, max_new_tokens, **fields),
        arrived_s=0.0,
        deadline_s=600.0,
        expected_tokens=max_new_tokens / 2,
        work=1.0,
    )


def starts(actions: Iterable[Action]) -> dict[str, str]:
    """Request id to worker id of all that were started."""
    return {action.grant.request_id: action.grant.worker_id for action in actions if isinstance(action, Start)}


def refusals(actions: Iterable[Action]) -> dict[str, Refusal]:
    return {action.refusal.request_id: action.refusal for action in actions if isinstance(action, Refuse)}


def revocations(actions: Iterable[Action]) -> dict[str, Revocation]:
    return {action.revocation.request_id: action.revocation for action in actions if isinstance(action, Revoke)}


class Pool:
    """A scheduler whose invariants are checked after every event."""

    def __init__(self, **settings: Any) -> None:
        self.scheduler = Scheduler(SchedulerConfig(**settings))
        self.now_s = 0.0
        self.sequences: dict[str, int] = {}

    def handle(self, event: Event, after_s: float = 0.0) -> list[Action]:
        self.now_s += after_s
        actions = self.scheduler.handle(event, self.now_s)
        self.scheduler.validate()
        return actions

    def tick(self, after_s: float = 0.1) -> list[Action]:
        return self.handle(Tick(), after_s)

    def up(
        self,
        slot: str = "a",
        *,
        life: int = 1,
        resident: Iterable[bytes] = (),
        running: tuple[RunningAttempt, ...] = (),
        trial: bool = False,
        **limits: Any,
    ) -> list[Action]:
        """Worker `{slot}#{life}` comes up; `limits` replace those of `LIMITS`."""
        worker_id = f"{slot}#{life}"
        self.sequences[worker_id] = 0
        up = WorkerUp(worker_id, slot, replace(LIMITS, **limits), frozenset(resident), running, trial=trial)
        return self.handle(up)

    def submit(
        self,
        request_id: str,
        prompt_tokens: int = 300,
        max_new_tokens: int = 200,
        *,
        front_id: str = FRONT,
        **fields: Any,
    ) -> list[Action]:
        return self.handle(Submitted(admission(request_id, prompt_tokens, max_new_tokens, **fields), front_id))

    def cancel(self, request_id: str, attempt: int = 1, front_id: str = FRONT) -> list[Action]:
        return self.handle(Cancelled(request_id, attempt, front_id))

    def fall_silent(self, *worker_ids: str) -> list[Action]:
        """So much time passes that these workers are suspected, if they hold anything; all others report."""
        self.now_s += self.scheduler.state.config.stall_timeout_s
        for worker_id in self.scheduler.state.fleet.by_id:
            if worker_id not in worker_ids:
                self.report(worker_id)
        return self.tick(0.0)

    def report(self, worker_id: str = "a#1", after_s: float = 0.0, *, lost: int = 0, **fields: Any) -> list[Action]:
        """The worker's next report, after `lost` ones that never arrive."""
        self.sequences[worker_id] += 1 + lost
        report = StepReport(worker_id=worker_id, sequence=self.sequences[worker_id], **fields)
        return self.handle(Reported(report), after_s)

    def run(self, request_id: str, worker_id: str = "a#1", attempt: int = 1, after_s: float = 0.0) -> list[Action]:
        """The worker has started an attempt and emitted its first token."""
        return self.report(
            worker_id,
            after_s,
            started=(AttemptStarted(request_id, attempt, 0),),
            first_tokens=((request_id, attempt),),
        )

    def finish(
        self, request_id: str, worker_id: str = "a#1", tokens: int = 100, attempt: int = 1, after_s: float = 0.0
    ) -> list[Action]:
        return self.report(worker_id, after_s, finished=(AttemptFinished(request_id, attempt, tokens),))

    def steps(self, worker_id: str, step_s: float, batch: int = 1, prefill_tokens: int = 0, count: int = 200) -> None:
        """The worker shows its speed."""
        self.report(worker_id, steps=(StepSample(step_s, prefill_tokens, batch),) * count)

    def worker(self, worker_id: str = "a#1") -> WorkerStatistics:
        statistics = self.scheduler.statistics(self.now_s)
        return next(worker for worker in statistics.workers if worker.worker_id == worker_id)

    @property
    def free_pages(self) -> dict[str, int]:
        return {worker.worker_id: worker.free_pages for worker in self.scheduler.statistics(self.now_s).workers}

    @property
    def ignored(self) -> dict[str, int]:
        return dict(self.scheduler.state.ignored)

    def story(self, request_id: str) -> str:
        return "\n".join(str(entry) for entry in self.scheduler.story(request_id))
