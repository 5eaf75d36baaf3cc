"""Running out of memory, dying, and sharing one GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import ray
import torch

from actors import ModelError, Pool
from actors.config import EngineConfig
from actors.engines.base import Engine
from actors.engines.registry import create_engine
from actors.ray_session import NAMESPACE, worker_name
from tests.engines.cpu.harness import alone, run
from tests.gpu.conftest import LoadEngine
from tests.gpu.expected import assert_equal_where_sure, cpu_outcomes, greedy_job, prompts

pytestmark = pytest.mark.gpu

Eventually = Callable[..., None]


def test_a_cache_that_does_not_fit_is_refused_at_load_with_what_helps() -> None:
    free, _ = torch.cuda.mem_get_info(0)
    too_many = int(free * 2 / (2 * 3 * 2 * 64 * 2)) // 256 * 256  # twice the free memory, in tokens of this model
    engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=too_many))
    with pytest.raises(ModelError, match=r"needs about [\d.]+ GB .* GB short: lower `cache_tokens`"):
        engine.load(lambda _: None)
    engine.close()
    assert torch.cuda.mem_get_info(0)[0] > free * 0.95


def test_memory_that_another_took_is_missing_and_it_is_said() -> None:
    free = {device: int(torch.cuda.mem_get_info(device)[0]) for device in range(torch.cuda.device_count())}
    hogs = [torch.empty(free[device] - 300 * 2**20, dtype=torch.int8, device=device) for device in free]
    engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=8192))
    with pytest.raises(ModelError, match="GPU memory"):
        engine.load(lambda _: None)
    del hogs
    torch.cuda.empty_cache()
    engine.load(lambda _: None)
    assert_equal_where_sure(alone(engine, greedy_job(0, prompts()[0])).token_ids, cpu_outcomes()[0])
    engine.close()


def test_without_a_size_the_cache_fills_what_is_left_within_reason() -> None:
    engine = create_engine(EngineConfig(engine="exllamav2", max_batch_size=8))
    limits = engine.load(lambda _: None)
    assert limits.total_pages == 8 * limits.context_tokens // 256
    engine.close()


def test_running_out_of_memory_in_a_step_costs_that_steps_jobs_alone(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = load_engine()
    model = engine._model.generator.model
    forward, calls = model.forward_chunk, []

    def greedy_for_memory(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 12:
            torch.empty(10**15, dtype=torch.int8, device="cuda")
        return forward(*arguments, **keywords)

    monkeypatch.setattr(model, "forward_chunk", greedy_for_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts()[:4])))
    engine.reset()
    outcomes = run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts())))
    for number, expected in enumerate(cpu_outcomes()):
        assert_equal_where_sure(outcomes[number].token_ids, expected)


def test_a_closed_engine_gives_its_memory_back() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    engine: Engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=512 * 1024))
    engine.load(lambda _: None)
    run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts())))
    assert torch.cuda.memory_allocated() > before + 2**28
    engine.close()
    assert torch.cuda.memory_allocated() < before + 2**24


def worker_pid(pool: Pool, slot_name: str) -> int:
    handle: Any = ray.get_actor(worker_name(pool.config.name, slot_name), namespace=NAMESPACE)
    return int(ray.get(handle.heartbeat.remote(), timeout=30).pid)


@pytest.mark.ray
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_share_a_gpu_and_a_killed_one_costs_no_result(eventually: Eventually) -> None:
    asked, expected = prompts(), cpu_outcomes()
    options = {"max_new_tokens": 64, "temperature": 0.0, "ignore_eos": True}
    with Pool.start(
        name="shared-gpu",
        engine="exllamav2",
        workers=2,
        wait_for="all",
        gpus_per_worker=0.4,
        cache_tokens=64 * 1024,
        start_timeout_s=180.0,
    ) as pool:
        results = ray.get([pool.generate.remote(ids, **options) for ids in asked], timeout=120)
        for result, one in zip(results, expected, strict=True):
            assert_equal_where_sure(result.token_ids, one)
        assert {result.worker_id.split("#")[0] for result in results} == {"worker-0", "worker-1"}
        long = [pool.generate.remote(ids, **(options | {"max_new_tokens": 3000})) for ids in asked]
        eventually(lambda: all(worker.active_jobs > 0 for worker in pool.statistics().workers))
        os.kill(worker_pid(pool, "worker-1"), signal.SIGKILL)
        results = ray.get(long, timeout=200)
        assert all(len(result.token_ids) == 3000 for result in results)
        assert max(result.attempts for result in results) == 2
        for result, one in zip(results, expected, strict=True):
            assert_equal_where_sure(result.token_ids[:64], one)
        eventually(lambda: all(worker.worker_id is not None for worker in pool.statistics().workers), timeout_s=180.0)
