"""Which workers a pool has, while it runs: they are added, emptied, replaced and taken away.

Every change is first a change of the plan (`plan.py`), then carried out, so that a dispatcher that is killed in the
middle goes on where it was. Whoever owns the pool starts workers on `orders` (see `actors.worker_starter`); here they
are found by name, followed, emptied and ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from actors.config import PoolConfig
from actors.dispatcher.following import WorkerFollower
from actors.dispatcher.plan import Plan, PlannedWorker, PlanStore, missing_in
from actors.dispatcher.restart_pauses import RestartPauses
from actors.dispatcher.slots import Slot, Slots
from actors.dispatcher.stopping import Stopper
from actors.errors import ConfigurationError, NoHealthyWorker
from actors.ray_session import find_actor, worker_name
from actors.scheduling.events import (
    Event,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerKept,
    WorkerLost,
    WorkerUp,
)
from actors.supervisor import Supervisor, end_process

FIND_INTERVAL_S = 0.1
"""Between two looks for a worker that its owner is to start."""
ASLEEP = "asleep"
"""The slot in which the scheduler expects a worker while a pool has none: requests wait for it, and it is woken."""


class Membership:
    """The members of one pool. `handle_event` feeds the scheduler, `probe` has the watchdog look at a worker."""

    def __init__(
        self,
        plan: Plan,
        store: PlanStore,
        slots: Slots,
        supervisor: Supervisor,
        *,
        handle_event: Callable[[Event], object],
        probe: Callable[[Slot, str], object],
    ) -> None:
        self._plan = plan
        self._store = store
        self._slots = slots
        self._supervisor = supervisor
        self._handle_event = handle_event
        self._probe = probe
        self._followers: dict[str, WorkerFollower] = {}
        self._held: frozenset[str] = frozenset()
        """Slots whose worker the pool's owner has started."""
        self._asleep = False
        self._stopper = Stopper(supervisor)
        self._slots.remembered_limits = plan.limits
        for planned in plan.workers:
            self._open(planned)
        self._sleep_or_wake()

    @property
    def plan(self) -> Plan:
        return self._plan

    def break_links(self) -> int:
        return sum(follower.break_stream() for follower in self._followers.values())

    def tick(self, passed_s: float) -> None:
        """So much time has passed."""
        for follower in list(self._followers.values()):
            follower.tick(passed_s)

    async def give_up(self, name: str, worker_id: str, reason: str) -> None:
        """This life of the worker in slot `name` was ended, or its end was ordered."""
        follower = self._followers.get(name)
        if follower is not None:
            await follower.give_up(worker_id, reason)

    # What is asked for.

    async def scale(self, workers: int, grace_s: float | None) -> None:
        """Have so many workers: further ones are expected at once, and superfluous ones begin to leave."""
        for planned in self._plan.staying:
            if self._slots[planned.name].failure is not None:
                self.leave(planned.name, 0.0)
        missing = workers - len(self._plan.staying)
        for planned in self._plan.workers if missing > 0 else ():
            if missing > 0 and planned.superfluous and self._keep(planned):
                missing -= 1
        for _ in range(missing):
            self.add()
        for slot in self._least_missed(-missing):
            self.leave(slot.name, grace_s, superfluous=True)
        await self._slots.announce()

    async def keep(self, name: str) -> None:
        """Call off that a worker leaves.

        :raises ConfigurationError: there is no such worker, or it is too late.
        """
        planned = self._plan.get(name.partition("#")[0])
        if planned is None or (planned.leaving and not self._keep(planned)):
            raise ConfigurationError(f"{name} is not there, or has as good as left.", param="worker")
        await self._slots.announce()

    async def drain(self, name: str, grace_s: float | None, *, restart: bool) -> str | None:
        """Empty a worker and take it out of the pool; with `restart` another one takes its place, whose slot's name is
        returned.

        :raises ConfigurationError: there is no such worker, or it is the last one.
        """
        name = name.partition("#")[0]
        planned = self._plan.get(name)
        successor = next((worker.name for worker in self._plan.workers if worker.after == name), None)
        if planned is None and self._plan.has_named(name):
            return successor
        if planned is None:
            names = ", ".join(worker.name for worker in self._plan.workers)
            raise ConfigurationError(f"The pool has no worker named {name!r}; it has {names}.", param="worker")
        if planned.leaving or successor is not None:
            self.leave(name, grace_s)
            return successor
        others = [w for w in self._plan.staying if w.name != name and self._slots[w.name].failure is None]
        if not restart and not others:
            raise ConfigurationError(
                f"{name} is the last worker: add others first, let it be restarted, or close the pool.", param="worker"
            )
        if restart:
            successor = self.add(after=name)
        self.leave(name, grace_s)
        await self._slots.announce()
        return successor

    async def orders(self, held: frozenset[str]) -> dict[str, PoolConfig]:
        """Wait until the pool should have other workers than those that its owner holds; returns them all."""
        self._held = held
        await self._slots.wait_for(lambda: self._plan.wanted().keys() != held)
        return self._plan.wanted()

    def stop(self, slot: Slot) -> None:
        """Stop a worker that is empty."""
        self._stopper.stop(slot)

    # The plan.

    def change(self, plan: Plan) -> None:
        """Have another plan from now on, which is stored before anything of it is done."""
        if plan != self._plan:
            self._store.save(plan)
            self._plan = plan

    def add(self, *, after: str = "") -> str:
        """Expect one more worker, which takes over what that of slot `after` holds; returns its slot's name."""
        plan, planned = self._plan.add(after=after)
        self.change(plan)
        self._open(planned)
        self._sleep_or_wake()
        return planned.name

    def leave(self, name: str, grace_s: float | None, *, superfluous: bool = False) -> None:
        """Empty a worker and take it away."""
        self.change(self._plan.leave(name, grace_s, superfluous=superfluous))
        self._sleep_or_wake()  # first: where nobody is left, requests wait until one is woken
        slot = self._slots[name]
        slot.leaving = True
        if slot.worker_id is not None:
            self._handle_event(WorkerDraining(slot.worker_id, grace_s))
        elif slot.failure is not None:
            self._forget(slot)
        else:  # nothing was ever placed there
            self.stop(slot)

    def _keep(self, planned: PlannedWorker) -> bool:
        """Call a worker's leaving off, if it is not too late; returns whether that was so."""
        slot = self._slots[planned.name]
        replaced = any(worker.after == planned.name for worker in self._plan.workers)
        if not planned.leaving or slot.stopping or replaced or slot.worker_id is None:
            return False
        self.change(self._plan.keep(planned.name))
        slot.leaving = False
        self._handle_event(WorkerKept(slot.worker_id))
        self._sleep_or_wake()
        return True

    def _least_missed(self, count: int) -> list[Slot]:
        """Workers to take away: those that cannot generate yet, then those that were added last."""
        staying = [self._slots[worker.name] for worker in self._plan.staying]
        staying.reverse()
        staying.sort(key=lambda slot: slot.worker_id is not None)
        return staying[: max(count, 0)]

    def _sleep_or_wake(self) -> None:
        """While no worker is to stay, the scheduler expects one all the same."""
        asleep = not self._plan.staying
        if asleep and not self._asleep:
            self._handle_event(WorkerExpected(ASLEEP, next(iter(self._plan.limits), None)))
        elif self._asleep and not asleep:
            self._handle_event(WorkerLost(ASLEEP, "others were woken"))
        self._asleep = asleep

    # Single workers.

    def _open(self, planned: PlannedWorker) -> None:
        slot = self._slots.add(planned.name, planned.generation)
        slot.leaving = planned.leaving
        limits = self._slots[planned.after].limits if planned.after in self._slots else None
        self._handle_event(WorkerExpected(slot.name, limits))
        pauses = RestartPauses(self._plan.config.max_restart_pause_s)
        follower = self._followers[slot.name] = WorkerFollower(
            slot, self._slots, handle_event=self._heard, probe=self._probe, pauses=pauses
        )

        def ended(failure: BaseException | None) -> None:
            if failure is not None:  # a worker is left unwatched
                end_process("A follower of the dispatcher's workers")(failure)
            if slot.leaving:
                self._forget(slot)

        self._supervisor.start(f"follow {slot.name}", self._follow(slot, follower), on_end=ended)

    async def _follow(self, slot: Slot, follower: WorkerFollower) -> None:
        """From the order to start it to its end for good."""
        while slot.handle is None:
            if slot.stopping:
                self._handle_event(WorkerLost(slot.name, "it was not needed any more"))
                return
            if slot.name not in self._plan.wanted():  # the worker whose place it takes is still there
                await asyncio.sleep(FIND_INTERVAL_S)
                continue
            held = slot.name in self._held
            slot.handle = await asyncio.to_thread(find_actor, worker_name(self._plan.config.name, slot.name))
            if slot.handle is None and held:
                await follower.lose(NoHealthyWorker(f"Worker {slot.name} is gone: it died, or could not be started."))
                return
            if slot.handle is None:
                await asyncio.sleep(FIND_INTERVAL_S)
        await follower.follow()

    def _heard(self, event: Event) -> None:
        """What a follower has to tell goes to the scheduler. What it means for one that is to leave, or for the plan,
        follows."""
        if isinstance(event, WorkerUp) and self._refuses(event):
            return
        self._handle_event(event)
        match event:
            case WorkerUp(worker_id, slot_name):
                self._learn_limits(event)
                planned = self._plan.get(slot_name)
                if planned is not None and planned.leaving:
                    self._handle_event(WorkerDraining(worker_id, planned.grace_s))
            case WorkerDown(worker_id):
                slot = self._slots.of(worker_id)
                if slot.leaving:
                    self.stop(slot)

    def _refuses(self, event: WorkerUp) -> bool:
        """Whether a worker of new settings takes less than the pool has to: nothing is placed there, it is ended."""
        fault = missing_in(event.limits, self._plan.required)
        if fault is None:
            return False
        slot = self._slots[event.slot_name]
        slot.worker_id, slot.limits, slot.failure = None, None, ConfigurationError(fault)
        self.stop(slot)
        return True

    def _learn_limits(self, event: WorkerUp) -> None:
        limits = self._slots.limits or (event.limits,)
        self._slots.remembered_limits = limits
        if self._plan.limits != limits and self._plan.config.min_workers == 0:
            self.change(replace(self._plan, limits=limits))

    def _forget(self, slot: Slot) -> None:
        """A worker that was to leave is gone."""
        self._slots.remove(slot.name)
        self._followers.pop(slot.name, None)
        self.change(self._plan.remove(slot.name))
        telling = self._slots.announce()
        self._supervisor.start(f"tell of the end of {slot.name}", telling, on_end=_heard_of)

    def __repr__(self) -> str:
        leaving = len(self._plan.workers) - len(self._plan.staying)
        return f"<Membership: {len(self._plan.staying)} workers stay, {leaving} leave>"


def _heard_of(failure: BaseException | None) -> None:
    if failure is not None:
        end_process("Who tells of changes of the workers")(failure)
