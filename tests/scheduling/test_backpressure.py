"""Waits in seconds: estimated from work, corrected by what happened, and turned into a time to return."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actors.scheduling.backpressure import JITTER, MEANS_AGE_S, SCALE_BOUNDS, SHORTEST_RETRY_S, WaitEstimator
from actors.scheduling.estimates import StepTimes
from actors.scheduling.fleet import Fleet
from actors.scheduling.statistics import WaitErrorStatistics
from tests.scheduling.pool import LIMITS


def fleet_of(workers: int, step_s: float = 0.02, max_batch_size: int = 4) -> Fleet:
    fleet = Fleet()
    for number in range(workers):
        limits = replace(LIMITS, max_batch_size=max_batch_size)
        worker = fleet.add(f"w{number}#1", f"w{number}", limits, 0)
        worker.model.times = StepTimes(step_s, 0.0, 0.001)
        fleet.changed(worker)
    return fleet


def test_work_is_prefill_and_a_share_of_decoding() -> None:
    waits = WaitEstimator(fleet_of(2), seed=0)
    assert waits.work(100, 50.0, 1, 0.0) == pytest.approx(100 * 0.001 + 50 * 0.02 / 4)
    assert waits.work(100, 50.0, 8, 0.0) == pytest.approx(100 * 0.001 + 50 * 0.02 * 8 / 16)


def test_work_follows_the_speed_of_the_fleet() -> None:
    fleet = fleet_of(1)
    waits = WaitEstimator(fleet, seed=0)
    before_s = waits.work(100, 50.0, 1, 0.0)
    worker = next(iter(fleet))
    worker.model.times = StepTimes(0.2, 0.0, 0.01)
    fleet.changed(worker)
    assert waits.work(100, 50.0, 1, MEANS_AGE_S) == before_s
    assert waits.work(100, 50.0, 1, 2 * MEANS_AGE_S) == pytest.approx(10 * before_s)


def test_prompts_that_are_mostly_resident_are_less_work() -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    before_s = waits.work(1000, 1.0, 1, 0.0)
    for _ in range(200):
        waits.prefilled(1000, 100)
    assert waits.work(1000, 1.0, 1, 0.0) < 0.2 * before_s


def test_more_workers_are_done_sooner() -> None:
    def wait_s(workers: int) -> float:
        waits = WaitEstimator(fleet_of(workers), seed=0)
        waits.work(1, 1.0, 1, 0.0)
        return waits.wait_s(100.0, 0.0)

    assert wait_s(1) == 100.0
    assert wait_s(8) == 12.5


def test_a_wait_is_what_is_ahead_and_until_there_is_room() -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    assert waits.wait_s(10.0, 3.0) == 13.0
    assert waits.wait_s(10.0, None) == 10.0
    for _ in range(100):
        waits.looked(5.0)
    waits.looked(math.inf)
    assert waits.wait_s(10.0, None) == pytest.approx(15.0, abs=0.1)
    assert waits.drain_s(10.0) == 10.0


def test_estimates_are_corrected_by_what_happened() -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    for _ in range(200):
        waits.started(waits.wait_s(10.0, 0.0), 20.0)
    assert waits.wait_s(10.0, 0.0) == pytest.approx(20.0, rel=0.05)
    for _ in range(400):
        waits.started(waits.wait_s(10.0, 0.0), 5.0)
    assert waits.wait_s(10.0, 0.0) == pytest.approx(5.0, rel=0.05)


def test_old_estimates_are_compared_by_the_correction_of_their_time() -> None:
    """A thousand came at once and were all told 10 s; they wait 5 s: the correction settles at a half, whatever it was
    when they started."""
    waits = WaitEstimator(fleet_of(1), seed=0)
    told_s, scale = waits.wait_s(10.0, 0.0), waits.scale
    for _ in range(1000):
        waits.started(told_s, 5.0, scale)
    assert waits.wait_s(10.0, 0.0) == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize(("real_s", "scale"), [(0.0, SCALE_BOUNDS[0]), (1e5, SCALE_BOUNDS[1])])
def test_the_correction_is_bounded(real_s: float, scale: float) -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    for _ in range(2000):
        waits.started(waits.wait_s(10.0, 0.0), real_s)
    assert waits.wait_s(10.0, 0.0) == pytest.approx(10.0 * scale)


def test_errors_are_told() -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    assert waits.statistics() == WaitErrorStatistics()
    waits.started(10.0, 12.0)
    waits.started(10.0, 6.0)
    told = waits.statistics()
    assert told.count == 2
    assert told.mean_s == pytest.approx(-1.0, abs=0.1)
    assert told.mean_absolute_s == pytest.approx(3.0, abs=0.1)


def test_recent_errors_count_most() -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    for error_s in [100.0] * 100 + [1.0] * 300:
        waits.started(10.0, 10.0 + error_s)
    assert waits.statistics().mean_s == pytest.approx(1.0, abs=0.5)
    assert waits.statistics().count == 400


def test_the_refused_come_back_when_half_of_the_bound_is_free_and_not_together() -> None:
    waits = WaitEstimator(fleet_of(1), seed=0)
    times = [waits.retry_after_s(100.0, 60.0) for _ in range(200)]
    assert all(70.0 * (1 - JITTER) <= time_s <= 70.0 * (1 + JITTER) for time_s in times)
    assert max(times) - min(times) > 70.0 * JITTER
    assert all(waits.retry_after_s(1.0, 60.0) >= SHORTEST_RETRY_S * (1 - JITTER) for _ in range(50))


def test_jitter_comes_from_the_seed() -> None:
    def times(seed: int) -> list[float]:
        waits = WaitEstimator(fleet_of(1), seed)
        return [waits.retry_after_s(100.0, 60.0) for _ in range(5)]

    assert times(1) == times(1) != times(2)


def test_without_workers_there_are_numbers_all_the_same() -> None:
    waits = WaitEstimator(Fleet(), seed=0)
    assert 0.0 < waits.work(100, 50.0, 1, 0.0) < math.inf
    assert waits.wait_s(10.0, None) == 10.0
