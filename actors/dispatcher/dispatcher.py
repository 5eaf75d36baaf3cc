"""The dispatcher: a Ray actor round `scheduling.core`. It turns calls and streams into events and actions into grants.

It sees numbers only, never text or tokens, so its cost grows with requests and steps. It follows every worker by the
worker's own report stream; a stream that breaks is a worker that died. It keeps nothing that cannot be told again:
after a crash Ray restarts it, workers report anew and fronts ask again for what is undecided.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from actors.config import PoolConfig
from actors.dispatcher.decisions import Decision, DecisionBoxes
from actors.dispatcher.statistics import PoolStatistics, WorkerState
from actors.errors import ExlpoolError, NoHealthyWorker
from actors.messages import (
    Admission,
    Grant,
    Heartbeat,
    LoadProgress,
    StepReport,
    Welcome,
    WorkerLimits,
    WorkerNews,
    WorkerReady,
)
from actors.ray_session import NAMESPACE, STREAM_BACKPRESSURE, worker_name
from actors.scheduling.actions import Action, Probe, Refuse, Resync, Revoke, Start, StopWorker
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import (
    Cancelled,
    Event,
    FrontGone,
    Reported,
    Submitted,
    TenantsWeighed,
    Tick,
    WorkerDown,
    WorkerExpected,
    WorkerLost,
    WorkerUp,
)

logger = logging.getLogger(__name__)

TICK_S = 0.1
RECONNECT_INTERVAL_S = 0.2
"""Between two tries to reach a worker that Ray restarts."""
HEARTBEAT_TIMEOUT_S = 5.0


class _Slot:
    """One place for a worker: the handle stays, the worker in it may be restarted."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name = name
        self.handle = handle
        self.worker_id: str | None = None
        self.limits: WorkerLimits | None = None
        self.progress: LoadProgress | None = None
        self.failure: Exception | None = None
        self.restarts = 0
        self.generated_tokens = 0
        self.finished_requests = 0
        self.probe: asyncio.Task[None] | None = None


