from __future__ import annotations

from actors.messages import Admission, AttemptFinished, AttemptStarted, RefusalReason, StepReport, WorkerLimits
from actors.scheduling.actions import Refuse, Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import Reported, Submitted, Tick, WorkerExpected, WorkerLost, WorkerUp

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


def test_a_request_is_started_runs_and_gives_its_pages_back() -> None:
    scheduler = Scheduler(SchedulerConfig())
    scheduler.handle(WorkerExpected("a"), 0.0)
    assert (
        scheduler.handle(Submitted(Admission(request_id="r", attempt=1, prompt_tokens=300, max_new_tokens=200)), 0.0)
        == []
    )
    (start,) = scheduler.handle(WorkerUp("a#1", "a", LIMITS), 1.0)
    assert isinstance(start, Start)
    assert scheduler.statistics(1.0).workers[0].free_pages == 14
    report = StepReport(
        worker_id="a#1", sequence=1, started=(AttemptStarted("r", 1, 0),), finished=(AttemptFinished("r", 1, 9),)
    )
    assert scheduler.handle(Reported(report), 2.0) == []
    assert scheduler.statistics(2.0).workers[0].free_pages == 16


def test_without_any_worker_the_queue_is_refused() -> None:
    scheduler = Scheduler(SchedulerConfig())
    scheduler.handle(WorkerExpected("a"), 0.0)
    scheduler.handle(Submitted(Admission(request_id="r", attempt=1, prompt_tokens=3, max_new_tokens=2)), 0.0)
    (refuse,) = scheduler.handle(WorkerLost("a", "no such model"), 0.0)
    assert isinstance(refuse, Refuse)
    assert refuse.refusal.reason is RefusalReason.NO_WORKER
    assert scheduler.handle(Tick(), 1.0) == []
