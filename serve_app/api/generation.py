"""The completions of one request, run together: a stream of all of them merged, or all of them whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from actors.errors import PoolClosed
from actors.front.front import Front
from actors.request.options import RequestOptions
from actors.results import Delta, FinishReason
from actors.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Job:
    """One completion, which becomes the choice of this index."""

    choice: int
    token_ids: tuple[int, ...]
    options: RequestOptions


def most_tokens(front: Front, jobs: Sequence[Job], n: int) -> int:
    """What a request may come to at most, as its usage counts it: each prompt once, and all of its `n` completions.

    :raises ContextLengthExceeded: one of them fits no worker.
    """
    prompts = sum(len(job.token_ids) for job in jobs[::n])
    return prompts + sum(front.max_new_tokens(len(job.token_ids), job.options.params) for job in jobs)


async def run_whole(front: Front, jobs: Sequence[Job]) -> list[Delta]:
    """Every completion as one delta, in the order of the jobs. One that fails cancels the others.

    :raises ExlpoolError: a job was refused or failed.
    """
    if len(jobs) == 1:
        return [await _whole(front, jobs[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_whole(front, job)) for job in jobs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first; it may have brought the others down
    return [task.result() for task in tasks]


async def stream(front: Front, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Delta], None]:
    """Deltas of all completions with the index of their choice, as they come. Closing it cancels them all.

    :raises ExlpoolError: a job was refused or failed; the others are cancelled.
    """
    if len(jobs) > 1:
        async with aclosing(_merged(front, jobs)) as merged:
            async for item in merged:
                yield item
        return
    async with aclosing(front.stream(jobs[0].token_ids, jobs[0].options)) as deltas:
        async for delta in deltas:
            _require_regular_end(delta)
            yield jobs[0].choice, delta


_News = asyncio.Queue[tuple[int, Delta] | BaseException | None]
"""What the tasks that read the streams have for the one who merges them; None: one of them has ended."""


async def _merged(front: Front, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Delta], None]:
    """Every job is read by a task of its own. Each has at most one delta waiting here: while the client is slow, the
    front joins what comes, and nothing piles up."""
    tasks = Supervisor("choices of one request")
    news: _News = asyncio.Queue()
    rooms = {job.choice: asyncio.Semaphore(1) for job in jobs}
    try:
        for job in jobs:
            reading = _read(front, job, rooms[job.choice], news)
            tasks.start(f"choice {job.choice}", reading, on_end=news.put_nowait)
        ended = 0
        while ended < len(jobs):
            for item in await _all_news(news):
                if item is None:
                    ended += 1
                else:
                    yield item
                    rooms[item[0]].release()
    finally:
        tasks.shut_down()
        await tasks.wait_closed()


async def _all_news(news: _News) -> list[tuple[int, Delta] | None]:
    """All that is there, at least one. A failure that came together with text wins: the request may then still be
    refused, since nothing of it was shown."""
    items = [await news.get()]
    while not news.empty():
        items.append(news.get_nowait())
    for item in items:
        if isinstance(item, BaseException):
            raise item
    return [item for item in items if not isinstance(item, BaseException)]


async def _read(front: Front, job: Job, room: asyncio.Semaphore, news: _News) -> None:
    try:
        async with aclosing(front.stream(job.token_ids, job.options)) as deltas:
            async for delta in deltas:
                _require_regular_end(delta)
                await room.acquire()
                news.put_nowait((job.choice, delta))
    except Exception as failure:  # noqa: BLE001 - raised where the streams are merged
        news.put_nowait(failure)


async def _whole(front: Front, job: Job) -> Delta:
    result = await front.generate(job.token_ids, job.options)
    delta = Delta(
        text=result.text,
        token_ids=result.token_ids,
        logprobs=result.logprobs,
        finish_reason=result.finish_reason,
        usage=result.usage,
        timing=result.timing,
    )
    _require_regular_end(delta)
    return delta


def _require_regular_end(delta: Delta) -> None:
    """A completion that somebody else cancelled must not look finished."""
    if delta.finish_reason is FinishReason.CANCELLED:
        raise PoolClosed("The worker was stopped before the completion was finished.")
