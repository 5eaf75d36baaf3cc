"""The supervisor: somebody hears of every end of a task, however it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextvars import ContextVar
from typing import Any

import pytest
from ray.exceptions import ObjectLostError, OwnerDiedError, TaskCancelledError

from actors.supervisor import Supervisor

VARIABLE: ContextVar[str] = ContextVar("variable", default="nobody")

DYING = """
import asyncio, sys
from actors.supervisor import Supervisor, end_process

async def main():
    supervisor = Supervisor("test")
    async def work():
        await asyncio.sleep(0)
        if sys.argv[1] == "fails":
            raise ValueError("the work failed")
    supervisor.start("work", work(), on_end=end_process("The work"))
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def failing(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


class _Ends:
    def __init__(self) -> None:
        self.told: list[BaseException | None] = []
        self.some = asyncio.Event()

    def __call__(self, failure: BaseException | None) -> None:
        self.told.append(failure)
        self.some.set()

    async def first(self) -> BaseException | None:
        async with asyncio.timeout(10):
            await self.some.wait()
        return self.told[0]


class Unheard(BaseException):
    """No `Exception`, so that nobody catches it by the way."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a plain one"),
        Unheard("no Exception at all"),
        AssertionError("an invariant"),
        ObjectLostError("0" * 56, None, "call site"),
        OwnerDiedError("0" * 56, None, "call site"),
        TaskCancelledError(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_every_kind_of_end_is_heard_of_once(error: BaseException) -> None:
    ends = _Ends()
    supervisor = Supervisor("test")
    supervisor.start("work", failing(error), on_end=ends)
    failure = await ends.first()
    assert type(failure) is type(error)
    assert len(ends.told) == 1
    assert len(supervisor) == 0


async def test_a_regular_end_and_a_cancellation_by_somebody_else_are_heard_of() -> None:
    supervisor = Supervisor("test")
    done, cancelled = _Ends(), _Ends()
    supervisor.start("done", asyncio.sleep(0), on_end=done)
    supervisor.start("cancelled", never(), on_end=cancelled).cancel()
    assert await done.first() is None
    assert isinstance(await cancelled.first(), asyncio.CancelledError)


async def test_shutting_down_cancels_everything_and_tells_nobody() -> None:
    ends = _Ends()
    supervisor = Supervisor("test")
    task = supervisor.start("work", never(), on_end=ends)
    supervisor.shut_down()
    async with asyncio.timeout(10):
        await supervisor.wait_closed()
    assert task.cancelled()
    assert ends.told == []
    with pytest.raises(RuntimeError, match="shut down"):
        supervisor.start("more", never(), on_end=ends)


async def test_work_that_is_kept_starts_again_after_every_failure() -> None:
    runs: list[int] = []
    done = asyncio.Event()

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) < 4:
            raise ValueError("not yet")
        done.set()

    supervisor = Supervisor("test")
    supervisor.keep("work", work, pause_s=0.0)
    async with asyncio.timeout(10):
        await done.wait()
    assert runs == [0, 1, 2, 3]


async def test_background_work_belongs_to_nobody_who_began_it() -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(VARIABLE.get())

    VARIABLE.set("a request")
    ends = _Ends()
    Supervisor("test").start("look", look(), on_end=ends)
    await ends.first()
    assert seen == ["nobody"]


@pytest.mark.parametrize("how", ["fails", "ends"])
def test_work_that_a_process_cannot_be_without_takes_it_along(how: str) -> None:
    done: Any = subprocess.run(
        [sys.executable, "-c", DYING, how], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "The work ended, and this process with it" in done.stderr


async def test_it_shows_what_runs() -> None:
    supervisor = Supervisor("a link")
    supervisor.start("read", never(), on_end=_Ends())
    assert repr(supervisor) == "<Supervisor of a link: running, tasks: read>"
    supervisor.shut_down()
    await supervisor.wait_closed()
    assert repr(supervisor) == "<Supervisor of a link: shut down, tasks: none>"
