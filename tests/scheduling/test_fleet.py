"""The fleet: workers as objects and as columns of numbers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from actors.scheduling.estimates import DEFAULT_TIMES, StepTimes
from actors.scheduling.fleet import PROFILE_STEPS, Column, Fleet
from actors.scheduling.records import Worker
from tests.scheduling.pool import LIMITS, pages, request


def add(fleet: Fleet, name: str, **limits: Any) -> Worker:
    return fleet.add(f"{name}#1", name, replace(LIMITS, **limits), 0)


def test_a_worker_is_found_by_id_by_slot_and_by_index() -> None:
    fleet = Fleet()
    first, second = add(fleet, "a"), add(fleet, "b")
    assert list(fleet) == [first, second]
    assert len(fleet) == 2
    assert fleet.by_id["b#1"] is fleet.by_slot["b"] is fleet.by_index[1] is second


def test_indexes_are_used_again_and_pages_of_the_old_worker_are_forgotten() -> None:
    fleet = Fleet()
    first = add(fleet, "a")
    add(fleet, "b")
    first.ledger.add_resident(pages("p"))
    fleet.remove(first)
    assert fleet.by_index[0] is None
    assert fleet.state[:, 0].sum() == 0.0
    third = add(fleet, "c")
    assert third.index == 0
    assert fleet.known.leading(pages("p"), 1) == 0
    assert fleet.by_index[0] is third


def test_the_fleet_grows_as_it_must() -> None:
    fleet = Fleet()
    workers = [add(fleet, f"w{number}", total_pages=number + 1) for number in range(100)]
    assert fleet.column(Column.TOTAL_PAGES).tolist() == [number + 1 for number in range(100)]
    for worker in workers:
        fleet.remove(worker)
    assert len(fleet) == 0
    assert not fleet.any_slot()


def test_numbers_follow_their_worker() -> None:
    fleet = Fleet()
    worker = add(fleet, "a")
    one = request("r", 300, 200)
    worker.book(one, 0.0, 0)
    fleet.changed(worker)
    told = {column.name: float(fleet.state[column, 0]) for column in Column}
    assert told["FREE_PAGES"] == 14
    assert told["FREE_SLOTS"] == 3
    assert told["BATCH"] == told["PREFILLS"] == told["FOREGROUND_SLOTS"] == 1
    assert told["PENDING_PREFILL"] == 300
    assert told["OUTSTANDING"] == 500
    worker.release(one)
    fleet.changed(worker)
    assert float(fleet.state[Column.FREE_PAGES, 0]) == 16


def test_whether_anybody_has_a_slot() -> None:
    fleet = Fleet()
    assert not fleet.any_slot()
    worker = add(fleet, "a", max_batch_size=1)
    assert fleet.any_slot()
    worker.book(request(), 0.0, 0)
    fleet.changed(worker)
    assert not fleet.any_slot()


def test_limits_are_those_that_differ_of_workers_that_stay() -> None:
    fleet = Fleet()
    small, twin, large = add(fleet, "a", total_pages=4), add(fleet, "b", total_pages=4), add(fleet, "c")
    told = [fleet.limits]
    for change, worker in ((fleet.drain, small), (fleet.remove, small), (fleet.drain, twin), (fleet.remove, twin)):
        change(worker)
        told.append(fleet.limits)
    both, one = (small.limits, large.limits), (large.limits,)
    assert told == [both, both, both, one, one]
    fleet.remove(large)
    assert not fleet.limits


def test_a_new_worker_is_as_fast_as_the_others_are() -> None:
    fleet = Fleet()
    assert fleet.mean_times() == DEFAULT_TIMES
    for name, step_s in (("a", 0.01), ("b", 0.03)):
        worker = add(fleet, name)
        worker.model.times = StepTimes(step_s, 0.0, 0.0)
        fleet.changed(worker)
    assert add(fleet, "c").model.times.base_s == pytest.approx(0.02)


def releases(fleet: Fleet, now_s: float = 0.0) -> list[tuple[float, float]]:
    fleet.refresh_releases(now_s)
    return [
        (round(float(at_s), 6), float(given))
        for at_s, given in zip(fleet.release_s[:, 0], fleet.release_pages[:, 0], strict=True)
        if math.isfinite(at_s)
    ]


def decoding(worker: Worker, expected_tokens: list[float]) -> None:
    """Attempts of 2 pages each that emitted their first token at 0 s, at 0.1 s per step."""
    worker.model.times = StepTimes(0.1, 0.0, 0.0)
    for number, tokens in enumerate(expected_tokens):
        one = request(f"r{number}", 200, 300)
        one.expected_tokens = tokens
        worker.book(one, 0.0, 0)
        worker.prefilled(one)
        one.first_token_s = 0.0


def test_releases_are_told_in_order_and_the_last_gives_everything() -> None:
    fleet = Fleet()
    worker = add(fleet, "a")
    assert releases(fleet) == []
    decoding(worker, [30.0, 10.0, 20.0])
    fleet.changed(worker)
    assert releases(fleet) == [(1.0, 2.0), (2.0, 4.0), (3.0, 16.0)]


def test_releases_are_looked_at_again_when_time_goes_by() -> None:
    fleet = Fleet()
    worker = add(fleet, "a")
    decoding(worker, [30.0])
    fleet.changed(worker)
    releases(fleet)
    fleet.age_releases()
    assert releases(fleet, 2.9) == [(3.65, 16.0)]  # a quarter of what was expected goes on being expected
    assert releases(fleet, 100.0) == [(3.65, 16.0)]


def test_many_releases_are_told_in_groups() -> None:
    fleet = Fleet()
    worker = add(fleet, "a", total_pages=1000, max_batch_size=200)
    decoding(worker, [float(number + 1) for number in range(100)])
    fleet.changed(worker)
    told = releases(fleet)
    assert len(told) <= PROFILE_STEPS
    assert told[0] == (0.4, 8.0)
    assert told[-1] == (10.0, 1000.0)
    assert all(one[0] < other[0] and one[1] < other[1] for one, other in itertools.pairwise(told))
