"""One request before all workers: who may take it, how long each would take to have room, and who is best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.results import Priority
from actors.scheduling.estimates import StepTimes
from actors.scheduling.events import WorkerDraining
from actors.scheduling.fair_queue import FairQueue
from actors.scheduling.fleet import Fleet
from actors.scheduling.placement import MAX_PREFILLS, Place, Placement, price_s, prompts_are_held_back
from actors.scheduling.policies import make_policy
from actors.scheduling.records import PEAK_HALF_LIFE_S, Request, RequestState, Worker
from tests.scheduling.pool import LIMITS, Pool, pages, request, starts


class Bench:
    """A fleet and a placement, without a scheduler."""

    def __init__(self, policy: str = "cost") -> None:
        self.fleet = Fleet()
        self.placement = Placement(self.fleet, make_policy(policy, 0))

    def add(self, name: str, step_s: float = 0.02, **limits: Any) -> Worker:
        worker = self.fleet.add(f"{name}#1", name, replace(LIMITS, **limits), 0)
        worker.model.times = StepTimes(step_s, 0.0, 0.0002)
        self.fleet.changed(worker)
        return worker

    def run(self, worker: Worker, one: Request, now_s: float = 0.0) -> None:
        """The worker decodes this request from now on."""
        worker.book(one, now_s, 0)
        worker.prefilled(one)
        one.first_token_s = now_s
        self.fleet.changed(worker)

    def best(self, one: Request, now_s: float = 0.0) -> Place | None:
        return self.placement.best(one, now_s)


def test_a_prefix_draws_a_request() -> None:
    bench = Bench()
    bench.add("a")
    bench.add("b").ledger.add_resident(pages("p", "q"))
    bench.add("c").ledger.add_resident(pages("p"))
    place = bench.best(request("r", 600, 100, page_hashes=pages("p", "q")))
    assert place is not None
    assert (place.worker_index, place.wait_s) == (1, 0.0)


@pytest.mark.parametrize("workers", [3, 100])
def test_prefixes_are_found_in_small_and_large_fleets(workers: int) -> None:
    bench = Bench()
    for number in range(workers):
        worker = bench.add(f"w{number}")
        worker.ledger.add_resident(pages("p"))
        if number == workers - 2:
            worker.ledger.add_resident(pages("q"))
    place = bench.best(request("r", 600, 100, page_hashes=pages("p", "q")))
    assert place is not None
    assert place.worker_index == workers - 2
    assert place.score == pytest.approx((600 - 512) * 0.0002 + 0.3 * 50 * 0.02)


def test_a_worker_without_room_is_waited_for_as_long_as_its_next_end() -> None:
    bench = Bench()
    worker = bench.add("a", max_batch_size=1)
    bench.run(worker, request("runs", 10, 200))  # 100 tokens at 20 ms are expected
    place = bench.best(request("r"))
    assert place is not None
    assert place.wait_s == pytest.approx(2.0)
    bench.fleet.age_releases()
    later = bench.best(request("s"), now_s=1.5)
    assert later is not None
    assert later.wait_s == pytest.approx(0.5)


def test_pages_are_waited_for_until_enough_have_ended() -> None:
    bench = Bench()
    worker = bench.add("a")
    for number in range(3):  # 4 pages each; ends after 5, 10 and 15 s
        one = request(f"runs{number}", 24, 1000)
        one.expected_tokens = 250.0 * (number + 1)
        bench.run(worker, one)
    waits = []
    for own_pages in (4, 5, 9, 13):
        place = bench.best(request("r", 256 * own_pages - 100, 100))
        assert place is not None
        waits.append(round(place.wait_s, 3))
    assert waits == [0.0, 5.0, 10.0, 15.0]


def test_what_others_wait_for_is_not_counted_on() -> None:
    bench = Bench()
    worker = bench.add("a")
    for number in range(4):  # 4 pages each; all taken
        one = request(f"runs{number}", 24, 1000)
        one.expected_tokens = 250.0 * (number + 1)
        bench.run(worker, one)
    bench.placement.promised_pages[0] = 8.0
    place = bench.best(request("r", 900, 100))
    assert place is not None
    assert place.wait_s == pytest.approx(15.0)
    bench.placement.promised_pages[0] = 28.0  # with its own 4 twice the worker
    place = bench.best(request("r", 900, 100))
    assert place is not None
    assert place.wait_s == pytest.approx(40.0)


def test_an_end_that_is_overdue_is_not_there_yet() -> None:
    bench = Bench()
    worker = bench.add("a", max_batch_size=1)
    bench.run(worker, request("runs", 10, 4))
    bench.fleet.age_releases()
    place = bench.best(request("r"), now_s=1000.0)
    assert place is not None
    assert 0.0 < place.wait_s < 0.1


def test_a_request_goes_where_it_is_done_first_even_if_it_waits() -> None:
    bench = Bench()
    fast = bench.add("fast", 0.01, max_batch_size=1)
    bench.add("slow", 0.2)
    ends_soon = request("runs", 10, 200)
    ends_soon.expected_tokens = 10.0
    bench.run(fast, ends_soon)
    place = bench.best(request("r", 300, 200))
    assert place is not None
    assert (place.worker_index, round(place.wait_s, 3)) == (0, 0.1)


def test_nobody_holds_out_for_a_worker_when_all_have_a_queue() -> None:
    bench = Bench()
    fast = bench.add("fast", 0.01, max_batch_size=1)
    bench.add("slow", 0.2)
    bench.run(fast, request("runs", 10, 20))
    bench.placement.backlog_s = 60.0
    place = bench.best(request("r", 300, 200))
    assert place is not None
    assert (place.worker_index, place.wait_s) == (1, 0.0)


@pytest.mark.parametrize("policy", ["lmetric", "least_requests", "power_of_two", "round_robin"])
def test_other_policies_take_only_what_has_room(policy: str) -> None:
    bench = Bench(policy)
    full = bench.add("full", max_batch_size=1)
    bench.run(full, request("runs"))
    assert bench.best(request("r")) is None
    bench.add("free")
    place = bench.best(request("r"))
    assert place is not None
    assert (place.worker_index, place.wait_s) == (1, 0.0)


# Who may take it.


def test_workers_that_are_too_small_are_passed_over() -> None:
    bench = Bench()
    bench.add("pages", total_pages=3)
    bench.add("context", context_tokens=1000)
    bench.add("reserve", total_pages=4, reserve_tokens=25)
    assert bench.best(request("r", 1000, 24)) is None
    bench.add("fits", total_pages=4)
    place = bench.best(request("r", 924, 100))
    assert place is not None
    assert bench.fleet.by_index[place.worker_index] is bench.fleet.by_id["fits#1"]


def test_without_workers_there_is_no_place() -> None:
    assert Bench().best(request("r")) is None


def test_a_worker_that_is_kept_for_another_is_passed_over() -> None:
    bench = Bench()
    bench.add("a")
    bench.add("b", 0.2)
    owner = request("owner")
    bench.placement.reserved[0] = owner
    owner.reserves = 0
    place = bench.best(request("r"))
    assert place is not None
    assert place.worker_index == 1
    place = bench.best(owner)
    assert place is not None
    assert place.worker_index == 0


def test_who_has_a_worker_kept_for_it_looks_no_further() -> None:
    bench = Bench()
    bench.add("fast", 0.01)
    bench.add("slow", 0.5)
    owner = request("owner")
    owner.reserves = 1
    bench.placement.reserved[1] = owner
    place = bench.best(owner)
    assert place is not None
    assert place.worker_index == 1


def test_who_has_a_suspect_kept_for_it_looks_further() -> None:
    pool = Pool(stall_timeout_s=10.0)
    pool.up("a", max_batch_size=1)
    pool.up("b", max_batch_size=1)
    pool.submit("one")
    pool.submit("two")
    pool.submit("waits")
    state = pool.scheduler.state
    waits = state.requests["waits"]
    waits.reserves = waits.wants = state.fleet.by_id["a#1"].index
    state.matchmaker.reserved[waits.reserves] = waits
    pool.fall_silent("a#1")
    on_b = next(r for r in ("one", "two") if state.requests[r].worker is state.fleet.by_id["b#1"])
    assert starts(pool.finish(on_b, "b#1")) == {"waits": "b#1"}
    assert state.matchmaker.reserved == {}


def test_a_worker_that_is_emptied_is_not_kept_for_anybody() -> None:
    pool = Pool()
    pool.up("a", max_batch_size=1)
    pool.up("b", max_batch_size=1)
    for name in ("one", "two", "waits"):
        pool.submit(name)
    waits = pool.scheduler.state.requests["waits"]
    waits.reserves = pool.scheduler.state.fleet.by_id["a#1"].index
    pool.scheduler.state.matchmaker.reserved[waits.reserves] = waits
    pool.handle(WorkerDraining("a#1"))
    assert waits.reserves == -1
    assert pool.scheduler.state.matchmaker.reserved == {}


# Prefill, and class batch.


def test_prompts_wait_while_a_worker_has_enough_to_compute() -> None:
    pool = Pool()
    pool.up()
    for number in range(MAX_PREFILLS):
        assert starts(pool.submit(f"r{number}", 1000, 20))
    worker = pool.scheduler.state.fleet.by_id["a#1"]
    assert prompts_are_held_back(worker)
    assert pool.submit("next", 1000, 20) == []
    assert starts(pool.report(first_tokens=(("r0", 1),))) == {"next": "a#1"}


def test_short_prompts_need_not_wait_for_each_other() -> None:
    pool = Pool()
    pool.up()
    for number in range(4):
        assert starts(pool.submit(f"r{number}", 20, 20))


def busy_then_quiet() -> Pool:
    """A worker where four interactive requests ran a moment ago, and one of them still does."""
    pool = Pool()
    pool.up()
    for number in range(4):
        pool.submit(f"r{number}", 10, 20, priority=Priority.INTERACTIVE)
        pool.run(f"r{number}")
    for number in range(3):
        pool.finish(f"r{number}")
    return pool


def test_class_batch_leaves_room_for_those_who_were_there_a_moment_ago() -> None:
    pool = busy_then_quiet()
    assert pool.submit("batch", 10, 20, priority=Priority.BATCH) == []
    waits_s = pool.scheduler.state.requests["batch"].estimated_wait_s
    assert 0.0 < waits_s <= 2 * PEAK_HALF_LIFE_S
    assert starts(pool.submit("again", 10, 20, priority=Priority.INTERACTIVE))


def test_class_batch_takes_the_room_once_it_was_not_used_for_a_while() -> None:
    pool = busy_then_quiet()
    pool.submit("batch", 10, 20, priority=Priority.BATCH)
    assert pool.tick(PEAK_HALF_LIFE_S / 10) == []
    assert starts(pool.tick(PEAK_HALF_LIFE_S)) == {"batch": "a#1"}


def test_nothing_is_kept_from_the_batch_request_that_a_worker_is_kept_for() -> None:
    """Nobody else may start there: what was kept from it would stand idle while everybody waits."""
    pool = busy_then_quiet()
    assert pool.submit("batch", 10, 20, priority=Priority.BATCH) == []
    state = pool.scheduler.state
    batch = state.requests["batch"]
    batch.reserves = batch.wants = state.fleet.by_id["a#1"].index
    state.matchmaker.reserved[batch.reserves] = batch
    assert starts(pool.report("a#1")) == {"batch": "a#1"}
    assert state.matchmaker.reserved == {}


def test_class_batch_prefills_one_prompt_at_a_time_beside_others() -> None:
    pool = Pool()
    pool.up(max_batch_size=16, total_pages=64)
    pool.submit("chat", 10, 20, priority=Priority.INTERACTIVE)
    assert starts(pool.submit("b0", 500, 20, priority=Priority.BATCH))
    assert pool.submit("b1", 500, 20, priority=Priority.BATCH) == []
    assert starts(pool.report(first_tokens=(("b0", 1),))) == {"b1": "a#1"}


def test_class_batch_has_an_unused_pool_to_itself() -> None:
    pool = Pool()
    pool.up()
    assert [bool(starts(pool.submit(f"b{i}", 10, 20, priority=Priority.BATCH))) for i in range(5)] == [True] * 4 + [
        False
    ]


def test_the_price_of_one_worker_is_its_score() -> None:
    bench = Bench()
    worker = bench.add("a")
    worker.ledger.add_resident(pages("p"))
    bench.run(worker, request("runs"))
    one = request("r", 600, 100, page_hashes=pages("p", "q"))
    place = bench.best(one)
    assert place is not None
    assert place.score == pytest.approx(price_s(one, worker, bench.fleet))


sizes = st.integers(1, 4000)


@given(
    st.lists(st.tuples(sizes, sizes, st.booleans()), max_size=12),
    st.lists(st.tuples(st.integers(1, 16), st.integers(1, 4), st.integers(0, 300)), min_size=1, max_size=4),
    st.tuples(sizes, sizes, st.booleans()),
)
def test_a_place_without_wait_has_room_and_every_wait_is_finite(
    load: list[tuple[int, int, bool]], workers: list[tuple[int, int, int]], wanted: tuple[int, int, bool]
) -> None:
    bench = Bench()
    for number, (total_pages, slots, reserve) in enumerate(workers):
        bench.add(f"w{number}", total_pages=total_pages, max_batch_size=slots, reserve_tokens=reserve)
    for number, (prompt_tokens, new_tokens, batch) in enumerate(load):
        worker = bench.fleet.by_index[number % len(workers)]
        one = request(f"r{number}", prompt_tokens, new_tokens, priority=Priority.BATCH if batch else Priority.DEFAULT)
        assert worker is not None
        if worker.could_start(one):
            bench.run(worker, one)
        else:
            promised = bench.placement.promised_pages
            promised[worker.index] = promised.get(worker.index, 0.0) + one.own_pages
    prompt_tokens, new_tokens, is_batch = wanted
    one = request("r", prompt_tokens, new_tokens, priority=Priority.BATCH if is_batch else Priority.DEFAULT)
    place = bench.best(one, 1.0)
    able = [
        worker for worker in bench.fleet if worker.limits.total_pages * 256 >= one.tokens + worker.limits.reserve_tokens
    ]
    able = [worker for worker in able if worker.limits.context_tokens >= one.tokens]
    assert (place is None) == (not able)
    if place is not None:
        worker = bench.fleet.by_index[place.worker_index]
        assert worker in able
        assert 0.0 <= place.wait_s < 1e6
        assert worker is not None
        assert place.wait_s > 0.0 or worker.could_start(one)


def test_scoring_changes_nothing() -> None:
    bench = Bench()
    worker = bench.add("a")
    queue, one = FairQueue({}), request("r")
    queue.push(one)
    assert bench.best(one) == bench.best(one)
    assert one.state is RequestState.QUEUED
    assert worker.attempts == {}
