"""Work ends when its client is gone, and only then."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from serve_app.api.disconnect import ClientGone, UntilClientGone

TIMEOUT_S = 5.0


class Connection:
    """A connection that the test closes."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def receive(self) -> Message:
        await self.closed.wait()
        return {"type": "http.disconnect"}


async def test_what_runs_is_cancelled() -> None:
    connection, ended = Connection(), asyncio.Event()

    async def work() -> None:
        try:
            connection.closed.set()
            await asyncio.sleep(TIMEOUT_S)
        finally:
            ended.set()

    with pytest.raises(ClientGone):
        async with UntilClientGone(connection.receive):
            await work()
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # the task goes on undisturbed


async def test_what_ends_in_time_is_left_alone() -> None:
    connection = Connection()
    async with UntilClientGone(connection.receive):
        await asyncio.sleep(0)
    connection.closed.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_errors_of_the_work_pass() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with UntilClientGone(Connection().receive):
            raise ValueError("mine")


async def test_a_cancellation_from_outside_stays_one() -> None:
    connection, inside = Connection(), asyncio.Event()

    async def work() -> None:
        async with UntilClientGone(connection.receive):
            inside.set()
            await asyncio.sleep(TIMEOUT_S)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_connection_that_fails_while_it_is_watched_has_no_client() -> None:
    async def receive() -> Message:
        raise RuntimeError("broken")

    with pytest.raises(ClientGone):
        async with UntilClientGone(receive):
            await asyncio.sleep(TIMEOUT_S)
