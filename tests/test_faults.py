"""What a death costs: real processes on a real Ray cluster are killed, and requests end as promised."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import ray

from actors import EngineFailure, FinishReason, ModelError, Pool, Usage, WorkerDied
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, worker_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
PROMPT = (10, 11, 12)
STEP_S = 0.01


def prompts(count: int) -> list[tuple[int, ...]]:
    return [(*PROMPT, 20 + number) for number in range(count)]


@pytest.fixture
def pool(ray_cluster: None) -> Iterator[Pool]:
    with Pool.start(
        name="faulty",
        engine="simulated",
        workers=2,
        wait_for="all",
        cache_tokens=65536,
        max_batch_size=8,
        stall_timeout_s=1.0,
        simulated={"step_s": STEP_S},
    ) as made:
        yield made


def worker_process(pool: Pool, slot_name: str) -> psutil.Process:
    handle: Any = ray.get_actor(worker_name(pool.config.name, slot_name), namespace=NAMESPACE)
    return psutil.Process(ray.get(handle.heartbeat.remote(), timeout=30).pid)


def all_up(pool: Pool) -> bool:
    return all(worker.worker_id is not None for worker in pool.statistics().workers)


def idle(pool: Pool) -> bool:
    statistics = pool.statistics()
    return statistics.scheduler.running_requests == 0 and all(worker.active_jobs == 0 for worker in statistics.workers)


def free_pages(pool: Pool) -> dict[str, bool]:
    """Per slot, whether all pages of its worker are free by the dispatcher's books."""
    return {worker.slot_name: worker.free_pages == worker.total_pages for worker in pool.statistics().scheduler.workers}


def test_a_killed_worker_costs_a_pause_and_no_result(pool: Pool, eventually: Eventually) -> None:
    asked = prompts(24)
    references = [pool.generate.remote(prompt, max_new_tokens=150, temperature=0.0) for prompt in asked]
    eventually(lambda: sum(worker.active_jobs for worker in pool.statistics().workers) > 8)
    worker_process(pool, "worker-0").kill()
    results = ray.get(references, timeout=120)
    assert [result.token_ids for result in results] == [expected_tokens(prompt, 150) for prompt in asked]
    assert max(result.attempts for result in results) == 2
    eventually(lambda: all_up(pool))
    assert {worker.slot_name: worker.restarts for worker in pool.statistics().workers} == {"worker-0": 1, "worker-1": 0}
    eventually(lambda: idle(pool))
    assert all(free_pages(pool).values())


def test_streams_that_had_begun_go_on_though_every_worker_dies(pool: Pool, eventually: Eventually) -> None:
    asked = prompts(4)
    streams = [iter(pool.stream(prompt, max_new_tokens=400, temperature=0.0)) for prompt in asked]
    firsts = [next(stream) for stream in streams]
    for slot_name in ("worker-0", "worker-1"):
        worker_process(pool, slot_name).kill()
    for prompt, first, stream in zip(asked, firsts, streams, strict=True):
        rest = list(stream)
        expected = expected_tokens(prompt, 400)
        assert (*first.token_ids, *(token for delta in rest for token in delta.token_ids)) == expected
        assert first.text + "".join(delta.text for delta in rest) == "".join(f" w{token}" for token in expected)
        assert rest[-1].usage == Usage(prompt_tokens=len(prompt), completion_tokens=400)
    eventually(lambda: all_up(pool) and idle(pool))
    assert all(free_pages(pool).values())


def test_a_worker_that_hangs_is_restarted(pool: Pool, eventually: Eventually) -> None:
    references = [pool.generate.remote(prompt, max_new_tokens=300, temperature=0.0) for prompt in prompts(8)]
    eventually(lambda: all(worker.active_jobs > 0 for worker in pool.statistics().workers))
    stopped = worker_process(pool, "worker-1")
    os.kill(stopped.pid, signal.SIGSTOP)
    results = ray.get(references, timeout=120)
    assert [result.token_ids for result in results] == [expected_tokens(prompt, 300) for prompt in prompts(8)]
    eventually(lambda: all_up(pool))
    assert not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE


def test_the_dispatcher_dies_and_running_generations_go_on(pool: Pool, eventually: Eventually) -> None:
    stream = iter(pool.stream(PROMPT, max_new_tokens=400, temperature=0.0))
    first = next(stream)
    queued = [pool.generate.remote(prompt, max_new_tokens=100, temperature=0.0) for prompt in prompts(40)]
    dispatcher: Any = ray.get_actor(pool.config.name, namespace=NAMESPACE)
    ray.kill(dispatcher, no_restart=False)
    rest = [token for delta in stream for token in delta.token_ids]
    assert (*first.token_ids, *rest) == expected_tokens(PROMPT, 400)
    results = ray.get(queued, timeout=120)
    assert [result.token_ids for result in results] == [expected_tokens(prompt, 100) for prompt in prompts(40)]
    eventually(lambda: idle(pool))


def test_a_front_that_disappears_has_its_jobs_cancelled(pool: Pool, eventually: Eventually) -> None:
    pool.generate.remote(PROMPT, max_new_tokens=2000)
    eventually(lambda: not idle(pool))
    ray.kill(pool._front)
    eventually(lambda: idle(pool))
    assert all(free_pages(pool).values())


def test_a_failing_step_is_replayed_and_the_worker_goes_on() -> None:
    with Pool.start(name="hiccup", engine="simulated", simulated={"step_s": 0.005, "fail_at_step": 5}) as pool:
        asked = prompts(6)
        references = [pool.generate.remote(prompt, max_new_tokens=20, temperature=0.0) for prompt in asked]
        results = ray.get(references, timeout=60)
        assert [result.token_ids for result in results] == [expected_tokens(prompt, 20) for prompt in asked]
        assert max(result.attempts for result in results) == 2


