"""Competing routers choose as their descriptions say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from actors.messages import AttemptFinished, StepReport
from actors.scheduling.simulator.baselines import (
    BASELINES,
    CacheAwareRouter,
    DynamoRouter,
    EarlyCacheAwareRouter,
    LeastRequestsRouter,
    LmetricRouter,
    PowerOfTwoRouter,
    PrefixAffinityRouter,
    RoundRobinRouter,
    Router,
    StaticSplit,
)
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Death, Simulation
from actors.scheduling.simulator.workers import WorkerSpec
from tests.scheduling.simulator.rig import PLAIN, job, pool

LARGE = WorkerSpec(total_pages=4096, max_batch_size=512)


def fed(router: Router, workers: int = 3, jobs: list[Job] | None = None) -> Router:
    """A router whose workers are up and that has routed nothing yet."""
    simulation = Simulation(jobs or [], pool(*[LARGE] * workers), router)
    for index in range(workers):
        simulation._on_up(index)
    return router


def report(added: tuple[bytes, ...] = (), first: tuple[str, ...] = (), finished: tuple[str, ...] = ()) -> StepReport:
    return StepReport(
        worker_id="",
        sequence=1,
        first_tokens=tuple((name, 1) for name in first),
        finished=tuple(AttemptFinished(name, 1, 1) for name in finished),
        pages_added=added,
    )


def load(router: Router, index: int, count: int, tag: str = "load") -> None:
    for number in range(count):
        router.views[index].add(job(f"{tag}-{index}-{number}"))


def test_round_robin_goes_on_where_it_was() -> None:
    router = fed(RoundRobinRouter(0))
    assert [router.choose(job("x")) for _ in range(5)] == [0, 1, 2, 0, 1]
    del router.views[2]
    assert [router.choose(job("x")) for _ in range(3)] == [0, 1, 0]


def test_a_static_split_cuts_the_list() -> None:
    jobs = [job(f"r{i}") for i in range(10)]
    router = fed(StaticSplit(0), 3, jobs)
    assert [router.choose(one) for one in jobs] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_power_of_two_never_takes_the_longest_queue() -> None:
    router = fed(PowerOfTwoRouter(0))
    load(router, 0, 5)
    load(router, 1, 1)
    assert Counter(router.choose(job("x")) for _ in range(300)).keys() == {1, 2}


def test_least_requests() -> None:
    router = fed(LeastRequestsRouter(0))
    load(router, 0, 2)
    load(router, 2, 1)
    assert router.choose(job("x")) == 1


@pytest.mark.parametrize(("make", "skew"), [(CacheAwareRouter, 64), (EarlyCacheAwareRouter, 32)])
def test_cache_aware_follows_the_prefix_until_load_is_out_of_balance(make: type[CacheAwareRouter], skew: int) -> None:
    router = fed(make(0))
    one = job("a", prompt=1024, shared=1)
    router.views[1].add(one)
    assert router.choose(job("b", prompt=1024, shared=1)) == 1
    load(router, 1, skew - 1)
    assert router.choose(job("b", prompt=1024, shared=1)) == 1, "at the threshold it is still in balance"
    load(router, 1, 1, "more")
    assert router.choose(job("b", prompt=1024, shared=1)) != 1


def test_cache_aware_passes_over_a_short_match() -> None:
    """768 of 1,024 tokens are enough, 768 of 4,000 are not."""
    router = fed(CacheAwareRouter(0))
    router.views[1].add(job("a", prompt=1024, shared=1))
    assert router.choose(job("b", prompt=4000, shared=1)) in {0, 2}


def test_prefix_affinity_follows_a_tenth_whatever_the_load() -> None:
    router = fed(PrefixAffinityRouter(0))
    router.views[1].add(job("a", prompt=1024, shared=1))
    load(router, 1, 500)
    assert router.choose(job("b", prompt=7000, shared=1)) == 1
    assert router.choose(job("b", prompt=9000, shared=1)) in {0, 2}, "below a tenth: the smallest tree"


def test_dynamo_adds_prefill_that_is_due_and_active_blocks() -> None:
    """Worker 0 has the prefix but other work; 4 blocks saved outweigh 3 blocks of load, not 12."""
    shared = job("a", prompt=1100, shared=1)
    for busy, chosen in ((1, 0), (5, 1)):
        router = fed(DynamoRouter(0), 2)
        router.report(0, report(added=shared.pages), 0.0)
        for number in range(busy):
            router.views[0].add(job(f"o{number}", prompt=256))
        assert router.choose(replace_id(shared)) == chosen


def test_dynamo_counts_shared_blocks_once() -> None:
    router = fed(DynamoRouter(0), 2)
    shared = job("a", prompt=1100, shared=1)
    router.report(0, report(added=shared.pages, first=()), 0.0)
    for number in range(4):
        router.views[0].add(job(f"s{number}", prompt=1100, shared=1))
    router.report(0, report(first=tuple(f"s{number}" for number in range(4))), 0.0)
    assert len(router.views[0].active) == 4
    assert router.views[0].unnamed_pages == 4
    assert router.choose(replace_id(shared)) == 0, "8 + 1 + 1 blocks there, 5 + 5 on an empty worker: the first wins"


def test_a_finished_job_leaves_the_view() -> None:
    router = fed(DynamoRouter(0), 1)
    router.views[0].add(job("a", prompt=1100, shared=1))
    router.report(0, report(finished=("a", "unknown")), 0.0)
    view = router.views[0]
    assert (view.jobs, view.prefill_tokens, dict(view.active), view.unnamed_pages) == ({}, {}, {}, 0)


def test_lmetric_multiplies_prefill_that_is_due_with_the_batch() -> None:
    """600 tokens x 2 there, 1,100 x 1 with an empty worker; with two running it is 600 x 3."""
    shared = job("a", prompt=1112, shared=1)
    router = fed(LmetricRouter(0), 2)
    router.report(0, report(added=shared.pages[:2]), 0.0)
    router.views[0].add(job("o0", prompt=1))
    router.report(0, report(first=("o0",)), 0.0)
    assert router.choose(shared) == 1, "600 x 2 > 1,112 x 1"
    router.report(0, report(finished=("o0",)), 0.0)
    assert router.choose(shared) == 0


def replace_id(one: Job) -> Job:
    return replace(one, job_id="other", killers=set())


@pytest.mark.parametrize("name", BASELINES)
def test_every_router_serves_all_through_deaths(name: str) -> None:
    """Both workers are down for a while: who comes then is kept until one is back."""
    jobs = [job(f"r{i}", at_s=0.1 * i, prompt=600, output=5, shared=i % 3) for i in range(60)]
    deaths = (Death(at_s=1.05, index=0, restart_s=3.0), Death(at_s=2.05, index=1, restart_s=3.0))
    simulation = Simulation(jobs, pool(PLAIN, PLAIN, deaths=deaths), BASELINES[name](0))
    simulation.run()
    assert all(one.done_s is not None for one in jobs)
    assert any(one.attempt > 1 for one in jobs)
    for worker in simulation.workers:
        assert worker is not None
        assert worker.table.free_pages == worker.spec.total_pages


def test_what_fits_no_worker_is_refused_by_the_engine() -> None:
    jobs = [job("big", prompt=100_000), job("small")]
    Simulation(jobs, pool(PLAIN), RoundRobinRouter(0)).run()
    assert jobs[0].refused == "oversized"
    assert jobs[1].done_s is not None
