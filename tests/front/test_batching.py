"""Turn batches: few calls, in order, nothing lost."""

import asyncio

from actors.front.batching import TurnBatch


async def test_everything_of_one_turn_leaves_together() -> None:
    calls: list[tuple[int, ...]] = []

    async def send(items: tuple[int, ...]) -> None:
        calls.append(items)

    batch: TurnBatch[int] = TurnBatch(send)
    for item in range(5):
        batch.add(item)
    await asyncio.sleep(0)
    assert calls == [(0, 1, 2, 3, 4)]


async def test_what_comes_during_a_call_waits_for_the_next() -> None:
    calls: list[tuple[int, ...]] = []
    gate = asyncio.Event()

    async def send(items: tuple[int, ...]) -> None:
        calls.append(items)
        await gate.wait()

    batch: TurnBatch[int] = TurnBatch(send)
    batch.add(1)
    await asyncio.sleep(0)
    batch.add(2)
    batch.add(3)
    await asyncio.sleep(0)
    assert calls == [(1,)]
    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert calls == [(1,), (2, 3)]
    batch.add(4)
    for _ in range(5):
        await asyncio.sleep(0)
    assert calls[-1] == (4,)
