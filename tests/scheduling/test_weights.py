"""Tenants get new shares while requests wait."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.results import Priority
from actors.scheduling import class_queue
from actors.scheduling.class_queue import LARGEST_COUNTER
from actors.scheduling.config import LARGEST_WEIGHT, SMALLEST_WEIGHT
from actors.scheduling.events import TenantsWeighed
from actors.scheduling.fair_queue import FairQueue
from tests.scheduling.pool import Pool, request, starts


def shares(pool: Pool, running: str, count: int) -> Counter[str]:
    """Which tenants the next starts belong to, one after another on the only place."""
    started: Counter[str] = Counter()
    for _ in range(count):
        ((next_one, _worker),) = starts(pool.finish(running)).items()
        started[next_one[0]] += 1
        pool.run(next_one)
        running = next_one
    return started


def crowded() -> Pool:
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("first")
    pool.run("first")
    for number in range(60):
        for tenant in ("a", "b"):
            pool.submit(f"{tenant}{number}", tenant=tenant)
    return pool


def test_equal_shares_unless_weighed() -> None:
    assert shares(crowded(), "first", 20) == {"a": 10, "b": 10}


def test_a_new_weight_counts_for_those_who_wait_already() -> None:
    pool = crowded()
    assert pool.handle(TenantsWeighed({"a": 3.0})) == []
    started = shares(pool, "first", 40)
    assert started["a"] == pytest.approx(30, abs=2)


def test_a_weight_that_is_taken_back_is_one_again() -> None:
    pool = crowded()
    pool.handle(TenantsWeighed({"a": 3.0}))
    pool.handle(TenantsWeighed({}))
    assert shares(pool, "first", 20) == {"a": 10, "b": 10}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e-300, 1e300, True])
def test_a_weight_that_is_none_changes_nothing(weight: float) -> None:
    pool = crowded()
    pool.handle(TenantsWeighed({"a": weight, "b": 3.0}))
    assert pool.ignored == {"weights out of bounds": 1}
    assert shares(pool, "first", 20) == {"a": 10, "b": 10}


@pytest.mark.parametrize("weight", [1e-300, 1e-308, 5e-324])
def test_a_weight_close_to_zero_does_not_let_counters_leave_the_finite(weight: float) -> None:
    """`Pool` checks after every event that they are finite."""
    pool = crowded()
    pool.handle(TenantsWeighed({"a": weight}))
    assert shares(pool, "first", 20) == {"a": 10, "b": 10}


def test_counters_stay_finite_and_in_order_over_years_of_load() -> None:
    """2 million tokens a second of the smallest weight, for three years, in large steps."""
    queue = FairQueue({"light": SMALLEST_WEIGHT, "heavy": LARGEST_WEIGHT})
    for tenant in ("light", "heavy", "plain"):
        for number in range(2):
            queue.push(request(f"{tenant}{number}", tenant=tenant))
    waiting = queue._classes[Priority.DEFAULT]
    for _ in range(2000):
        for tenant, share in (("light", SMALLEST_WEIGHT), ("heavy", LARGEST_WEIGHT), ("plain", 1.0)):
            waiting.charge(tenant, 1e11 * share)
        waiting.charge("light", 1000 * SMALLEST_WEIGHT)
        waiting.charge("plain", 500)
        queue.validate()
    counters = {name: counter for _, name, _, counter in queue.tenants()}
    assert max(counters.values()) <= LARGEST_COUNTER
    assert counters["heavy"] < counters["plain"] < counters["light"]
    assert counters["light"] - counters["heavy"] == pytest.approx(2000 * 1000, rel=1e-3)
    assert next(one.admission.tenant for one in queue.candidates(16)) == "heavy"


def test_a_tenant_that_is_ahead_beyond_measure_is_forgiven_and_not_lost() -> None:
    queue = FairQueue({})
    queue.push(request("a", tenant="a"))
    queue.push(request("b", tenant="b"))
    waiting = queue._classes[Priority.DEFAULT]
    for _ in range(200):
        waiting.charge("b", LARGEST_COUNTER / 3)
        queue.validate()
    counters = {name: counter for _, name, _, counter in queue.tenants()}
    assert counters["a"] == 0.0
    assert LARGEST_COUNTER / 3 < counters["b"] <= LARGEST_COUNTER
    queue.remove(next(iter(queue.candidates(1))))
    queue.remove(next(iter(queue.candidates(1))))
    waiting.charge("b", 2 * LARGEST_COUNTER)  # nobody waits
    queue.push(request("c", tenant="c"))
    queue.validate()


def test_sums_are_taken_anew_in_a_queue_that_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_queue, "RECOUNT_AFTER", 10)
    queue = FairQueue({"a": 0.1})
    queue.push(request("stays", tenant="z"))
    huge = request("huge", tenant="a")
    huge.work = 1e17
    queue.push(huge)
    for number in range(3):
        queue.push(request(f"r{number}", tenant="a"))  # lost beside what is huge
    queue.remove(huge)
    for number in range(9):
        one = request(f"s{number}", tenant="a")
        queue.push(one)
        queue.remove(one)
    queue.validate()
    assert queue.work == 4.0
