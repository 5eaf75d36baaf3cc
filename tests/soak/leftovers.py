"""What must be left when the load has stopped: what was there before it began, and in the end nothing."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

from ray.exceptions import RayError

from actors.dispatcher.statistics import PoolStatistics
from tests.pool_actors import ASK_S, slot_names, worker_handle
from tests.processes import marked
from tests.soak.load import Surroundings

POLL_S = 0.25
State = dict[str, dict[str, int]]
"""By actor: numbers of what it holds open."""


async def debug_states(around: Surroundings) -> State:
    """What each actor of the pool says of itself.

    :raises RayError: one of them is not there.
    """
    config = around.pool.config
    actors = {"dispatcher": around.dispatcher, "front actor": around.pool._front}
    actors |= {name: worker_handle(config, name) for name in slot_names(config)}
    async with asyncio.timeout(ASK_S):
        return {name: await actor.debug_state.remote() for name, actor in actors.items()}


def busy_with(statistics: PoolStatistics) -> list[str]:
    """What a pool that has nothing to do still holds."""
    scheduler = statistics.scheduler
    queued = sum(scheduler.queued_requests.values())
    found = [f"{queued} queued"] if queued else []
    found += [f"{scheduler.running_requests} running"] if scheduler.running_requests else []
    found += [f"{worker.slot_name} is not up" for worker in statistics.workers if worker.worker_id is None]
    found += [
        f"{worker.slot_name} has {worker.active_jobs} jobs" for worker in statistics.workers if worker.active_jobs
    ]
    for worker in scheduler.workers:
        if worker.free_pages != worker.total_pages or worker.attempts:
            held = worker.total_pages - worker.free_pages
            found.append(f"{worker.slot_name} has {held} pages and {worker.attempts} attempts by the books")
    return found


def more_than(now: State, before: State) -> list[str]:
    """What an actor holds open now and did not hold before."""
    return [
        f"{actor}: {count} {what} instead of {before.get(actor, {}).get(what, 0)}"
        for actor, counts in now.items()
        for what, count in counts.items()
        if count > before.get(actor, {}).get(what, 0)
    ]


async def wait_until_idle(around: Surroundings, before: State | None) -> list[str]:
    """Wait until nothing runs, and nothing is open that was not open before; returns what still is at the end."""
    deadline_s = time.monotonic() + around.plan.idle_within_s
    while True:
        try:
            left = await _left(around, before)
        except (RayError, TimeoutError, ValueError) as error:
            left = [f"an actor does not answer: {error!r}"]
        if not left or time.monotonic() > deadline_s:
            return left
        await asyncio.sleep(POLL_S)  # a poll, bounded by the deadline above


async def _left(around: Surroundings, before: State | None) -> list[str]:
    async with asyncio.timeout(ASK_S):
        statistics: PoolStatistics = await around.dispatcher.statistics.remote()
    left = busy_with(statistics)
    return left if before is None else left + more_than(await debug_states(around), before)


def other_tasks() -> list[str]:
    """The tasks of this event loop beside the one that asks. Which life of a worker a task is for is left out."""
    names = (task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task())
    return sorted(re.sub("#[0-9a-f]+", "", name) for name in names)


async def wait_until_gone(mark: str, within_s: float) -> list[str]:
    """Wait until no task, thread or process of a closed pool is left; returns what still is at the end."""
    deadline_s = time.monotonic() + within_s
    while True:
        left: list[Any] = [f"task {name}" for name in other_tasks()]
        left += [f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("exlpool")]
        left += [f"process {process.pid} {process.name()}" for process in await asyncio.to_thread(marked, mark)]
        if not left or time.monotonic() > deadline_s:
            return left
        await asyncio.sleep(POLL_S)  # a poll, bounded by the deadline above
