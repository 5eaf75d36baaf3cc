"""Who asked: a request belongs to a front, which alone may give it up, and which is told of every end it did not ask
for."""

from __future__ import annotations

from typing import Any

import pytest

from actors.messages import Grant, RefusalReason, Revocation, RunningAttempt
from actors.scheduling.actions import Refuse, Revoke, Start
from actors.scheduling.events import FrontGone, WorkerDown
from actors.scheduling.records import RequestState
from tests.scheduling.pool import FRONT, Pool, admission, refusals, revocations, starts

GRANTED = [Start(Grant("r", 1, "a#1"), FRONT)]


def full_pool() -> Pool:
    """One worker with one slot, which "r" has."""
    pool = Pool()
    pool.up("a", max_batch_size=1)
    pool.submit("r")
    return pool


def adopting_pool() -> Pool:
    """A worker ran "r", attempt 2, before the scheduler knew of either."""
    pool = Pool()
    pool.up("a", running=(RunningAttempt(admission("r", attempt=2), 0),))
    return pool


def owner(pool: Pool, request_id: str = "r") -> str:
    return pool.scheduler.state.requests[request_id].front_id


# Asking again.


def test_who_asks_again_while_it_waits_changes_nothing() -> None:
    pool = full_pool()
    pool.submit("s")
    assert pool.submit("s") == []
    assert pool.ignored == {"submitted again unchanged": 1}
    assert starts(pool.finish("r")) == {"s": "a#1"}


@pytest.mark.parametrize("confirmed", [False, True])
def test_who_asks_again_with_a_place_is_told_it_again(confirmed: bool) -> None:
    pool = full_pool()
    if confirmed:
        pool.run("r")
    before = pool.worker()
    assert pool.submit("r") == pool.submit("r") == GRANTED
    assert pool.worker() == before
    assert pool.finish("r") == []


def test_an_old_attempt_of_the_same_front_is_ignored() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r", attempt=2)
    assert pool.submit("r", attempt=1) == []
    assert pool.ignored == {"submission of an old attempt": 1}


def test_another_request_of_the_same_id_is_refused_and_harms_nothing() -> None:
    pool = full_pool()
    refusal = refusals(pool.submit("r", 999))["r"]
    assert refusal.reason is RefusalReason.DUPLICATE
    assert "granted" in refusal.message
    assert pool.free_pages == {"a#1": 14}
    assert pool.submit("r") == GRANTED


# Other fronts.


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("placed", [True, False])
def test_another_front_is_refused_an_id_that_is_taken(attempt: int, placed: bool) -> None:
    pool = full_pool()
    name = "x" if placed else "y"
    pool.finish("r")
    for request_id in ("x", "y"):
        pool.submit(request_id, attempt=2)
    (action,) = pool.submit(name, attempt=attempt, front_id="other")
    assert isinstance(action, Refuse)
    assert (action.front_id, action.refusal.reason) == ("other", RefusalReason.DUPLICATE)
    assert owner(pool, name) == FRONT
    assert set(pool.scheduler.state.requests) == {"x", "y"}


@pytest.mark.parametrize("name", ["r", "waits"])
def test_a_later_attempt_of_another_front_takes_over_and_the_first_is_told(name: str) -> None:
    pool = full_pool()
    pool.submit("waits")
    actions = pool.submit(name, attempt=2, front_id="other")
    assert actions[0] == Revoke(Revocation(name, 1, "attempt 1 is over, attempt 2 follows"), FRONT)
    assert owner(pool, name) == "other"
    pool.cancel(name)
    assert pool.ignored == {"cancellation by another front": 1}


def test_a_later_attempt_of_another_front_that_is_refused_still_ends_the_first() -> None:
    pool = full_pool()
    revoked, refused = pool.submit("r", 10**6, attempt=2, front_id="other")
    assert isinstance(revoked, Revoke)
    assert isinstance(refused, Refuse)
    assert (revoked.front_id, refused.front_id) == (FRONT, "other")


@pytest.mark.parametrize("front_id", [FRONT, "other"])
def test_every_refusal_names_the_front_that_asked(front_id: str) -> None:
    pool = Pool(max_queued_requests=1)
    (no_worker,) = pool.submit("r", front_id=front_id)
    pool.up("a", max_batch_size=1)
    (invalid,) = pool.submit("r", -1, front_id=front_id)
    (oversized,) = pool.submit("r", 10**6, front_id=front_id)
    pool.submit("one")
    pool.submit("r", front_id=front_id, timeout_s=5.0)
    (full,) = pool.submit("s", front_id=front_id)
    (late,) = pool.tick(5.0)
    refused = [no_worker, invalid, oversized, full, late]
    assert [action.front_id for action in refused if isinstance(action, Refuse)] == [front_id] * 5


