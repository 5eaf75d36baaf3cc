"""The places for workers: what the dispatcher knows of each beside its books, and who waits for news of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from actors.dispatcher.statistics import WorkerState
from actors.messages import LoadProgress, WorkerLimits, WorkerReady
from actors.model_files.fingerprint import ModelCopy


class Slot:
    """One place for a worker: the handle stays, once it is known; the worker in it may be restarted."""

    def __init__(self, name: str, generation: int = 0) -> None:
        """Workers of one `generation` are made of the same settings, and so have the same model."""
        self.name = name
        self.generation = generation
        self.handle: Any = None
        self.worker_id: str | None = None
        """Of the life that can generate; None while there is none."""
        self.life: str | None = None
        """Of the life that was heard of last, whether or not it can generate yet."""
        self.node = ""
        self.gpus: tuple[str, ...] = ()
        """Where that life runs, and which of the node's GPUs it has."""
        self.unheard = True
        """No life says anything at the moment: none has begun, or the last one is over or out of reach."""
        self.waiting = ""
        """What the worker waits for before it can begin, as a sentence without subject."""
        self.cut_off = False
        """Nobody hears that life at the moment; it may be well, or over."""
        self.copy: ModelCopy | None = None
        """Of the model that this life loads, or has loaded; None until it has told."""
        self.limits: WorkerLimits | None = None
        self.progress: LoadProgress | None = None
        self.failure: Exception | None = None
        """Why there will never be a worker again."""
        self.leaving = False
        """Its worker is being emptied, and the slot goes with it."""
        self.stopping = False
        """Its worker is being stopped: it is too late to keep it."""
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
            draining=self.leaving,
            node=self.node,
            gpus=self.gpus,
            waiting=self.waiting if self.unheard else "",
        )

    def __repr__(self) -> str:
        state = self.worker_id or (f"lost: {self.failure}" if self.failure else "loading")
        return f"<Slot {self.name}: {state}, {self.restarts} restarts>"


class Slots:
    """All places of a pool. `announce` wakes whoever waits for a change of theirs."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self.remembered_limits: tuple[WorkerLimits, ...] = ()
        """Of the workers that were last up: what a pool can take in which there is none."""
        self._changed = asyncio.Condition()
        self.version = 0
        """Grows with every change that people are told of."""

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> Slot:
        return self._slots[name]

    def add(self, name: str, generation: int = 0) -> Slot:
        slot = self._slots[name] = Slot(name, generation)
        return slot

    def objection(self, slot: Slot, copy: ModelCopy) -> str | None:
        """Why a worker with this copy of the model cannot be in that slot: the first of the workers of the same
        settings has another one. None: it can."""
        others = (other for other in self if other is not slot and other.generation == slot.generation)
        first = next((other.copy for other in others if other.copy is not None and other.failure is None), None)
        return None if first is None else copy.objection(first)

    def remove(self, name: str) -> None:
        del self._slots[name]

    def of(self, worker_id: str) -> Slot:
        """The slot of a worker: its id is the slot's name and a mark of its life."""
        return self._slots[worker_id.rpartition("#")[0]]

    @property
    def handles(self) -> dict[str, Any]:
        """Of the workers that are known to have been started, by slot name."""
        return {slot.name: slot.handle for slot in self if slot.handle is not None}

    @property
    def limits(self) -> tuple[WorkerLimits, ...]:
        """Of the workers that are up, or were when they were last heard of; each once, however many workers have it,
        since every front is told and looks at all of them for every request."""
        known = tuple(dict.fromkeys(slot.limits for slot in self if slot.limits is not None))
        return known if self._slots else self.remembered_limits

    def any_ready(self) -> bool:
        """Whether a worker can generate, or could again as soon as somebody asks."""
        return bool(self.limits)

    def all_failed(self) -> bool:
        return bool(self._slots) and all(slot.failure is not None for slot in self)

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
