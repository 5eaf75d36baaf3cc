"""When the scheduler says no: what can never run, what would or did wait too long, and when to return."""

from __future__ import annotations

import math
from typing import Any

import pytest

from actors.messages import RefusalReason
from actors.results import Priority
from actors.scheduling.events import WorkerDown, WorkerDraining, WorkerExpected, WorkerLost, WorkerSuspected
from actors.scheduling.records import RequestState
from tests.scheduling.pool import Pool, pages, refusals, starts


def full_pool(**settings: Any) -> Pool:
    """One worker of one slot, which is taken."""
    pool = Pool(**settings)
    pool.up(max_batch_size=1)
    pool.submit("first", 300, 200)
    pool.run("first")
    return pool


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_tokens": 0},
        {"prompt_tokens": -5},
        {"max_new_tokens": 0},
        {"max_new_tokens": -1},
        {"max_new_tokens": 10**400},
        {"attempt": 0},
        {"attempt": -3},
        {"timeout_s": 0.0},
        {"timeout_s": -1.0},
        {"timeout_s": math.nan},
        {"page_hashes": pages("p", "q")},
        {"prompt_tokens": 256, "page_hashes": pages("p")},
        {"prompt_tokens": 600, "page_hashes": pages("p", "p")},
    ],
)
def test_nonsense_is_refused_and_changes_nothing(fields: dict[str, Any]) -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    refusal = refusals(pool.submit("r", **fields))["r"]
    assert refusal.reason is RefusalReason.INVALID
    assert refusal.retry_after_s is None
    assert pool.scheduler.state.requests == {}
    assert pool.up() == []
    assert pool.free_pages == {"a#1": 16}


# What fits no worker.


@pytest.mark.parametrize(
    ("prompt_tokens", "max_new_tokens", "limits"),
    [(4000, 97, {"total_pages": 100}), (4000, 96, {"total_pages": 15}), (4000, 96, {"reserve_tokens": 1})],
)
def test_what_no_worker_can_ever_run_is_refused_at_once_and_for_good(
    prompt_tokens: int, max_new_tokens: int, limits: dict[str, Any]
) -> None:
    pool = Pool()
    pool.up("small", total_pages=4)
    pool.up(**limits)
    refusal = refusals(pool.submit("r", prompt_tokens, max_new_tokens))["r"]
    assert refusal.reason is RefusalReason.OVERSIZED
    assert refusal.retry_after_s is None
    assert str(prompt_tokens) in refusal.message


def test_what_just_fits_is_started() -> None:
    pool = Pool()
    pool.up("small", total_pages=4)
    pool.up()
    assert starts(pool.submit("r", 4000, 96)) == {"r": "a#1"}


def test_what_turns_out_to_be_oversized_when_the_first_worker_comes_is_refused() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("huge", 5000)
    pool.submit("fine", 500)
    actions = pool.up()
    assert refusals(actions)["huge"].reason is RefusalReason.OVERSIZED
    assert starts(actions) == {"fine": "a#1"}


def test_a_worker_that_is_restarted_still_counts() -> None:
    pool = Pool()
    pool.up("small", total_pages=4)
    pool.up("large")
    pool.handle(WorkerDown("large#1", "it burned"))
    assert pool.submit("r", 2000) == []
    assert starts(pool.up("large", life=2)) == {"r": "large#2"}


@pytest.mark.parametrize("event", [WorkerLost("large", "gone for good"), WorkerDraining("large#1")])
def test_when_the_only_worker_that_fits_goes_for_good_its_requests_are_refused(
    event: WorkerLost | WorkerDraining,
) -> None:
    pool = Pool()
    pool.up("small", total_pages=4, max_batch_size=1)
    pool.up("large", max_batch_size=1)
    pool.submit("one", 10, 10)
    pool.submit("two", 10, 10)
    assert pool.submit("big", 2000) == pool.submit("little", 10) == []
    refused = refusals(pool.handle(event))
    assert refused["big"].reason is RefusalReason.OVERSIZED
    assert set(refused) == {"big"}
    assert refusals(pool.submit("again", 2000))["again"].reason is RefusalReason.OVERSIZED


