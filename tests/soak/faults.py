"""What is broken on purpose, at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

import ray
from ray.exceptions import RayError

from tests.pool_actors import ASK_S, worker_pids
from tests.soak.fronts import wait_for_event
from tests.soak.load import Surroundings
from tests.soak.plan import STALL_TIMEOUT_S


class Chaos:
    """One task for each kind of fault. In the second half of a run worker-1 and the dispatcher are left alone."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._rng = around.plan.rng("faults")
        self._calm_at_s = asyncio.get_running_loop().time() + around.plan.load_s / 2

    def kinds(self) -> dict[Callable[[], Awaitable[None]], float]:
        """Every kind of fault, and how many seconds pass between two of it on average."""
        plan = self._around.plan
        return {
            self._kill_worker: plan.kill_worker_every_s,
            self._stop_worker: plan.stop_worker_every_s,
            self._break_link: plan.break_link_every_s,
            self._break_reports: plan.break_reports_every_s,
            self._kill_front_actor: plan.kill_front_actor_every_s,
            self._kill_dispatcher: plan.kill_dispatcher_every_s,
        }

    async def repeat(self, fault: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Until the run stops."""
        while not await wait_for_event(self._around.stop, self._rng.expovariate(1 / every_s)):
            await fault()

    def _note(self, kind: str) -> None:
        self._around.checker.faults[kind] += 1

    @property
    def _calm(self) -> bool:
        return asyncio.get_running_loop().time() > self._calm_at_s

    async def _victim(self) -> int | None:
        pids = await worker_pids(self._around.pool.config)
        if self._calm:
            pids.pop("worker-1", None)
        return self._rng.choice(list(pids.values())) if pids else None

    async def _kill_worker(self) -> None:
        pid = await self._victim()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._note("worker killed")

    async def _stop_worker(self) -> None:
        """For less than a hang, or for so long that it is taken for one."""
        pid = await self._victim()
        if pid is None:
            return
        long = self._rng.random() < 0.6
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._note("worker stopped for long" if long else "worker stopped for a moment")
            await asyncio.sleep(self._rng.uniform(2, 5) * STALL_TIMEOUT_S if long else self._rng.uniform(0.2, 1.5))
            os.kill(pid, signal.SIGCONT)

    async def _break_link(self) -> None:
        """Of a front of this process: to the dispatcher, or to a worker."""
        lease = self._around.slots.pick()
        if lease is not None:
            links = [lease.front._places, *lease.front._links.values()]
            self._rng.choice(links).break_stream()
            self._note("link broken")

    async def _break_reports(self) -> None:
        with contextlib.suppress(RayError, TimeoutError):
            async with asyncio.timeout(ASK_S):
                await self._around.dispatcher.break_links.remote()
            self._note("reports broken")

    async def _kill_front_actor(self) -> None:
        self._around.actors.kill(self._rng.randrange(len(self._around.actors.leases)))
        self._note("front actor killed")

    async def _kill_dispatcher(self) -> None:
        if not self._calm:
            ray.kill(self._around.dispatcher, no_restart=False)
            self._note("dispatcher killed")
