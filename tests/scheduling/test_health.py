"""Which workers are trusted: silence is judged by what is placed, and no place is taken back without a word."""

from __future__ import annotations

import pytest

from actors.messages import Revocation, RunningAttempt
from actors.scheduling.actions import Probe, Resync, Revoke
from actors.scheduling.events import WorkerDown, WorkerDraining, WorkerSuspected
from actors.scheduling.health import PROBE_RETRY_S
from actors.scheduling.records import RequestState
from tests.scheduling.pool import FRONT, Pool, admission, revocations, starts

ASKED = [Probe("a#1"), Resync("a#1")]


def running_pool(stall_timeout_s: float = 10.0) -> Pool:
    """Request "r" runs on the only worker, which was heard of just now."""
    pool = Pool(stall_timeout_s=stall_timeout_s)
    pool.up("a")
    pool.submit("r")
    pool.run("r")
    return pool


# Silence.


def test_a_worker_that_hangs_in_its_first_step_after_a_pause_is_found() -> None:
    """No report ever told of work there: the last one is of long ago, and of an idle worker."""
    pool = Pool(stall_timeout_s=1.0)
    pool.up("a")
    pool.report("a#1", after_s=500.0)
    pool.now_s += 500.0
    pool.submit("r")
    assert pool.tick(0.9) == []
    assert pool.tick(0.1) == ASKED
    assert pool.worker().state == "suspect"


def test_a_worker_that_hangs_in_the_first_step_of_its_life_is_found() -> None:
    pool = Pool(stall_timeout_s=1.0)
    pool.up("a")
    pool.submit("r")
    assert pool.tick(1.0) == ASKED


def test_a_worker_that_hangs_amid_its_work_is_found() -> None:
    pool = running_pool()
    pool.report(after_s=9.0)
    assert pool.tick(9.0) == []
    assert pool.tick(1.0) == ASKED


def test_further_starts_do_not_hide_a_silence() -> None:
    """Grants that are sent into the hole are no news of it."""
    pool = running_pool()
    pool.now_s += 9.0
    assert starts(pool.submit("s"))
    assert pool.tick(1.0) == ASKED


def test_a_worker_that_took_up_what_it_ran_before_is_watched_too() -> None:
    pool = Pool(stall_timeout_s=10.0)
    pool.now_s = 100.0
    pool.up("a", running=(RunningAttempt(admission("r"), 0),))
    assert pool.tick(9.9) == []
    assert pool.tick(0.1) == ASKED


def test_a_worker_without_work_may_be_silent_for_ever() -> None:
    pool = running_pool()
    pool.finish("r")
    assert pool.tick(10_000.0) == []


def test_a_worker_that_drains_is_asked_too_and_drains_on() -> None:
    """Its requests would hang in it like any others, and it would never be empty."""
    pool = running_pool()
    pool.handle(WorkerDraining("a#1"))
    assert pool.tick(10.0) == ASKED
    assert pool.worker().state == "draining"
    pool.report(full=True, running=(("r", 1),))
    assert pool.worker().state == "draining"
    assert pool.tick(9.0) == [], "it was heard of"


@pytest.mark.parametrize(("stall_timeout_s", "retry_s"), [(1.0, 1.0), (60.0, PROBE_RETRY_S)])
def test_a_silent_worker_is_probed_again_and_again(stall_timeout_s: float, retry_s: float) -> None:
    pool = running_pool(stall_timeout_s)
    assert pool.tick(stall_timeout_s) == ASKED
    for _ in range(4):
        assert pool.tick(retry_s / 2) == []
        assert Probe("a#1") in pool.tick(retry_s / 2)
    pool.report()
    assert Probe("a#1") not in pool.tick(retry_s / 2)


# What a suspect is.


def test_nothing_is_placed_on_a_suspect_until_it_reports() -> None:
    pool = running_pool()
    pool.fall_silent("a#1")
    assert pool.submit("s") == []
    assert starts(pool.report("a#1")) == {"s": "a#1"}
    assert pool.worker().state == "up"


def test_who_waits_for_a_suspect_goes_elsewhere() -> None:
    pool = Pool(stall_timeout_s=10.0)
    pool.up("a", max_batch_size=1)
    pool.up("b", max_batch_size=1)
    pool.submit("r", excluded_workers=frozenset({"b#1"}))
    pool.submit("s", excluded_workers=frozenset({"a#1"}))
    pool.finish("s", "b#1")
    assert starts(pool.submit("t")) == {"t": "b#1"}
    pool.submit("u")
    pool.fall_silent("a#1")
    assert starts(pool.finish("t", "b#1")) == {"u": "b#1"}


def test_a_report_of_before_clears_no_suspicion() -> None:
    pool = running_pool()
    pool.fall_silent("a#1")
    pool.sequences["a#1"] = 0
    assert pool.report("a#1") == []
    assert pool.worker().state == "suspect"


def test_what_a_suspect_runs_goes_on() -> None:
    pool = running_pool()
    pool.fall_silent("a#1")
    assert not revocations(pool.tick(1000.0))
    assert pool.scheduler.state.requests["r"].state is RequestState.RUNNING
    pool.finish("r")
    assert pool.free_pages == {"a#1": 16}


def test_a_worker_whose_last_report_was_lost_is_found_out() -> None:
    pool = running_pool()
    # The report of its end is lost, and the worker has nothing more to say.
    assert Resync("a#1") in pool.fall_silent("a#1")
    assert revocations(pool.report("a#1", lost=1, full=True, running=())).keys() == {"r"}
    assert pool.scheduler.state.requests == {}
    assert pool.free_pages == {"a#1": 16}


