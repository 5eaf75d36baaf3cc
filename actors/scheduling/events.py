"""What the scheduler is told. Every event goes through `Scheduler.handle(event, now_s)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.messages import Admission, RunningAttempt, StepReport, WorkerLimits


@dataclass(frozen=True, slots=True)
class Submitted:
    """A front asks for a place. The same `request_id` with a higher `attempt` takes up a request whose earlier
    attempt is over (its worker failed); the earlier attempt's place is given back."""

    admission: Admission


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A front gives a request up (finished with an error, caller gone). Unknown ids are ignored.

    What it held is free at once: its worker, told by the front, drops it at the end of the step that is going on."""

    request_id: str


@dataclass(frozen=True, slots=True)
class WorkerExpected:
    """A worker of this slot is starting or restarting: requests may wait for it. Ends with its `WorkerUp` or with
    `WorkerLost`."""

    slot_name: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """No worker of this slot will come any more. When no slot is up or expected, whoever waits is refused."""

    slot_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerUp:
    """A worker is ready. `worker_id` is new for every life of a worker process; `slot_name` stays over restarts.

    `sequence` is that of the last report the worker sent before; the next one has `sequence + 1`.
    """

    worker_id: str
    slot_name: str
    limits: WorkerLimits
    resident_pages: frozenset[bytes] = frozenset()
    running: tuple[RunningAttempt, ...] = ()
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class WorkerDown:
    """A worker process is gone for good. Its attempts are over; fronts submit them again if they want to.

    Another one is expected in its slot, until `WorkerLost` says otherwise or unless it was being emptied."""

    worker_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerSuspected:
    """A worker has stopped to report: place nothing there until its next report, which is asked for."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """A worker is to be emptied: place nothing there any more; `StopWorker` follows when it is empty."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Reported:
    report: StepReport


@dataclass(frozen=True, slots=True)
class TenantsWeighed:
    """From now on tenants have these weights; those that are not named have 1."""

    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Deadlines, holds, unconfirmed starts and unanswered resyncs are looked at; once every 100 ms or so
    is enough."""


Event = (
    Submitted
    | Cancelled
    | WorkerExpected
    | WorkerLost
    | WorkerUp
    | WorkerDown
    | WorkerSuspected
    | WorkerDraining
    | Reported
    | TenantsWeighed
    | Tick
)