def test_a_stream_goes_on_behind_a_failing_step() -> None:
    with Pool.start(name="hiccup", engine="simulated", simulated={"step_s": 0.005, "fail_at_step": 5}) as pool:
        deltas = list(pool.stream(PROMPT, max_new_tokens=50, temperature=0.0))
        assert tuple(token for delta in deltas for token in delta.token_ids) == expected_tokens(PROMPT, 50)


def test_a_worker_that_always_dies_under_a_request_fails_it_in_the_end() -> None:
    with (
        Pool.start(name="deadly", engine="simulated", simulated={"step_s": 0.005, "exit_at_step": 3}) as pool,
        pytest.raises(WorkerDied, match="attempts of this request were lost"),
    ):
        ray.get(pool.generate.remote(PROMPT, max_new_tokens=50), timeout=120)


def test_a_hang_in_the_first_step_after_a_pause_ends_the_worker_and_the_request_is_told(eventually: Eventually) -> None:
    """The step of a worker that was idle is the one that no report foretells."""
    settings: dict[str, Any] = {"engine": "simulated", "stall_timeout_s": 1.0, "max_restarts": -1}
    with Pool.start(name="hanging", **settings, simulated={"step_s": STEP_S, "stall_at_step": 1}) as pool:
        before = worker_process(pool, "worker-0")
        reference = pool.generate.remote(PROMPT, max_new_tokens=5)
        with pytest.raises(WorkerDied):
            ray.get(reference, timeout=90)
        eventually(lambda: pool.statistics().workers[0].restarts >= 2)
        assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE


def test_a_hang_while_a_request_is_taken_up_is_found_like_one_in_a_step() -> None:
    simulated = {"step_s": STEP_S, "stall_submit_at_token": PROMPT[0]}
    with (
        Pool.start(name="hanging", engine="simulated", stall_timeout_s=1.0, simulated=simulated) as pool,
        pytest.raises(WorkerDied),
    ):
        ray.get(pool.generate.remote(PROMPT, max_new_tokens=5), timeout=90)


def test_an_engine_that_cannot_be_reset_ends_its_worker_with_every_stream_of_it(eventually: Eventually) -> None:
    simulated = {"step_s": STEP_S, "fail_at_step": 5, "fail_reset": True}
    with Pool.start(name="poisoned", engine="simulated", simulated=simulated) as pool:
        before = worker_process(pool, "worker-0")
        asked = prompts(4)
        references = [pool.generate.remote(prompt, max_new_tokens=3, temperature=0.0) for prompt in asked]
        results = ray.get(references, timeout=90)
        assert [result.token_ids for result in results] == [expected_tokens(prompt, 3) for prompt in asked]
        with pytest.raises((EngineFailure, WorkerDied)):  # it comes to the fifth step of the next life as well
            list(pool.stream(PROMPT, max_new_tokens=50, temperature=0.0))
        eventually(lambda: not before.is_running() or before.status() == psutil.STATUS_ZOMBIE)
        eventually(lambda: all_up(pool) and pool.statistics().workers[0].restarts == 2)


@pytest.mark.parametrize("fault", ["fatal_at_step", "exit_at_step"])
def test_an_engine_that_is_beyond_repair_ends_its_worker(fault: str, eventually: Eventually) -> None:
    with Pool.start(name="fatal", engine="simulated", simulated={"step_s": STEP_S, fault: 3}) as pool:
        with pytest.raises((EngineFailure, WorkerDied)):
            list(pool.stream(PROMPT, max_new_tokens=50, temperature=0.0))
        eventually(lambda: all_up(pool) and pool.statistics().workers[0].restarts == 2)


def test_an_engine_that_cannot_be_closed_does_not_keep_the_pool_from_closing() -> None:
    pool = Pool.start(name="clinging", engine="simulated", simulated={"fail_close": True})
    process = worker_process(pool, "worker-0")
    pool.close()
    psutil.wait_procs([process], timeout=30)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_dispatcher_whose_worker_link_breaks_goes_on_with_the_same_life(pool: Pool, eventually: Eventually) -> None:
    """The worker is well, so what it runs goes on, and nothing of it is given away."""
    streams = [iter(pool.stream(prompt, max_new_tokens=300, temperature=0.0)) for prompt in prompts(4)]
    firsts = [next(stream) for stream in streams]
    lives = [worker.worker_id for worker in pool.statistics().workers]
    dispatcher: Any = ray.get_actor(pool.config.name, namespace=NAMESPACE)
    assert ray.get(dispatcher.break_links.remote(), timeout=30) == 2
    for prompt, first, stream in zip(prompts(4), firsts, streams, strict=True):
        rest = [token for delta in stream for token in delta.token_ids]
        assert (*first.token_ids, *rest) == expected_tokens(prompt, 300)
    assert [worker.worker_id for worker in pool.statistics().workers] == lives
    eventually(lambda: idle(pool))
    eventually(lambda: all(free_pages(pool).values()))


def test_a_model_that_cannot_be_loaded_fails_the_start_and_leaves_nothing() -> None:
    with pytest.raises(ModelError):
        Pool.start(name="unloadable", engine="simulated", simulated={"fail_load": True})
    with Pool.start(name="unloadable", engine="simulated") as pool:
        result = ray.get(pool.generate.remote(PROMPT, max_new_tokens=2), timeout=60)
        assert result.finish_reason is FinishReason.LENGTH
