"""The places for workers: what the dispatcher knows of each beside its books, and who waits for news of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from actors.dispatcher.statistics import WorkerState
from actors.messages import LoadProgress, WorkerLimits, WorkerReady


class Slot:
    """One place for a worker: the handle stays, the worker in it may be restarted."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name = name
        self.handle = handle
        self.worker_id: str | None = None
        """Of the life that can generate; None while there is none."""
        self.cut_off = False
        """Nobody hears that life at the moment; it may be well, or over."""
        self.limits: WorkerLimits | None = None
        self.progress: LoadProgress | None = None
        self.failure: Exception | None = None
        """Why there will never be a worker again."""
        self.restarts = 0
        self.generated_tokens = 0
        self.finished_requests = 0
        self._counted_life = ""
        self._earlier = (0, 0)
        """Generated tokens and finished requests of the lives before that one."""

    def count_life(self, ready: WorkerReady) -> None:
        """Take over what a worker has counted itself, while nobody listened."""
        if ready.worker_id != self._counted_life:
            self._counted_life = ready.worker_id
            self._earlier = self.generated_tokens, self.finished_requests
        earlier_tokens, earlier_requests = self._earlier
        self.generated_tokens = earlier_tokens + ready.generated_tokens
        self.finished_requests = earlier_requests + ready.finished_requests

    def state(self, active_jobs: int) -> WorkerState:
        progress = self.progress
        return WorkerState(
            slot_name=self.name,
            worker_id=None if self.cut_off else self.worker_id,
            limits=self.limits,
            loading=None if progress is None else (progress.stage, progress.done, progress.total),
            failure=self.failure,
            restarts=self.restarts,
            active_jobs=active_jobs,
            generated_tokens=self.generated_tokens,
            finished_requests=self.finished_requests,
        )

    def __repr__(self) -> str:
        state = self.worker_id or (f"lost: {self.failure}" if self.failure else "loading")
        return f"<Slot {self.name}: {state}, {self.restarts} restarts>"


class Slots:
    """All places of a pool. `announce` wakes whoever waits for a change of theirs."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._slots = {name: Slot(name, handle) for name, handle in handles.items()}
        self._changed = asyncio.Condition()
        self.version = 0
        """Grows with every change that people are told of."""

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def __len__(self) -> int:
        return len(self._slots)

    def of(self, worker_id: str) -> Slot:
        """The slot of a worker: its id is the slot's name and a mark of its life."""
        return self._slots[worker_id.rpartition("#")[0]]

    @property
    def handles(self) -> dict[str, Any]:
        return {slot.name: slot.handle for slot in self}

    @property
    def limits(self) -> tuple[WorkerLimits, ...]:
        """Of the workers that are up, or were when they were last heard of."""
        return tuple(slot.limits for slot in self if slot.limits is not None)

    def any_ready(self) -> bool:
        return any(slot.limits is not None for slot in self)

    def all_failed(self) -> bool:
        return all(slot.failure is not None for slot in self)

    def first_failure(self) -> Exception:
        return next(slot.failure for slot in self if slot.failure is not None)

    async def announce(self) -> None:
        async with self._changed:
            self.version += 1
            self._changed.notify_all()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    def __repr__(self) -> str:
        return f"<Slots: {list(self)}>"