def test_when_the_only_worker_that_fits_comes_back_smaller_its_requests_are_refused() -> None:
    pool = Pool()
    pool.up("large")
    pool.handle(WorkerDown("large#1", "it burned"))
    pool.submit("big", 3000)
    assert refusals(pool.up("large", life=2, total_pages=4))["big"].reason is RefusalReason.OVERSIZED


# Bounds.


def test_the_queue_is_bounded_in_requests() -> None:
    pool = full_pool(max_queued_requests=2)
    assert pool.submit("r") == pool.submit("s") == []
    refusal = refusals(pool.submit("t"))["t"]
    assert refusal.reason is RefusalReason.QUEUE_FULL
    assert refusal.message.startswith("2 requests wait already")
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 0.0
    pool.cancel("r")
    assert pool.submit("t") == []


def test_when_to_return_grows_with_the_queue_and_is_spread() -> None:
    def retry_s(waiting: int, seed: int) -> float:
        pool = full_pool(max_queued_requests=waiting, seed=seed, max_wait_s=1e6)
        for number in range(waiting):
            pool.submit(f"r{number}", 2000, 1000, tenant=str(number))
        retry_after_s = refusals(pool.submit("last"))["last"].retry_after_s
        assert retry_after_s is not None
        return retry_after_s

    assert retry_s(300, 0) > 2 * retry_s(100, 0) > 10.0
    assert retry_s(100, 0) == retry_s(100, 0)
    assert len({retry_s(100, seed) for seed in range(8)}) == 8


def test_who_would_wait_too_long_is_refused_at_arrival_with_a_time_to_return() -> None:
    pool = full_pool(max_wait_s=100.0)
    for number in range(100):
        refused = refusals(pool.submit(f"r{number}", 2000, 1000))
        if refused:
            break
    (refusal,) = refused.values()
    assert 7 < number < 13
    assert refusal.reason is RefusalReason.WAIT_TOO_LONG
    assert "100.0 s are the most" in refusal.message
    assert refusal.retry_after_s is not None
    assert 45.0 < refusal.retry_after_s < 70.0  # half of the bound and some seconds, give or take a tenth


def test_who_would_miss_its_own_deadline_is_refused_at_arrival() -> None:
    pool = full_pool()
    for number in range(20):
        pool.submit(f"r{number}", 2000, 1000)
    assert pool.submit("patient", 300, 200, timeout_s=500.0) == []
    refusal = refusals(pool.submit("hasty", 300, 200, timeout_s=1.0))["hasty"]
    assert refusal.reason is RefusalReason.WAIT_TOO_LONG
    assert "not admitted" in pool.story("hasty")


def test_who_need_not_wait_is_never_refused_for_its_deadline() -> None:
    pool = Pool()
    pool.up()
    assert starts(pool.submit("r", timeout_s=1e-3)) == {"r": "a#1"}


def test_nobody_is_refused_for_an_estimate_while_no_worker_is_up() -> None:
    pool = Pool(max_wait_s=0.5)
    pool.handle(WorkerExpected("a"))
    for number in range(100):
        assert pool.submit(f"r{number}", 2000, 2000) == []


def test_requests_that_together_need_more_than_a_worker_are_not_refused() -> None:
    pool = Pool()
    pool.up()
    assert [starts(pool.submit(f"r{number}", 1500, 900)) for number in range(8)] == [{"r0": "a#1"}, *[{}] * 7]
    assert len(pool.scheduler.state.queue) == 7


def test_who_waits_longer_than_the_bound_is_refused_once() -> None:
    pool = full_pool(max_wait_s=30.0, stall_timeout_s=1000.0)
    pool.submit("r")
    assert pool.tick(29.9) == []
    refusal = refusals(pool.tick(0.2))["r"]
    assert refusal.reason is RefusalReason.WAIT_TOO_LONG
    assert refusal.retry_after_s is not None
    assert pool.tick(100.0) == []
    assert pool.free_pages == {"a#1": 14}


@pytest.mark.parametrize("arrived_s", [0.0, 0.1, 0.7, 1e6 / 3, 123456.789])
def test_who_waits_longer_than_its_own_time_limit_is_told_so(arrived_s: float) -> None:
    pool = Pool()
    pool.now_s = arrived_s
    pool.up(max_batch_size=1)
    pool.submit("first")
    pool.run("first")
    pool.submit("r", timeout_s=10.3)
    pool.now_s = arrived_s + 10.3
    refusal = refusals(pool.tick(0.0))["r"]
    assert refusal.reason is RefusalReason.DEADLINE
    assert refusal.retry_after_s is None