# Giving up.


def test_a_cancellation_of_an_older_attempt_leaves_the_later_one() -> None:
    pool = Pool()
    pool.up()
    pool.submit("r", attempt=2)
    pool.cancel("r", attempt=1)
    assert pool.ignored == {"cancellation of an old attempt": 1}
    pool.cancel("r", attempt=3)
    assert pool.scheduler.state.requests == {}


def test_a_cancellation_by_another_front_is_ignored() -> None:
    pool = full_pool()
    pool.cancel("r", front_id="other")
    assert pool.ignored == {"cancellation by another front": 1}
    assert pool.scheduler.statistics(0.0).cancelled == 0
    assert owner(pool) == FRONT


def test_a_front_that_goes_gives_up_all_that_is_not_known_to_run() -> None:
    """It may only be cut off from here: what runs it still reads, and the worker reports the end in either case."""
    pool = Pool()
    pool.up("a", max_batch_size=2)
    pool.submit("runs")
    pool.run("runs")
    pool.submit("granted")
    pool.submit("waits")
    pool.submit("others", front_id="other")
    assert starts(pool.handle(FrontGone(FRONT))) == {"others": "a#1"}
    assert set(pool.scheduler.state.requests) == {"runs", "others"}
    assert pool.scheduler.statistics(0.0).cancelled == 2
    assert "its front was gone while it was granted" in pool.story("granted")
    assert pool.handle(FrontGone(FRONT)) == []
    pool.cancel("runs")  # it has come back, and gives up what ran all the time
    assert set(pool.scheduler.state.requests) == {"others"}
    assert starts(pool.submit("runs")) == {"runs": "a#1"}


def test_a_front_that_went_is_told_of_a_workers_death_under_what_ran() -> None:
    """It may only have been cut off from here, and would wait for ever."""
    pool = full_pool()
    pool.run("r")
    pool.handle(FrontGone(FRONT))
    told = revocations(pool.handle(WorkerDown("a#1", "it burned")))
    assert set(told) == {"r"}


def test_a_front_without_a_name_is_nobody() -> None:
    pool = adopting_pool()
    assert pool.handle(FrontGone("")) == []
    assert pool.ignored == {"a front without a name is gone": 1}
    assert set(pool.scheduler.state.requests) == {"r"}


# What nobody owns yet.


@pytest.mark.parametrize("fields", [{}, {"tenant": "x", "timeout_s": 3.0}])
def test_who_asks_for_an_adopted_attempt_becomes_its_owner(fields: dict[str, Any]) -> None:
    """A worker does not know all that the front once said of it."""
    pool = adopting_pool()
    assert owner(pool) == ""
    assert pool.submit("r", attempt=2, **fields) == [Start(Grant("r", 2, "a#1"), FRONT)]
    assert owner(pool) == FRONT
    assert "attempt 2 belongs to front f" in pool.story("r")
    assert refusals(pool.submit("r", attempt=2, front_id="other"))
    assert pool.scheduler.state.requests["r"].state is RequestState.RUNNING


def test_who_asks_for_an_earlier_attempt_than_the_adopted_one_is_refused() -> None:
    """Unanswered, it would wait for ever."""
    assert refusals(adopting_pool().submit("r"))["r"].reason is RefusalReason.DUPLICATE


def test_an_adopted_attempt_is_superseded_without_a_word() -> None:
    pool = adopting_pool()
    assert pool.submit("r", attempt=3) == [Start(Grant("r", 3, "a#1"), FRONT)]


@pytest.mark.parametrize(("attempt", "left"), [(1, {"r"}), (2, set())])
def test_any_front_may_give_an_adopted_attempt_up(attempt: int, left: set[str]) -> None:
    pool = adopting_pool()
    pool.cancel("r", attempt, front_id="any")
    assert set(pool.scheduler.state.requests) == left


def test_an_adopted_attempt_outlives_fronts_and_ends_with_its_report() -> None:
    pool = adopting_pool()
    pool.handle(FrontGone(FRONT))
    assert set(pool.scheduler.state.requests) == {"r"}
    assert pool.finish("r", attempt=2) == []
    assert pool.free_pages == {"a#1": 16}


def test_nobody_is_told_of_the_end_of_an_adopted_attempt() -> None:
    pool = adopting_pool()
    assert pool.report(full=True, running=()) == []
    assert pool.scheduler.state.requests == {}
