"""Several completions of one request, together."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest

from actors.errors import EngineFailure, Overloaded, PoolClosed
from actors.front.front import Front
from actors.request.options import RequestOptions
from actors.results import FinishReason
from serve_app.api.generation import Job, run_whole, stream
from tests.serve_app.fake_front import FakeFront, Script


def front_of(*scripts: Script) -> tuple[FakeFront, Front, list[Job]]:
    fake = FakeFront(dict(enumerate(scripts)))
    jobs = [Job(number, (number, 7, 7), RequestOptions()) for number in range(len(scripts))]
    return fake, cast(Front, fake), jobs


async def collect(front: Front, jobs: list[Job]) -> dict[int, str]:
    texts = dict.fromkeys(range(len(jobs)), "")
    ends: list[int] = []
    async for choice, delta in stream(front, jobs):
        texts[choice] += delta.text
        ends += [choice] * (delta.finish_reason is not None)
    assert sorted(ends) == list(range(len(jobs)))
    return texts


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_each_completion_is_whole_and_ends_once(count: int) -> None:
    scripts = [Script(texts=[f"{number}-{piece} " for piece in range(number + 1)]) for number in range(count)]
    fake, front, jobs = front_of(*scripts)
    texts = await collect(front, jobs)
    assert texts == {number: "".join(script.texts) for number, script in enumerate(scripts)}
    assert [delta.text for delta in await run_whole(front, jobs)] == list(texts.values())
    assert fake.running == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_one_failure_fails_and_cancels_all(count: int) -> None:
    scripts = [Script(["a"], hang=True) for _ in range(count - 1)] + [Script(["a", "b"], EngineFailure("broken"))]
    fake, front, jobs = front_of(*scripts)
    with pytest.raises(EngineFailure):
        await collect(front, jobs)
    assert fake.running == 0
    with pytest.raises(EngineFailure):
        await run_whole(front, jobs)
    assert fake.running == 0
    assert all(script.cancelled for script in scripts)


async def test_a_refusal_comes_before_any_text() -> None:
    fake, front, jobs = front_of(Script(hang=True), Script(error=Overloaded("full", retry_after_s=2.0)))
    deltas = stream(front, jobs)
    with pytest.raises(Overloaded):
        await anext(deltas)
    assert fake.running == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_cancels_all(count: int) -> None:
    fake, front, jobs = front_of(*(Script(["a", "b", "c"], hang=True) for _ in range(count)))
    async with aclosing(stream(front, jobs)) as deltas:
        await anext(deltas)
        assert fake.running == count
    assert fake.running == 0


async def test_cancelling_whole_completions_cancels_all() -> None:
    fake, front, jobs = front_of(*(Script(["a"], hang=True) for _ in range(3)))
    task = asyncio.create_task(run_whole(front, jobs))
    await asyncio.sleep(0)  # the task starts the jobs,
    await asyncio.sleep(0)  # and the jobs begin
    assert fake.running == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.running == 0


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("count", [1, 2])
async def test_what_somebody_else_cancelled_never_looks_finished(whole: bool, count: int) -> None:
    _, front, jobs = front_of(*(Script(["a"], reason=FinishReason.CANCELLED) for _ in range(count)))
    call: Any = run_whole if whole else collect
    with pytest.raises(PoolClosed):
        await call(front, jobs)
