"""Workers: how they come, fall silent and go, and what becomes of what they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.messages import Grant, Revocation, RunningAttempt
from actors.results import Priority
from actors.scheduling.actions import Revoke, Start
from actors.scheduling.events import WorkerDown, WorkerDraining, WorkerExpected, WorkerKept, WorkerLost
from actors.scheduling.records import RequestState
from tests.scheduling.pool import FRONT, LIMITS, Pool, admission, pages, refusals, revocations, starts


def test_what_a_dead_worker_ran_can_be_submitted_again() -> None:
    pool = Pool()
    pool.up("a")
    pool.submit("r")
    pool.run("r")
    assert pool.handle(WorkerDown("a#1", "it burned")) == [
        Revoke(Revocation("r", 1, "worker a#1 is down: it burned"), FRONT)
    ]
    assert "worker a#1 is down: it burned" in pool.story("r")
    assert pool.scheduler.state.requests == {}
    pool.up("b")
    assert starts(pool.submit("r", attempt=2)) == {"r": "b#1"}


def test_while_a_worker_is_restarted_requests_wait() -> None:
    pool = Pool()
    pool.up("a")
    pool.handle(WorkerDown("a#1", "it burned"))
    assert pool.submit("r") == []
    assert pool.scheduler.statistics(0.0).expected_slots == ("a",)
    assert starts(pool.up("a", life=2)) == {"r": "a#2"}
    assert pool.scheduler.statistics(0.0).expected_slots == ()


def test_a_worker_that_is_expected_with_its_limits_tells_what_will_fit() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a", LIMITS))
    assert refusals(pool.submit("r", 4000, 1000)).keys() == {"r"}
    pool.handle(WorkerExpected("a"))
    assert refusals(pool.submit("r", 4000, 1000)).keys() == {"r"}
    pool.handle(WorkerExpected("a", replace(LIMITS, context_tokens=8192, total_pages=32)))
    assert pool.submit("r", 4000, 1000) == []


def test_a_worker_of_the_same_slot_replaces_the_old_one() -> None:
    pool = Pool()
    pool.up("a")
    pool.submit("r")
    assert revocations(pool.up("a", life=2)).keys() == {"r"}
    assert list(pool.free_pages) == ["a#2"]
    assert "a#2 has taken its place" in pool.story("r")
    pool.report("a#1")
    assert pool.ignored == {"report of an unknown worker": 1}


def test_a_worker_that_is_lost_takes_its_requests_with_it() -> None:
    pool = Pool()
    pool.up("a", max_batch_size=1)
    pool.up("b", max_batch_size=1)
    assert len(starts(pool.submit("r")) | starts(pool.submit("s"))) == 2
    pool.submit("t")
    lost = [pool.handle(WorkerLost(slot, "it died too often")) for slot in "ab"]
    assert [refusals(actions).keys() for actions in lost] == [set(), {"t"}]
    assert {name for actions in lost for name in revocations(actions)} == {"r", "s"}
    assert pool.scheduler.state.requests == {}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"total_pages": 0}, "worker with an impossible total_pages"),
        ({"context_tokens": -1}, "worker with an impossible context_tokens"),
        ({"max_batch_size": 0}, "worker with an impossible max_batch_size"),
        ({"reserve_tokens": -1}, "worker with an impossible reserve_tokens"),
    ],
)
def test_an_impossible_worker_is_ignored(limits: dict[str, Any], reason: str) -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("r")
    assert pool.up("a", **limits) == []
    assert pool.ignored == {reason: 1}
    assert starts(pool.up("a")) == {"r": "a#1"}


def test_events_of_unknown_workers_are_ignored() -> None:
    pool = Pool()
    pool.up("a")
    for event in (WorkerDown("x#1", ""), WorkerDraining("x#1"), WorkerKept("x#1"), WorkerLost("x", "")):
        assert pool.handle(event) == []
    pool.up("a")
    pool.handle(WorkerExpected("a"))
    assert pool.ignored == {
        "unknown worker went down": 1,
        "draining of an unknown worker": 1,
        "a worker is kept that is not being emptied, or is stopped already": 1,
        "unknown slot was lost": 1,
        "worker that is up already came up": 1,
        "worker expected in a slot that has one": 1,
    }


# A scheduler that is new to running workers.


def running(request_id: str, prompt_tokens: int = 300, max_new_tokens: int = 200, **fields: Any) -> RunningAttempt:
    return RunningAttempt(admission(request_id, prompt_tokens, max_new_tokens, **fields), cached_tokens=0)


def test_what_a_worker_runs_already_is_entered_into_the_books() -> None:
    pool = Pool()
    pool.up("a", resident=pages("p"), running=(running("r", page_hashes=pages("p")), running("s", attempt=2)))
    assert pool.free_pages == {"a#1": 12}
    assert pool.worker().pending_prefill_tokens == 0
    assert "attempt 2 runs on a#1" in pool.story("s")
    pool.finish("s", attempt=2)
    pool.finish("r")
    assert pool.free_pages == {"a#1": 16}


def test_a_request_that_waits_and_turns_out_to_run_stops_waiting_and_its_front_is_told() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("r")
    assert pool.up("a", running=(running("r"),)) == [Start(Grant("r", 1, "a#1"), FRONT)]
    assert pool.scheduler.state.requests["r"].state is RequestState.RUNNING


def test_a_request_that_waits_while_a_later_attempt_of_it_runs_is_taken_back() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("r")
    actions = pool.up("a", running=(running("r", attempt=2),))
    assert actions == [Revoke(Revocation("r", 1, "attempt 2 of it runs on a#1"), FRONT)]
    assert pool.finish("r", attempt=2) == []
    assert pool.scheduler.state.requests == {}


@pytest.mark.parametrize(
    ("attempts", "reason"),
    [
        ((running("r", -1),), "prompt_tokens must be at least 1, not -1."),
        ((running("r", 4000, 1000),), "worker runs more than it can"),
        ((running("r", 3000, 500), running("s", 1000, 500)), "worker runs more than it can"),
        (tuple(running(f"r{i}", 10, 10) for i in range(5)), "worker runs more than it can"),
        ((running("r"), running("r")), "worker runs an attempt that is booked elsewhere"),
        ((running("waits"),), "worker runs an old attempt"),
    ],
)
def test_what_a_worker_cannot_be_running_is_ignored(attempts: tuple[RunningAttempt, ...], reason: str) -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("waits", 10, 10, attempt=2, excluded_workers=frozenset({"a#1"}))
    pool.up("a", running=attempts)
    assert pool.ignored[reason] == 1


def test_an_adopted_batch_request_needs_no_prefill() -> None:
    pool = Pool()
    pool.up("a", running=(running("r", priority=Priority.BATCH),))
    assert pool.worker().attempts == 1
    assert pool.worker().pending_prefill_tokens == 0


def test_a_late_report_of_another_life_is_ignored() -> None:
    pool = Pool()
    pool.up("a")
    pool.handle(WorkerDown("a#1", "it burned"))
    pool.up("a", life=2)
    pool.submit("r")
    pool.finish("r", "a#1")
    assert pool.scheduler.state.requests["r"].state is RequestState.GRANTED
