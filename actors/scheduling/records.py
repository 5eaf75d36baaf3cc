"""What the scheduler keeps of a request and of a worker while it lives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from actors.messages import Admission, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.results import Priority
from actors.scheduling.estimates import StepModel
from actors.scheduling.ledger import Booking, Ledger

RESIDUAL_SHARE = 0.25
"""A completion that has reached its expected length is expected to go on for this share of it again."""


PEAK_HALF_LIFE_S = 20.0
"""Half-life of the memory of how much room foreground requests took on a worker."""


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


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """A request that waits or runs. Its identity is the object: two attempts of one id are two of these."""

    admission: Admission
    arrived_s: float
    deadline_s: float
    """When it is refused in the queue: its own time limit or the bound on waits, whichever is earlier."""
    expected_tokens: float
    """Output that is expected of it."""
    work: float
    """Worker-seconds that it will take, as a share of a mean worker: what a queue of such requests adds to a wait."""
    asked_s: float = 0.0
    """When it first asked for a place, at whatever attempt, and of whatever dispatcher: the order among equals."""
    front_id: str = ""
    """Who asked, and is to be told. Empty: nobody yet, its worker ran it before this scheduler knew of it."""
    state: RequestState = RequestState.QUEUED
    request_id: str = ""
    foreground: bool = True

    # While it waits.
    overtakers: int = 0
    """Foreground requests that had ever been started when it arrived: later ones go before class batch."""
    place: tuple[float, int] = (0.0, 0)
    """Its place among the requests of its class, apart from what tenants were served: the lowest is first. By the time
    at which it first asked, and among those of one moment by arrival."""
    looked_at: int = 0
    """The round of placement that saw it last."""
    due: bool = False
    """Its class is owed its start: nothing is kept back from it for better classes."""
    scored: bool = False
    """It was put before all workers at least once."""
    wants: int = -1
    """Index of the worker it is held for; -1: none."""
    place_wait_s: float = 0.0
    """Time until that worker was expected to have room for it, when it was last scored."""
    place_score: float = 0.0
    scored_at_s: float = 0.0
    own_pages: int = 0
    """Pages it holds when it runs, those it may share included, on a worker without reserve."""
    size_tokens: int = 0
    """Its tokens, rounded up to the next size that some worker could tell from its own, see `lanes.py`."""
    skipped: int = 0
    """Requests that came after it in fair order and were started before it."""
    reserves: int = -1
    """Index of the worker that is kept for it, once it was skipped too often."""
    work_ahead: float = 0.0
    """Worker-seconds that were before it when it arrived."""
    estimated_wait_s: float = math.nan
    """What was foreseen at its arrival; no number where it could not be, or did not have to be, foreseen."""
    wait_scale: float = 1.0
    """By how much the estimator corrected it then."""

    # While it is granted or runs.
    worker: Worker | None = None
    booking: Booking | None = None
    taken_pages: int = 0
    """Pages it took from the free ones when it was booked."""
    granted_s: float = 0.0
    first_token_s: float | None = None
    prefill_left_tokens: int = 0
    charged_tokens: float = 0.0
    """What its tenant was charged ahead for output, see `FairQueue`."""

    def __post_init__(self) -> None:
        self.request_id = self.admission.request_id
        self.foreground = self.admission.priority is not Priority.BATCH
        self.own_pages = pages_needed(self.tokens)

    def __repr__(self) -> str:
        place = f" on {self.worker.worker_id}" if self.worker is not None else ""
        return (
            f"<Request {self.request_id!r} of {self.front_id!r}, attempt {self.admission.attempt}: "
            f"{self.state.value}{place}, {self.admission.prompt_tokens} + {self.admission.max_new_tokens} tokens>"
        )

    @property
    def tokens(self) -> int:
        return self.admission.prompt_tokens + self.admission.max_new_tokens


@dataclass(slots=True, eq=False, repr=False)
class Worker:
    """A worker that can be reached, with its books."""

    worker_id: str
    slot_name: str
    limits: WorkerLimits
    ledger: Ledger
    index: int
    sequence: int
    model: StepModel
    status: WorkerStatus = WorkerStatus.UP
    on_trial: bool = False
    """It may get one attempt at a time, until it has shown that it can generate."""
    attempts: dict[str, Request] = field(default_factory=dict)
    """Granted and running requests by id."""
    prefilling: dict[str, Request] = field(default_factory=dict)
    """Those of them that have not emitted a token yet, in order of their grants."""
    quiet_since_s: float = 0.0
    """When it was last heard of, or got the first of the attempts that it holds, whichever is later."""
    probed_s: float | None = None
    """When it was last asked whether it lives; None: it has been heard of since."""
    resync_asked_s: float | None = None
    """When it was last asked for the whole truth; None: it owes none."""
    moves_at_s: float = math.inf
    """While it is being emptied: when what it still runs goes elsewhere."""
    stop_asked: bool = False
    outstanding_tokens: int = 0
    pending_prefill_tokens: int = 0
    foreground_pages: int = 0
    foreground_slots: int = 0
    background_prefills: int = 0
    peak_pages: float = 0.0
    peak_slots: float = 0.0
    peak_at_s: float = 0.0

    def __repr__(self) -> str:
        return (
            f"<Worker {self.worker_id} {self.condition}: "
            f"{len(self.attempts)}/{self.limits.max_batch_size} attempts, "
            f"{self.ledger.free_pages}/{self.limits.total_pages} pages free, "
            f"{self.pending_prefill_tokens} prompt tokens due, report {self.sequence}>"
        )

    @property
    def condition(self) -> str:
        """Its status in a word, for people: "trial" where it is up and on trial."""
        return "trial" if self.on_trial and self.status is WorkerStatus.UP else self.status.value

    @property
    def most_attempts(self) -> int:
        """Attempts that may be placed here. It may hold more: those that it ran before its scheduler knew of it."""
        return 1 if self.on_trial else self.limits.max_batch_size

    @property
    def has_slot(self) -> bool:
        """Whether it could start one more attempt, pages aside."""
        return self.status is WorkerStatus.UP and len(self.attempts) < self.most_attempts

    def could_start(self, request: Request) -> bool:
        """Whether the request may be placed here now: there are pages and a slot for it."""
        return self.has_slot and self._has_pages(request)

    def could_hold(self, request: Request) -> bool:
        """Whether the worker may run the request besides what is booked: whoever placed it there."""
        return len(self.attempts) < self.limits.max_batch_size and self._has_pages(request)

    def _has_pages(self, request: Request) -> bool:
        pages = pages_needed(request.tokens + self.limits.reserve_tokens)
        return self.ledger.pages_to_take(pages, request.admission.page_hashes) <= self.ledger.free_pages

    def book(self, request: Request, now_s: float, cached_tokens: int) -> None:
        """Enter an attempt into the books. It leaves them by `release`."""
        if not self.attempts:
            self.quiet_since_s = now_s
        request.worker, request.granted_s = self, now_s
        pages = pages_needed(request.tokens + self.limits.reserve_tokens)
        request.booking, request.taken_pages = self.ledger.book(pages, request.admission.page_hashes)
        request.prefill_left_tokens = max(request.admission.prompt_tokens - cached_tokens, 1)
        self.attempts[request.request_id] = self.prefilling[request.request_id] = request
        self.pending_prefill_tokens += request.prefill_left_tokens
        self.outstanding_tokens += request.tokens
        if request.foreground:
            self.foreground_pages += request.taken_pages
            self.foreground_slots += 1
            fade = 0.5 ** ((now_s - self.peak_at_s) / PEAK_HALF_LIFE_S)
            self.peak_pages = max(self.peak_pages * fade, self.foreground_pages)
            self.peak_slots = max(self.peak_slots * fade, self.foreground_slots)
            self.peak_at_s = now_s
        else:
            self.background_prefills += 1

    def release(self, request: Request) -> None:
        """Give back everything that `book` took."""
        # Prefill first: it is counted by what is left of this attempt's prompt. `worker` and `booking` last: they are
        # what tells a request that runs from one that waits.
        assert request.booking is not None
        self.prefilled(request)
        del self.attempts[request.request_id]
        self.ledger.release(request.booking)
        self.outstanding_tokens -= request.tokens
        if request.foreground:
            self.foreground_pages -= request.taken_pages
            self.foreground_slots -= 1
        request.worker = request.booking = None

    def prefilled(self, request: Request) -> None:
        """The attempt's prompt is computed, or will never be."""
        if self.prefilling.pop(request.request_id, None) is not None:
            self.pending_prefill_tokens -= request.prefill_left_tokens
            request.prefill_left_tokens = 0
            if not request.foreground:
                self.background_prefills -= 1

    def progress_prefill(self, tokens: int) -> None:
        """So many prompt tokens were computed: they are taken to belong to the attempts that came first."""
        for request in self.prefilling.values():
            if tokens <= 0:
                return
            done = min(tokens, request.prefill_left_tokens)
            request.prefill_left_tokens -= done
            self.pending_prefill_tokens -= done
            tokens -= done

    def cached(self, request: Request, cached_tokens: int) -> None:
        """The engine found more of the prompt resident than the books had foreseen."""
        left = max(request.admission.prompt_tokens - cached_tokens, 0)
        if left < request.prefill_left_tokens:
            self.pending_prefill_tokens -= request.prefill_left_tokens - left
            request.prefill_left_tokens = left

    def likely_output_tokens(self, request: Request, now_s: float) -> float:
        """Output that one of its attempts is likely to have had by now."""
        if request.first_token_s is None:
            return 0.0
        step_s = max(self.model.times.step_s(len(self.attempts)), 1e-6)
        return min((now_s - request.first_token_s) / step_s, float(request.admission.max_new_tokens))

    def expected_ends(self, now_s: float) -> list[tuple[float, int]]:
        """(time, pages given back) of each attempt's expected end, earliest first."""
        times = self.model.times
        step_s = max(times.step_s(len(self.attempts)), 1e-6)
        prefill_s = self.pending_prefill_tokens * times.prefill_s
        ends = []
        for request in self.attempts.values():
            expected = request.expected_tokens
            if request.first_token_s is None:
                end_s = now_s + prefill_s + expected * step_s
            else:
                done = (now_s - request.first_token_s) / step_s
                left = max(
                    expected - done, min(RESIDUAL_SHARE * expected, request.admission.max_new_tokens - done), 1.0
                )
                end_s = now_s + left * step_s
            ends.append((end_s, request.taken_pages))
        ends.sort()
        return ends


def fits(admission: Admission, limits: WorkerLimits) -> bool:
    """Whether a worker of these limits could ever run the request."""
    return admission.prompt_tokens + admission.max_new_tokens <= most_tokens(limits, limits.total_pages)


def most_tokens(limits: WorkerLimits, pages: int) -> int:
    """The size of the largest request that a worker of these limits could run in so many pages."""
    return min(limits.context_tokens, PAGE_TOKENS * pages - limits.reserve_tokens)
