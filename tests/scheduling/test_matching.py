"""Which waiting requests start where: holding, skipping ahead within bounds, and what a large fleet saves."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from actors.scheduling import matching
from actors.scheduling.actions import Action
from actors.scheduling.events import WorkerDown, WorkerExpected
from actors.scheduling.matching import LOOKAHEAD, MANY_WORKERS, MAX_SKIPS, RESCORE_S
from actors.scheduling.placement import Place, Placement
from actors.scheduling.policies import POLICIES
from actors.scheduling.records import Request
from tests.scheduling.pool import Pool, pages, refusals, starts


def running(pool: Pool) -> dict[str, str]:
    return {r.request_id: r.worker.worker_id for r in pool.scheduler.state.requests.values() if r.worker is not None}


def test_a_request_is_held_for_a_faster_worker_that_is_about_to_be_free() -> None:
    pool = Pool()
    pool.up("fast", max_batch_size=1)
    pool.up("slow", max_batch_size=1)
    pool.steps("fast#1", 0.01)
    pool.steps("slow#1", 1.0)
    assert starts(pool.submit("first", 10, 20)) == {"first": "fast#1"}
    assert pool.submit("held", 10, 20) == []
    assert starts(pool.finish("first", "fast#1", after_s=0.1)) == {"held": "fast#1"}


def test_a_request_is_not_held_when_that_costs_more_than_it_gains() -> None:
    pool = Pool()
    pool.up("fast", max_batch_size=1)
    pool.up("slow", max_batch_size=1)
    pool.steps("fast#1", 0.01)
    pool.steps("slow#1", 0.02)
    pool.submit("first", 10, 2000)
    assert starts(pool.submit("second", 10, 20)) == {"second": "slow#1"}


def test_a_request_that_fits_passes_one_that_does_not() -> None:
    pool = Pool()
    pool.up()
    pool.submit("runs", 2000, 800)  # 11 of 16 pages
    assert pool.submit("large", 2000, 800) == []
    assert starts(pool.submit("small", 200, 50)) == {"small": "a#1"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_large_request_is_not_starved_by_small_ones(policy: str) -> None:
    pool = Pool(policy=policy)
    pool.up(max_batch_size=8)
    pool.submit("s0", 900, 100)
    pool.submit("large", 3500, 500)  # the whole worker
    number, passed = 1, 0
    while "large" not in running(pool):
        pool.submit(f"s{number}", 200, 50)
        number += 1
        if (free := pool.free_pages["a#1"]) < 4 or number % 3 == 0:
            pool.finish(next(iter(running(pool))), after_s=0.5)
        passed = number
        assert passed < 10 * MAX_SKIPS, f"it still waits, with {free} pages free"
    assert passed >= 3
    assert pool.scheduler.state.matchmaker.reserved == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_is_passed_more_often_than_the_bound(policy: str) -> None:
    pool = Pool(policy=policy)
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", 3500, 500)
    started: list[str] = []
    for number in range(4 * MAX_SKIPS):
        started += starts(pool.submit(f"s{number}", 10, 10))
        if started:
            started += starts(pool.finish(started[-1])) if started[-1] in running(pool) else []
    assert len(started) == MAX_SKIPS
    assert "large" not in started


def test_a_worker_that_was_kept_is_free_for_all_when_its_request_gives_up() -> None:
    pool = Pool()
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", 3500, 500)
    for number in range(MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10)
        pool.finish(f"s{number}")
    assert pool.submit("next", 10, 10) == []
    assert starts(pool.cancel("large")) == {"next": "a#1"}


def test_a_worker_that_was_kept_is_free_for_all_when_its_request_has_waited_too_long() -> None:
    pool = Pool(max_wait_s=30.0)
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", 3500, 500)
    for number in range(MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10)
        pool.finish(f"s{number}")
    pool.now_s = 20.0
    assert pool.submit("next", 10, 10, timeout_s=100.0) == []
    actions = pool.tick(11.0)
    assert set(refusals(actions)) == {"large"}
    assert starts(actions) == {"next": "a#1"}


def test_a_worker_that_dies_is_kept_for_nobody() -> None:
    pool = Pool()
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", 3500, 500)
    for number in range(MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10)
        pool.finish(f"s{number}")
    assert len(pool.scheduler.state.matchmaker.reserved) == 1
    pool.handle(WorkerDown("a#1", "it burned"))
    assert pool.scheduler.state.matchmaker.reserved == {}
    assert starts(pool.up(life=2)) == {"large": "a#2"}


def test_one_request_keeps_one_worker_and_one_worker_is_kept_once() -> None:
    pool = Pool()
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", 3500, 500)
    pool.submit("other", 3500, 500)
    for number in range(MAX_SKIPS + 3):
        pool.submit(f"s{number}", 10, 10)
        if f"s{number}" in running(pool):
            pool.finish(f"s{number}")
    assert {r.request_id for r in pool.scheduler.state.matchmaker.reserved.values()} == {"large"}
    assert starts(pool.finish("runs")) == {"large": "a#1"}


def test_a_worker_that_failed_a_request_is_not_kept_for_it() -> None:
    pool = Pool(policy="least_requests")
    pool.up("a", max_batch_size=8)
    pool.up("b", max_batch_size=1)
    pool.submit("blocks", excluded_workers=frozenset({"a#1"}))
    assert pool.submit("picky", excluded_workers=frozenset({"a#1"})) == []
    for number in range(2 * MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10)
        pool.finish(f"s{number}")
    assert pool.scheduler.state.matchmaker.reserved == {}
    assert starts(pool.finish("blocks", "b#1")) == {"picky": "b#1"}


@pytest.mark.parametrize("policy", POLICIES)
def test_many_requests_over_unequal_workers_all_end(policy: str) -> None:
    pool, dice = Pool(policy=policy, max_queued_requests=10_000, max_wait_s=1e6), random.Random(2)
    for slot, total_pages in (("a", 16), ("b", 8), ("c", 32)):
        pool.up(slot, total_pages=total_pages, context_tokens=8192)
    for number in range(300):
        pool.submit(f"r{number}", dice.randrange(1, 4000), dice.randrange(1, 4000), tenant=dice.choice("xyz"))
    where = Counter[str]()
    while now := running(pool):
        name = dice.choice(list(now))
        where[now[name]] += 1
        pool.finish(name, now[name], after_s=0.1)
        pool.tick()
    assert sum(where.values()) == 300
    assert set(where) == {"a#1", "b#1", "c#1"}
    assert pool.free_pages == {"a#1": 16, "b#1": 8, "c#1": 32}


def test_who_comes_later_does_not_count_on_room_that_is_waited_for() -> None:
    pool = Pool()
    pool.up()
    for number in range(4):  # 4 pages each, and an end every 2 seconds
        pool.submit(f"r{number}", 24, 1000)
        pool.run(f"r{number}", after_s=2.0)
    pool.submit("large", 48, 2000)
    pool.submit("small", 24, 1000)
    waits_s = {name: pool.scheduler.state.requests[name].place_wait_s for name in ("large", "small")}
    assert waits_s["small"] == pytest.approx(waits_s["large"] + 2.0, abs=0.1)


# What is looked at.


class Counted:
    """Counts how often all workers are scored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scored: list[str] = []
        best = Placement.best

        def counted(placement: Placement, request: Request, now_s: float) -> Place | None:
            self.scored.append(request.request_id)
            return best(placement, request, now_s)

        monkeypatch.setattr(Placement, "best", counted)

    def take(self) -> list[str]:
        scored, self.scored = self.scored, []
        return scored


