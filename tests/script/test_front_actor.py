"""The front actor beside a script: its death is not the end of calls, its pool's end is one, and in exlpool's words."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import TaskCancelledError

from actors import DeadlineExceeded, InvalidRequest, Pool, PoolClosed
from actors.engines.simulated import expected_tokens
from tests.conftest import CLUSTER_CPUS

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
PROMPT = (10, 11, 12)
SETTINGS: dict[str, Any] = {"engine": "simulated", "cache_tokens": 16384, "max_batch_size": 4}
WAIT_S = 60.0


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    with Pool.start(name="fronted", **SETTINGS, simulated={"step_s": 0.01}) as made:
        yield made


def front_process(pool: Pool) -> psutil.Process:
    return psutil.Process(ray.get(pool._front.pid.remote(), timeout=WAIT_S))


def running(pool: Pool) -> int:
    return pool.statistics().scheduler.running_requests


def idle(pool: Pool) -> bool:
    scheduler = pool.statistics().scheduler
    nothing_waits = running(pool) == 0 and sum(scheduler.queued_requests.values()) == 0
    return nothing_waits and all(worker.free_pages == worker.total_pages for worker in scheduler.workers)


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_calls_outlive_the_actor_whether_they_wait_or_run(pool: Pool, eventually: Eventually) -> None:
    prompts = [(*PROMPT, 20 + number) for number in range(8)]
    references = [pool.generate.remote(prompt, max_new_tokens=100, temperature=0.0) for prompt in prompts]
    eventually(lambda: running(pool) == 4)
    front_process(pool).kill()
    during = pool.generate.remote(PROMPT, max_new_tokens=5, temperature=0.0)
    results = ray.get(references, timeout=WAIT_S)
    assert [result.token_ids for result in results] == [expected_tokens(prompt, 100) for prompt in prompts]
    assert ray.get(during, timeout=WAIT_S).token_ids == expected_tokens(PROMPT, 5)
    eventually(lambda: idle(pool))


def test_a_call_can_be_cancelled_while_the_actor_is_away_and_when_it_is_back(
    pool: Pool, eventually: Eventually
) -> None:
    before, away, kept = (pool.generate.remote((*PROMPT, number), max_new_tokens=3000) for number in range(3))
    eventually(lambda: running(pool) == 3)
    front_process(pool).kill()
    ray.cancel(away)
    with pytest.raises(TaskCancelledError):
        ray.get(away, timeout=WAIT_S)
    eventually(lambda: running(pool) == 2)
    ray.cancel(before)
    with pytest.raises(TaskCancelledError):
        ray.get(before, timeout=WAIT_S)
    eventually(lambda: running(pool) == 1)
    ray.cancel(kept)
    eventually(lambda: idle(pool))


def test_an_error_is_told_once_and_not_tried_again(pool: Pool) -> None:
    submitted = pool.statistics().scheduler.submitted
    with pytest.raises(InvalidRequest):
        ray.get(pool.generate.remote(PROMPT, max_new_tokens=5, temperature=-1.0), timeout=WAIT_S)
    with pytest.raises(DeadlineExceeded):
        ray.get(pool.generate.remote(PROMPT, max_new_tokens=3000, timeout_s=0.2), timeout=WAIT_S)
    assert pool.statistics().scheduler.submitted == submitted + 1


def test_it_holds_no_cpu(pool: Pool) -> None:
    with Pool.connect("fronted") as other:
        ray.get(other._front.open.remote(), timeout=WAIT_S)
        available: Any = ray.available_resources()  # type: ignore[no-untyped-call]
        assert available["CPU"] == CLUSTER_CPUS - 1, "all but the worker's"


def test_whoever_waits_for_a_pool_that_closes_is_told_so_in_its_words(eventually: Eventually) -> None:
    @ray.remote(num_cpus=0)
    class Elsewhere:
        def __init__(self, sent: Pool) -> None:
            self.sent = sent

        def generate(self) -> str:
            try:
                ray.get(self.sent.generate.remote(PROMPT, max_new_tokens=3), timeout=WAIT_S)
            except PoolClosed:
                return "closed"
            return "generated"

    pool = Pool.start(name="closing", **SETTINGS, simulated={"step_s": 0.01})
    elsewhere: Any = Elsewhere.remote(pool)  # type: ignore[attr-defined]
    assert ray.get(elsewhere.generate.remote(), timeout=WAIT_S) == "generated"
    process = front_process(pool)
    waiting = [pool.generate.remote((*PROMPT, number), max_new_tokens=2000) for number in range(6)]
    eventually(lambda: running(pool) == 4)
    pool.close()
    for reference in waiting:
        with pytest.raises(PoolClosed):
            ray.get(reference, timeout=WAIT_S)
    assert ray.get(elsewhere.generate.remote(), timeout=WAIT_S) == "closed"
    ray.kill(elsewhere)
    eventually(lambda: ended(process))


def test_an_actor_that_hangs_does_not_keep_its_pool_from_closing(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.script.front_actor.CLOSE_TIMEOUT_S", 0.5)
    pool = Pool.start(name="closing", **SETTINGS)
    process = front_process(pool)
    os.kill(process.pid, signal.SIGSTOP)
    pool.close()
    eventually(lambda: ended(process))


def test_a_pool_whose_dispatcher_is_gone_says_so_though_its_actor_has_begun_anew(eventually: Eventually) -> None:
    pool = Pool.start(name="closing", **SETTINGS)
    try:
        front_process(pool).kill()
        ray.kill(pool._dispatcher)
        with pytest.raises(PoolClosed):
            ray.get(pool.generate.remote(PROMPT, max_new_tokens=3), timeout=WAIT_S)
    finally:
        pool.close()
