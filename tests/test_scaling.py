"""Workers leave and join a running pool, under load: no request fails, and none is answered otherwise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors import ConfigurationError, GenerationResult, Pool
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, worker_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
WAIT_S = 90.0
STEP_S = 0.01


def prompts(count: int) -> list[tuple[int, ...]]:
    return [(10, 11, 20 + number) for number in range(count)]


def ask(pool: Pool, asked: list[tuple[int, ...]], tokens: int) -> list[ray.ObjectRef[GenerationResult]]:
    return [pool.generate.remote(prompt, max_new_tokens=tokens, temperature=0.0) for prompt in asked]


def assert_right(references: list[Any], asked: list[tuple[int, ...]], tokens: int) -> list[GenerationResult]:
    results = ray.get(references, timeout=WAIT_S)
    assert [result.token_ids for result in results] == [expected_tokens(prompt, tokens) for prompt in asked]
    return results


def names(pool: Pool) -> list[str]:
    return [worker.slot_name for worker in pool.workers()]


def alive(pool: Pool, slot_name: str) -> bool:
    try:
        ray.get_actor(worker_name(pool.config.name, slot_name), namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def kill_dispatcher(pool: Pool) -> None:
    ray.kill(ray.get_actor(pool.config.name, namespace=NAMESPACE), no_restart=False)


def start(name: str, workers: int, **settings: Any) -> Pool:
    return Pool.start(
        name=name,
        engine="simulated",
        workers=workers,
        cpus_per_worker=0.5,
        cache_tokens=65536,
        max_batch_size=8,
        simulated={"step_s": STEP_S},
        **settings,
    )


@pytest.fixture
def pool(ray_cluster: None) -> Iterator[Pool]:
    with start("leaving", 2) as made:
        yield made


def busy(pool: Pool, slot_name: str) -> bool:
    return any(worker.active_jobs > 0 for worker in pool.workers() if worker.slot_name == slot_name)


def test_a_drained_worker_ends_what_it_runs_and_leaves(pool: Pool, eventually: Eventually) -> None:
    asked = prompts(24)
    references = ask(pool, asked, 100)
    eventually(lambda: busy(pool, "worker-0"))
    pool.drain("worker-0", grace_s=None, wait=False)
    assert {worker.slot_name: worker.state for worker in pool.workers()} == {"worker-0": "draining", "worker-1": "up"}
    results = assert_right(references, asked, 100)
    assert {result.attempts for result in results} == {1}
    assert {result.worker_id.partition("#")[0] for result in results} == {"worker-0", "worker-1"}
    eventually(lambda: names(pool) == ["worker-1"] and not alive(pool, "worker-0"))
    assert_right(ask(pool, asked[:3], 3), asked[:3], 3)
    with pytest.raises(ConfigurationError, match="worker-1 is the last worker"):
        pool.drain("worker-1")
    with pytest.raises(ConfigurationError, match="no worker named 'worker-7'; it has worker-1"):
        pool.drain("worker-7")
    assert pool.drain("worker-0") is None  # it has left already


def test_what_runs_beyond_the_grace_goes_on_elsewhere(pool: Pool, eventually: Eventually) -> None:
    asked = prompts(8)
    references = ask(pool, asked, 300)
    eventually(lambda: busy(pool, "worker-0"))
    worker_id = next(worker.worker_id for worker in pool.workers() if worker.slot_name == "worker-0")
    assert worker_id is not None
    began_s = time.monotonic()
    pool.drain(worker_id, grace_s=0.2)
    assert time.monotonic() - began_s < 300 * STEP_S + 5.0
    results = assert_right(references, asked, 300)
    assert max(result.attempts for result in results) == 2
    assert {result.worker_id.partition("#")[0] for result in results} == {"worker-1"}


def test_a_worker_can_be_started_anew_under_load(pool: Pool, eventually: Eventually) -> None:
    asked = prompts(40)
    references = ask(pool, asked, 100)
    eventually(lambda: busy(pool, "worker-0"))
    assert pool.drain("worker-0", grace_s=0.5, restart=True) == "worker-2"
    assert {worker.slot_name: worker.state for worker in pool.workers()} == {"worker-1": "up", "worker-2": "up"}
    assert_right(references, asked, 100)
    asked = prompts(16)
    results = assert_right(ask(pool, asked, 50), asked, 50)
    assert {result.worker_id.partition("#")[0] for result in results} == {"worker-1", "worker-2"}


def test_the_only_worker_can_be_started_anew(eventually: Eventually) -> None:
    with start("renewed", 1) as pool:
        asked = prompts(4)
        references = ask(pool, asked, 150)
        eventually(lambda: busy(pool, "worker-0"))
        pool.drain("worker-0", grace_s=0.1, restart=True)
        results = assert_right(references, asked, 150)
        assert {result.worker_id.partition("#")[0] for result in results} == {"worker-1"}


def test_the_pool_grows_and_shrinks_under_load(eventually: Eventually) -> None:
    with start("breathing", 1) as pool:
        asked = prompts(60)
        references = ask(pool, asked, 150)
        pool.scale(3)
        assert [worker.state for worker in pool.workers()] == ["up"] * 3
        eventually(lambda: all(busy(pool, name) for name in names(pool)))
        pool.scale(1, grace_s=0.5)
        assert [worker.state for worker in pool.workers()] == ["up"]
        results = assert_right(references, asked, 150)
        assert {result.worker_id.partition("#")[0] for result in results} >= {"worker-1", "worker-2"} - set(names(pool))
        with Pool.connect("breathing") as other:
            assert other.config.workers == 1
        eventually(lambda: sum(alive(pool, f"worker-{number}") for number in range(3)) == 1)


def test_what_no_pool_may_have_is_refused(pool: Pool) -> None:
    for workers, words in ((0, "from 1 to 1024 workers, not 0"), (500, "need 250 CPUs but the cluster has 8")):
        with pytest.raises(ConfigurationError, match=words):
            pool.scale(workers)
    assert names(pool) == ["worker-0", "worker-1"]


def test_a_drain_is_called_off_by_growing_again(pool: Pool, eventually: Eventually) -> None:
    references = ask(pool, prompts(8), 200)
    eventually(lambda: busy(pool, "worker-0") and busy(pool, "worker-1"))
    lives = [worker.worker_id for worker in pool.workers()]
    pool.scale(1, grace_s=None, wait=False)
    assert sorted(worker.state for worker in pool.workers()) == ["draining", "up"]
    pool.scale(2)
    assert [worker.worker_id for worker in pool.workers()] == lives
    assert_right(references, prompts(8), 200)


def test_a_dispatcher_that_is_killed_in_the_middle_goes_on_with_what_was_decided(
    pool: Pool, eventually: Eventually
) -> None:
    asked = prompts(16)
    references = ask(pool, asked, 200)
    eventually(lambda: busy(pool, "worker-0") and busy(pool, "worker-1"))
    pool.drain("worker-0", grace_s=None, wait=False)
    pool.scale(3, wait=False)
    kill_dispatcher(pool)
    pool.scale(3)
    assert names(pool) == ["worker-1", "worker-2", "worker-3"] or names(pool)[0] == "worker-0"
    kill_dispatcher(pool)
    assert_right(references, asked, 200)
    eventually(lambda: _told(pool) == ["up"] * 3)
    assert sum(alive(pool, f"worker-{number}") for number in range(6)) == 3


def _told(pool: Pool) -> list[str]:
    """The states of all workers; none while the dispatcher is being restarted."""
    from actors import NoHealthyWorker

    try:
        return [worker.state for worker in pool.workers()]
    except NoHealthyWorker:
        return []


def test_a_pool_is_scaled_by_whoever_has_it_and_closes_with_all_workers(eventually: Eventually) -> None:
    with start("shared-out", 1) as pool:
        with Pool.connect("shared-out") as other:
            other.scale(2)
        assert len(pool.workers()) == 2
        handle: Any = ray.get_actor(worker_name("shared-out", "worker-1"), namespace=NAMESPACE)
        assert ray.get(handle.heartbeat.remote(), timeout=WAIT_S).worker_id == pool.workers()[1].worker_id
    eventually(lambda: not alive(pool, "worker-0") and not alive(pool, "worker-1"))


def test_a_detached_pool_scales_without_its_script_and_is_deleted_with_all_workers(eventually: Eventually) -> None:
    with start("lasting-more", 1, detached=True):
        pass
    with Pool.connect("lasting-more") as pool:
        pool.scale(2)
        assert_right(ask(pool, prompts(12), 20), prompts(12), 20)
        kill_dispatcher(pool)
        pool.scale(3)
        pool.delete()
    eventually(lambda: not any(alive(pool, f"worker-{number}") for number in range(3)))


def test_requests_go_on_while_workers_come_and_go(pool: Pool) -> None:
    """From other threads too: what a script streams is not cut while its grace lasts."""
    wrong: list[Any] = []

    def read(number: int) -> None:
        prompt = (10, 11, 12, 50 + number)
        for _ in range(3):
            tokens = tuple(t for d in pool.stream(prompt, max_new_tokens=60, temperature=0.0) for t in d.token_ids)
            if tokens != expected_tokens(prompt, 60):
                wrong.append(tokens)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    pool.drain("worker-0", restart=True)
    pool.scale(1)
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
