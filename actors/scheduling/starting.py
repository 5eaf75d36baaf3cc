"""What follows every event: requests that wait start where there is room."""

from __future__ import annotations

import math

from actors.paging.hashes import PAGE_TOKENS
from actors.scheduling.actions import Action, Start
from actors.scheduling.records import Request, RequestState, Worker
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import book, grant, leave_queue


def start_matches(state: SchedulerState) -> list[Action]:
    """Start whatever the matchmaker finds a place for."""
    actions: list[Action] = []
    if not state.queue or not len(state.fleet) or state.settling:
        return actions
    backlog_s = state.waits.drain_s(state.queue.work)
    for request, worker in state.matchmaker.matches(state.now_s, state.touched, backlog_s, state.arrived):
        actions.append(_start(state, request, worker))
    return actions


def _start(state: SchedulerState, request: Request, worker: Worker) -> Start:
    admission = request.admission
    waited_s = state.now_s - request.arrived_s
    overtaken = request.overtakers != state.foreground_starts and not request.foreground
    if not overtaken and not math.isnan(request.estimated_wait_s):
        state.waits.started(request.estimated_wait_s, waited_s, request.wait_scale)
    state.foreground_starts += request.foreground
    pages = state.fleet.known.leading(admission.page_hashes, 1 << worker.index)
    miss_tokens = admission.prompt_tokens - pages * PAGE_TOKENS
    leave_queue(state, request)
    state.queue.charge_start(request, miss_tokens)
    state.waits.prefilled(admission.prompt_tokens, miss_tokens)
    state.counts["started"] += 1
    state.counts["prompt_tokens"] += admission.prompt_tokens
    state.counts["prefix_hit_tokens"] += pages * PAGE_TOKENS
    book(state, request, worker, RequestState.GRANTED, pages * PAGE_TOKENS)
    state.note(
        request,
        "attempt {} granted on {} after {:.3f} s: {} of {} prompt pages are there, {} others run, {} pages left, "
        "score {:.4g} by {}",
        admission.attempt,
        worker.worker_id,
        waited_s,
        pages,
        len(admission.page_hashes),
        len(worker.attempts) - 1,
        worker.ledger.free_pages,
        request.place_score,
        state.config.policy,
    )
    return grant(request, worker)
