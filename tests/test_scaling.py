"""Workers leave and join a running pool, under load: no request fails, and none is answered otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorUnavailableError

from actors import ConfigurationError, GenerationResult, ModelError, NoHealthyWorker, Pool, PoolNotFound
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, worker_name
from tests.engines.model_files import write_model
from tests.processes import marked_environment

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
    """Returns when another life of it answers, or the old one for so long that it must be another."""
    dispatcher: Any = ray.get_actor(pool.config.name, namespace=NAMESPACE)
    ray.kill(dispatcher, no_restart=False)
    began_s, lost = time.monotonic(), False
    while time.monotonic() < began_s + WAIT_S:
        try:
            ray.get(dispatcher.config.remote(), timeout=WAIT_S)
        except ActorUnavailableError:
            lost = True
        else:
            if lost or time.monotonic() > began_s + 3.0:
                return


def start(name: str, workers: int, **settings: Any) -> Pool:
    return Pool.start(
        name=name,
        engine="simulated",
        workers=workers,
        wait_for="all",
        cpus_per_worker=0.5,
        cache_tokens=65536,
        max_batch_size=8,
        simulated={"step_s": STEP_S},
        **settings,
    )


@pytest.fixture(scope="module")
def changing(ray_cluster: None) -> Iterator[Pool]:
    with start("changing", 2) as made:
        yield made


@pytest.fixture
def pool(changing: Pool) -> Pool:
    """With two workers that are up and have nothing to do, whatever the test before has left."""
    changing.scale(2)
    return changing


def busy(pool: Pool, slot_name: str) -> bool:
    return any(worker.active_jobs > 0 for worker in pool.workers() if worker.slot_name == slot_name)


def all_busy(pool: Pool) -> bool:
    return all(worker.active_jobs > 0 for worker in pool.workers())


def slots_of(results: list[GenerationResult]) -> set[str]:
    return {result.worker_id.partition("#")[0] for result in results}


def states(pool: Pool) -> dict[str, str]:
    """By slot name; nothing while the dispatcher is being restarted."""
    try:
        return {worker.slot_name: worker.state for worker in pool.workers()}
    except NoHealthyWorker:
        return {}


def test_a_drained_worker_ends_what_it_runs_and_leaves(pool: Pool, eventually: Eventually) -> None:
    first, second = names(pool)
    asked = prompts(24)
    references = ask(pool, asked, 100)
    eventually(lambda: busy(pool, first))
    pool.drain(first, grace_s=None, wait=False)
    assert states(pool) == {first: "draining", second: "up"}
    results = assert_right(references, asked, 100)
    assert {result.attempts for result in results} == {1}
    assert slots_of(results) == {first, second}
    eventually(lambda: names(pool) == [second] and not alive(pool, first))
    assert slots_of(assert_right(ask(pool, asked[:3], 3), asked[:3], 3)) == {second}
    with pytest.raises(ConfigurationError, match=f"{second} is the last worker"):
        pool.drain(second)
    with pytest.raises(ConfigurationError, match=f"no worker named 'worker-700'; it has {second}"):
        pool.drain("worker-700")
    assert pool.drain(first) is None  # it has left already


def test_what_runs_beyond_the_grace_goes_on_elsewhere(pool: Pool, eventually: Eventually) -> None:
    first, second = names(pool)
    asked = prompts(8)
    references = ask(pool, asked, 300)
    eventually(lambda: all_busy(pool))
    (worker_id,) = (worker.worker_id for worker in pool.workers() if worker.slot_name == first)
    assert worker_id is not None
    pool.drain(worker_id, grace_s=0.2)
    results = assert_right(references, asked, 300)
    assert {result.attempts for result in results} == {1, 2}
    assert slots_of(results) == {second}


def test_a_worker_can_be_started_anew_under_load(pool: Pool, eventually: Eventually) -> None:
    first, second = names(pool)
    asked = prompts(40)
    references = ask(pool, asked, 100)
    eventually(lambda: busy(pool, first))
    successor = pool.drain(first, grace_s=0.5, restart=True)
    assert successor is not None
    assert states(pool) == {second: "up", successor: "up"}
    assert_right(references, asked, 100)
    asked = prompts(16)
    assert slots_of(assert_right(ask(pool, asked, 50), asked, 50)) == {second, successor}


def test_the_pool_grows_and_shrinks_under_load(pool: Pool, eventually: Eventually) -> None:
    pool.scale(1)
    asked = prompts(60)
    references = ask(pool, asked, 150)
    pool.scale(3)
    assert [worker.state for worker in pool.workers()] == ["up"] * 3
    eventually(lambda: all_busy(pool))
    were = names(pool)
    pool.scale(1, grace_s=0.5)
    assert [worker.state for worker in pool.workers()] == ["up"]
    assert_right(references, asked, 150)
    with Pool.connect(pool.config.name) as other:
        assert other.config.workers == 1
    eventually(lambda: sum(alive(pool, name) for name in were) == 1)


def test_the_only_worker_can_be_started_anew(pool: Pool, eventually: Eventually) -> None:
    pool.scale(1)
    (first,) = names(pool)
    asked = prompts(4)
    references = ask(pool, asked, 150)
    eventually(lambda: busy(pool, first))
    successor = pool.drain(first, grace_s=0.1, restart=True)
    assert slots_of(assert_right(references, asked, 150)) == {successor}


def test_what_no_pool_may_have_is_refused(pool: Pool) -> None:
    before = names(pool)
    for workers, words in ((0, "from 1 to 1024 workers, not 0"), (500, "need 250 CPUs but the cluster has 8")):
        with pytest.raises(ConfigurationError, match=words):
            pool.scale(workers)
    assert names(pool) == before


def test_a_drain_is_called_off_by_growing_again_or_by_saying_so(pool: Pool, eventually: Eventually) -> None:
    references = ask(pool, prompts(8), 200)
    eventually(lambda: all_busy(pool))
    lives = [worker.worker_id for worker in pool.workers()]
    pool.scale(1, grace_s=None, wait=False)
    assert sorted(states(pool).values()) == ["draining", "up"]
    pool.scale(2)
    assert [worker.worker_id for worker in pool.workers()] == lives
    pool.drain(lives[0] or "", grace_s=None, wait=False)
    pool.keep(lives[0] or "")
    assert list(states(pool).values()) == ["up", "up"]
    with pytest.raises(ConfigurationError, match="worker-700 is not there"):
        pool.keep("worker-700")
    assert_right(references, prompts(8), 200)


def test_a_dispatcher_that_is_killed_in_the_middle_goes_on_with_what_was_decided(
    pool: Pool, eventually: Eventually
) -> None:
    first, second = names(pool)
    asked = prompts(16)
    references = ask(pool, asked, 250)
    eventually(lambda: all_busy(pool))
    pool.drain(first, grace_s=None, wait=False)
    kill_dispatcher(pool)
    assert states(pool).get(first) in ("draining", None)
    pool.scale(3, wait=False)
    kill_dispatcher(pool)
    assert_right(references, asked, 250)
    eventually(lambda: list(states(pool).values()) == ["up"] * 3, timeout_s=WAIT_S)
    eventually(lambda: not alive(pool, first))
    assert names(pool)[0] == second


def test_whoever_finds_a_pool_can_scale_it_and_it_closes_with_all_workers(eventually: Eventually) -> None:
    with start("shared-out", 1) as pool:
        with Pool.connect("shared-out") as other:
            other.scale(2)
        assert states(pool) == {"worker-0": "up", "worker-1": "up"}
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


def test_what_is_streamed_goes_on_while_workers_come_and_go(pool: Pool) -> None:
    made: list[tuple[int, ...]] = []
    asked = prompts(6)

    def read(prompt: tuple[int, ...]) -> None:
        for _ in range(2):
            deltas = list(pool.stream(prompt, max_new_tokens=100, temperature=0.0))
            made.append(tuple(token for delta in deltas for token in delta.token_ids))

    threads = [threading.Thread(target=read, args=(prompt,)) for prompt in asked]
    for thread in threads:
        thread.start()
    pool.drain(names(pool)[0], restart=True)
    pool.scale(1)
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(made) == sorted(2 * [expected_tokens(prompt, 100) for prompt in asked])


SCRIPT = """
import sys
import ray
from actors import Pool

