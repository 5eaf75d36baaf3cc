"""A pool that is closed while its script still reads from it, in threads and on event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from actors import Pool, PoolClosed
from actors.results import Delta

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PROMPT = (10, 11, 12)
WAIT_S = 30.0


def start() -> Pool:
    return Pool.start(name="closing", engine="simulated", cache_tokens=65536, simulated={"step_s": 0.005})


def test_closing_the_pool_ends_a_stream_that_a_thread_reads() -> None:
    pool = start()
    began = threading.Event()

    def read() -> None:
        for _ in pool.stream(PROMPT, max_new_tokens=8000):
            began.set()

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        assert began.wait(WAIT_S)
        pool.close()
        with pytest.raises(PoolClosed):
            reading.result(WAIT_S)


async def test_closing_the_pool_ends_a_stream_of_an_event_loop() -> None:
    pool = await asyncio.to_thread(start)
    began = asyncio.Event()

    async def read() -> None:
        async for _ in pool.stream(PROMPT, max_new_tokens=8000):
            began.set()

    reading = asyncio.create_task(read())
    await asyncio.wait_for(began.wait(), WAIT_S)
    await asyncio.to_thread(pool.close)
    with pytest.raises(PoolClosed):
        await asyncio.wait_for(reading, WAIT_S)


def test_closing_the_pool_ends_a_map_in_another_thread() -> None:
    pool = start()
    began = threading.Event()

    def work() -> None:
        for _ in pool.map([PROMPT] * 1000, max_new_tokens=20):
            began.set()

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        assert began.wait(WAIT_S)
        pool.close()
        with pytest.raises(PoolClosed):
            working.result(WAIT_S)


def test_a_stream_is_not_opened_before_it_is_read(eventually: Callable[..., None]) -> None:
    with start() as pool:
        stream = pool.stream(PROMPT, max_new_tokens=50, temperature=0.0)
        assert pool.statistics().scheduler.running_requests == 0
        first: Delta = next(iter(stream))
        assert first.token_ids
        eventually(lambda: pool.statistics().scheduler.running_requests == 0)


def test_streams_on_several_event_loops_do_not_mix(caplog: pytest.LogCaptureFixture) -> None:
    async def read(number: int) -> list[int]:
        stream = pool.stream((*PROMPT, number), max_new_tokens=20, temperature=0.0)
        return [token async for delta in stream for token in delta.token_ids]

    with start() as pool:
        loops = [asyncio.run(read(number)) for number in range(5)]
        plain = [
            ray.get(
                pool.generate.remote((*PROMPT, number), max_new_tokens=20, temperature=0.0), timeout=WAIT_S
            ).token_ids
            for number in range(5)
        ]
    assert [tuple(tokens) for tokens in loops] == plain
    assert not [record for record in caplog.records if record.name.startswith("actors")], (
        "the end of a loop is no fault"
    )
