"""Workers that are emptied: what they run ends there or goes on elsewhere, and then they are stopped."""

from __future__ import annotations

from actors.messages import Revocation, RunningAttempt
from actors.scheduling.actions import Probe, Resync, Revoke, StopWorker
from actors.scheduling.events import WorkerDown, WorkerDraining, WorkerExpected, WorkerKept, WorkerLost
from tests.scheduling.pool import FRONT, LIMITS, Pool, admission, refusals, revocations, starts


def test_a_draining_worker_finishes_what_it_has_and_is_stopped_once() -> None:
    pool = Pool()
    pool.up("a")
    pool.up("b")
    (worker_id,) = starts(pool.submit("r")).values()
    other_id = {"a#1": "b#1", "b#1": "a#1"}[worker_id]
    assert pool.handle(WorkerDraining(worker_id)) == []
    assert pool.worker(worker_id).state == "draining"
    for number in range(4):
        assert starts(pool.submit(f"s{number}", 10, 10)) == {f"s{number}": other_id}
    assert pool.submit("t", 10, 10) == []
    assert pool.finish("r", worker_id) == [StopWorker(worker_id)]
    assert pool.report(worker_id) == pool.tick() == []


def test_an_empty_worker_is_stopped_when_it_is_to_be_drained() -> None:
    pool = Pool()
    pool.up("a")
    assert pool.handle(WorkerDraining("a#1")) == [StopWorker("a#1")]
    assert pool.handle(WorkerDraining("a#1", 5.0)) == []


def test_when_the_last_worker_is_drained_the_queue_is_refused() -> None:
    pool = Pool()
    pool.up("a", max_batch_size=1)
    pool.submit("r")
    pool.submit("s")
    assert set(refusals(pool.handle(WorkerDraining("a#1")))) == {"s"}
    assert set(refusals(pool.submit("t"))) == {"t"}


def test_a_drained_worker_that_goes_is_not_expected_back() -> None:
    pool = Pool()
    pool.up("a")
    pool.handle(WorkerDraining("a#1"))
    pool.handle(WorkerDown("a#1", "stopped"))
    assert pool.scheduler.statistics(0.0).expected_slots == ()
    assert refusals(pool.submit("r"))


def test_a_report_does_not_end_draining() -> None:
    pool = Pool()
    pool.up("a")
    pool.submit("r")
    pool.handle(WorkerDraining("a#1"))
    pool.run("r")
    assert pool.worker().state == "draining"


def test_a_draining_worker_that_goes_is_forgotten() -> None:
    pool = Pool()
    pool.up("a")
    pool.up("b")
    pool.submit("r", excluded_workers=frozenset({"b#1"}))
    pool.handle(WorkerDraining("a#1"))
    assert revocations(pool.handle(WorkerDown("a#1", "it burned"))).keys() == {"r"}
    assert pool.scheduler.state.fleet.draining == []
    assert pool.tick() == []


# What goes on elsewhere.


def draining_pool(grace_s: float | None = 5.0) -> Pool:
    """Worker a is being emptied and runs r."""
    pool = Pool()
    pool.up("a")
    pool.submit("r")
    pool.run("r")
    pool.handle(WorkerDraining("a#1", grace_s))
    return pool


def test_what_still_runs_after_the_grace_goes_on_elsewhere_before_all_who_wait() -> None:
    pool = draining_pool()
    pool.up("b", max_batch_size=1)
    assert starts(pool.submit("s")) == {"s": "b#1"}
    pool.submit("t")
    assert pool.tick(4.9) == []
    moved = Revocation("r", 1, "worker a#1 is being emptied", moved=True)
    assert pool.tick(0.2) == [Revoke(moved, FRONT), StopWorker("a#1")]
    assert "worker a#1 is being emptied" in pool.story("r")
    assert pool.submit("r", attempt=2, excluded_workers=frozenset({"a#1"}), age_s=6.0) == []
    assert starts(pool.finish("s", "b#1")) == {"r": "b#1"}


def test_what_has_no_other_place_stays_and_moves_when_there_is_one() -> None:
    pool = draining_pool()
    assert pool.tick(10.0) == []
    assert revocations(pool.handle(WorkerExpected("b"))).keys() == {"r"}


def test_what_fits_no_other_worker_stays() -> None:
    pool = Pool()
    pool.up("a")
    pool.submit("large", 2000, 500)
    pool.up("b", total_pages=4)
    pool.submit("small", excluded_workers=frozenset({"b#1"}))
    pool.run("large")
    pool.run("small")
    pool.handle(WorkerDraining("a#1", 0.0))
    assert pool.scheduler.state.requests.keys() == {"large"}
    pool.handle(WorkerLost("b", "it died too often"))
    pool.handle(WorkerExpected("c", LIMITS))
    assert pool.scheduler.state.requests.keys() == set()


def test_without_a_grace_everything_ends_where_it_runs() -> None:
    pool = draining_pool(None)
    pool.up("b")
    pool.now_s += 1e6
    pool.report("a#1")
    assert pool.tick() == []
    assert pool.finish("r") == [StopWorker("a#1")]


def test_a_worker_that_drains_too_slowly_can_be_told_a_grace() -> None:
    pool = draining_pool(None)
    pool.up("b")
    pool.handle(WorkerDraining("a#1", 2.0))
    assert revocations(pool.tick(1.9)) == {}
    assert revocations(pool.tick(0.2)).keys() == {"r"}


def test_all_fronts_are_told_of_a_move_where_nobody_knows_whose_the_request_is() -> None:
    pool = Pool()
    pool.up("a", running=(RunningAttempt(admission("r"), 0),))
    pool.up("b")
    moved = Revocation("r", 1, "worker a#1 is being emptied", moved=True)
    assert pool.handle(WorkerDraining("a#1", 0.0)) == [Revoke(moved, ""), StopWorker("a#1")]


# What is kept after all.


def test_a_worker_that_is_kept_is_used_again() -> None:
    pool = draining_pool()
    pool.up("b", max_batch_size=1)
    pool.submit("s")
    pool.submit("t")
    assert starts(pool.handle(WorkerKept("a#1"))) == {"t": "a#1"}
    assert pool.worker().state == "up"
    assert pool.tick(10.0) == []
    assert pool.scheduler.state.fleet.draining == []


def test_a_worker_that_was_to_be_stopped_cannot_be_kept() -> None:
    pool = Pool()
    pool.up("a")
    pool.handle(WorkerDraining("a#1"))
    pool.handle(WorkerKept("a#1"))
    assert pool.worker().state == "draining"
    pool.up("b")
    pool.handle(WorkerKept("b#1"))
    assert pool.ignored == {"a worker is kept that is not being emptied, or is stopped already": 2}


def test_a_worker_that_fell_silent_while_it_was_emptied_is_not_trusted_when_it_is_kept() -> None:
    pool = draining_pool(None)
    pool.fall_silent("a#1")
    assert pool.handle(WorkerKept("a#1")) == [Probe("a#1"), Resync("a#1")]
    assert pool.worker().state == "suspect"
    pool.report("a#1", full=True, running=(("r", 1),))
    assert pool.worker().state == "up"
