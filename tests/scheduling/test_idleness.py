"""No request waits beside a worker that could start it: what was found standing idle, and that the rule is checked."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.messages import RunningAttempt
from actors.results import Priority
from actors.scheduling import idleness, matching
from actors.scheduling.events import WorkerDown, WorkerSuspected
from actors.scheduling.matching import LOOKAHEAD, MAX_SKIPS
from actors.scheduling.placement import MAX_PREFILLS, prompts_are_held_back
from actors.scheduling.records import PEAK_HALF_LIFE_S, WorkerStatus
from actors.scheduling.validation import validate
from tests.scheduling.pool import Pool, admission, refusals, starts

PREFIX = tuple(bytes([number]) * 16 for number in range(3))
"""Hashes of three pages."""
WHOLE = (3500, 500)
"""Tokens of a request that takes all 16 pages of a worker."""


def after_chats(**limits: Any) -> Pool:
    """A worker that chats had filled until a moment ago. It is idle."""
    pool = Pool()
    pool.up(**limits)
    for number in range(4):
        pool.submit(f"chat{number}", 900, 100, priority=Priority.INTERACTIVE)
        pool.run(f"chat{number}")
    for number in range(4):
        pool.finish(f"chat{number}")
    return pool


def test_a_batch_request_that_needs_a_whole_worker_starts_on_an_idle_one() -> None:
    pool = after_chats()
    assert starts(pool.submit("whole", *WHOLE, priority=Priority.BATCH)) == {"whole": "a#1"}


def test_what_is_kept_for_chats_is_kept_beside_others_only_until_they_have_ended() -> None:
    pool = after_chats()
    pool.submit("chat", 10, 20, priority=Priority.INTERACTIVE)
    pool.run("chat")
    assert pool.submit("whole", *WHOLE, priority=Priority.BATCH) == []
    assert pool.submit("half", 1500, 500, priority=Priority.BATCH) == []
    assert set(starts(pool.finish("chat"))) == {"whole"}


def test_a_worker_that_is_kept_for_a_batch_request_starts_it_beside_idle_slots() -> None:
    """What others wait for behind it is not kept from it, so that they wait no longer than they must."""
    pool = after_chats(max_batch_size=4)
    pool.submit("runs", 10, 20, priority=Priority.BATCH)
    pool.run("runs")
    assert pool.submit("large", 2500, 500, priority=Priority.BATCH) == []
    state = pool.scheduler.state
    large = state.requests["large"]
    large.reserves = large.wants = 0
    state.matchmaker.reserved[0] = large
    assert starts(pool.report()) == {"large": "a#1"}
    assert starts(pool.submit("chat", 10, 20, priority=Priority.INTERACTIVE)) == {"chat": "a#1"}


def small_and_large(large_is_down: bool, policy: str = "cost", tenants: int = 1, count: int = LOOKAHEAD) -> Pool:
    """Requests that fit only a large worker fill the window; a small worker is idle."""
    pool = Pool(policy=policy)
    pool.up("large", total_pages=16)
    pool.up("small", total_pages=4, context_tokens=1024)
    if large_is_down:
        pool.handle(WorkerDown("large#1", "it burned"))
    else:
        pool.submit("runs", *WHOLE)
    for number in range(count):
        pool.submit(f"large{number}", *WHOLE, tenant=f"t{number % tenants}")
    return pool


@pytest.mark.parametrize("policy", ["cost", "round_robin"])
@pytest.mark.parametrize("large_is_down", [True, False])
@pytest.mark.parametrize("tenants", [1, 5, 100])
def test_small_requests_run_on_a_small_worker_behind_any_number_of_large_ones(
    large_is_down: bool, policy: str, tenants: int
) -> None:
    pool = small_and_large(large_is_down, policy, tenants, 10 * LOOKAHEAD)
    for number in range(4):
        assert starts(pool.submit(f"small{number}", 100, 100, tenant="s")) == {f"small{number}": "small#1"}
        pool.run(f"small{number}", "small#1")
    for number in range(4, 12):
        assert pool.submit(f"small{number}", 100, 100, tenant="s") == []
    for number in range(4, 12):
        assert starts(pool.finish(f"small{number - 4}", "small#1")) == {f"small{number}": "small#1"}
        pool.run(f"small{number}", "small#1")


def test_tenants_behind_large_requests_are_served_evenly_and_by_weight() -> None:
    pool = small_and_large(large_is_down=True)
    pool.scheduler.state.queue.weigh({"b": 3.0})
    for tenant in "ab":
        for number in range(60):
            pool.submit(f"{tenant}{number}", 100, 100, tenant=tenant)
    served: list[str] = []
    while len(served) < 40:
        name = next(iter(pool.scheduler.state.fleet.by_id["small#1"].attempts))
        for started in starts(pool.finish(name, "small#1", tokens=50)):
            served.append(started)
            pool.run(started, "small#1")
    assert sum(name.startswith("b") for name in served) == pytest.approx(30, abs=3)


def test_a_small_request_is_not_refused_for_the_work_of_large_ones_that_it_does_not_wait_for() -> None:
    pool = small_and_large(large_is_down=False, count=600)
    for number in range(4):
        pool.submit(f"small{number}", 100, 100)
        pool.run(f"small{number}", "small#1")
    assert refusals(pool.submit("next", 100, 100)) == {}
    assert pool.scheduler.state.requests["next"].estimated_wait_s < 60.0
    assert "large599" not in pool.scheduler.state.requests  # it would have had to wait too long


def test_large_requests_are_not_starved_behind_the_window() -> None:
    """Those that pass it on its own worker are counted, wherever in the queue they come from."""
    pool = Pool()
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    for number in range(LOOKAHEAD):
        pool.submit(f"large{number}", *WHOLE)
    started = []
    for number in range(3 * MAX_SKIPS):
        if name := next(iter(starts(pool.submit(f"s{number}", 10, 10))), None):
            started.append(name)
            pool.finish(name)
    assert len(started) == MAX_SKIPS
    assert starts(pool.finish("runs")) == {"large0": "a#1"}


def test_whoever_has_a_worker_kept_for_it_starts_there_from_anywhere_in_the_queue() -> None:
    """By now so many tenants who were served less come before it that it is not looked at in its turn."""
    pool = Pool()
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", *WHOLE, tenant="l")
    for number in range(MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10, tenant="s")
        pool.finish(f"s{number}", tokens=1)
    assert pool.scheduler.state.matchmaker.reserved
    pool.scheduler.state.queue._classes[Priority.DEFAULT].charge("l", 1e6)
    for number in range(2 * LOOKAHEAD):
        pool.submit(f"other{number}", *WHOLE, tenant=f"t{number}")
    assert starts(pool.finish("runs")) == {"large": "a#1"}


def test_a_worker_is_not_kept_for_a_request_that_avoids_it() -> None:
    """It may have had no other choice when the worker was kept for it; now it has."""
    pool = Pool()
    pool.up("a", max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("picky", *WHOLE, excluded_workers=frozenset({"a#1"}))
    for number in range(MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10)
        pool.finish(f"s{number}")
    assert pool.scheduler.state.matchmaker.reserved
    assert pool.submit("waits", 10, 10) == []
    other = RunningAttempt(admission("other", 900, 100), 0)
    assert starts(pool.up("b", max_batch_size=1, running=(other,))) == {"waits": "a#1"}
    assert pool.scheduler.state.matchmaker.reserved == {}


def test_requests_that_avoid_a_worker_do_not_fill_the_look_at_it() -> None:
    pool = Pool()
    pool.up("a", max_batch_size=2)
    pool.up("b", max_batch_size=1)
    pool.submit("runs", excluded_workers=frozenset({"a#1"}))
    for number in range(3 * LOOKAHEAD):
        pool.submit(f"avoids{number}", excluded_workers=frozenset({"a#1"}))
    assert starts(pool.submit("one")) == {"one": "a#1"}
    assert starts(pool.submit("two")) == {"two": "a#1"}
    assert pool.submit("three") == []
    assert starts(pool.finish("one")) == {"three": "a#1"}


ODD = [{"context_tokens": 4000}, {"reserve_tokens": 5}, {"context_tokens": 4000, "reserve_tokens": 5}]
"""Limits of workers whose room ends within a page."""


@pytest.mark.parametrize("limits", ODD)
def test_requests_that_miss_a_worker_by_a_few_tokens_do_not_fill_the_look_at_it(limits: dict[str, Any]) -> None:
    pool = Pool()
    pool.up("odd", **limits)
    pool.up("even")
    for number in range(3 * LOOKAHEAD):
        pool.submit(f"large{number}", 3600, 496)
    pool.tick()
    assert starts(pool.submit("small")) == {"small": "odd#1"}


@pytest.mark.parametrize("priority", [Priority.DEFAULT, Priority.BATCH])
@pytest.mark.parametrize("limits", ODD)
def test_a_worker_that_comes_later_is_told_apart_from_those_who_miss_it_by_a_few_tokens(
    limits: dict[str, Any], priority: Priority
) -> None:
    pool = Pool()
    pool.up("even")
    for number in range(3 * LOOKAHEAD):
        pool.submit(f"large{number}", 3600, 496, priority=priority)
    for number in range(3):
        pool.submit(f"small{number}", priority=priority)
    assert starts(pool.up("odd", max_batch_size=2, **limits)) == {"small0": "odd#1", "small1": "odd#1"}
    pool.run("small0", "odd#1")
    pool.run("small1", "odd#1")
    assert starts(pool.finish("small0", "odd#1")) == {"small2": "odd#1"}


def test_room_that_a_kept_worker_has_left_is_offered_to_those_who_were_looked_at_before() -> None:
    pool = Pool()
    pool.up(max_batch_size=8)
    pool.submit("runs", 900, 100)
    pool.submit("large", 2800, 500)  # 13 pages
    for number in range(MAX_SKIPS):
        pool.submit(f"s{number}", 10, 10)
        pool.finish(f"s{number}")
    pool.submit("before", 300, 200, priority=Priority.INTERACTIVE)
    assert set(starts(pool.finish("runs"))) == {"large", "before"}


# The cost stays bounded.


@pytest.mark.parametrize("queued", [100, 600])
def test_what_is_looked_at_does_not_grow_with_the_queue(queued: int) -> None:
    pool = small_and_large(large_is_down=True, tenants=queued // 3, count=queued)
    for number in range(8):
        pool.submit(f"small{number}", 100, 100)
        if number < 4:
            pool.run(f"small{number}", "small#1")
    rounds = pool.scheduler.state.queue
    pool.finish("small0", "small#1")
    seen = [request for request in rounds if request.looked_at == rounds._round]
    assert len(seen) <= LOOKAHEAD


# The check itself.


def _forget_the_look(pool: Pool) -> None:
    pool.scheduler.state.matchmaker.unseen = {priority: set() for priority in Priority}


def test_a_request_that_is_overlooked_is_found() -> None:
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("runs")
    pool.submit("waits")
    worker = pool.scheduler.state.fleet.by_id["a#1"]
    worker.limits = replace(worker.limits, max_batch_size=2)
    assert [(r.request_id, w) for r, w in idleness.overlooked(pool.scheduler.state)] == [("waits", worker)]
    pool.scheduler.state.fleet.changed(worker)
    with pytest.raises(AssertionError, match="waits beside"):
        validate(pool.scheduler.state)


def _waits_beside_idle_workers(**fields: Any) -> Pool:
    """Two workers that are up again, and nobody has looked yet. `b` knows the prompt's first pages."""
    pool = Pool()
    pool.up("a", max_batch_size=1)
    pool.up("b", max_batch_size=1, resident=PREFIX)
    for worker in pool.scheduler.state.fleet:
        pool.handle(WorkerSuspected(worker.worker_id))
    pool.submit("waits", 900, 100, page_hashes=PREFIX, **fields)
    for worker in pool.scheduler.state.fleet:
        worker.status = WorkerStatus.UP
        pool.scheduler.state.fleet.changed(worker)
    return pool


