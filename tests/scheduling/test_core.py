"""Requests: how they are admitted, started, superseded, cancelled and ended, and what is kept of them."""

from __future__ import annotations

import random

import pytest

from actors.errors import ConfigurationError
from actors.messages import AttemptStarted, Grant, RefusalReason
from actors.results import Priority
from actors.scheduling.actions import Action, Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import Cancelled, Submitted, Tick, WorkerDown, WorkerExpected, WorkerLost
from actors.scheduling.records import RequestState
from tests.scheduling.pool import Pool, admission, pages, refusals, starts


def test_a_request_is_started_runs_and_gives_its_pages_back() -> None:
    pool = Pool()
    pool.up()
    assert pool.submit("r") == [Start(Grant("r", 1, "a#1"), "f")]
    assert pool.free_pages == {"a#1": 14}
    states = [pool.scheduler.state.requests["r"].state]
    assert pool.run("r") == []
    states.append(pool.scheduler.state.requests["r"].state)
    assert states == [RequestState.GRANTED, RequestState.RUNNING]
    assert pool.finish("r") == []
    assert pool.free_pages == {"a#1": 16}
    assert pool.scheduler.state.requests == {}


def test_requests_wait_for_an_expected_worker() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    assert pool.submit("r") == pool.submit("s") == []
    assert starts(pool.up()) == {"r": "a#1", "s": "a#1"}


def test_without_any_worker_requests_are_refused_at_once() -> None:
    refusal = refusals(Pool().submit("r"))["r"]
    assert refusal.reason is RefusalReason.NO_WORKER
    assert refusal.retry_after_s is None


def test_when_the_last_worker_is_lost_the_queue_is_refused() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("r")
    (refusal,) = refusals(pool.handle(WorkerLost("a", "no such model"))).values()
    assert refusal.reason is RefusalReason.NO_WORKER
    assert pool.tick() == []


def test_slots_are_never_exceeded() -> None:
    pool = Pool()
    pool.up(total_pages=1000)
    assert [bool(starts(pool.submit(f"r{i}", 10, 10))) for i in range(6)] == [True] * 4 + [False] * 2
    assert starts(pool.finish("r0")) == {"r4": "a#1"}


def test_pages_are_never_exceeded() -> None:
    pool = Pool()
    pool.up()
    assert starts(pool.submit("big", 2000, 1072))  # 12 of 16 pages
    assert starts(pool.submit("small", 500, 268))  # 3
    assert not starts(pool.submit("two", 300, 200))
    assert starts(pool.finish("big"))


def test_pages_that_a_running_prompt_has_cost_nothing() -> None:
    pool = Pool()
    pool.up(total_pages=5)
    prefix = pages("p", "q", "s")
    assert starts(pool.submit("r", 800, 100, page_hashes=prefix))
    assert pool.free_pages == {"a#1": 1}
    assert starts(pool.submit("s", 800, 100, page_hashes=prefix))
    assert pool.free_pages == {"a#1": 0}
    pool.finish("r")
    assert pool.free_pages == {"a#1": 1}
    pool.finish("s")
    assert pool.free_pages == {"a#1": 5}


# Attempts.


def test_a_new_attempt_takes_the_place_of_the_old_one() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r", 300, 200)
    assert pool.submit("r", 350, 150, attempt=2) == [Start(Grant("r", 2, "a#1"), "f")]
    assert pool.free_pages == {"a#1": 14}
    pool.finish("r", attempt=1)
    assert pool.ignored == {"report of an attempt that is not booked": 1}
    pool.finish("r", attempt=2)
    assert pool.free_pages == {"a#1": 16}


def test_a_new_attempt_goes_before_its_tenants_later_requests() -> None:
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("r")
    pool.tick(1.0)
    pool.submit("s")
    pool.submit("t")
    pool.handle(WorkerDown("a#1", "it burned"))
    pool.submit("r", attempt=2, age_s=1.0)
    assert starts(pool.up(life=2, max_batch_size=1)) == {"r": "a#2"}


def test_a_new_attempt_is_neither_bound_by_the_queue_nor_by_the_wait() -> None:
    pool = Pool(max_queued_requests=1, max_wait_s=0.5)
    pool.up(max_batch_size=1)
    pool.submit("r")
    pool.handle(WorkerExpected("b"))
    assert refusals(pool.submit("s"))  # it would wait longer than 0.5 s
    assert pool.submit("t", attempt=2) == []
    assert refusals(pool.submit("u"))["u"].reason is RefusalReason.QUEUE_FULL
    assert pool.submit("v", attempt=2) == []