def large_pool(workers: int) -> Pool:
    """Every slot is taken, and many wait."""
    pool = Pool(max_queued_requests=10**6, max_wait_s=1e6)
    for number in range(workers):
        pool.up(f"w{number}", max_batch_size=1)
    for number in range(workers + 200):
        pool.submit(f"r{number}", 10, 100)
    return pool


def test_an_arrival_behind_many_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, counted = large_pool(4), Counted(monkeypatch)
    pool.submit("last")
    pool.report("w0#1")
    assert counted.take() == []


def test_the_cost_of_a_report_does_not_grow_with_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, counted = large_pool(4), Counted(monkeypatch)
    end_one(pool, "w0")
    assert 1 <= len(counted.take()) <= LOOKAHEAD
    pool.tick()
    assert counted.take() == []  # nobody has a slot


def test_the_scores_of_an_event_are_bounded_and_the_rest_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SCORES_PER_EVENT", 5)
    pool = Pool()
    pool.handle(WorkerExpected("a"))
    for number in range(12):
        pool.submit(f"r{number}", 10, 10)
    counted = Counted(monkeypatch)
    started = [len(starts(pool.up(max_batch_size=16)))]
    started += [len(starts(pool.tick())) for _ in range(3)]
    assert started == [5, 5, 2, 0]
    assert len(counted.take()) == 12


def many_workers() -> Pool:
    """Every slot of many workers is taken; those of worker 0, which has a prefix, will be free soon."""
    pool = Pool(max_queued_requests=10**6, max_wait_s=1e6)
    for number in range(MANY_WORKERS):
        pool.up(f"w{number}", max_batch_size=2, resident=pages("p", "q", "s") if number == 0 else ())
    for number in range(2 * MANY_WORKERS):
        pool.submit(f"r{number}", 10, 200 if number % MANY_WORKERS else 4)
    assert pool.submit("held", 1000, 10, page_hashes=pages("p", "q", "s")) == []
    return pool


def end_one(pool: Pool, name: str, after_s: float = 0.0) -> list[Action]:
    """One of the attempts of worker `{name}#1` ends."""
    worker = pool.scheduler.state.fleet.by_slot[name]
    return pool.finish(next(iter(worker.attempts)), worker.worker_id, after_s=after_s)


def test_of_many_workers_only_one_that_may_be_better_is_a_reason_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = many_workers()
    counted = Counted(monkeypatch)
    assert end_one(pool, "w7") == []
    assert counted.take() == []
    assert starts(end_one(pool, "w0")) == {"held": "w0#1"}


def test_of_many_workers_one_that_is_better_is_taken() -> None:
    pool = many_workers()
    pool.submit("other", 10, 10)
    assert starts(end_one(pool, "w7")) == {"other": "w7#1"}


def test_of_many_workers_all_are_looked_at_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = many_workers()
    counted = Counted(monkeypatch)
    end_one(pool, "w7", 2 * RESCORE_S)
    assert counted.take() == ["held"]
