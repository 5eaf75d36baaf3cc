"""A scheduler that follows one that was lost: who waited goes on waiting as before, and nobody is placed too soon."""

from __future__ import annotations

from typing import Any

import pytest

from actors.messages import Admission, RefusalReason, RunningAttempt
from actors.scheduling.events import FrontGone, Settling, WorkerExpected
from tests.scheduling.pool import FRONT, Pool, admission, refusals, starts


def restarted(**settings: float) -> Pool:
    pool = Pool(**settings)
    pool.now_s = 100.0
    pool.handle(Settling(1.0))
    pool.handle(WorkerExpected("a"))
    return pool


def test_ages_do_not_tell_admissions_apart() -> None:
    assert admission("r", age_s=3.0, waited_s=2.0) == admission("r")


def test_requests_of_many_fronts_go_on_in_the_order_in_which_they_first_asked() -> None:
    pool = restarted()
    assert pool.up(max_batch_size=1) == []
    for name, age_s in (("b", 3.0), ("d", 1.0)):
        assert pool.submit(name, age_s=age_s, waited_s=age_s, front_id="quick") == []
    pool.tick(0.3)
    for name, age_s in (("a", 4.3), ("c", 2.3)):
        assert pool.submit(name, age_s=age_s, waited_s=age_s, front_id="slow") == []
    pool.submit("new")
    started = starts(pool.tick(0.7))
    assert list(started) == ["a"]
    order: list[str] = []
    while started:
        order += started
        started = starts(pool.finish(order[-1]))
    assert order == ["a", "b", "c", "d", "new"]


def test_nothing_is_placed_while_fronts_come_back_and_everything_that_fits_right_after() -> None:
    pool = restarted()
    for name in ("r", "s"):
        pool.submit(name)
    assert pool.up() == []
    assert pool.tick(0.9) == []
    assert set(starts(pool.tick(0.1))) == {"r", "s"}


def test_what_ran_on_is_no_newcomer_s_business_while_fronts_come_back() -> None:
    pool = restarted()
    pool.submit("other")
    pool.up(running=(RunningAttempt(admission("r"), 0),), max_batch_size=1)
    assert starts(pool.submit("r", age_s=9.0, waited_s=9.0)) == {"r": "a#1"}, "it has its place"
    assert starts(pool.finish("r", after_s=0.1)) == {}
    assert starts(pool.tick(1.0)) == {"other": "a#1"}


def test_who_waited_with_the_old_one_is_not_refused_at_the_door_of_the_new_one() -> None:
    pool = restarted(max_queued_requests=1, max_wait_s=300.0)
    pool.submit("new")
    assert refusals(pool.submit("newer"))["newer"].reason is RefusalReason.QUEUE_FULL
    assert pool.submit("old", age_s=20.0, waited_s=20.0) == []


def test_who_comes_back_when_all_has_settled_is_not_told_that_it_would_wait_too_long() -> None:
    pool = restarted(max_wait_s=5.0)
    pool.up(max_batch_size=1)
    pool.tick(1.0)
    assert starts(pool.submit("long", 100, 3000)) == {"long": "a#1"}
    assert pool.submit("late", 100, 3000, age_s=4.0, waited_s=4.0) == []
    assert pool.scheduler.state.requests["late"].worker is None


def test_its_wait_goes_on_from_where_it_was() -> None:
    pool = restarted(max_wait_s=10.0)
    pool.submit("r", age_s=8.0, waited_s=8.0)
    assert pool.scheduler.statistics(pool.now_s).oldest_wait_s == pytest.approx(8.0)
    assert "had waited 8.000 s already" in pool.story("r")
    refusal = refusals(pool.tick(2.1))["r"]
    assert "waited 10.1 s" in refusal.message


def test_its_own_time_limit_counts_from_where_it_was() -> None:
    pool = restarted()
    pool.up(max_batch_size=1)
    pool.submit("r", age_s=5.0, waited_s=5.0, timeout_s=5.5)
    assert refusals(pool.tick(0.6))["r"].reason is RefusalReason.DEADLINE


def test_a_later_attempt_has_the_whole_time_to_wait_again() -> None:
    pool = Pool(max_wait_s=10.0)
    pool.now_s = 100.0
    pool.up(max_batch_size=1)
    pool.submit("runs")
    pool.submit("r", attempt=2, age_s=50.0)
    assert refusals(pool.tick(9.9)) == {}
    assert refusals(pool.tick(0.2))["r"].reason is RefusalReason.WAIT_TOO_LONG


def test_moved_requests_keep_their_order_among_each_other() -> None:
    """The last one that lost its worker must not go before the first."""
    pool = Pool()
    pool.now_s = 100.0
    pool.up(max_batch_size=1)
    pool.submit("runs")
    pool.submit("waits")
    for name, age_s in (("b", 20.0), ("c", 10.0), ("a", 30.0)):
        pool.submit(name, attempt=2, age_s=age_s)
    order, ended = [], "runs"
    while started := starts(pool.finish(ended, attempt=2 if ended in ("a", "b", "c") else 1)):
        (ended,) = started
        order.append(ended)
    assert order == ["a", "b", "c", "waits"]


def test_a_front_that_went_while_the_new_one_settled_leaves_nothing_there() -> None:
    pool = restarted()
    pool.up()
    pool.submit("r", age_s=1.0, waited_s=1.0)
    pool.submit("s", front_id="other")
    pool.handle(FrontGone(FRONT))
    assert set(starts(pool.tick(1.0))) == {"s"}


@pytest.mark.parametrize("name", ["age_s", "waited_s"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_ages_that_cannot_be_are_refused(name: str, value: float) -> None:
    pool = Pool()
    pool.up()
    fields: dict[str, Any] = {name: value}
    refusal = refusals(pool.submit("r", **fields))["r"]
    assert refusal.reason is RefusalReason.INVALID
    assert name in refusal.message


def test_an_admission_has_no_age_unless_it_is_told() -> None:
    fresh = Admission(request_id="r", attempt=1, prompt_tokens=1, max_new_tokens=1)
    assert (fresh.age_s, fresh.waited_s) == (0.0, 0.0)
