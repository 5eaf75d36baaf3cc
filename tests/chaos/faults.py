"""What is killed or stopped, one after another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import psutil
from ray import serve
from ray.exceptions import RayError

from actors import PoolConfig
from actors.dispatcher.statistics import PoolStatistics
from serve_app.serving.deployment import FRONT_NAME
from tests.chaos.plan import (
    APPLICATION,
    KILL_DISPATCHER,
    KILL_REPLICA,
    KILL_WORKER,
    PAUSE_WORKER,
    REPLICAS,
    STOP_WORKER,
    ChaosPlan,
)
from tests.pool_actors import ASK_S, worker_pids
from tests.serve_app.running import processes
from tests.soak.fronts import wait_for_event

READY_WITHIN_S = 60.0
LEAST_UP = 3
"""Workers, when one of them is killed or stopped. Without anybody to go to, requests would wait for a restart."""
ENDED_WITHIN_S = 40.0
POLL_S = 0.1
REPLICA_NOTICED_S = 10.0
"""Serve's proxy asks a dead replica for so long."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One that was made, at a time of `time.monotonic`."""

    kind: str
    at_s: float


class Faults:
    """Makes one fault after another. The seed says whom it hits."""

    def __init__(self, plan: ChaosPlan, config: PoolConfig, dispatcher: Any) -> None:
        self._plan, self._config, self._dispatcher = plan, config, dispatcher
        self._rng = plan.rng("faults")
        self._stopped: list[psutil.Process] = []
        self.made: list[Fault] = []
        self.failures: list[str] = []

    async def go_on(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        for kind in cycle(self._plan.faults):
            if await wait_for_event(stop, self._plan.fault_every_s):
                return
            if await self._wait_until_ready(kind):
                await self._make(kind)

    def replica_died(self, since_s: float) -> bool:
        """Whether a replica was killed after a moment, or so shortly before that its proxy need not know."""
        return any(fault.kind == KILL_REPLICA and fault.at_s > since_s - REPLICA_NOTICED_S for fault in self.made)

    def still_stopped(self) -> list[str]:
        """Workers that were stopped and that nobody has ended; they are ended now."""
        left = [process for process in self._stopped if not _ended(process)]
        for process in left:
            process.kill()
        return [f"worker process {process.pid} was stopped, and nobody has ended it" for process in left]

    async def _wait_until_ended(self, process: psutil.Process) -> None:
        """A death that comes at a time of its own would hit some requests together with the next fault."""
        deadline_s = time.monotonic() + ENDED_WITHIN_S
        while not _ended(process):
            if time.monotonic() > deadline_s:
                self.failures.append(f"a stopped worker was not ended within {ENDED_WITHIN_S:g} s")
                return
            await asyncio.sleep(POLL_S)  # a poll, bounded by the deadline above

    async def _wait_until_ready(self, kind: str) -> bool:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not await self._ready(kind):
            if time.monotonic() > deadline_s:
                self.failures.append(f"not enough was up within {READY_WITHIN_S:g} s for: {kind}")
                return False
            await asyncio.sleep(POLL_S)  # a poll, bounded by the deadline above
        return True

    async def _ready(self, kind: str) -> bool:
        if kind == KILL_REPLICA:
            return await asyncio.to_thread(_replicas_run)
        statistics = await self._statistics()
        if statistics is None or len(_slots_up(statistics)) < LEAST_UP:
            return False
        return kind == KILL_DISPATCHER or any(worker.active_jobs for worker in statistics.workers)

    async def _statistics(self) -> PoolStatistics | None:
        with contextlib.suppress(RayError, TimeoutError):
            async with asyncio.timeout(ASK_S):
                found: PoolStatistics = await self._dispatcher.statistics.remote()
                return found
        return None

    async def _make(self, kind: str) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if kind == KILL_REPLICA:
                self._kill(kind, self._rng.choice(await asyncio.to_thread(_replicas)))
            elif kind == KILL_DISPATCHER:
                for process in await asyncio.to_thread(processes, "Dispatcher"):
                    self._kill(kind, process)
            else:
                await self._hit_worker(kind)

    def _kill(self, kind: str, process: psutil.Process) -> None:
        process.kill()
        self.made.append(Fault(kind, time.monotonic()))

    async def _hit_worker(self, kind: str) -> None:
        """One that has something to do."""
        statistics, pids = await self._statistics(), await worker_pids(self._config)
        if statistics is None:
            return
        slots = [worker.slot_name for worker in statistics.workers if worker.active_jobs and worker.slot_name in pids]
        if not slots:
            return
        process = psutil.Process(pids[self._rng.choice(slots)])
        if kind == KILL_WORKER:
            self._kill(kind, process)
            return
        process.send_signal(signal.SIGSTOP)
        self.made.append(Fault(kind, time.monotonic()))
        if kind == STOP_WORKER:
            self._stopped.append(process)
            await self._wait_until_ended(process)
            return
        assert kind == PAUSE_WORKER
        await asyncio.sleep(1.0)
        os.kill(process.pid, signal.SIGCONT)


def _ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _slots_up(statistics: PoolStatistics) -> list[str]:
    return [worker.slot_name for worker in statistics.workers if worker.worker_id is not None]


def _replicas_run() -> bool:
    """Whether all are there, and Serve sends requests to all of them."""
    front = serve.status().applications[APPLICATION].deployments[FRONT_NAME]
    run = sum(count for state, count in front.replica_states.items() if str(state).endswith("RUNNING"))
    return run >= REPLICAS and len(_replicas()) >= REPLICAS


def _replicas() -> list[psutil.Process]:
    return processes(f"ServeReplica:{APPLICATION}:{FRONT_NAME}")
