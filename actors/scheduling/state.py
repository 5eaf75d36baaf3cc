"""Everything that a scheduler knows, as one plain object.

The functions of this package take the state and return the actions that follow. Only `core.Scheduler.handle` calls
those that change it. They build on each other in one direction:

    records, ledger, fleet, fair_queue, matching, ...   the parts of the state
    state                                               all of them together
    transitions                                         a request's way into a worker's books and out of them
    refusals, health                                    who is refused; which workers are trusted
    requests, workers, draining, reports, starting      what each event does
    core                                                one event after the other
"""

from __future__ import annotations

from collections import Counter

from actors.messages import RefusalReason, WorkerLimits
from actors.scheduling.backpressure import WaitEstimator
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.estimates import OutputLengths
from actors.scheduling.fair_queue import FairQueue
from actors.scheduling.fleet import Fleet
from actors.scheduling.journal import Journal
from actors.scheduling.matching import Matchmaker
from actors.scheduling.policies import make_policy
from actors.scheduling.records import Request, WorkerStatus


class SchedulerState:
    """What is true now.

    :raises ConfigurationError: there is no such policy.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.now_s = 0.0
        self.requests: dict[str, Request] = {}
        """Every request that waits or runs, by id, at its current attempt."""
        self.queue = FairQueue(config.tenant_weights)
        """Those of them that wait."""
        self.fleet = Fleet()
        self.expected: dict[str, WorkerLimits | None] = {}
        """Slots for which a worker may come, with the limits of the last one there, if there was one."""
        self.matchmaker = Matchmaker(self.queue, self.fleet, make_policy(config.policy, config.seed))
        self.settled_at_s = 0.0
        """Before this time nothing is placed."""
        self.waits = WaitEstimator(self.fleet, config.seed)
        self.lengths = OutputLengths()
        self.checked_limits: frozenset[WorkerLimits] = frozenset()
        """Limits of which at least one fits every request that waits; empty while nobody knows any."""
        self.foreground_starts = 0
        """Foreground requests that were ever started: class batch sees by it whether it was overtaken."""

        # Of the event that is being handled.
        self.touched: set[int] | None = set()
        """Indexes of workers where room appeared in this event; None: look at everything again."""
        self.arrived: Request | None = None
        """The request that came with this event, if it may wait."""

        # What is only told.
        self.counts: Counter[str] = Counter()
        self.refused: Counter[RefusalReason] = Counter()
        self.ignored: Counter[str] = Counter()
        self.journal = Journal()

    def __repr__(self) -> str:
        return (
            f"<SchedulerState at {self.now_s:.3f} s: {len(self.requests)} requests, {self.queue!r}, {self.fleet!r}, "
            f"expected {list(self.expected)}>"
        )

    def hopeful(self) -> bool:
        """Whether a request that waits may ever be placed."""
        return bool(self.expected) or any(w.status is not WorkerStatus.DRAINING for w in self.fleet)

    @property
    def settling(self) -> bool:
        return self.now_s < self.settled_at_s

    def known_limits(self) -> tuple[WorkerLimits, ...]:
        """Limits of the workers that are up or were before they went down; empty while nobody knows."""
        if not self.expected:
            return self.fleet.limits
        return (*self.fleet.limits, *{limits for limits in self.expected.values() if limits is not None})

    def touch(self, index: int) -> None:
        """Room has appeared on the worker of this index: those who wait look at it in this event."""
        if self.touched is not None:
            self.touched.add(index)

    def touch_all(self) -> None:
        """So much has changed that those who wait look at all workers in this event."""
        self.touched = None

    def note(self, request: Request, template: str, *values: object) -> None:
        """Add a line to a request's story."""
        self.journal.note(request.request_id, self.now_s, template, *values)

    def ignore(self, reason: str) -> None:
        """Count an event, or a part of one, that made no sense."""
        self.ignored[reason] += 1