pool = Pool.start(name="killed", engine="simulated", cpus_per_worker=0.5, address=sys.argv[1])
pool.scale(2)
references = [pool.generate.remote([5, 6, 7], max_new_tokens=4000) for _ in range(8)]
print("running", flush=True)
ray.get(references)
"""


def test_workers_that_joined_later_go_with_a_script_that_is_killed(eventually: Eventually, mark: str) -> None:
    """On a cluster that stays, so nothing but their owner's end ends them."""
    address = ray.get_runtime_context().gcs_address
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, address], env=marked_environment(mark), stdout=subprocess.PIPE, text=True
    )
    try:
        assert script.stdout is not None
        assert script.stdout.readline().strip() == "running"
        handles = [worker_handle("killed", f"worker-{number}") for number in range(2)]
        processes = [psutil.Process(ray.get(handle.heartbeat.remote(), timeout=WAIT_S).pid) for handle in handles]
        script.kill()
        eventually(lambda: not any(process.is_running() for process in processes), timeout_s=WAIT_S)
        with pytest.raises(PoolNotFound):
            Pool.connect("killed")
    finally:
        script.kill()
        script.communicate(timeout=WAIT_S)


def worker_handle(pool_name: str, slot_name: str) -> Any:
    return ray.get_actor(worker_name(pool_name, slot_name), namespace=NAMESPACE)


