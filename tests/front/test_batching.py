"""Turn batches: few calls, in order, nothing lost, and a failure that somebody hears of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.front.batching import TurnBatch
from actors.supervisor import Supervisor


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = Supervisor("test")
    yield made
    made.shut_down()
    await made.wait_closed()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def fail(failure: BaseException) -> None:
    pytest.fail(f"nothing fails here: {failure!r}")


async def test_everything_of_one_turn_leaves_together(supervisor: Supervisor) -> None:
    calls: list[tuple[int, ...]] = []

    async def send(items: tuple[int, ...]) -> None:
        calls.append(items)

    batch: TurnBatch[int] = TurnBatch(supervisor, send, on_failure=fail)
    for item in range(5):
        batch.add(item)
    await asyncio.sleep(0)
    assert calls == [(0, 1, 2, 3, 4)]


async def test_what_comes_during_a_call_waits_for_the_next(supervisor: Supervisor) -> None:
    calls: list[tuple[int, ...]] = []
    gate = asyncio.Event()

    async def send(items: tuple[int, ...]) -> None:
        calls.append(items)
        await gate.wait()

    batch: TurnBatch[int] = TurnBatch(supervisor, send, on_failure=fail)
    batch.add(1)
    await asyncio.sleep(0)
    batch.add(2)
    batch.add(3)
    await asyncio.sleep(0)
    assert calls == [(1,)]
    gate.set()
    await turns()
    assert calls == [(1,), (2, 3)]
    batch.add(4)
    await turns()
    assert calls[-1] == (4,)


async def test_a_failed_call_drops_what_waits_and_is_heard_of_and_the_next_item_begins_anew(
    supervisor: Supervisor,
) -> None:
    calls: list[tuple[int, ...]] = []
    failures: list[BaseException] = []
    gate = asyncio.Event()

    async def send(items: tuple[int, ...]) -> None:
        calls.append(items)
        await gate.wait()
        if len(calls) == 1:
            raise ValueError("broken")

    batch: TurnBatch[int] = TurnBatch(supervisor, send, on_failure=failures.append)
    batch.add(1)
    await asyncio.sleep(0)
    batch.add(2)
    gate.set()
    await turns()
    assert [str(failure) for failure in failures] == ["broken"]
    batch.add(3)
    await turns()
    assert calls == [(1,), (3,)]
