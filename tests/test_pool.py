"""Pools on a real Ray cluster, with the simulated engine: what comes out, what is refused, what is given back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors import (
    ConfigurationError,
    ContextLengthExceeded,
    DeadlineExceeded,
    FinishReason,
    GenerationResult,
    InvalidRequest,
    Pool,
    PoolNotFound,
)
from actors.engines.simulated import expected_tokens

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PROMPT = tuple(range(10, 40))
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    """Two workers with 8 slots of 1,024 tokens, 5 ms a step."""
    with Pool.start(
        name="shared",
        engine="simulated",
        workers=2,
        wait_for="all",
        cache_tokens=16384,
        max_batch_size=8,
        simulated={"step_s": 0.005},
    ) as made:
        yield made


def idle(pool: Pool) -> bool:
    statistics = pool.statistics()
    return all(worker.active_jobs == 0 for worker in statistics.workers) and statistics.scheduler.running_requests == 0


def expected(prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    return tuple(expected_tokens(prompt, count))


def generate(pool: Pool, prompt: Any, **options: Any) -> GenerationResult:
    return ray.get(pool.generate.remote(prompt, **{"temperature": 0.0, **options}), timeout=60)


def test_a_completion_is_what_the_engine_made(pool: Pool) -> None:
    result = generate(pool, PROMPT, max_new_tokens=20)
    assert result.token_ids == expected(PROMPT, 20)
    assert result.finish_reason is FinishReason.LENGTH
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (30, 20)
    assert result.attempts == 1


def test_many_at_once_each_get_their_own_and_both_workers_work(pool: Pool) -> None:
    prompts = [(*PROMPT, number) for number in range(64)]
    references = [pool.generate.remote(prompt, max_new_tokens=10, temperature=0.0) for prompt in prompts]
    results = ray.get(references, timeout=120)
    assert [result.token_ids for result in results] == [expected(prompt, 10) for prompt in prompts]
    assert {result.worker_id.partition("#")[0] for result in results} == {"worker-0", "worker-1"}


def test_the_pool_says_on_which_node_each_worker_runs(pool: Pool) -> None:
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    assert [(worker.node, worker.gpus) for worker in pool.workers()] == [(address, ()), (address, ())]


def test_a_stream_is_the_result_in_pieces(pool: Pool) -> None:
    whole = generate(pool, PROMPT, max_new_tokens=15)
    deltas = list(pool.stream(PROMPT, max_new_tokens=15, temperature=0.0))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert tuple(token for delta in deltas for token in delta.token_ids) == whole.token_ids
    assert len(deltas) > 3
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].usage == whole.usage


async def test_async_streams_run_side_by_side(pool: Pool) -> None:
    async def read(number: int) -> tuple[int, ...]:
        prompt = (*PROMPT, number)
        stream = pool.stream(prompt, max_new_tokens=10, temperature=0.0)
        return tuple([token async for delta in stream for token in delta.token_ids])

    texts = await asyncio.wait_for(asyncio.gather(*(read(number) for number in range(12))), 60)
    assert texts == [expected((*PROMPT, number), 10) for number in range(12)]


def test_leaving_a_stream_cancels_it(pool: Pool, eventually: Eventually) -> None:
    for _ in pool.stream(PROMPT, max_new_tokens=900):
        break
    eventually(lambda: idle(pool))


async def test_leaving_an_async_stream_cancels_it(pool: Pool, eventually: Eventually) -> None:
    stream = aiter(pool.stream(PROMPT, max_new_tokens=900))
    await asyncio.wait_for(anext(stream), 30)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(eventually, lambda: idle(pool))


def test_a_time_limit_ends_a_request_and_gives_its_pages_back(pool: Pool, eventually: Eventually) -> None:
    with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
        generate(pool, PROMPT, max_new_tokens=900, timeout_s=0.3)
    eventually(lambda: idle(pool))
    assert generate(pool, PROMPT, max_new_tokens=5).token_ids == expected(PROMPT, 5)


def test_map_keeps_order_and_counts(pool: Pool) -> None:
    prompts = [(*PROMPT, number) for number in range(40)]
    seen: list[int] = []
    outcomes = list(
        pool.map(prompts, max_new_tokens=4, temperature=0.0, window=10, progress=lambda done, _: seen.append(done))
    )
    assert [outcome.token_ids for outcome in outcomes] == [expected(prompt, 4) for prompt in prompts]  # type: ignore[union-attr]
    assert seen == list(range(1, 41))


def test_map_can_put_errors_in_the_place_of_results(pool: Pool) -> None:
    outcomes = list(pool.map([PROMPT, (), PROMPT], max_new_tokens=2, return_errors=True, ordered=True))
    assert [type(outcome) for outcome in outcomes] == [GenerationResult, InvalidRequest, GenerationResult]


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("", {}, InvalidRequest, "empty"),
    ((), {}, InvalidRequest, "empty"),
    ([1, 2, 10**6], {}, InvalidRequest, "vocabulary"),
    ([1, -2], {}, InvalidRequest, "."),
    ([1, 2.5], {}, InvalidRequest, "."),
    ([True, False], {}, InvalidRequest, "."),
    (None, {}, InvalidRequest, "."),
    (17, {}, InvalidRequest, "."),
    (PROMPT, {"max_new_tokens": 0}, InvalidRequest, "max_new_tokens"),
    (PROMPT, {"max_new_tokens": "9"}, InvalidRequest, "max_new_tokens"),
    (PROMPT, {"max_new_tokens": 8192}, ContextLengthExceeded, "8192|8,192"),
    (tuple(range(9000)), {}, InvalidRequest, "."),
    (PROMPT, {"temperature": float("nan")}, InvalidRequest, "temperature"),
    (PROMPT, {"temperature": -1.0}, InvalidRequest, "temperature"),
    (PROMPT, {"top_p": 1.5}, InvalidRequest, "top_p"),
    (PROMPT, {"colour": "red"}, InvalidRequest, "colour"),
    (PROMPT, {"priority": "urgent"}, InvalidRequest, "priority"),
    (PROMPT, {"timeout_s": -3}, InvalidRequest, "timeout_s"),
    ([{"role": "user"}], {}, InvalidRequest, "."),
]


@pytest.mark.parametrize(("prompt", "options", "kind", "words"), BAD)
def test_bad_input_is_refused_and_the_neighbours_go_on(
    pool: Pool, prompt: Any, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    neighbour = pool.generate.remote(PROMPT, max_new_tokens=30, temperature=0.0)
    with pytest.raises(kind, match=words):
        ray.get(pool.generate.remote(prompt, **options), timeout=60)
    assert ray.get(neighbour, timeout=60).token_ids == expected(PROMPT, 30)


def test_more_than_fits_waits_its_turn(pool: Pool, eventually: Eventually) -> None:
    prompts = [(*PROMPT, number) for number in range(200)]
    results = ray.get([pool.generate.remote(prompt, max_new_tokens=3, temperature=0.0) for prompt in prompts])
    assert [result.token_ids for result in results] == [expected(prompt, 3) for prompt in prompts]
    eventually(lambda: idle(pool))


def test_a_full_queue_makes_a_script_wait_instead_of_failing() -> None:
    with Pool.start(
        name="narrow", engine="simulated", max_queued_requests=2, max_batch_size=2, simulated={"step_s": 0.002}
    ) as narrow:
        references = [narrow.generate.remote((*PROMPT, number), max_new_tokens=3) for number in range(30)]
        assert len(ray.get(references, timeout=120)) == 30


def test_the_name_of_a_running_pool_is_taken(pool: Pool) -> None:
    with pytest.raises(ConfigurationError, match="shared"):
        Pool.start(name="shared", engine="simulated")


def test_a_pool_that_the_cluster_cannot_hold_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="cpus_per_worker"):
        Pool.start(name="huge", engine="simulated", workers=1000)
    with pytest.raises(ConfigurationError, match="gpus_per_worker"):
        Pool.start(name="huge", engine="simulated", gpus_per_worker=1)


def test_generate_without_remote_explains_itself(pool: Pool) -> None:
    with pytest.raises(TypeError, match="remote"):
        pool.generate("x")


def test_there_is_no_pool_of_that_name() -> None:
    with pytest.raises(PoolNotFound, match="nowhere"):
        Pool.connect("nowhere")


OTHER_PROCESS = """
import sys
import ray
from actors import Pool

with Pool.connect("shared", address=sys.argv[1]) as pool:
    print(ray.get(pool.generate.remote((10, 11, 12), max_new_tokens=5, temperature=0.0)).token_ids)
    print(sum(len(delta.token_ids) for delta in pool.stream((10, 11, 12), max_new_tokens=5)))
"""


def test_another_process_finds_the_pool_and_leaves_it_alone(pool: Pool) -> None:
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, address], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-2:] == [str(expected((10, 11, 12), 5)), "5"], done.stderr
    assert generate(pool, PROMPT, max_new_tokens=2).token_ids == expected(PROMPT, 2)


def test_a_request_has_a_story(pool: Pool) -> None:
    result = generate(pool, PROMPT, max_new_tokens=2)
    story = "\n".join(pool.story(result.request_id))
    assert result.worker_id in story