def test_a_worker_that_failed_a_request_is_avoided() -> None:
    pool = Pool()
    pool.up("a")
    pool.up("b")
    assert starts(pool.submit("r", excluded_workers=frozenset({"a#1"}))) == {"r": "b#1"}
    assert starts(pool.submit("s", excluded_workers=frozenset({"b#1", "gone#1"}))) == {"s": "a#1"}


def test_a_worker_that_failed_a_request_is_better_than_none() -> None:
    pool = Pool()
    pool.up("a")
    pool.up("b", total_pages=1)
    assert starts(pool.submit("r", excluded_workers=frozenset({"a#1"}))) == {"r": "a#1"}


# Cancellation.


def test_a_request_can_be_cancelled_while_it_waits() -> None:
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("r")
    pool.submit("s")
    assert pool.cancel("s") == []
    assert pool.finish("r") == []
    assert pool.free_pages == {"a#1": 16}


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_request_can_be_cancelled_while_it_runs(confirmed: bool) -> None:
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("r")
    if confirmed:
        pool.run("r")
    pool.submit("s")
    assert starts(pool.cancel("r")) == {"s": "a#1"}
    pool.finish("r", tokens=5)  # the worker's last word of it
    assert pool.free_pages == {"a#1": 14}


def test_cancelling_twice_or_what_nobody_knows_is_ignored() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r")
    pool.cancel("r")
    pool.cancel("r")
    pool.cancel("never")
    assert pool.ignored == {"cancellation of an unknown request": 2}
    assert pool.scheduler.statistics(0.0).cancelled == 1


# The clock.


def test_a_clock_that_steps_back_or_is_no_number_stands_still() -> None:
    pool = Pool()
    pool.up()
    scheduler = pool.scheduler
    scheduler.handle(Tick(), 10.0)
    for now_s in (3.0, float("nan"), float("inf"), float("-inf"), -1.0):
        assert scheduler.handle(Tick(), now_s) == []
        assert scheduler.state.now_s == 10.0
    assert pool.ignored == {"clock stepped back or is no time": 5}
    scheduler.handle(Tick(), 10.0)
    assert pool.ignored == {"clock stepped back or is no time": 5}
    assert starts(scheduler.handle(Submitted(admission("r")), 9.0)) == {"r": "a#1"}


def test_the_same_events_give_the_same_actions() -> None:
    def play(policy: str) -> list[list[Action]]:
        pool, dice = Pool(policy=policy, seed=7, max_wait_s=5.0), random.Random(3)
        said = [pool.up("a"), pool.up("b", max_batch_size=2), pool.up("c", total_pages=8)]
        for number in range(150):
            said.append(pool.submit(f"r{number}", dice.randrange(1, 1000), dice.randrange(1, 300)))
            said.append(pool.tick(dice.random() / 10))
            running = [(r.request_id, r.worker.worker_id) for r in pool.scheduler.state.requests.values() if r.worker]
            if running and dice.random() < 0.7:
                request_id, worker_id = dice.choice(running)
                said.append(pool.finish(request_id, worker_id, tokens=dice.randrange(1, 100)))
        return said

    for policy in ("cost", "power_of_two", "round_robin"):
        assert play(policy) == play(policy)


# What is kept.


def test_a_story_tells_what_happened_when_and_why_there() -> None:
    pool = Pool()
    pool.up(resident=pages("p"))
    pool.now_s = 5.0
    pool.submit("r", 300, 200, page_hashes=pages("p"), priority=Priority.INTERACTIVE)
    pool.report(after_s=1.0, started=(AttemptStarted("r", 1, 256),))
    pool.finish("r", tokens=17, after_s=2.0)
    queued, granted, finished = pool.story("r").splitlines()
    assert queued == "5.000 s: attempt 1 queued as interactive"
    assert granted.startswith(
        "5.000 s: attempt 1 granted on a#1 after 0.000 s: 1 of 1 prompt pages are there, 0 others"
    )
    assert granted.endswith("by cost")
    assert finished == "8.000 s: attempt 1 finished after 17 tokens"


def test_stories_of_refused_cancelled_and_unknown_requests() -> None:
    pool = Pool()
    pool.up()
    pool.submit("huge", 10**6)
    assert pool.story("huge").startswith("0.000 s: refused (oversized): 1000000 prompt tokens")
    pool.submit("r")
    pool.cancel("r")
    assert "cancelled while granted" in pool.story("r")
    assert pool.story("nobody") == ""


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'nonsense'; there are cost, lmetric"):
        Scheduler(SchedulerConfig(policy="nonsense"))


def test_events_without_effect_return_nothing() -> None:
    scheduler = Scheduler()
    assert scheduler.handle(Tick(), 0.0) == []
    assert scheduler.handle(Cancelled("r", 1), 0.0) == []
    scheduler.validate()