class Dispatcher:
    """One per pool. All methods run on the actor's event loop, so no two of them ever run at once between awaits."""

    def __init__(self, config: PoolConfig, model_dir: str, slot_names: tuple[str, ...]) -> None:
        self._config = config
        self._model_dir = model_dir
        self._scheduler = Scheduler(
            SchedulerConfig(
                policy=config.policy,
                max_queued_requests=config.max_queued_requests,
                max_wait_s=config.max_wait_s,
                stall_timeout_s=config.stall_timeout_s,
            )
        )
        self._boxes = DecisionBoxes()
        self._slots = {
            name: _Slot(name, ray.get_actor(worker_name(config.name, name), namespace=NAMESPACE)) for name in slot_names
        }
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()
        for slot in self._slots.values():
            self._handle(WorkerExpected(slot.name))
        self._tasks = [asyncio.create_task(self._follow(slot)) for slot in self._slots.values()]
        self._tasks.append(asyncio.create_task(self._tick()))

    # Fronts.

    async def hello(self) -> Welcome:
        """Wait until a worker can generate.

        :raises ModelError: or whatever else the last worker failed with, when none can be loaded.
        """
        await self._wait_for(lambda: self._any_ready() or self._all_failed())
        if not self._any_ready():
            raise self._first_failure()
        return Welcome(
            workers={slot.name: slot.handle for slot in self._slots.values()},
            limits=tuple(slot.limits for slot in self._slots.values() if slot.limits is not None),
            model_dir=self._model_dir,
            default_max_new_tokens=self._config.default_max_new_tokens,
        )

    async def decisions(self, front_id: str) -> AsyncIterator[tuple[Decision, ...]]:
        """Late decisions for a front; the first message is empty and says "I listen".

        When the stream closes, for whatever reason, everything the front had asked for is given up.
        """
        box = self._boxes.open(front_id)
        try:
            yield ()
            while True:
                decisions = await box.take()
                if decisions is None:
                    return
                yield decisions
        finally:
            if self._boxes.is_open(front_id, box):
                self._boxes.close(front_id, box)
                self._handle(FrontGone(front_id))

    async def admit(self, front_id: str, admissions: tuple[Admission, ...]) -> tuple[Decision, ...]:
        """Take up requests; returns what can be decided at once. Asking twice for one attempt changes nothing."""
        decided: list[Decision] = []
        for admission in admissions:
            known = self._boxes.enter(front_id, admission)
            if known is None:
                decided += self._handle(Submitted(admission, front_id), asked_by=front_id)
            elif isinstance(known, Grant):
                decided.append(known)
        return tuple(decided)

    async def cancel(self, front_id: str, attempts: tuple[tuple[str, int], ...]) -> None:
        for request_id, attempt in attempts:
            if self._boxes.leave(front_id, request_id, attempt):
                self._handle(Cancelled(request_id, attempt, front_id))

    # Whoever owns the pool.

    async def weigh(self, tenant_weights: dict[str, float]) -> None:
        """Give tenants their shares; those that are not named have 1. A restarted dispatcher must be told again."""
        self._handle(TenantsWeighed(tenant_weights))

    async def progress(self, known: int) -> tuple[int, tuple[WorkerState, ...]]:
        """The state of all workers, as soon as it is newer than version `known`."""
        await self._wait_for(lambda: self._version > known)
        return self._version, self._states()

    async def config(self) -> PoolConfig:
        return self._config

    async def statistics(self) -> PoolStatistics:
        return PoolStatistics(scheduler=self._scheduler.statistics(time.monotonic()), workers=self._states())

    async def story(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request, oldest first, as lines for a person."""
        return tuple(str(entry) for entry in self._scheduler.story(request_id))

    async def close(self) -> None:
        """Refuse all that waits and stop the workers' engines; the actors themselves are the owner's to kill."""
        self._closing.set()
        for slot in self._slots.values():
            self._handle(WorkerLost(slot.name, "the pool is closing"))
        self._boxes.close_all()
        for task in self._tasks:
            task.cancel()
        closing = (slot.handle.close.remote() for slot in self._slots.values() if slot.worker_id is not None)
        await asyncio.gather(*closing, return_exceptions=True)

    # Workers.

    async def _follow(self, slot: _Slot) -> None:
        """Read a worker's reports through all of its lives."""
        while not self._closing.is_set():
            stream = slot.handle.reports.options(
                num_returns="streaming", _generator_backpressure_num_objects=STREAM_BACKPRESSURE
            ).remote()
            try:
                async for reference in stream:
                    await self._hear(slot, await reference)
                reason: Exception = NoHealthyWorker(f"Worker {slot.name} was closed.")
            except ActorDiedError as error:
                reason = NoHealthyWorker(f"Worker {slot.name} died too often: {_first_line(error)}")
            except RayActorError as error:
                await self._down(slot, _first_line(error))
                await asyncio.sleep(RECONNECT_INTERVAL_S)
                continue
            except RayTaskError as error:
                cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
                reason = cause if isinstance(cause, ExlpoolError) else NoHealthyWorker(_first_line(error))
            finally:
                ray.cancel(stream)
            await self._lost(slot, reason)
            return

    async def _hear(self, slot: _Slot, news: WorkerNews) -> None:
        match news:
            case LoadProgress():
                slot.progress = news
                await self._announce()
            case WorkerReady():
                slot.worker_id, slot.limits = news.worker_id, news.limits
                self._handle(
                    WorkerUp(
                        worker_id=news.worker_id,
                        slot_name=slot.name,
                        limits=news.limits,
                        resident_pages=news.resident_pages,
                        running=news.running,
                        sequence=news.sequence,
                    )
                )
                await self._announce()
            case StepReport():
                slot.generated_tokens += news.generated_tokens
                slot.finished_requests += len(news.finished)
                for done in news.finished:
                    self._boxes.forget(done.request_id, done.attempt)
                self._handle(Reported(news))

    async def _down(self, slot: _Slot, reason: str) -> None:
        logger.warning("Worker %s is down and will be restarted: %s", slot.name, reason)
        if slot.worker_id is not None:
            self._handle(WorkerDown(slot.worker_id, reason))
            slot.restarts += 1
        slot.worker_id = None
        self._handle(WorkerExpected(slot.name))
        await self._announce()

    async def _lost(self, slot: _Slot, reason: Exception) -> None:
        if not self._closing.is_set():
            logger.error("Worker %s is lost: %s", slot.name, reason)
        if slot.worker_id is not None:
            self._handle(WorkerDown(slot.worker_id, str(reason)))
        slot.worker_id, slot.limits, slot.failure = None, None, reason
        self._handle(WorkerLost(slot.name, str(reason)))
        await self._announce()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._handle(Tick())

    async def _probe(self, slot: _Slot) -> None:
        """Ask a silent worker; one whose step hangs, or that does not answer, is killed and restarted by Ray."""
        try:
            beat: Heartbeat = await asyncio.wait_for(slot.handle.heartbeat.remote(), HEARTBEAT_TIMEOUT_S)
        except (TimeoutError, RayActorError):
            stalled = True
        else:
            stalled = beat.step_age_s > self._config.stall_timeout_s
        if stalled and slot.worker_id is not None:
            logger.error("Worker %s hangs in a step, it is killed", slot.name)
            ray.kill(slot.handle, no_restart=False)

    # The scheduler.

    def _handle(self, event: Event, *, asked_by: str | None = None) -> list[Decision]:
        """Feed an event to the scheduler and carry its actions out; returns the decisions for `asked_by`."""
        answer: list[Decision] = []
        for action in self._scheduler.handle(event, time.monotonic()):
            decision = self._carry_out(action)
            if decision is None:
                continue
            if asked_by is not None and self._boxes.owner(decision.request_id) == asked_by:
                self._boxes.note(decision)
                answer.append(decision)
            else:
                self._boxes.put(decision)
        return answer

    def _carry_out(self, action: Action) -> Decision | None:
        match action:
            case Start(grant):
                return grant
            case Refuse(refusal):
                return refusal
            case Revoke():
                pass  # fronts cannot be told yet
            case Resync(worker_id):
                self._slot_of(worker_id).handle.resync.remote()
            case Probe(worker_id):
                slot = self._slot_of(worker_id)
                if slot.probe is None or slot.probe.done():
                    slot.probe = asyncio.create_task(self._probe(slot))
            case StopWorker(worker_id):
                self._slot_of(worker_id).handle.close.remote()
        return None

    def _slot_of(self, worker_id: str) -> _Slot:
        return self._slots[worker_id.rpartition("#")[0]]

    # Waiting for changes.

    _version = 0

    async def _announce(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    async def _wait_for(self, predicate: Any) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    def _any_ready(self) -> bool:
        return any(slot.limits is not None for slot in self._slots.values())

    def _all_failed(self) -> bool:
        return all(slot.failure is not None for slot in self._slots.values())

    def _first_failure(self) -> Exception:
        return next(slot.failure for slot in self._slots.values() if slot.failure is not None)

    def _states(self) -> tuple[WorkerState, ...]:
        statistics = self._scheduler.statistics(time.monotonic())
        attempts = {worker.worker_id: worker.attempts for worker in statistics.workers}
        return tuple(
            WorkerState(
                slot_name=slot.name,
                worker_id=slot.worker_id,
                limits=slot.limits,
                loading=None
                if slot.progress is None
                else (slot.progress.stage, slot.progress.done, slot.progress.total),
                failure=slot.failure,
                restarts=slot.restarts,
                active_jobs=attempts.get(slot.worker_id or "", 0),
                generated_tokens=slot.generated_tokens,
                finished_requests=slot.finished_requests,
            )
            for slot in self._slots.values()
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
