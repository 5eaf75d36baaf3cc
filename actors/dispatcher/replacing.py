"""New settings, or a new model, for the workers of a running pool: one worker after the other leaves, and another one
takes its place.

What the pool could do it can do afterwards: a new worker that cannot be loaded, or takes less than the pool did, ends
the replacement, and the workers that were replaced by then are replaced again by such as they were before.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from actors.config import PoolConfig
from actors.dispatcher.membership import Membership
from actors.dispatcher.plan import PlannedWorker
from actors.dispatcher.slots import Slots
from actors.supervisor import Supervisor, end_process

logger = logging.getLogger(__name__)


class Replacement:
    """At most one is under way; a later one takes its place."""

    def __init__(self, members: Membership, slots: Slots, supervisor: Supervisor) -> None:
        self._members = members
        self._slots = slots
        self._supervisor = supervisor
        self._task: asyncio.Task[None] | None = None
        if self._old() is not None or members.plan.previous is not None:  # an earlier life had begun it
            self._start()

    @property
    def under_way(self) -> bool:
        return self._task is not None

    @property
    def refused(self) -> str:
        """Why the last one was given up; empty: it was not."""
        return self._members.plan.refused

    def begin(self, config: PoolConfig, grace_s: float | None) -> None:
        """Replace all workers by such of this configuration."""
        plan = self._members.plan
        self._members.change(
            replace(
                plan,
                config=config,
                previous=plan.previous or plan.config,
                generation=plan.generation + 1,
                required=plan.required or self._slots.limits,
                refused="",
                grace_s=grace_s,
            )
        )
        self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = self._supervisor.start("replace workers", self._replace(), on_end=self._ended)

    def _ended(self, failure: BaseException | None) -> None:
        self._task = None
        if failure is not None:
            end_process("The replacement of the pool's workers")(failure)

    async def _replace(self) -> None:
        while True:
            await self._slots.wait_for(lambda: not any(map(self._is_starting, self._members.plan.staying)))
            plan = self._members.plan
            failed = next(filter(self._has_failed, plan.staying), None)
            if failed is not None and plan.previous is not None:
                self._give_up(failed.name)
                continue
            old = self._old()
            if old is None:
                self._members.change(replace(plan, previous=None, required=()))
                await self._slots.announce()
                return
            self._members.add(after=old.name)
            self._members.leave(old.name, plan.grace_s)
            await self._slots.announce()

    def _give_up(self, name: str) -> None:
        plan, reason = self._members.plan, str(self._slots[name].failure)
        logger.error("The new settings are taken back: %s: %s", name, reason)
        assert plan.previous is not None, "what is given up had begun"
        self._members.change(
            replace(plan, config=plan.previous, previous=None, generation=plan.generation + 1, refused=reason)
        )

    def _old(self) -> PlannedWorker | None:
        plan = self._members.plan
        return next((worker for worker in plan.staying if worker.generation != plan.generation), None)

    def _is_starting(self, worker: PlannedWorker) -> bool:
        """Those of other settings are not waited for."""
        slot = self._slots[worker.name]
        current = worker.generation == self._members.plan.generation
        return current and slot.worker_id is None and slot.failure is None

    def _has_failed(self, worker: PlannedWorker) -> bool:
        return worker.generation == self._members.plan.generation and self._slots[worker.name].failure is not None

    def __repr__(self) -> str:
        return f"<Replacement: {'under way' if self.under_way else self.refused or 'none'}>"
