"""The rule: no request waits beside a worker that could start it. And its exceptions, exactly.

After every event, a request that waits and a worker that is up, that has a slot (one in all while it is on trial) and,
sharing nothing, enough pages for it are together only if one of these holds:

- kept: the worker is kept for another request, which was skipped too often; or another worker that is up is kept for
  this one. (Who has a worker kept for it starts there as soon as it has room.)
- avoided: an attempt of the request was lost there, and another worker is up that could ever run it.
- dearer: the policy weighs waiting against starting, and found that the request is done sooner elsewhere; or the worker
  has enough prompts to compute already.
- room for others: the request is of class batch, the worker is not idle, and what is left there is kept for foreground
  requests, or another batch prompt is being computed there. (Time frees such room too: that is seen at the next tick.
  So what is kept is reckoned as of the last look at all workers, or of the arrival of the request.)
- too many: more requests of its class were looked at than may be, all of a size that a worker with room could run; or
  more were scored, of any class.
  (Those who hold out for a dearer place are among them; the next tick looks again.)

What could start only because it shares pages with requests that run is looked at with the first of the queue, and may
be missed behind them.
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.paging.hashes import pages_needed
from actors.scheduling.placement import PEAK_MARGIN, prompts_are_held_back
from actors.scheduling.records import PEAK_HALF_LIFE_S, Request, Worker, WorkerStatus, fits
from actors.scheduling.state import SchedulerState

MOST_RENEWED = -16.0
"""Half-lives between two looks after which everything is taken to have been kept."""


def overlooked(state: SchedulerState) -> Iterator[tuple[Request, Worker]]:
    """All requests that wait beside a worker that could start them, against the rule."""
    rooms = [(worker, worker.ledger.free_pages) for worker in state.fleet if worker.has_slot]
    for request in state.queue if rooms else ():
        for worker, free_pages in rooms:
            fits_now = request.own_pages <= free_pages and _has_room(request, worker)
            if fits_now and not _excused(state, request, worker):
                yield request, worker


def _has_room(request: Request, worker: Worker) -> bool:
    pages = pages_needed(request.tokens + worker.limits.reserve_tokens)
    return fits(request.admission, worker.limits) and pages <= worker.ledger.free_pages


def _excused(state: SchedulerState, request: Request, worker: Worker) -> bool:
    return (
        _is_kept(state, request, worker)
        or _is_avoided(state, request, worker)
        or _is_dearer(state, request, worker)
        or (not request.foreground and _is_for_others(state, request, worker))
        or worker.index in state.matchmaker.unseen[request.admission.priority]
    )


def _is_kept(state: SchedulerState, request: Request, worker: Worker) -> bool:
    if state.matchmaker.reserved.get(worker.index, request) is not request:
        return True
    kept = state.fleet.by_index[request.reserves] if request.reserves >= 0 else None
    return kept is not None and kept is not worker and kept.status is WorkerStatus.UP


def _is_avoided(state: SchedulerState, request: Request, worker: Worker) -> bool:
    avoided = request.admission.excluded_workers
    others = (w for w in state.fleet if w.worker_id not in avoided and w.status is WorkerStatus.UP)
    return worker.worker_id in avoided and any(fits(request.admission, other.limits) for other in others)


def _is_dearer(state: SchedulerState, request: Request, worker: Worker) -> bool:
    if not state.matchmaker.holds:
        return False
    better = state.fleet.by_index[request.wants] if request.wants >= 0 else None
    if better is not None and better is not worker and better.status is WorkerStatus.UP:
        return True
    return request.foreground and prompts_are_held_back(worker)


def _is_for_others(state: SchedulerState, request: Request, worker: Worker) -> bool:
    if not worker.attempts or request.reserves == worker.index:
        return False
    # The memory of the peak may have been renewed since, with what had faded until then: it is reckoned back.
    age_s = max(state.matchmaker.looked_s, request.arrived_s) - worker.peak_at_s
    fade = PEAK_MARGIN * 0.5 ** max(age_s / PEAK_HALF_LIFE_S, MOST_RENEWED)
    kept_pages = max(int(worker.peak_pages * fade) - worker.foreground_pages, 0)
    kept_slots = max(int(worker.peak_slots * fade) - worker.foreground_slots, 0)
    free_slots = worker.most_attempts - len(worker.attempts)
    pages = pages_needed(request.tokens + worker.limits.reserve_tokens)
    if pages > worker.ledger.free_pages - kept_pages or free_slots - kept_slots < 1:
        return True
    return worker.background_prefills > 0 and worker.peak_slots * fade >= 1.0
