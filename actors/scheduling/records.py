"""What the scheduler keeps of a request and of a worker while it lives."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from actors.messages import Admission, WorkerLimits
from actors.paging import pages_needed
from actors.scheduling.ledger import Booking, Ledger


class RequestState(StrEnum):
    """The states of a request that is still of interest; every other request is unknown."""

    QUEUED = "queued"
    GRANTED = "granted"
    """Its front was told to start it; no report of the worker has named it yet."""
    RUNNING = "running"


class WorkerStatus(StrEnum):
    UP = "up"
    SUSPECT = "suspect"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Request:
    """A request that waits or runs."""

    admission: Admission
    arrived_s: float
    deadline_s: float
    """When it is given up in the queue: its own time limit or the bound on waits, whichever is earlier."""
    order: int
    """Counts requests in order of arrival."""
    state: RequestState = RequestState.QUEUED
    worker: Worker | None = None
    booking: Booking | None = None
    granted_s: float = 0.0
    estimated_wait_s: float = 0.0

    @property
    def request_id(self) -> str:
        return self.admission.request_id

    @property
    def tokens(self) -> int:
        return self.admission.prompt_tokens + self.admission.max_new_tokens


@dataclass(slots=True, eq=False)
class Worker:
    """A worker that can be reached, with its books."""

    worker_id: str
    slot_name: str
    limits: WorkerLimits
    ledger: Ledger
    index: int
    sequence: int
    status: WorkerStatus = WorkerStatus.UP
    attempts: dict[str, Request] = field(default_factory=dict)
    """Granted and running requests by id."""
    resync_asked: bool = False
    stop_asked: bool = False
    outstanding_tokens: int = 0

    @property
    def free_slots(self) -> int:
        return self.limits.max_batch_size - len(self.attempts)

    def pages_for(self, request: Request) -> int:
        """Pages in all that an attempt of the request holds here."""
        return pages_needed(request.tokens + self.limits.reserve_tokens)


def fits(admission: Admission, limits: WorkerLimits) -> bool:
    """Whether a worker of these limits could ever run the request."""
    tokens = admission.prompt_tokens + admission.max_new_tokens
    return tokens <= limits.context_tokens and pages_needed(tokens + limits.reserve_tokens) <= limits.total_pages
