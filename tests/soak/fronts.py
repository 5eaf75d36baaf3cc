"""Fronts that open and close while requests run on them: some in this process, some as actors."""

from __future__ import annotations

import asyncio
import pickle
import random
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.front.front import Front
from actors.front.run import Run
from actors.request.options import RequestOptions
from actors.request.prompt import Prompt
from actors.script.front_actor import MAX_CONCURRENT_CALLS, FrontActor
from tests.soak.checker import Answer, Checker

OPEN_WITHIN_S = 60.0
CLOSE_WITHIN_S = 30.0
SHORTEST_LIFE_S, LONGEST_LIFE_S = 5.0, 60.0
current_answer: ContextVar[Answer] = ContextVar("current_answer")
"""The answer that is being waited for in this task."""


class NotedFront(Front):
    """A front that notes the id of every request, by which the dispatcher can tell its story."""

    async def _begin(self, prompt: Prompt, options: RequestOptions) -> Run:
        run = await super()._begin(prompt, options)
        current_answer.get().request_id = run.request.request_id
        return run


class ChaosFrontActor(FrontActor):
    """One that is killed. The pool's own has the plain name, and lives on."""


@dataclass(slots=True)
class Lease:
    """A front for as long as it is open. Who uses it is noted, so that its end can be told from a fault."""

    front: Any
    patient: bool = True
    using: dict[int, Answer] = field(default_factory=dict)

    def use(self, answer: Answer) -> None:
        answer.patient = self.patient
        self.using[id(answer)] = answer

    def leave(self, answer: Answer) -> None:
        self.using.pop(id(answer), None)

    def end_all(self) -> None:
        for answer in self.using.values():
            answer.front_ends = True


class FrontSlots:
    """Places for fronts of this process. In each, one front after another opens, lives for a while, and is closed,
    whatever runs on it. Every other one is impatient, as that of a server."""

    def __init__(self, dispatcher: Any, checker: Checker, rng: random.Random, count: int) -> None:
        self._dispatcher, self._checker, self._rng = dispatcher, checker, rng
        self.leases: list[Lease | None] = [None] * count

    def pick(self) -> Lease | None:
        """An open front; None while there is none."""
        open_leases = [lease for lease in self.leases if lease is not None]
        return self._rng.choice(open_leases) if open_leases else None

    async def keep(self, index: int, stop: asyncio.Event) -> None:
        """Fill a place again and again until `stop`; then its last front is closed too."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(OPEN_WITHIN_S):
                    front = await NotedFront.open(self._dispatcher, patient=index % 2 == 0)
            except Exception as error:  # noqa: BLE001 - a front that cannot be opened is a fault of the pool's
                self._checker.fail(f"a front could not be opened: {error!r}")
                await asyncio.sleep(1.0)
                continue
            lease = self.leases[index] = Lease(front, patient=index % 2 == 0)
            await wait_for_event(stop, self._rng.uniform(SHORTEST_LIFE_S, LONGEST_LIFE_S))
            self.leases[index] = None
            lease.end_all()
            await self._close(front)

    async def _close(self, front: Front) -> None:
        self._checker.faults["front closed"] += 1
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await front.close()
        except TimeoutError:
            self._checker.fail(f"a front was not closed within {CLOSE_WITHIN_S:g} s: {front!r}")


class FrontActors:
    """Actors like the one behind `pool.generate.remote`, which can be killed and are replaced."""

    def __init__(self, dispatcher: Any, count: int) -> None:
        self._dispatcher = dispatcher
        self.leases = [self._start() for _ in range(count)]

    def _start(self) -> Lease:
        options = {"num_cpus": 0, "max_concurrency": MAX_CONCURRENT_CALLS}
        return Lease(ray.remote(ChaosFrontActor).options(**options).remote(pickle.dumps(self._dispatcher)))

    def kill(self, index: int, *, replace: bool = True) -> None:
        lease = self.leases[index]
        lease.end_all()
        ray.kill(lease.front)
        if replace:
            self.leases[index] = self._start()


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether an event came within a time."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
