"""One front for all who ask at once, opened again after a failure, and gone with its event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors import ModelError, Pool, PoolClosed
from actors.engines.simulated import expected_tokens
from actors.front.front import Front
from actors.ray_session import NAMESPACE
from actors.request.prompt import PromptEncoder
from actors.script import shared_front
from actors.script.loop_thread import LoopThread
from actors.script.shared_front import SharedFront

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PROMPT = (10, 11, 12)
WAIT_S = 30.0


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    with Pool.start(name="sharing", engine="simulated", cache_tokens=65536, simulated={"step_s": 0.001}) as made:
        yield made


def dispatcher_of(pool: Pool) -> Any:
    return ray.get_actor(pool.config.name, namespace=NAMESPACE)


def open_streams(pool: Pool) -> int:
    count: int = ray.get(dispatcher_of(pool).debug_state.remote(), timeout=WAIT_S)["streams"]
    return count


def test_many_calls_right_after_the_start_share_one_front() -> None:
    with Pool.start(name="eager", engine="simulated", cache_tokens=65536, simulated={"step_s": 0.001}) as pool:
        references = [pool.generate.remote(PROMPT, max_new_tokens=2, temperature=0.0) for _ in range(400)]
        results = ray.get(references, timeout=2 * WAIT_S)
        assert {result.token_ids for result in results} == {expected_tokens(PROMPT, 2)}
        assert open_streams(pool) == 1


async def test_whoever_asks_while_it_is_opened_waits_for_the_same_opening(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    openings: list[Any] = []
    go = asyncio.Event()

    class SlowFront(Front):
        @classmethod
        async def open(cls, *arguments: Any, **options: Any) -> Front:
            openings.append(arguments)
            await go.wait()
            return await Front.open(*arguments, **options)

    monkeypatch.setattr(shared_front, "Front", SlowFront)
    shared = SharedFront(dispatcher_of(pool))
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(shared.get()) for _ in range(50)]
        await asyncio.sleep(0)
        go.set()
    assert len(openings) == 1
    assert len({id(task.result()) for task in asking}) == 1
    await shared.close()


async def test_an_opening_that_fails_is_told_and_tried_again_by_the_next(pool: Pool) -> None:
    broken = True

    def load(model_dir: str) -> PromptEncoder:
        if broken:
            raise ModelError("the tokenizer cannot be read")
        return PromptEncoder.load(model_dir)

    shared = SharedFront(dispatcher_of(pool), load_encoder=load)
    async with asyncio.timeout(WAIT_S):
        for _ in range(2):
            with pytest.raises(ModelError):
                await shared.get()
        broken = False
        front = await shared.get()
        assert await shared.get() is front
        await shared.close()


def test_every_event_loop_of_a_script_takes_its_front_along(pool: Pool, eventually: Callable[..., None]) -> None:
    async def read(number: int) -> tuple[int, ...]:
        stream = pool.stream((*PROMPT, number), max_new_tokens=5, temperature=0.0)
        return tuple([token async for delta in stream for token in delta.token_ids])

    eventually(lambda: open_streams(pool) == 1)  # that of the actor behind `generate`
    for number in range(4):
        assert asyncio.run(read(number)) == expected_tokens((*PROMPT, number), 5)
        assert not pool._fronts._by_loop, "a front outlived its event loop"
    eventually(lambda: open_streams(pool) == 1)


def test_all_fronts_of_a_script_share_one_tokenizer(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = PromptEncoder.load.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, model_dir: Any) -> Any:
        loads.append(str(model_dir))
        return load(cls, model_dir)

    monkeypatch.setattr(PromptEncoder, "load", classmethod(counted))

    async def read() -> int:
        return len([delta async for delta in fresh.stream(PROMPT, max_new_tokens=3)])

    with Pool.connect(pool.config.name) as fresh:
        for _ in range(3):
            assert asyncio.run(read()) > 0
        assert len(list(fresh.stream(PROMPT, max_new_tokens=3))) > 0
    assert len(loads) == 1


def test_whoever_waits_for_something_on_the_thread_hears_of_its_end() -> None:
    thread = LoopThread()
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(10 * WAIT_S)

    waiting = thread.submit(wait())
    assert begun.wait(WAIT_S)
    thread.loop.call_soon_threadsafe(thread.loop.stop)
    with pytest.raises(PoolClosed):
        waiting.result(WAIT_S)
    with pytest.raises(PoolClosed):
        thread.submit(wait())
