"""Tenants get new shares while requests wait."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.scheduling.events import TenantsWeighed
from tests.scheduling.pool import Pool, starts


def shares(pool: Pool, running: str, count: int) -> Counter[str]:
    """Which tenants the next starts belong to, one after another on the only place."""
    started: Counter[str] = Counter()
    for _ in range(count):
        ((next_one, _worker),) = starts(pool.finish(running)).items()
        started[next_one[0]] += 1
        pool.run(next_one)
        running = next_one
    return started


def crowded() -> Pool:
    pool = Pool()
    pool.up(max_batch_size=1)
    pool.submit("first")
    pool.run("first")
    for number in range(60):
        for tenant in ("a", "b"):
            pool.submit(f"{tenant}{number}", tenant=tenant)
    return pool


def test_equal_shares_unless_weighed() -> None:
    assert shares(crowded(), "first", 20) == {"a": 10, "b": 10}


def test_a_new_weight_counts_for_those_who_wait_already() -> None:
    pool = crowded()
    assert pool.handle(TenantsWeighed({"a": 3.0})) == []
    started = shares(pool, "first", 40)
    assert started["a"] == pytest.approx(30, abs=2)


def test_a_weight_that_is_taken_back_is_one_again() -> None:
    pool = crowded()
    pool.handle(TenantsWeighed({"a": 3.0}))
    pool.handle(TenantsWeighed({}))
    assert shares(pool, "first", 20) == {"a": 10, "b": 10}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_changes_nothing(weight: float) -> None:
    pool = crowded()
    pool.handle(TenantsWeighed({"a": weight, "b": 3.0}))
    assert pool.ignored == {"weights out of bounds": 1}
    assert shares(pool, "first", 20) == {"a": 10, "b": 10}
