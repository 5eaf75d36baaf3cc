"""The completions of one request, run together: a stream of all of them merged, or all of them whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter

from actors.errors import PoolClosed
from actors.front.front import Front
from actors.request.options import RequestOptions
from actors.results import Delta, FinishReason


@dataclass(frozen=True, slots=True)
class Job:
    """One completion, which becomes the choice of this index."""

    choice: int
    token_ids: tuple[int, ...]
    options: RequestOptions


async def run_whole(front: Front, jobs: Sequence[Job]) -> list[Delta]:
    """Every completion as one delta, in the order of the jobs. One that fails cancels the others.

    :raises ExlpoolError: a job was refused or failed.
    """
    if len(jobs) == 1:
        return [await _whole(front, jobs[0])]
    tasks = [asyncio.create_task(_whole(front, job)) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _cancel(tasks)


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


async def _merged(front: Front, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Delta], None]:
    streams = {job.choice: front.stream(job.token_ids, job.options) for job in jobs}
    pending = {asyncio.create_task(_next(deltas)): choice for choice, deltas in streams.items()}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            news = sorted(((pending[task], task.result()) for task in done), key=itemgetter(0))
            for task in done:
                del pending[task]
            for choice, delta in news:
                yield choice, delta
                if delta.finish_reason is None:
                    pending[asyncio.create_task(_next(streams[choice]))] = choice
    finally:
        await _cancel(list(pending))
        for deltas in streams.values():
            await deltas.aclose()


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta:
    delta = await anext(deltas)
    _require_regular_end(delta)
    return delta


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


async def _cancel(tasks: Sequence[asyncio.Task[Delta]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _require_regular_end(delta: Delta) -> None:
    """A completion that somebody else cancelled must not look finished."""
    if delta.finish_reason is FinishReason.CANCELLED:
        raise PoolClosed("The worker was stopped before the completion was finished.")