def test_a_suspect_that_dies_is_forgotten() -> None:
    pool = running_pool()
    pool.fall_silent("a#1")
    assert revocations(pool.handle(WorkerDown("a#1", "killed"))).keys() == {"r"}
    assert pool.tick(1000.0) == []


# Leases.


def leased_pool() -> Pool:
    """Request "r" is granted on the only worker, at 0 s, and the worker has never named it."""
    pool = Pool(start_lease_s=30.0, stall_timeout_s=1000.0)
    pool.up("a")
    pool.submit("r")
    pool.submit("s")
    pool.run("s")
    return pool


def test_a_start_that_is_never_confirmed_is_taken_back_and_its_front_is_told() -> None:
    pool = leased_pool()
    assert pool.tick(29.0) == []
    assert pool.tick(1.0) == [Revoke(Revocation("r", 1, "its start on a#1 was never confirmed"), FRONT), *ASKED]
    assert set(pool.scheduler.state.requests) == {"s"}
    assert "its start on a#1 was never confirmed" in pool.story("r")


def test_who_asks_again_is_not_sent_into_the_same_hole() -> None:
    pool = leased_pool()
    pool.tick(30.0)
    assert pool.submit("r", attempt=2) == []
    pool.up("b")
    assert pool.scheduler.state.requests["r"].worker is pool.scheduler.state.fleet.by_id["b#1"]
    pool.report("a#1", full=True, running=(("s", 1),))
    assert pool.worker().state == "up", "it lives, and knows of nothing"


def test_all_starts_that_are_late_are_taken_back_at_once() -> None:
    pool = leased_pool()
    pool.submit("t")
    actions = pool.tick(30.0)
    assert revocations(actions).keys() == {"r", "t"}
    assert actions.count(Probe("a#1")) == 1


def test_a_suspect_cannot_confirm_so_its_starts_keep_their_lease() -> None:
    pool = Pool(start_lease_s=60.0, stall_timeout_s=60.0)
    pool.up("a")
    pool.submit("r")
    assert pool.tick(60.0) == ASKED, "as a whole it is silent: nobody can say that this start is lost"
    assert not revocations(pool.tick(100.0))
    assert set(pool.scheduler.state.requests) == {"r"}


def test_a_late_start_is_not_taken_back_before_the_whole_truth_is_known() -> None:
    """The report that confirmed it is lost; the next one, which shows the gap, comes a moment before the truth."""
    pool = leased_pool()
    assert pool.report(after_s=29.0, lost=1) == [Resync("a#1")]
    assert pool.tick(1.0) == []
    pool.report(full=True, running=(("r", 1), ("s", 1)))
    assert pool.tick(100.0) == []
    assert pool.scheduler.state.requests["r"].state is RequestState.RUNNING


def test_a_late_start_is_taken_back_once_the_truth_does_not_name_it() -> None:
    pool = leased_pool()
    pool.report(after_s=29.0, lost=1)
    pool.tick(1.0)
    assert pool.report(full=True, running=(("s", 1),)) == []
    assert revocations(pool.tick()).keys() == {"r"}


# What others have seen of it.


def test_a_worker_whose_link_broke_is_asked_and_gets_nothing_until_it_reports() -> None:
    pool = running_pool()
    assert pool.handle(WorkerSuspected("a#1")) == ASKED
    assert starts(pool.submit("s")) == {}
    assert set(pool.scheduler.state.requests) == {"r", "s"}, "what runs there goes on"
    assert starts(pool.report("a#1", full=True, running=(("r", 1),))) == {"s": "a#1"}


def test_nobody_is_suspected_by_a_name_that_is_not_known() -> None:
    pool = running_pool()
    assert pool.handle(WorkerSuspected("b#1")) == []
    assert pool.ignored == {"suspicion of an unknown worker": 1}


def test_workers_are_doubted_in_the_same_order_whatever_order_a_set_has() -> None:
    """A replay has its sets from a file, in which they have another history."""
    names = [f"worker-{number}" for number in range(9)]
    pool = Pool()
    for name in names:
        pool.up(name)
    excluded = frozenset(f"{name}#1" for name in names[:8])
    actions = pool.submit("r", attempt=2, excluded_workers=excluded)
    assert [action.worker_id for action in actions if isinstance(action, Probe)] == sorted(excluded)


def test_a_worker_on_which_a_front_lost_an_attempt_is_not_given_it_again_before_it_reports() -> None:
    """The front may have seen the worker's death before anybody else did."""
    pool = running_pool()
    pool.cancel("r")
    again = pool.submit("r", attempt=2, excluded_workers=frozenset({"a#1", "gone#1"}))
    assert again == ASKED
    assert starts(pool.report("a#1", full=True, running=())) == {"r": "a#1"}, "no other worker could take it"


def test_a_first_attempt_that_avoids_a_worker_has_lost_nothing_there() -> None:
    pool = Pool()
    pool.up("a")
    pool.up("b")
    assert starts(pool.submit("r", excluded_workers=frozenset({"a#1"}))) == {"r": "b#1"}
    assert pool.worker("a#1").state == "up"


def test_who_avoids_a_worker_does_not_wait_for_one_that_is_suspected_meanwhile() -> None:
    """Or it would stand before everybody else in the queue while the other worker is free."""
    pool = Pool()
    pool.up("a")
    pool.up("b")
    pool.handle(WorkerSuspected("b#1"))
    pool.submit("r", attempt=2, excluded_workers=frozenset({"a#1"}))
    assert starts(pool.report("a#1", full=True, running=())) == {"r": "a#1"}
