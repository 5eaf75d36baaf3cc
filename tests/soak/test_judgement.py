"""How the soak tells growth from noise, and what it takes for left over."""

from __future__ import annotations

import random

import pytest

from actors.dispatcher.statistics import PoolStatistics
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from tests.soak.leftovers import busy_with, more_than
from tests.soak.memory import MAX_GROWTH_MIB, MIB, WARM_UP_S, Life

NOISE_MIB = 1.0


def life(growth_mib: float, *, minutes: float = 30.0, warm_up_mib: float = 20.0) -> Life:
    """The memory of a process that grows so much in 10 minutes, beside its warm-up and what allocators do."""
    rng = random.Random(3)
    samples = []
    for at_s in range(0, int(60 * minutes), 10):
        warm = warm_up_mib * min(at_s / WARM_UP_S, 1.0)
        used = 100 + warm + growth_mib * at_s / 600 + rng.uniform(-NOISE_MIB, NOISE_MIB)
        samples.append((float(at_s), int(used * MIB)))
    return Life("dispatcher", 1, samples)


@pytest.mark.parametrize("growth_mib", [0.0, 2.0, 10.0, -3.0])
def test_growth_is_measured_through_noise_and_warm_up(growth_mib: float) -> None:
    assert life(growth_mib).growth_mib() == pytest.approx(growth_mib, abs=0.5)


def test_a_leak_is_over_the_bound_and_one_jump_is_not() -> None:
    leak = life(1.5 * MAX_GROWTH_MIB).growth_mib()
    jump = life(0.0)
    jump.samples = [(at_s, used + (3 * MIB if at_s > 900 else 0)) for at_s, used in jump.samples]
    assert leak is not None
    assert leak > MAX_GROWTH_MIB
    jumped = jump.growth_mib()
    assert jumped is not None
    assert jumped < MAX_GROWTH_MIB


def test_a_short_life_is_not_judged() -> None:
    assert life(100.0, minutes=5.0).growth_mib() is None


def test_an_idle_pool_is_not_busy() -> None:
    assert busy_with(PoolStatistics(scheduler=Scheduler(SchedulerConfig()).statistics(0.0), workers=())) == []


def test_what_was_not_there_before_is_left_over() -> None:
    before = {"dispatcher": {"streams": 3, "tasks": 2}}
    assert more_than({"dispatcher": {"streams": 2, "tasks": 2}}, before) == []
    assert more_than({"dispatcher": {"streams": 4, "tasks": 2}}, before) == ["dispatcher: 4 streams instead of 3"]
    assert more_than({"worker-0": {"tasks": 1}}, before) == ["worker-0: 1 tasks instead of 0"]
