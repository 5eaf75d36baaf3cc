"""Whole simulations: the real scheduler and competing routers over the same jobs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from actors.errors import ConfigurationError
from actors.results import Priority
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.simulator import arrivals, filling, makespan
from actors.scheduling.simulator.dispatchers import CoreDispatcher
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Death, Pool, Simulation
from actors.scheduling.simulator.metrics import Outcome
from actors.scheduling.simulator.run import POLICY_NAMES, simulate
from actors.scheduling.simulator.workers import WorkerSpec
from tests.scheduling.simulator.rig import PLAIN, job

SMALL = WorkerSpec(total_pages=64, max_batch_size=8)


def chats(count: int, rate: float, seed: int) -> Sequence[Job]:
    rng = random.Random(seed)
    return arrivals.multi_turn(arrivals.gamma_arrivals(count, rate, rng), rng)


def chat_outcome(policy: str, seed: int = 0, rate: float = 6.0) -> Outcome:
    pool = Pool(workers=(SMALL,) * 3, seed=seed)
    return simulate(lambda: chats(150, rate, seed), pool, policy)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_seed_gives_the_same_outcome_and_another_seed_another(policy: str) -> None:
    def virtual(outcome: Outcome) -> Outcome:
        return replace(outcome, decision_us=None)  # the only thing that is measured in real time

    first = virtual(chat_outcome(policy))
    assert first == virtual(chat_outcome(policy))
    assert first != virtual(chat_outcome(policy, seed=1))
    assert first.requests == 150
    assert 0.0 < first.goodput <= 1.0
    assert first.prefix_hit_rate <= first.unlimited_hit_rate
    assert first.makespan_s >= first.bound_s * 0.99


def test_an_unknown_policy_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no policy 'best'; there are cost, lmetric"):
        chat_outcome("best")


@pytest.mark.parametrize("policy", ["cost", "lmetric", "power_of_two", "least_requests", "round_robin"])
def test_the_scheduler_keeps_its_invariants_through_deaths_and_late_reports(policy: str) -> None:
    """Its books are checked after every event; at the end nothing is left in them."""
    jobs = chats(120, 8.0, 3)
    deaths = (Death(at_s=4.0, index=0, restart_s=3.0), Death(at_s=6.0, index=1, restart_s=3.0))
    pool = Pool(workers=(SMALL, SMALL.at_speed(0.5), SMALL), report_lag_s=0.2, deaths=deaths, seed=3)
    core = CoreDispatcher(SchedulerConfig(policy=policy, seed=3))
    handle = core.scheduler.handle

    def checked(event: object, now_s: float) -> object:
        actions = handle(event, now_s)  # type: ignore[arg-type]
        core.scheduler.validate()
        return actions

    core.scheduler.handle = checked  # type: ignore[method-assign,assignment]
    simulation = Simulation(jobs, pool, core)
    simulation.run()
    assert all((one.done_s is None) == (one.refused is not None) for one in jobs)
    assert any(one.attempt > 1 and one.done_s is not None for one in jobs)
    assert len(core.scheduler.state.queue) == 0
    for worker in simulation.workers:
        assert worker is not None
        assert worker.table.free_pages == worker.spec.total_pages


def test_rates_are_learned_from_reports() -> None:
    """One worker is a quarter as fast; the scheduler is told of neither speed, and finds the ratio."""
    pool = Pool(workers=(SMALL, SMALL.at_speed(0.25)), seed=1)
    core = CoreDispatcher(SchedulerConfig())
    Simulation(chats(200, 3.0, 1), pool, core).run()
    fast, slow = core.scheduler.statistics(1e6).workers
    step_s = [w.step_base_s + 4 * w.step_per_job_s for w in (fast, slow)]
    assert step_s[0] == pytest.approx(SMALL.base_s + 4 * SMALL.per_job_s, rel=0.1)
    assert step_s[1] / step_s[0] == pytest.approx(4.0, rel=0.15)


def test_a_slow_worker_gets_its_share_and_not_more() -> None:
    """A worker of a quarter of the speed computes some, and clearly less than half of what the others do."""
    pool = Pool(workers=(SMALL, SMALL, SMALL.at_speed(0.25)), seed=1)
    jobs = chats(300, 5.0, 1)
    Simulation(jobs, pool, CoreDispatcher(SchedulerConfig())).run()
    counts = [sum(one.worker == index for one in jobs) for index in range(3)]
    assert 0 < counts[2] < 0.45 * min(counts[:2])


def test_waits_are_refused_above_the_bound_and_the_rest_meets_its_service_level() -> None:
    calm, crowded = chat_outcome("cost", rate=1.0), chat_outcome("cost", rate=40.0)
    assert calm.rejected == 0.0
    assert crowded.rejected > 0.2
    assert crowded.rejections.keys() == {"wait_too_long"}
    assert crowded.goodput > 0.8 * (1 - crowded.rejected)
    assert crowded.wait_error_s is not None
    assert crowded.wait_error_s.mean < 1.5


def test_cost_beats_routers_that_bind_at_arrival_on_a_crowded_pool() -> None:
    """A small look at what the comparison shows at length; see docs/placement.md."""
    goodput = {
        policy: sum(chat_outcome(policy, seed, rate=10.0).goodput for seed in range(3))
        for policy in ("cost", "dynamo", "sglang_cache_aware", "ray_power_of_two", "round_robin_router")
    }
    best = goodput.pop("cost")
    assert all(best > other for other in goodput.values()), goodput


def test_a_data_set_over_unequal_workers_ends_within_3_percent_of_the_lower_bound() -> None:
    outcome = makespan.run(10_000, makespan.SPEEDS, "cost", 0)
    assert outcome.rejected == 0.0
    assert 1.0 < outcome.makespan_s / outcome.bound_s < 1.03


def test_a_static_split_waits_for_the_slowest_worker() -> None:
    """It has an eighth of the work, as they all have, and 0.4 of 5.3 of the speed: 1.66 times as long, at least."""
    outcome = makespan.run(1000, makespan.SPEEDS, "static_split", 0)
    assert outcome.makespan_s / outcome.bound_s > 1.6


def test_makespan_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    makespan.main(["--jobs", "60", "--speeds", "1,0.5", "--seeds", "1", "--policies", "cost,round_robin_router"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| `cost` |")


def test_class_batch_hardly_moves_the_first_tokens_of_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 chats, with a data set that comes amid them and without: the mean moves by less than 0.1 s."""
    monkeypatch.setattr(filling, "CHATS", 400)
    monkeypatch.setattr(filling, "DATA_SET", 400)
    alone, behind = (filling.run(case, 12.0, 0) for case in filling.CASES[:2])
    assert behind.requests == 800
    assert behind.rejected == 0.0
    assert behind.tenants["chats"].ttft_s.mean < alone.tenants["chats"].ttft_s.mean + 0.1


def test_interactive_goes_before_batch() -> None:
    jobs = [job(f"b{i}", output=20) for i in range(30)]
    for one in jobs:
        one.priority = Priority.BATCH
    late = job("i", at_s=1.0, output=20)
    late.priority = Priority.INTERACTIVE
    simulate(lambda: [*jobs, late], Pool(workers=(PLAIN,)), "cost", config=SchedulerConfig())
    assert late.done_s is not None
    assert sum(one.done_s is not None and one.done_s < late.done_s for one in jobs) <= 6