# Other settings.


def test_other_settings_roll_over_the_workers_under_load(pool: Pool, eventually: Eventually) -> None:
    before = names(pool)
    asked = prompts(30)
    references = ask(pool, asked, 150)
    stream = iter(pool.stream(asked[0], max_new_tokens=400, temperature=0.0))
    streamed = list(next(stream).token_ids)
    eventually(lambda: all_busy(pool))
    pool.replace(max_batch_size=12, grace_s=0.2)
    assert not set(before) & set(names(pool))
    assert [worker.limits.max_batch_size for worker in pool.workers() if worker.limits] == [12, 12]
    assert_right(references, asked, 150)
    assert tuple(streamed + [token for delta in stream for token in delta.token_ids]) == expected_tokens(asked[0], 400)
    with Pool.connect(pool.config.name) as other:
        assert other.config.max_batch_size == 12
    pool.replace(max_batch_size=8, wait=False)
    kill_dispatcher(pool)
    eventually(lambda: _batch_sizes(pool) == [8, 8], timeout_s=WAIT_S)


def _batch_sizes(pool: Pool) -> list[int]:
    try:
        return [worker.limits.max_batch_size for worker in pool.workers() if worker.limits and worker.state == "up"]
    except NoHealthyWorker:
        return []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"simulated": {"fail_load": True}}, "The workers are as they were before: "),
        ({"cache_tokens": 4096}, "as they were before: The new workers have 16 pages of cache, the pool's have 256"),
        ({"workers": 3}, "workers cannot be changed while a pool runs"),
        ({"max_batch_size": 0}, "max_batch_size"),
    ],
)
def test_settings_that_will_not_do_are_taken_back(pool: Pool, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        pool.replace(**settings)
    assert list(states(pool).values()) == ["up", "up"]
    asked = prompts(8)
    assert_right(ask(pool, asked, 10), asked, 10)


def test_a_model_with_another_tokenizer_is_refused(pool: Pool, tmp_path: Path) -> None:
    before = states(pool)
    write_model(tmp_path)
    with pytest.raises(ConfigurationError, match="another tokenizer"):
        pool.replace(model=tmp_path)
    with pytest.raises(ModelError):
        pool.replace(model=tmp_path / "none")
    assert states(pool) == before


# By itself.


def test_the_pool_follows_the_load_between_its_bounds_down_to_nothing(eventually: Eventually) -> None:
    bounds = {"min_workers": 0, "max_workers": 2, "scale_up_wait_s": 0.2, "scale_down_after_s": 2.0}
    with start("alone", 1, **bounds) as pool:
        eventually(lambda: states(pool) == {}, timeout_s=WAIT_S)
        eventually(lambda: not alive(pool, "worker-0"))
        asked = prompts(100)
        references = ask(pool, asked, 100)
        eventually(lambda: len(states(pool)) > 1, timeout_s=WAIT_S)
        assert_right(references, asked, 100)
        eventually(lambda: states(pool) == {}, timeout_s=WAIT_S)
        kill_dispatcher(pool)
        with Pool.connect("alone") as other:  # its front greets a pool that has nobody
            assert_right(ask(other, asked[:2], 5), asked[:2], 5)
        with pytest.raises(ConfigurationError, match="from 0 to 2 workers, not 3"):
            pool.scale(3)


def test_a_pool_that_takes_long_to_start_is_not_given_back_before_it_could_generate() -> None:
    """No front would know what such a pool takes, so nobody could ask it, and it would sleep for ever."""
    bounds = {"min_workers": 0, "max_workers": 2, "scale_down_after_s": 0.1}
    engine = {"engine": "simulated", "cache_tokens": 8192, "simulated": {"load_s": 3.0}}
    with Pool.start(name="long-start", cpus_per_worker=0.5, **bounds, **engine) as pool:  # type: ignore[arg-type]
        result = ray.get(pool.generate.remote((5, 6, 7), max_new_tokens=4), timeout=WAIT_S)
        assert len(result.token_ids) == 4
