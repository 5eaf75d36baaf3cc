"""Workers that die again and again, and workers that hang: real processes are killed and stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import ray

from actors import Pool
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, worker_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
PROMPT = (10, 11, 12)
SETTINGS: dict[str, Any] = {"engine": "simulated", "cache_tokens": 65536, "max_batch_size": 8}


def worker_process(pool: Pool, slot_name: str) -> psutil.Process:
    handle: Any = ray.get_actor(worker_name(pool.config.name, slot_name), namespace=NAMESPACE)
    return psutil.Process(ray.get(handle.heartbeat.remote(), timeout=30).pid)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_up(pool: Pool) -> bool:
    return all(worker.worker_id is not None for worker in pool.statistics().workers)


def busy(pool: Pool, workers: int) -> bool:
    return sum(worker.active_jobs > 0 for worker in pool.statistics().workers) == workers


def ask(pool: Pool, count: int, tokens: int) -> tuple[list[Any], list[tuple[int, ...]]]:
    """Whole requests, and what must come of them."""
    prompts = [(*PROMPT, 20 + number) for number in range(count)]
    references = [pool.generate.remote(prompt, max_new_tokens=tokens, temperature=0.0) for prompt in prompts]
    return references, [expected_tokens(prompt, tokens) for prompt in prompts]


def test_a_worker_that_dies_again_waits_and_comes_back_with_one_request_at_a_time(eventually: Eventually) -> None:
    with Pool.start(name="mortal", **SETTINGS, simulated={"step_s": 0.01}) as pool:
        for deaths in (1, 2):
            worker_process(pool, "worker-0").kill()
            eventually(lambda deaths=deaths: pool.statistics().workers[0].restarts == deaths)
            if deaths == 2:
                eventually(lambda: pool.statistics().workers[0].loading == ("pause after deaths, of seconds", 0, 1))
            eventually(lambda: all_up(pool))
        assert [worker.state for worker in pool.statistics().scheduler.workers] == ["trial"]
        references, expected = ask(pool, 4, 100)
        most = 0
        while not (done := ray.wait(references, timeout=0.02)[0]):
            most = max(most, pool.statistics().workers[0].active_jobs)
        assert (len(done), most) == (1, 1)
        assert [result.token_ids for result in ray.get(references, timeout=60)] == expected
        assert [worker.state for worker in pool.statistics().scheduler.workers] == ["up"]


def test_workers_that_are_stopped_are_ended_whether_or_not_they_work_and_requests_go_on_elsewhere(
    eventually: Eventually,
) -> None:
    """With the time that a step may take by default, which is much longer."""
    with Pool.start(name="stopped", **SETTINGS, workers=3, wait_for="all", simulated={"step_s": 0.02}) as pool:
        references, expected = ask(pool, 2, 400)
        eventually(lambda: busy(pool, 2))
        states = pool.statistics().workers
        working = next(state.slot_name for state in states if state.active_jobs)
        idle = next(state.slot_name for state in states if not state.active_jobs)
        stopped = [worker_process(pool, slot_name) for slot_name in (working, idle)]
        for process in stopped:
            os.kill(process.pid, signal.SIGSTOP)
        assert [result.token_ids for result in ray.get(references, timeout=60)] == expected
        eventually(lambda: all(gone(process) for process in stopped))
        eventually(lambda: all_up(pool))
        restarts = {state.slot_name: state.restarts for state in pool.statistics().workers}
        assert {name for name, count in restarts.items() if count} == {working, idle}


def test_an_engine_s_process_that_was_stopped_while_it_waited_ends_its_worker(eventually: Eventually) -> None:
    """The worker's own event loop is well, and answers: it is judged by what its engine does not take up."""
    settings = {**SETTINGS, "stall_timeout_s": 1.0, "simulated": {"step_s": 0.01, "own_process": True}}
    with Pool.start(name="apart", workers=2, wait_for="all", **settings) as pool:
        worker = worker_process(pool, "worker-1")
        (engine,) = worker.children()
        os.kill(engine.pid, signal.SIGSTOP)
        references, expected = ask(pool, 4, 100)
        assert [result.token_ids for result in ray.get(references, timeout=60)] == expected
        eventually(lambda: gone(worker) and gone(engine))
        eventually(lambda: all_up(pool))
        assert [state.restarts for state in pool.statistics().workers] == [0, 1]
