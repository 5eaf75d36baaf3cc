"""What the scheduler is told. Every event goes through `Scheduler.handle(event, now_s)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.messages import Admission, RunningAttempt, StepReport, WorkerLimits


@dataclass(frozen=True, slots=True)
class Submitted:
    """A front asks for a place. The same `request_id` with a higher `attempt` takes up a request whose earlier
    attempt is over (its worker failed); the earlier attempt's place is given back.

    Asked again, unchanged and by the same front: nothing changes, and a grant that was given is told again. Another
    front that asks for a known attempt is refused, unless nobody owns it (see `WorkerUp`): then it becomes the owner.
    """

    admission: Admission
    front_id: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A front gives a request up, at this attempt or an earlier one (it failed, or its caller is gone).

    What it held is free at once: its worker, told by the front, drops it at the end of the step that is going on.
    Ignored where the request is unknown, at a later attempt, or another front's. An attempt without an owner may be
    given up by any front."""

    request_id: str
    attempt: int
    front_id: str = ""


@dataclass(frozen=True, slots=True)
class FrontGone:
    """A front is gone, or does not listen any more: what it has waiting, and what was granted and is not known to run,
    is given up. It may come back and ask anew. What runs goes on until its worker reports the end."""

    front_id: str


@dataclass(frozen=True, slots=True)
class WorkerExpected:
    """A worker of this slot is starting or restarting: requests may wait for it. Ends with its `WorkerUp` or with
    `WorkerLost`. `limits` are those that it is likely to have; None: those of the last one there, if there was one."""

    slot_name: str
    limits: WorkerLimits | None = None


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """No worker of this slot will come any more. When no slot is up or expected, whoever waits is refused."""

    slot_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerUp:
    """A worker is ready. `worker_id` is new for every life of a worker process; `slot_name` stays over restarts.

    `sequence` is that of the last report the worker sent before; the next one has `sequence + 1`. What it runs already
    has no owner: workers do not know who asked the dispatcher. It ends with its report, or with whoever asks for it.

    `trial`: the lives before it in its slot were short. It gets one attempt at a time until one has ended well, or has
    gone on for long enough.
    """

    worker_id: str
    slot_name: str
    limits: WorkerLimits
    resident_pages: frozenset[bytes] = frozenset()
    running: tuple[RunningAttempt, ...] = ()
    sequence: int = 0
    trial: bool = False


@dataclass(frozen=True, slots=True)
class WorkerDown:
    """A worker process is gone for good. Its attempts are over, which their fronts are told; they may ask again.

    Another one is expected in its slot, until `WorkerLost` says otherwise or unless it was being emptied."""

    worker_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerSuspected:
    """Nobody hears a worker at the moment, since the link to it broke: place nothing there until its next report, which
    is asked for. It ends with that report or with `WorkerDown`."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """A worker is to be emptied: place nothing there any more; `StopWorker` follows when it is empty.

    What still runs there after `grace_s` (None: however long it takes) loses its place, to go on elsewhere, if there is
    or will be a worker for it. Told again, only the grace begins anew."""

    worker_id: str
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerKept:
    """A worker is not to be emptied after all. Too late once it was to be stopped."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Reported:
    report: StepReport


@dataclass(frozen=True, slots=True)
class TenantsWeighed:
    """From now on tenants have these weights; those that are not named have 1."""

    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Settling:
    """This scheduler follows one that was lost: in this time workers and fronts tell it what is true. Nothing is placed
    before that is over, or whoever comes back first would go before all who have waited longer."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Deadlines, holds, silent workers, unconfirmed starts and unanswered resyncs are looked at; every
    100 ms or so is enough."""


Event = (
    Submitted
    | Cancelled
    | FrontGone
    | WorkerExpected
    | WorkerLost
    | WorkerUp
    | WorkerDown
    | WorkerSuspected
    | WorkerDraining
    | WorkerKept
    | Reported
    | TenantsWeighed
    | Settling
    | Tick
)