@pytest.mark.parametrize("timeout_s", [0.3, None])
@pytest.mark.parametrize("loss", ["expected", "down", "suspected"])
def test_who_waits_in_vain_for_any_worker_at_all_is_told_when_to_come_back(loss: str, timeout_s: float | None) -> None:
    pool = Pool(max_wait_s=2.0)
    pool.handle(WorkerExpected("a"))
    if loss != "expected":
        pool.up()
        pool.handle(WorkerDown("a#1", "it died") if loss == "down" else WorkerSuspected("a#1"))
    pool.submit("r", timeout_s=timeout_s)
    refusal = refusals(pool.tick(2.0))["r"]
    assert refusal.reason is RefusalReason.NO_WORKER
    assert refusal.retry_after_s is not None


def test_class_batch_may_wait_longer() -> None:
    pool = full_pool(max_wait_s=30.0, max_batch_wait_s=100.0, stall_timeout_s=1000.0)
    pool.submit("soon", priority=Priority.INTERACTIVE)
    pool.submit("late", priority=Priority.BATCH)
    pool.submit("own", priority=Priority.BATCH, timeout_s=60.0)
    assert set(refusals(pool.tick(31.0))) == {"soon"}
    assert refusals(pool.tick(30.0))["own"].reason is RefusalReason.DEADLINE
    assert refusals(pool.tick(40.0))["late"].reason is RefusalReason.WAIT_TOO_LONG


def test_any_event_finds_what_is_late() -> None:
    pool = full_pool(max_wait_s=30.0)
    pool.submit("r")
    pool.now_s = 50.0
    assert set(refusals(pool.cancel("nobody"))) == {"r"}


# The estimate.


def test_estimates_are_compared_with_what_happened() -> None:
    pool = full_pool()
    pool.submit("second")
    assert pool.scheduler.statistics(0.0).est_wait_error.count == 0
    estimated_s = pool.scheduler.state.requests["second"].estimated_wait_s
    assert 0.0 < estimated_s < 10.0
    pool.finish("first", after_s=7.0)
    error = pool.scheduler.statistics(7.0).est_wait_error
    assert error.count == 1
    assert error.mean_s == pytest.approx(7.0 - estimated_s)
    assert error.mean_absolute_s == pytest.approx(abs(7.0 - estimated_s))


def test_estimates_learn_from_what_happened() -> None:
    def error_s(rounds: int) -> float:
        """Distance of the estimate from the 5 s that every wait really takes."""
        pool = full_pool()
        running = "first"
        for number in range(rounds):
            pool.submit(f"r{number}", 300, 200)
            pool.finish(running, after_s=5.0)
            running = f"r{number}"
            pool.run(running)
        pool.submit("last", 300, 200)
        return abs(pool.scheduler.state.requests["last"].estimated_wait_s - 5.0)

    assert error_s(100) < error_s(0) / 2


def test_the_wait_of_a_batch_request_teaches_something_unless_it_was_overtaken() -> None:
    def count(*, overtaken: bool) -> int:
        pool = full_pool()
        pool.submit("batch", 10, 20, priority=Priority.BATCH)
        if overtaken:
            pool.submit("chat", 10, 20, priority=Priority.INTERACTIVE)
            pool.finish("first", after_s=1.0)
            pool.finish("chat", after_s=1.0)
            assert pool.scheduler.statistics(2.0).est_wait_error.count == 1
        else:
            pool.finish("first", after_s=1.0)
        pool.tick(100.0)
        assert pool.scheduler.state.requests["batch"].state is RequestState.GRANTED
        return pool.scheduler.statistics(200.0).est_wait_error.count

    assert count(overtaken=False) == 1
    assert count(overtaken=True) == 1


def test_waiting_for_a_worker_to_load_teaches_nothing() -> None:
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    pool.submit("r")
    pool.tick(300.0)
    assert starts(pool.up()) == {"r": "a#1"}
    assert pool.scheduler.statistics(300.0).est_wait_error.count == 0
