"""How many workers a pool should have."""

from __future__ import annotations

from typing import Any

from actors.scheduling.scaling import HOLD_S, Load, Scaling, load_of
from tests.scheduling.pool import Pool


class Clock:
    """Asks for the target again and again, as the pool does."""

    def __init__(self, **settings: Any) -> None:
        chosen = {"min_workers": 1, "max_workers": 8, "up_wait_s": 5.0, "down_after_s": 60.0, **settings}
        self.scaling = Scaling(**chosen)
        self.now_s = 100.0

    def target(self, after_s: float = 1.0, **load: Any) -> int:
        self.now_s += after_s
        return self.scaling.target(
            self.now_s, Load(**{"workers": 2, "starting": 0, "queued": 0, "wait_s": 0.0, "needed": 0, **load})
        )


def test_a_wait_that_stays_too_long_adds_workers_by_its_length_up_to_twice() -> None:
    for wait_s, target in ((5.1, 3), (7.5, 3), (9.0, 4), (500.0, 4)):
        clock = Clock()
        assert clock.target(queued=9, wait_s=wait_s) == 2
        assert clock.target(HOLD_S, queued=9, wait_s=wait_s) == target


def test_a_wait_that_is_short_or_over_soon_adds_none() -> None:
    clock = Clock()
    assert [clock.target(queued=9, wait_s=5.0) for _ in range(5)] == [2] * 5
    assert clock.target(queued=9, wait_s=50.0) == 2
    assert clock.target(HOLD_S / 2, queued=9, wait_s=1.0) == 2
    assert clock.target(HOLD_S / 2, queued=9, wait_s=50.0) == 2


def test_no_more_are_added_while_some_are_starting_nor_beyond_the_bound() -> None:
    clock = Clock(max_workers=3)
    assert [clock.target(queued=9, wait_s=50.0, starting=1) for _ in range(5)] == [2] * 5
    assert [clock.target(queued=9, wait_s=50.0) for _ in range(4)] == [2, 2, 3, 2]
    assert [clock.target(queued=9, wait_s=50.0, workers=3) for _ in range(5)] == [3] * 5
    assert [clock.target(queued=9, wait_s=50.0, workers=5) for _ in range(5)] == [5] * 5, "somebody wanted more"


def test_what_was_not_needed_for_long_is_given_back() -> None:
    clock = Clock()
    assert clock.target(workers=4, needed=4) == 4
    assert clock.target(30.0, workers=4, needed=2) == 4
    assert clock.target(29.0, workers=4, needed=1) == 4
    assert clock.target(1.0, workers=4, needed=1) == 2
    assert clock.target(30.0, workers=2, needed=0) == 1
    assert clock.target(500.0, workers=1, needed=0) == 1


def test_while_somebody_waits_all_are_needed() -> None:
    clock = Clock()
    for _ in range(3):
        assert clock.target(60.0, workers=4, queued=1, needed=1) == 4


def test_a_new_worker_stays_for_a_while() -> None:
    clock = Clock()
    clock.target(0.0, queued=9, wait_s=50.0)
    assert clock.target(2 * HOLD_S, queued=9, wait_s=50.0) == 4
    assert clock.target(50.0, workers=4, needed=1) == 4
    assert clock.target(10.0, workers=4, needed=1) == 1


def test_more_than_the_load_needs_is_needed_by_nobody() -> None:
    clock = Clock()
    assert clock.target(workers=2, needed=9) == 2
    assert clock.target(59.0, workers=2, needed=9) == 2


def test_only_a_pool_that_may_shrinks_to_nothing_and_the_first_request_wakes_it() -> None:
    clock = Clock(min_workers=0)
    clock.target(workers=1)
    assert clock.target(60.0, workers=1) == 0
    assert clock.target(1.0, workers=0) == 0
    assert clock.target(1.0, workers=0, queued=1) == 1
    assert clock.target(1.0, workers=1, starting=1, queued=1) == 1
    assert clock.target(59.0, workers=1) == 1
    assert "between 0 and 8" in repr(clock.scaling)


def test_fewer_than_the_bound_become_as_many() -> None:
    assert Clock(min_workers=3).target(workers=2) == 3


# The load of a scheduler.


def test_a_scheduler_without_workers_has_only_its_queue() -> None:
    pool = Pool()
    state = pool.scheduler.state
    assert load_of(state, 0.0, workers=1, starting=1) == Load(workers=1, starting=1, queued=0, wait_s=0.0, needed=0)


def test_the_load_counts_slots_or_pages_whatever_is_fuller_and_the_longer_wait() -> None:
    pool = Pool()
    pool.up("a")
    pool.up("b")
    state = pool.scheduler.state
    pool.submit("r", 10, 10)
    assert load_of(state, 0.0, workers=2, starting=0).needed == 1
    pool.submit("s", 2000, 1000)
    pool.submit("t", 2000, 1000)
    assert load_of(state, 0.0, workers=2, starting=0).needed == 3
    for number in range(4):
        pool.submit(f"u{number}", 3000, 1000)
    load = load_of(state, 0.0, workers=2, starting=0)
    assert load.queued > 0
    assert load.wait_s > 0.0
    assert load_of(state, 70.0, workers=2, starting=0).wait_s >= 70.0
