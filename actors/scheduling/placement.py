"""One request before all workers: who may take it, at what price, and from when."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.paging.hashes import PAGE_TOKENS
from actors.scheduling.fleet import PROFILE_STEPS, Column, Fleet
from actors.scheduling.policies import BATCH_DECODE_WEIGHT, DECODE_WEIGHT, Candidates, Floats, Policy, cost_s
from actors.scheduling.records import PEAK_HALF_LIFE_S, Request, Worker, WorkerStatus, fits

PEAK_MARGIN = 1.25
"""What foreground requests took at their recent peak, and so much more, is kept from batch requests."""
SHORTEST_WAIT_S = 1e-3
"""Of a worker without room: the release that was expected by now is overdue, not there."""
MAX_PREFILLS = 2
PREFILL_DUE_S = 0.05
"""A worker takes on no further prompt while it has so many to compute, and more than so many seconds of work on them:
it computes unfinished prompts side by side, so that each one more delays the first tokens of all. Held back, a prompt
is computed just as soon, and may still go elsewhere. Two, so that the next is there when the first is done."""
_FEW_BITS = 24
"""Up to so many workers of a bit mask are listed one by one; more are unpacked at once."""


class Place(NamedTuple):
    """The best worker for a request: its index, the seconds until it can start there (0: now), and its score."""

    worker_index: int
    wait_s: float
    score: float


def prompts_are_held_back(worker: Worker) -> bool:
    """Whether the worker has enough prompts to compute already, for a foreground request and a policy that holds."""
    return (
        len(worker.prefilling) >= MAX_PREFILLS
        and worker.pending_prefill_tokens * worker.model.times.prefill_s > PREFILL_DUE_S
    )


def price_s(request: Request, worker: Worker, fleet: Fleet) -> float:
    """The score of policy `cost` for one worker that has room now."""
    admission, times = request.admission, worker.model.times
    resident = fleet.known.leading(admission.page_hashes, 1 << worker.index)
    tokens = worker.pending_prefill_tokens + admission.prompt_tokens - PAGE_TOKENS * resident
    batch = float(len(worker.attempts))
    return cost_s(
        request.expected_tokens,
        float(tokens),
        batch,
        times.base_s,
        times.per_job_s,
        times.prefill_s,
        _decode_weight(request),
    )


def _decode_weight(request: Request) -> float:
    return DECODE_WEIGHT if request.foreground else BATCH_DECODE_WEIGHT


class Placement:
    """Scores workers with a policy. Reads the fleet and changes nothing."""

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self._fleet = fleet
        self._policy = policy
        self.reserved: dict[int, Request] = {}
        """Workers, by index, that are kept for a request which was skipped too often."""
        self.backlog_s = 0.0
        """Seconds that the pool needs for everything that waits."""
        self.promised_pages: dict[int, float] = {}
        """Pages that requests which come first in fair order wait for, by worker index."""

    def __repr__(self) -> str:
        return (
            f"<Placement over {len(self._fleet)} workers: {len(self.reserved)} kept for one request, "
            f"{self.backlog_s:.3g} s of work wait, pages promised {self.promised_pages}>"
        )

    @property
    def holds(self) -> bool:
        """Whether a request may wait for a worker although another could start it."""
        return self._policy.holds

    def best(self, request: Request, now_s: float) -> Place | None:
        """The best place, or None when no healthy worker may take the request.

        Every worker is one of these:

        - not eligible: it is not up, can never hold so much, is kept for another request, or failed this one before;
        - ready: pages and a slot are there now. `wait_s` is 0, unless enough prompts are due there already;
        - full: `wait_s` is when its attempts are expected to have given enough back.

        A policy that `holds` compares both kinds and may choose a full one: then the request waits for it. Others see
        the ready ones only.

        `wait_s` is what the place is reported with: a start is possible where it is 0, and estimates of waits are made
        from it. `ranked_s` is what places are compared by, and differs for full workers only. Whoever waits for room
        that is not there yet is not alone in that: what is released first goes to the whole queue in fair order, so
        waiting costs at least the time that the pool needs for all that waits. Ranked by `wait_s` alone, a request
        would hold out for a warm cache behind a long queue instead of taking what is ready.
        """
        state = self._fleet.state[:, : len(self._fleet.by_index)]
        eligible = self._eligible(request, state)
        if not eligible.any():
            return None
        ready, wait_s = self._waits_for_room(request, state, now_s)
        ranked_s = wait_s
        if self._policy.holds:
            if request.foreground:
                wait_s = np.maximum(wait_s, self._prefill_waits(state))
            ranked_s = np.where(ready, wait_s, np.maximum(wait_s, self.backlog_s))
        else:
            eligible &= ready
            if not eligible.any():
                return None
        scores = self._policy.score(self._candidates(request, state, ranked_s, eligible))
        scores = np.where(eligible, scores, np.inf)
        index = int(scores.argmin())
        return Place(index, float(wait_s[index]), float(scores[index]))

    def _waits_for_room(self, request: Request, state: Floats, now_s: float) -> tuple[NDArray[np.bool_], Floats]:
        """Which workers have pages and a slot for the request now, and the seconds until the others have."""
        pages = np.ceil((request.tokens + state[Column.RESERVE_TOKENS]) / PAGE_TOKENS)
        need = pages - self._depths(self._fleet.referenced.depths(request.admission.page_hashes), pages.size)
        free_pages, free_slots = self._room(request, state, now_s)
        ready: NDArray[np.bool_] = (need <= free_pages) & (free_slots >= 1.0)
        if ready.all():
            return ready, np.zeros(pages.size)
        return ready, np.where(ready, 0.0, self._waits(need, free_pages, free_slots, now_s))

    def _candidates(self, request: Request, state: Floats, ranked_s: Floats, eligible: NDArray[np.bool_]) -> Candidates:
        resident = self._depths(self._fleet.known.depths(request.admission.page_hashes), eligible.size)
        return Candidates(
            expected_tokens=request.expected_tokens,
            miss_tokens=request.admission.prompt_tokens - PAGE_TOKENS * resident,
            wait_s=ranked_s,
            eligible=eligible,
            batch=state[Column.BATCH],
            pending_prefill_tokens=state[Column.PENDING_PREFILL],
            base_s=state[Column.BASE_S],
            per_job_s=state[Column.PER_JOB_S],
            prefill_s=state[Column.PREFILL_S],
            decode_weight=_decode_weight(request),
        )

    def _eligible(self, request: Request, state: Floats) -> NDArray[np.bool_]:
        eligible: NDArray[np.bool_] = (
            (state[Column.UP] > 0.0)
            & (state[Column.CONTEXT_TOKENS] >= request.tokens)
            & (state[Column.TOTAL_PAGES] * PAGE_TOKENS >= request.tokens + state[Column.RESERVE_TOKENS])
        )
        # Three ways in which a worker that could take it must not: it is kept for somebody else who was skipped too
        # often; it failed this request (unless all that could ever run it did); or another is kept for this request.
        for index, owner in self.reserved.items():
            if owner is not request:
                eligible[index] = False
        if request.admission.excluded_workers:
            self._exclude(request, eligible)
        if request.reserves >= 0 and eligible[request.reserves]:  # it must not let that worker stand idle for another
            eligible[:] = False
            eligible[request.reserves] = True
        return eligible

    def _exclude(self, request: Request, eligible: NDArray[np.bool_]) -> None:
        """Take out workers that failed the request, unless no other is up that could ever run it.

        One that is only suspected does not count: nobody knows when it will be heard of, and requests that waited for
        it would stand before all others in the queue while the worker that they avoid is free.
        """
        excluded = request.admission.excluded_workers
        others = (w for w in self._fleet if w.worker_id not in excluded and w.status is WorkerStatus.UP)
        if any(fits(request.admission, worker.limits) for worker in others):
            for worker_id in excluded:
                worker = self._fleet.by_id.get(worker_id)
                if worker is not None:
                    eligible[worker.index] = False

    def _room(self, request: Request, state: Floats, now_s: float) -> tuple[Floats, Floats]:
        """Pages and slots that the request may take now: all free ones, or for class batch, unless its trickle is due,
        what is not kept for foreground requests.

        Nothing is kept from a batch request on a worker that is kept for it, where no other may start, nor on an idle
        one, which one that needs the whole worker would find again and again: what was kept would stand idle beside it
        until the memory of the peak had faded.
        """
        pages, slots = state[Column.FREE_PAGES], state[Column.FREE_SLOTS]
        if request.foreground or request.due:
            return pages, slots
        fade = PEAK_MARGIN * np.exp2((state[Column.PEAK_AT_S] - now_s) / PEAK_HALF_LIFE_S)
        busy = state[Column.PEAK_SLOTS] * fade
        kept_pages = np.maximum(np.floor(state[Column.PEAK_PAGES] * fade) - state[Column.FOREGROUND_PAGES], 0.0)
        kept_slots = np.maximum(np.floor(busy) - state[Column.FOREGROUND_SLOTS], 0.0)
        wait_for_prefill = (state[Column.BACKGROUND_PREFILLS] > 0.0) & (busy >= 1.0)
        keeps_nothing = state[Column.BATCH] == 0.0
        if request.reserves >= 0:
            keeps_nothing[request.reserves] = True
        room_slots = np.where(wait_for_prefill, 0.0, slots - kept_slots)
        return np.where(keeps_nothing, pages, pages - kept_pages), np.where(keeps_nothing, slots, room_slots)

    def could_start_now(self, request: Request, now_s: float, but: set[int]) -> bool:
        """Whether some worker, `but` for these, has room for the request, shared pages aside, and nothing else is in
        its way there."""
        state = self._fleet.state[:, : len(self._fleet.by_index)]
        ready = (state[Column.FREE_SLOTS] >= 1.0) & (state[Column.FREE_PAGES] >= request.own_pages)
        if self._policy.holds and request.foreground:
            ready &= self._prefill_waits(state) == 0.0
        ready[[index for index in but if index < ready.size]] = False
        if not ready.any():
            return False
        pages, slots = self._room(request, state, now_s)
        ready &= (slots >= 1.0) & (pages * PAGE_TOKENS >= request.tokens + state[Column.RESERVE_TOKENS])
        return bool((ready & self._eligible(request, state)).any())

    def avoids(self, request: Request, index: int) -> bool:
        """Whether the request must not go to this worker, since it failed it."""
        return bool(request.admission.excluded_workers) and not self.allowed(request)[index]

    def allowed(self, request: Request) -> NDArray[np.bool_]:
        """By worker index, whether the request does not avoid it."""
        allowed = np.ones(len(self._fleet.by_index), dtype=np.bool_)
        self._exclude(request, allowed)
        return allowed

    def _prefill_waits(self, state: Floats) -> Floats:
        """Seconds until the worker takes on another prompt."""
        due_s = state[Column.PENDING_PREFILL] * state[Column.PREFILL_S]
        busy = (state[Column.PREFILLS] >= MAX_PREFILLS) & (due_s > PREFILL_DUE_S)
        waits: Floats = np.where(busy, due_s, 0.0)
        return waits

    def _waits(self, need: Floats, pages: Floats, slots: Floats, now_s: float) -> Floats:
        """Seconds until the worker has what is needed, by the expected ends of its attempts; 0 where it has it now."""
        # Those who come first in fair order and wait for a worker take what is released there before this request. But
        # where there is room now, it is not theirs: they were looked at before and did not fit.
        short_pages = need - pages
        for index, promised in self.promised_pages.items():
            if short_pages[index] > 0.0 or slots[index] < 1.0:
                short_pages[index] += promised
        self._fleet.refresh_releases(now_s)
        size = need.size
        total_pages = self._fleet.column(Column.TOTAL_PAGES)
        rounds = np.maximum(short_pages / np.maximum(total_pages, 1.0), 1.0)
        short_pages = np.minimum(short_pages, total_pages)  # more than a whole worker: it has to empty several times
        # The profile of a worker: after its end number `step` so many pages are back. Wanted is the first that is
        # enough, both for pages and for slots; where even the last is not, the last.
        step = (self._fleet.release_pages[:, :size] < short_pages).sum(axis=0)
        step = np.maximum(step, (-slots).astype(np.intp))  # one end gives the one slot that is missing
        step = np.minimum(step, PROFILE_STEPS - 1)
        wait_s = rounds * np.maximum(self._fleet.release_s[step, np.arange(size)] - now_s, SHORTEST_WAIT_S)
        # No end gives class batch what is kept from it; it has it once the memory of the peak has faded.
        waits: Floats = np.where(np.isfinite(wait_s), wait_s, PEAK_HALF_LIFE_S)
        return waits

    def _depths(self, levels: list[tuple[int, int]], size: int) -> Floats:
        depths = np.zeros(size)
        for depth, mask in levels:
            if mask.bit_count() > _FEW_BITS:
                octets = np.frombuffer(mask.to_bytes((size + 7) // 8, "little"), dtype=np.uint8)
                depths[np.unpackbits(octets, count=size, bitorder="little").astype(np.bool_)] = depth
                continue
            while mask:
                low = mask & -mask
                depths[low.bit_length() - 1] = depth
                mask ^= low
        return depths
