"""Who is next: classes, tenants by what they were served, the trickle, deadlines, and what is ahead of a newcomer."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.results import Priority
from actors.scheduling.class_queue import MAX_IDLE_TENANTS
from actors.scheduling.events import TenantsWeighed
from actors.scheduling.fair_queue import TRICKLE, FairQueue
from actors.scheduling.records import Request
from tests.scheduling.pool import Pool, request, starts


def queue_of(*requests: Request, weights: dict[str, float] | None = None) -> FairQueue:
    queue = FairQueue(weights or {})
    for one in requests:
        queue.push(one)
    queue.validate()
    return queue


def take(queue: FairQueue) -> str:
    """Serve the next one, whole."""
    one = next(iter(queue.candidates(16)))
    queue.remove(one)
    queue.charge_start(one, one.admission.prompt_tokens)
    return one.request_id


def test_requests_of_one_tenant_go_in_order() -> None:
    queue = queue_of(*(request(f"r{i}") for i in range(5)))
    assert [take(queue) for _ in range(5)] == ["r0", "r1", "r2", "r3", "r4"]
    assert len(queue) == 0


@pytest.mark.parametrize("count", range(1, 6))
def test_a_request_takes_the_place_that_its_age_gives_it(count: int) -> None:
    """Wherever among the others that is, and those of one moment go as they came."""
    for order in itertools.permutations(range(count)):
        queue = queue_of()
        for moment in order:
            for name in ("first", "second"):
                one = request(f"{name}{moment}")
                one.asked_s = float(moment)
                queue.push(one)
        queue.validate()
        assert [take(queue) for _ in range(2 * count)] == [
            f"{name}{moment}" for moment in range(count) for name in ("first", "second")
        ]


def test_classes_go_in_order() -> None:
    queue = queue_of(
        request("b", priority=Priority.BATCH),
        request("d", priority=Priority.DEFAULT),
        request("i", priority=Priority.INTERACTIVE),
    )
    assert [take(queue) for _ in range(3)] == ["i", "d", "b"]


def test_a_tenant_with_many_requests_does_not_hold_up_another() -> None:
    queue = queue_of(*(request(f"many{i}", tenant="many") for i in range(50)), request("one", tenant="one"))
    assert "one" in [take(queue) for _ in range(2)]


def test_a_pause_earns_no_credit() -> None:
    queue = queue_of(*(request(f"a{i}", tenant="a") for i in range(40)))
    for _ in range(20):
        take(queue)
    for i in range(20):
        queue.push(request(f"b{i}", tenant="b"))
    served = Counter(take(queue)[0] for _ in range(20))
    assert served == {"a": 10, "b": 10}


def test_an_empty_queue_forgets_no_debts() -> None:
    """Whoever comes to an empty queue starts where the last one was, not at zero."""
    queue = queue_of(*(request(f"a{i}", tenant="a") for i in range(20)))
    for _ in range(20):
        take(queue)
    for i in range(20):
        queue.push(request(f"a{i}", tenant="a"))
        queue.push(request(f"b{i}", tenant="b"))
    served = Counter(take(queue)[0] for _ in range(20))
    assert abs(served["a"] - served["b"]) <= 2


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0, 5.0])
def test_service_follows_the_weights(weight: float) -> None:
    queue = queue_of(weights={"a": weight})
    for i in range(200):
        queue.push(request(f"a{i}", tenant="a"))
        queue.push(request(f"b{i}", tenant="b"))
    served = Counter(take(queue)[0] for _ in range(120))
    assert served["a"] / served["b"] == pytest.approx(weight, rel=0.1)


def test_weights_can_change() -> None:
    queue = queue_of(request("waits", tenant="a"), weights={"a": 4.0})
    queue.push(request("served", tenant="c"))
    queue.remove(next(one for one in queue if one.request_id == "served"))
    queue.weigh({"b": 3.0})
    queue.remove(next(iter(queue)))
    for i in range(200):
        queue.push(request(f"a{i}", tenant="a"))
        queue.push(request(f"b{i}", tenant="b"))
    served = Counter(take(queue)[0] for _ in range(120))
    assert served["b"] / served["a"] == pytest.approx(3.0, rel=0.1)


def test_a_scheduler_takes_new_weights_and_ignores_impossible_ones() -> None:
    pool = Pool(tenant_weights={"a": 2.0})
    pool.handle(TenantsWeighed({"a": 5.0}))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        pool.handle(TenantsWeighed({"a": weight}))
    assert pool.ignored == {"weights out of bounds": 4}


def test_long_requests_cost_a_tenant_more() -> None:
    queue = queue_of(*(request(f"long{i}", 2000, 200, tenant="a") for i in range(50)))
    for i in range(200):
        queue.push(request(f"short{i}", 200, 200, tenant="b"))
    served = Counter(take(queue)[0] for _ in range(60))
    assert served["s"] / served["l"] == pytest.approx(2200 / 400, rel=0.3)


def test_output_is_charged_ahead_and_corrected() -> None:
    queue = queue_of()
    one = request("r", 100, 200, tenant="a")  # 100 of output are expected
    queue.push(one)
    queue.remove(one)
    queue.charge_start(one, 60)
    assert queue.tenants() == [(Priority.DEFAULT, "a", 0, 60 + 2 * 100)]
    queue.settle(one, 30)
    assert queue.tenants() == [(Priority.DEFAULT, "a", 0, 60 + 2 * 30)]
    queue.settle(one, 30)
    assert queue.tenants() == [(Priority.DEFAULT, "a", 0, 60 + 2 * 30)]


def test_a_refund_puts_a_tenant_before_others() -> None:
    queue = queue_of()
    runs = request("runs", 100, 2000, tenant="a")
    queue.push(runs)
    take(queue)
    for i in range(4):
        queue.push(request(f"a{i}", 100, 100, tenant="a"))
        queue.push(request(f"b{i}", 100, 100, tenant="b"))
    queue.settle(runs, 10.0)
    queue.validate()
    assert take(queue).startswith("a")


def test_charges_of_forgotten_tenants_are_dropped() -> None:
    queue = queue_of()
    for i in range(MAX_IDLE_TENANTS + 10):
        queue.push(request("r", tenant=str(i)))
        queue.remove(next(iter(queue)))
    assert len(queue.tenants()) == MAX_IDLE_TENANTS
    queue.settle(request("r", tenant="0"), 1000.0)
    queue.validate()
    queue.push(request("r", tenant="0"))
    assert take(queue) == "r"


# The trickle.


@pytest.mark.parametrize("lower", [Priority.DEFAULT, Priority.BATCH])
def test_a_class_behind_others_gets_its_share(lower: Priority) -> None:
    queue = queue_of(*(request(f"low{i}", priority=lower) for i in range(100)))
    for i in range(1500):
        queue.push(request(f"i{i}", priority=Priority.INTERACTIVE))
    served = Counter(take(queue)[0] for _ in range(1000))
    assert served["l"] == pytest.approx(1000 * TRICKLE[lower], abs=2)


def test_only_who_waits_earns_a_share() -> None:
    queue = queue_of(*(request(f"i{i}", priority=Priority.INTERACTIVE) for i in range(600)))
    for _ in range(500):
        take(queue)
    queue.push(request("low", priority=Priority.BATCH))
    assert take(queue) == "i500"


def test_what_is_owed_is_marked() -> None:
    queue = queue_of(request("low0", priority=Priority.BATCH), request("low1", priority=Priority.BATCH))
    for i in range(200):
        queue.push(request(f"i{i}", priority=Priority.INTERACTIVE))
    while (first := next(iter(queue.candidates(16)))).request_id != "low0":
        assert not first.due
        take(queue)
    assert first.due


def test_class_batch_gets_its_trickle_in_a_pool_that_others_fill() -> None:
    """And it does not wait for a worker to be emptied for it."""
    pool = Pool()
    pool.up(total_pages=64)
    for i in range(20):
        pool.submit(f"b{i}", 10, 100, priority=Priority.BATCH, tenant="batch")
    number, ended, fewest = 0, Counter[str](), 4
    while sum(ended.values()) < 1000:
        while pool.scheduler.state.queue.counts()[Priority.INTERACTIVE] < 3:
            pool.submit(f"i{number}", 10, 100, priority=Priority.INTERACTIVE)
            number += 1
        running = [r.request_id for r in pool.scheduler.state.requests.values() if r.worker]
        fewest = min(fewest, len(running))
        pool.finish(running[0], after_s=0.2)
        ended[running[0][0]] += 1
    assert 14 <= ended["b"] <= 30
    assert fewest == 4


# Candidates.


def test_candidates_are_bounded_and_of_several_tenants() -> None:
    queue = queue_of(*(request(f"{tenant}{i}", tenant=tenant) for tenant in "abcd" for i in range(40)))
    seen = [one.request_id for one in queue.candidates(16)]
    assert len(seen) == len(set(seen)) == 16
    assert Counter(name[0] for name in seen) == dict.fromkeys("abcd", 4)
    queue.validate()


def test_candidates_may_be_taken_while_they_are_looked_at() -> None:
    queue = queue_of(*(request(f"{tenant}{i}", tenant=tenant) for tenant in "abc" for i in range(5)))
    dice = random.Random(1)
    seen, kept = [], 0
    for one in queue.candidates(16):
        seen.append(one.request_id)
        if dice.random() < 0.5:
            queue.remove(one)
            queue.charge_start(one, 100)
        else:
            kept += 1
    queue.validate()
    assert sorted(seen) == sorted(f"{tenant}{i}" for tenant in "abc" for i in range(5))
    assert kept == len(queue)


def test_others_may_come_while_they_are_looked_at() -> None:
    queue = queue_of(*(request(f"{tenant}{i}", tenant=tenant) for tenant in "ab" for i in range(3)))
    for count, _ in enumerate(queue.candidates(16)):
        queue.push(request(f"new{count}", tenant="a"))
    queue.validate()
    everybody = sorted(one.request_id for one in queue)
    assert len(everybody) > 6
    assert sorted(take(queue) for _ in everybody) == everybody


def test_looking_may_be_broken_off() -> None:
    queue = queue_of(*(request(f"{tenant}{i}", tenant=tenant) for tenant in "abc" for i in range(5)))
    for count, _ in enumerate(queue.candidates(16)):
        if count == 7:
            break
    queue.validate()
    assert len([take(queue) for _ in range(15)]) == 15


# Deadlines, and what is ahead.


def test_deadlines_are_told_in_order_and_once() -> None:
    queue = queue_of()
    for i, deadline_s in enumerate((30.0, 10.0, 20.0, 10.0)):
        one = request(f"r{i}")
        one.deadline_s = deadline_s
        queue.push(one)
    assert [one.request_id for one in queue.expired(9.9)] == []
    assert [one.request_id for one in queue.expired(20.0)] == ["r1", "r3", "r2"]
    assert queue.expired(20.0) == []


def test_deadlines_of_those_who_left_are_forgotten() -> None:
    queue = queue_of()
    for i in range(10_000):
        one = request(f"r{i}")
        queue.push(one)
        queue.remove(one)
        queue.expired(0.0)
    assert len(queue._deadlines) < 100
    assert queue.expired(1e9) == []


def test_what_is_ahead_are_better_classes_and_the_own_share() -> None:
    queue = queue_of(
        *(request(f"i{i}", priority=Priority.INTERACTIVE) for i in range(3)),
        *(request(f"a{i}", tenant="a") for i in range(6)),
        *(request(f"b{i}", tenant="b") for i in range(2)),
        *(request(f"l{i}", priority=Priority.BATCH) for i in range(50)),
    )
    assert queue.work_ahead(request("x", priority=Priority.INTERACTIVE)) == 3.0
    assert queue.work_ahead(request("x", tenant="a")) == 3 + 8
    assert queue.work_ahead(request("x", tenant="b")) == 3 + 4
    assert queue.work_ahead(request("x", tenant="new")) == 3 + 2
    assert queue.work == 61.0


events = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(list(Priority)), st.integers(1, 900), st.integers(0, 2)),
    max_size=60,
)


@given(events)
def test_whatever_comes_and_goes_everybody_is_served_once(events: list[tuple[str, Priority, int, int]]) -> None:
    queue, pushed, left = queue_of(weights={"a": 3.0}), 0, []
    for tenant, priority, tokens, taken in events:
        queue.push(request(f"r{pushed}", tokens, tokens, tenant=tenant, priority=priority))
        pushed += 1
        left += [take(queue) for _ in range(min(taken, len(queue)))]
        queue.validate()
    left += [take(queue) for _ in range(len(queue))]
    assert sorted(left) == sorted(f"r{i}" for i in range(pushed))


@given(
    st.lists(st.integers(1, 2000), min_size=40, max_size=40), st.lists(st.integers(1, 2000), min_size=40, max_size=40)
)
def test_two_tenants_never_drift_apart_by_more_than_two_requests(ours: list[int], theirs: list[int]) -> None:
    """The bound of VTC: while both wait, their service differs by no more than twice the largest request."""
    queue, served = queue_of(), Counter[str]()
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        queue.push(request(f"a{i}", a, 2, tenant="a"))
        queue.push(request(f"b{i}", b, 2, tenant="b"))
    tokens = {f"a{i}": a for i, a in enumerate(ours)} | {f"b{i}": b for i, b in enumerate(theirs)}
    while all(count for _, _, count, _ in queue.tenants()):
        name = take(queue)
        served[name[0]] += tokens[name] + 2
        assert abs(served["a"] - served["b"]) <= 2 * (2000 + 2)
    queue.validate()


def test_tenants_are_served_evenly_in_a_pool() -> None:
    pool = Pool()
    pool.up(total_pages=64)
    for i in range(60):
        pool.submit(f"a{i}", 10, 100, tenant="a")
    for i in range(30):
        pool.submit(f"b{i}", 10, 100, tenant="b")
    order: list[str] = []
    while len(order) < 50:
        running = [r.request_id for r in pool.scheduler.state.requests.values() if r.worker]
        order += starts(pool.finish(running[0], after_s=0.5))
    served = Counter(name[0] for name in order)
    assert abs(served["a"] - served["b"]) <= 4