def test_a_batch_request_that_is_overlooked_beside_idle_workers_is_found() -> None:
    pool = _waits_beside_idle_workers(priority=Priority.BATCH)
    found = [worker.worker_id for _, worker in idleness.overlooked(pool.scheduler.state)]
    assert set(found) >= {"a#1"}


def test_whoever_has_a_worker_kept_for_it_still_waits_for_prompts_that_are_due_there() -> None:
    pool = Pool()
    pool.up("a", max_batch_size=8, context_tokens=16_384, total_pages=512)
    for number in range(MAX_PREFILLS):
        pool.submit(f"due{number}", 12_000, 100)
    worker = pool.scheduler.state.fleet.by_id["a#1"]
    assert prompts_are_held_back(worker)
    assert starts(pool.submit("waits", 900, 100)) == {}
    waits = pool.scheduler.state.requests["waits"]
    waits.reserves = worker.index
    pool.scheduler.state.matchmaker.reserved[worker.index] = waits
    assert starts(pool.tick()) == {}
    assert starts(pool.finish("due0")) == {"waits": "a#1"}


def _suspect_b(pool: Pool) -> None:
    pool.handle(WorkerSuspected("b#1"))


@pytest.mark.parametrize("before", [lambda pool: None, _suspect_b])
def test_the_rule_holds_in_random_pools_of_unequal_workers(before: Callable[[Pool], None]) -> None:
    """`Pool` checks it after every event."""
    for seed in range(3):
        dice, pool = random.Random(seed), Pool(policy=random.Random(seed).choice(["cost", "round_robin"]))
        pool.up("a", total_pages=16)
        pool.up("b", total_pages=4, max_batch_size=2)
        pool.up("c", total_pages=1, max_batch_size=1)
        before(pool)
        for number in range(60):
            tokens = dice.choice([20, 200, 1000, 4000])
            pool.submit(f"r{number}", tokens // 2, tokens // 2, priority=dice.choice(list(Priority)))
            running = [r for r in pool.scheduler.state.requests.values() if r.worker is not None]
            if running and number % 2:
                one = dice.choice(running)
                assert one.worker is not None
                pool.finish(one.request_id, one.worker.worker_id, after_s=0.1)


def test_time_that_frees_room_is_seen_at_the_next_tick() -> None:
    pool = after_chats(max_batch_size=8)
    pool.submit("chat", 10, 20, priority=Priority.INTERACTIVE)
    pool.run("chat")
    assert pool.submit("batch", 1500, 500, priority=Priority.BATCH) == []
    pool.now_s += 2.5 * PEAK_HALF_LIFE_S
    pool.cancel("nobody")  # not yet, and that is no fault
    assert starts(pool.tick()) == {"batch": "a#1"}


@pytest.mark.parametrize("after_s", [1.5 * PEAK_HALF_LIFE_S, 2.5 * PEAK_HALF_LIFE_S, 25_000.0])
def test_a_chat_that_starts_meanwhile_does_not_hide_that_it_was_time(after_s: float) -> None:
    """With its start the memory of the peak is renewed as it has faded by then."""
    pool = after_chats(max_batch_size=8)
    pool.submit("chat", 10, 20, priority=Priority.INTERACTIVE)
    pool.run("chat")
    assert pool.submit("batch", 1500, 500, priority=Priority.BATCH) == []
    pool.now_s += after_s
    assert starts(pool.submit("chat2", 10, 20, priority=Priority.INTERACTIVE)) == {"chat2": "a#1"}
    assert starts(pool.run("chat2")) == {"batch": "a#1"}


def test_what_was_kept_long_before_a_batch_request_came_is_no_excuse() -> None:
    pool = after_chats()
    worker = pool.scheduler.state.fleet.by_id["a#1"]
    for number in range(4):
        pool.submit(f"chat{number}", 10, 20, priority=Priority.INTERACTIVE)
        pool.run(f"chat{number}")
    pool.now_s += 10 * PEAK_HALF_LIFE_S
    assert pool.submit("waits", 10, 20, priority=Priority.BATCH) == []
    worker.limits = replace(worker.limits, max_batch_size=8)
    assert [r.request_id for r, _ in idleness.overlooked(pool.scheduler.state)] == ["waits"]


def test_who_comes_when_no_more_may_be_scored_is_seen_at_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = small_and_large(large_is_down=False, count=LOOKAHEAD + 4)
    for number in range(3):
        pool.cancel(f"large{number}")  # three that were never scored come to the front
    with monkeypatch.context() as patch:
        patch.setattr(matching, "SCORES_PER_EVENT", 2)
        assert pool.submit("small", 100, 100, tenant="t0") == []
    assert starts(pool.tick()) == {"small": "small#1"}


def test_when_too_many_could_start_the_next_tick_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SCORES_PER_EVENT", 4)
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("runs", 10, 10)
    for number in range(6):
        pool.submit(f"r{number}", 10, 10)
    pool.up("b", max_batch_size=8)
    assert pool.scheduler.state.matchmaker.unseen[Priority.DEFAULT]
    pool.tick()
    pool.tick()
    assert len(pool.scheduler.state.queue) == 0
