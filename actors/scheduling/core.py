"""The dispatcher's mind: `Scheduler.handle(event, now_s)` returns what has to happen.

No I/O, no threads and no clock: the same events give the same actions. What each event does stands in `requests.py`,
`workers.py`, `draining.py`, `reports.py` and `health.py`; here is the order in which things happen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from actors.scheduling import draining, health, reports, requests, workers
from actors.scheduling.actions import Action
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.events import (
    Cancelled,
    Event,
    FrontGone,
    Reported,
    Settling,
    Submitted,
    TenantsWeighed,
    Tick,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerKept,
    WorkerLost,
    WorkerSuspected,
    WorkerUp,
)
from actors.scheduling.journal import Entry
from actors.scheduling.refusals import press_back, refuse_expired
from actors.scheduling.starting import start_matches
from actors.scheduling.state import SchedulerState
from actors.scheduling.statistics import SchedulerStatistics
from actors.scheduling.summary import summarize
from actors.scheduling.validation import validate

Record = Callable[[float, Event], None]
"""Takes down (now_s, event) of everything that a scheduler is told, before it acts on it; see `recording.py`."""

_HANDLERS: dict[type[Any], Callable[[SchedulerState, Any], list[Action]]] = {
    Submitted: requests.on_submitted,
    Cancelled: requests.on_cancelled,
    FrontGone: requests.on_front_gone,
    Settling: requests.on_settling,
    TenantsWeighed: requests.on_tenants_weighed,
    WorkerExpected: workers.on_expected,
    WorkerLost: workers.on_lost,
    WorkerUp: workers.on_up,
    WorkerDown: workers.on_down,
    WorkerSuspected: health.on_suspected,
    WorkerDraining: draining.on_draining,
    WorkerKept: draining.on_kept,
    Reported: reports.on_reported,
    Tick: health.on_tick,
}


class Scheduler:
    """Admits, queues and places requests. Not thread-safe: one owner calls it.

    `state` is there to be read; it changes in `handle` and nowhere else. `record` hears of every event, from which a
    run can be replayed.

    :raises ConfigurationError: there is no such policy.
    """

    def __init__(self, config: SchedulerConfig | None = None, record: Record | None = None) -> None:
        self.state = SchedulerState(config or SchedulerConfig())
        self._record = record

    def __repr__(self) -> str:
        state = self.state
        return (
            f"<Scheduler {state.config.policy} at {state.now_s:.3f} s: {len(state.queue)} wait, "
            f"{len(state.requests) - len(state.queue)} run on {len(state.fleet)} workers, "
            f"{len(state.expected)} expected>"
        )

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take in an event; returns what has to be done, in order.

        `now_s` is of any steady clock. One that steps back, or is no number, is taken to stand still.
        """
        if self._record is not None:
            self._record(now_s, event)
        state = self.state
        if now_s >= state.now_s and now_s < math.inf:
            state.now_s = now_s
        else:
            state.ignore("clock stepped back or is no time")
        state.touched, state.arrived = set(), None
        actions = _HANDLERS[type(event)](state, event)
        if state.fleet.draining:
            actions += draining.empty_the_draining(state)
        # In this order: who has waited too long is refused and not started late; and the one that has just arrived is
        # pressed back only when it was tried to start it, for then its wait for a worker is known.
        actions += refuse_expired(state)
        actions += start_matches(state)
        if state.arrived is not None and state.arrived in state.queue and len(state.fleet) and not state.settling:
            actions += press_back(state, state.arrived)
        return actions

    def story(self, request_id: str) -> tuple[Entry, ...]:
        """What happened to a request, when and why, oldest first. Old requests are forgotten."""
        return self.state.journal.story(request_id)

    def statistics(self, now_s: float) -> SchedulerStatistics:
        """The whole state in numbers, as of `now_s`."""
        return summarize(self.state, max(now_s, self.state.now_s))

    def validate(self) -> None:
        """Check the invariants: pages conserved, each request in exactly one state, no worker above its limits.

        :raises AssertionError: one is broken, which is a fault of this package.
        """
        validate(self.state)
