"""Memory of every process over time, and whether it grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from dataclasses import dataclass, field

import psutil

from tests.pool_actors import worker_pids
from tests.processes import marked
from tests.soak.fronts import wait_for_event
from tests.soak.load import Surroundings

MIB = 2**20
WARM_UP_S = 240.0
"""Of the life of a process: its allocator and its caches fill."""
JUDGED_S = 300.0
"""After that, the shortest time over which growth can be told from noise."""
MAX_GROWTH_MIB = 4.0
"""In 10 minutes. About 6,000 requests go through a process in that time, so this is 0.7 KB for each: less than the
smallest thing that could be kept of a request, its id with the dict entry and the objects round it. It is also more
than the allocators' own noise: see the table of a run."""
TITLES = {"ray::Dispatcher": "dispatcher", "ray::FrontActor": "front actor"}


@dataclass(slots=True)
class Life:
    """One process: when it was first seen, and its memory since then, as (seconds since the start of the run, bytes
    that it has to itself)."""

    role: str
    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    def growth_mib(self) -> float | None:
        """In 10 minutes, by the median of all slopes between two samples after the warm-up; None: too short a life."""
        first_s = self.samples[0][0]
        late = [(at_s, used) for at_s, used in self.samples if at_s - first_s >= WARM_UP_S]
        if len(late) < 3 or late[-1][0] - late[0][0] < JUDGED_S:
            return None
        slopes = [
            (after - before) / (after_s - before_s)
            for index, (before_s, before) in enumerate(late)
            for after_s, after in late[index + 1 :]
        ]
        return statistics.median(slopes) * 600 / MIB


class MemoryWatch:
    """Samples the memory of the dispatcher, the workers, the pool's own front, and this process with its fronts."""

    def __init__(self, around: Surroundings, mark: str) -> None:
        self._around, self._mark = around, mark
        self._started_s = time.monotonic()
        self.lives: dict[int, Life] = {}

    async def watch(self) -> None:
        """Until the run stops."""
        await self._sample()
        while not await wait_for_event(self._around.stop, self._around.plan.sample_s):
            await self._sample()

    async def _sample(self) -> None:
        roles = {pid: slot_name for slot_name, pid in (await worker_pids(self._around.pool.config)).items()}
        roles |= await asyncio.to_thread(self._titled)
        roles[os.getpid()] = "fronts here"
        for pid, role in roles.items():
            with contextlib.suppress(psutil.Error):
                used = await asyncio.to_thread(_unique_bytes, pid)
                life = self.lives.setdefault(pid, Life(role, pid))
                life.samples.append((time.monotonic() - self._started_s, used))

    def _titled(self) -> dict[int, str]:
        """Ray gives a process the name of its actor's class."""
        found = {}
        for process in marked(self._mark):
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                role = TITLES.get(command[0].partition(".")[0]) if command else None
                if role is not None:
                    found[process.pid] = role
        return found

    def judged(self) -> dict[str, tuple[Life, float]]:
        """Of each role, the life whose growth was the largest, and that growth in MiB in 10 minutes."""
        found: dict[str, tuple[Life, float]] = {}
        for life in self.lives.values():
            growth = life.growth_mib()
            if growth is not None and (life.role not in found or growth > found[life.role][1]):
                found[life.role] = life, growth
        return found


def _unique_bytes(pid: int) -> int:
    """What a process has to itself: what would be free without it."""
    return int(psutil.Process(pid).memory_full_info().uss)
