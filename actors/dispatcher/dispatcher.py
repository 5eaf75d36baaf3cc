"""The dispatcher: a Ray actor round `scheduling.core`. It turns calls and streams into events and actions into answers.

It sees numbers only, never text or tokens, so its cost grows with requests and steps. It keeps nothing that cannot be
told again: after a crash Ray restarts it, workers report anew and fronts ask again for what is undecided. So whatever
goes wrong inside it ends its process: a dispatcher whose books may be wrong, or whose clock stands still, is worse than
one that begins anew.

What comes back after a restart: requests that wait, in the order in which they first asked; what runs; tenants'
weights, by whoever told them and tells them again (`weigh`); how much every worker has done in its present life. What
begins anew: what tenants were served so far, so that all are equal again; learned lengths and speeds; and the counts of
the scheduler and of restarts, as counters of a new process do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from actors.cluster_room import NO_CLAIM, Claim, require_room
from actors.config import PoolConfig
from actors.dispatcher.autoscaler import Autoscaler
from actors.dispatcher.decisions import DecisionStreams
from actors.dispatcher.event_log import EventLog
from actors.dispatcher.membership import Membership
from actors.dispatcher.plan import PlanStore, first_plan
from actors.dispatcher.replacing import Replacement
from actors.dispatcher.slots import Slot, Slots
from actors.dispatcher.statistics import PoolStatistics, WorkerState
from actors.dispatcher.waiting import WaitingWorkers
from actors.dispatcher.watchdog import Watchdog
from actors.errors import ConfigurationError
from actors.messages import Admission, Decision, DispatcherNews, PoolLimits, Release, Welcome
from actors.ray_session import was_restarted
from actors.scheduling.actions import Action, Probe, Refuse, Resync, Revoke, Start, StopWorker
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import (
    Cancelled,
    Event,
    FrontGone,
    Settling,
    Submitted,
    TenantsWeighed,
    Tick,
    WorkerLost,
    WorkerUp,
)
from actors.supervisor import Supervisor, end_process

TICK_S = 0.1
SETTLE_S = 1.0
"""After a restart, from when the first front is back: for the others, who try every 0.2 s, and for the workers."""


class StartsWorkers(Protocol):
    """What starts the workers of a pool that has no owner: `actors.worker_starter.WorkerStarter`."""

    def find_all(self) -> None: ...

    async def follow(self, ask: Callable[[frozenset[str]], Awaitable[dict[str, PoolConfig]]]) -> None: ...

    def close(self) -> None: ...


class Dispatcher:
    """One per pool. All methods run on the actor's event loop, so no two of them ever run at once between awaits."""

    def __init__(
        self,
        config: PoolConfig,
        model_dir: str,
        slot_names: tuple[str, ...],
        claim: Claim = NO_CLAIM,
        starter: StartsWorkers | None = None,
    ) -> None:
        """`claim` is that of one worker. Without a `starter` the pool's owner follows `orders`."""
        self._config = config
        self._model_dir = model_dir
        self._claim = claim
        self._starter = starter
        scheduling = SchedulerConfig(
            policy=config.policy,
            max_queued_requests=config.max_queued_requests,
            max_wait_s=config.max_wait_s,
            stall_timeout_s=config.stall_timeout_s,
        )
        self._events = None if config.event_log is None else EventLog(config.event_log, config.name, scheduling)
        self._scheduler = Scheduler(scheduling, None if self._events is None else self._events.record)
        self._streams = DecisionStreams()
        self._slots = Slots()
        self._supervisor = Supervisor("dispatcher")
        self._watchdog = Watchdog(self._supervisor, config.stall_timeout_s, self._worker_ended)
        self._store = PlanStore()
        plan = self._store.load() or first_plan(config, slot_names)
        self._members = Membership(
            plan,
            self._store,
            self._slots,
            self._supervisor,
            handle_event=self._handle,
            probe=self._watchdog.probe,
        )
        self._replacement = Replacement(self._members, self._slots, self._supervisor)
        self._settles = was_restarted()
        """No front has come back yet after a restart."""
        self._supervisor.start("ticks", self._tick(), on_end=end_process("The dispatcher's clock"))
        waiting = WaitingWorkers(claim, self._slots)
        self._supervisor.start("workers that wait", waiting.run(), on_end=end_process("Who looks for waiting workers"))
        fewest, most = config.bounds
        if fewest != most:
            autoscaler = Autoscaler(config, claim, self._scheduler.state, self._slots, self._members)
            self._supervisor.start("autoscaler", autoscaler.run(), on_end=end_process("The pool's autoscaler"))
        if starter is not None:
            self._supervisor.start(
                "start workers", self._start_workers(starter), on_end=end_process("Who starts workers")
            )

    # Fronts.

    async def hello(self) -> Welcome:
        """Wait until a worker can generate.

        :raises ModelError: or whatever else the last worker failed with, when none can be loaded.
        """
        await self._slots.wait_for(lambda: self._slots.any_ready() or self._slots.all_failed())
        if not self._slots.any_ready():
            raise self._slots.first_failure()
        return Welcome(
            pool=self._config.name,
            workers=self._slots.handles,
            limits=self._slots.limits,
            model_dir=str(self._members.plan.config.model or self._model_dir),
            default_max_new_tokens=self._config.default_max_new_tokens,
        )

    async def decisions(self, front_id: str) -> AsyncIterator[tuple[DispatcherNews, ...]]:
        """Late decisions for a front, and what the workers take. The first message is empty and says "I listen", and so
        are those that only say that the stream is alive.

        When the stream of a front closes, for whatever reason, what it has waiting is given up. What runs goes on: the
        front is lost to the worker too, if it is lost, and the worker reports the end.
        """
        if self._settles:
            self._settles = False
            self._handle(Settling(SETTLE_S))
        stream = self._streams.open(front_id)
        if self._slots.limits:
            stream.put(PoolLimits(self._slots.limits))
        try:
            yield ()
            while (decisions := await stream.take()) is not None:
                yield decisions
        finally:
            if self._streams.close(front_id, stream):
                self._handle(FrontGone(front_id))

    async def place_requests(self, front_id: str, messages: tuple[Admission | Release, ...]) -> tuple[Decision, ...]:
        """Take up requests and give others up, in the order told; returns what can be decided at once for this front.

        Asking twice for one attempt changes nothing, and tells its grant again.
        """
        answer: list[Decision] = []
        for message in messages:
            match message:
                case Admission():
                    self._handle(Submitted(message, front_id), answer=(front_id, answer))
                case Release(request_id, attempt):
                    self._handle(Cancelled(request_id, attempt, front_id), answer=(front_id, answer))
        return tuple(answer)

    # Whoever owns the pool.

    async def weigh(self, tenant_weights: dict[str, float]) -> None:
        """Give tenants their shares; those that are not named have 1. A restarted dispatcher must be told again."""
        self._handle(TenantsWeighed(tenant_weights))

    async def progress(self, known: int) -> tuple[int, tuple[WorkerState, ...]]:
        """The state of all workers, as soon as it is newer than version `known`."""
        await self._slots.wait_for(lambda: self._slots.version > known)
        return self._slots.version, self._states()

    async def config(self) -> PoolConfig:
        """As it is now, so with as many workers as the pool should have."""
        plan = self._members.plan
        return plan.config.model_copy(update={"workers": max(len(plan.staying), 1)})

    async def orders(self, held: frozenset[str]) -> dict[str, PoolConfig]:
        """See `Membership.orders`. For whoever owns the pool's workers."""
        return await self._members.orders(held)

    async def scale(self, workers: int, grace_s: float | None) -> None:
        """Have so many workers, sooner or later; returns as soon as that is decided.

        :raises ConfigurationError: the pool may not have so many, or so few, or the cluster cannot hold them.
        """
        fewest, most = self._config.bounds
        if fewest == most:
            fewest, most = 1, 1024
        if not fewest <= workers <= most:
            raise ConfigurationError(f"This pool has from {fewest} to {most} workers, not {workers}.", param="workers")
        await asyncio.to_thread(require_room, workers, self._claim, wait=self._config.wait)
        await self._members.scale(workers, grace_s)

    async def drain(self, worker: str, grace_s: float | None, *, restart: bool) -> str | None:
        """See `Membership.drain`."""
        return await self._members.drain(worker, grace_s, restart=restart)

    async def keep(self, worker: str) -> None:
        """See `Membership.keep`."""
        await self._members.keep(worker)

    async def replace(self, config: PoolConfig, grace_s: float | None) -> None:
        """Begin to replace all workers by such of other settings of their engines."""
        self._replacement.begin(config, grace_s)

    async def replacement(self) -> tuple[bool, str]:
        """Whether one is under way, and why the last one was given up, if it was."""
        return self._replacement.under_way, self._replacement.refused

    async def statistics(self) -> PoolStatistics:
        return PoolStatistics(scheduler=self._scheduler.statistics(time.monotonic()), workers=self._states())

    async def story(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request, oldest first, as lines for a person."""
        return tuple(str(entry) for entry in self._scheduler.story(request_id))

    async def debug_state(self) -> dict[str, int]:
        """Numbers for tests of what is left over."""
        return {"streams": len(self._streams), "tasks": len(self._supervisor)}

    async def pid(self) -> int:
        """The process of this life, for tests and chaos that end it."""
        return os.getpid()

    async def break_links(self) -> int:
        """Break the links to all workers, as a network would; returns how many there were. For tests and chaos."""
        return self._members.break_links()

    async def close(self) -> None:
        """Refuse all that waits and stop the workers' engines; the actors themselves are the owner's to kill."""
        for slot in self._slots:
            self._handle(WorkerLost(slot.name, "the pool is closing"))
        self._supervisor.shut_down()
        if self._starter is not None:
            await asyncio.to_thread(self._starter.close)
        self._store.delete()
        self._streams.close_all()
        closing = (slot.handle.close.remote() for slot in self._slots if slot.worker_id is not None)
        await asyncio.gather(*closing, return_exceptions=True)

    # Time, and the scheduler.

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._handle(Tick())
            self._members.tick(TICK_S)
            if self._events is not None:
                self._events.flush()

    async def _worker_ended(self, slot: Slot, worker_id: str, reason: str) -> None:
        await self._members.give_up(slot.name, worker_id, reason)

    async def _start_workers(self, starter: StartsWorkers) -> None:
        await asyncio.to_thread(starter.find_all)
        await starter.follow(self._members.orders)

    def _handle(self, event: Event, *, answer: tuple[str, list[Decision]] | None = None) -> None:
        """Feed an event to the scheduler and carry its actions out, in order.

        Decisions go to the stream of their front, or into the `answer` (front id, decisions) of the call that is being
        served where they are for its front.
        """
        try:
            actions = self._scheduler.handle(event, time.monotonic())
        except Exception as error:
            end_process(f"The scheduler, which failed at {event!r},")(error)
            raise  # not reached: the process has ended
        for action in actions:
            told = self._carry_out(action)
            if told is None:
                continue
            front_id, decision = told
            if answer is not None and answer[0] == front_id:
                answer[1].append(decision)
            elif front_id:
                self._streams.put(front_id, decision)
            else:
                self._streams.put_to_all(decision)
        if isinstance(event, WorkerUp):
            self._streams.put_to_all(PoolLimits(self._slots.limits))

    def _carry_out(self, action: Action) -> tuple[str, Decision] | None:
        """Returns whom to tell what, where it is something to tell."""
        match action:
            case Start(grant, front_id):
                return front_id, grant
            case Refuse(refusal, front_id):
                return front_id, refusal
            case Revoke(revocation, front_id):
                return front_id, revocation
            case Resync(worker_id):  # the scheduler repeats it until it is answered
                self._slots.of(worker_id).handle.resync.remote()
            case Probe(worker_id):
                self._watchdog.probe(self._slots.of(worker_id), worker_id)
            case StopWorker(worker_id):
                self._members.stop(self._slots.of(worker_id))
        return None

    def _states(self) -> tuple[WorkerState, ...]:
        fleet = self._scheduler.state.fleet.by_id
        attempts = {worker_id: len(worker.attempts) for worker_id, worker in fleet.items()}
        return tuple(slot.state(attempts.get(slot.worker_id or "", 0)) for slot in self._slots)

    def __repr__(self) -> str:
        return f"<Dispatcher {self._config.name}>"  # short, since Ray puts it before every line of the actor's log
