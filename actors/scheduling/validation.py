"""The invariants of a state. Tests check them after every event."""

from __future__ import annotations

import math

from actors.scheduling import intake
from actors.scheduling.fleet import Column
from actors.scheduling.idleness import overlooked
from actors.scheduling.records import RequestState, Worker, WorkerStatus
from actors.scheduling.state import SchedulerState


def validate(state: SchedulerState) -> None:
    """Check everything. :raises AssertionError: the state contradicts itself."""
    queued = {request.request_id for request in state.queue}
    for request_id, request in state.requests.items():
        assert request.request_id == request_id, "a request is filed under another id"
        waits = request.state is RequestState.QUEUED
        assert waits == (request_id in queued), f"{request_id} is {request.state} and queued at once, or neither"
        assert waits == (request.worker is None), f"{request_id} waits and is booked at once, or neither"
        assert waits == (request.booking is None), f"{request_id} waits and holds pages, or runs without"
    assert queued <= state.requests.keys(), "the queue holds a request that is forgotten"
    booked = [request_id for worker in state.fleet for request_id in worker.attempts]
    assert len(booked) == len(set(booked)), "a request is booked on two workers"
    assert len(booked) + len(queued) == len(state.requests), "a request is booked, and forgotten"
    newcomers = sum(not intake.was_let_in(request.admission) for request in state.queue)
    assert newcomers <= state.config.max_queued_requests, "the queue is over its bound"
    for request in state.queue:
        assert not math.isinf(request.estimated_wait_s), "a request waits for ever"
    for worker in state.fleet:
        _validate_worker(state, worker)
    for index, request in state.matchmaker.reserved.items():
        assert request in state.queue, "a worker is kept for a request that does not wait"
        assert request.reserves == index, "a worker is kept for a request that does not know"
        assert state.fleet.by_index[index] is not None, "a worker that is gone is kept for a request"
    state.queue.validate()
    for request, free in () if state.settling else overlooked(state):
        raise AssertionError(f"{request} waits beside {free}, which could start it")


def _validate_worker(state: SchedulerState, worker: Worker) -> None:
    for request in worker.attempts.values():
        assert state.requests.get(request.request_id) is request, "a worker runs a forgotten request"
        assert request.worker is worker, "a request is booked on another worker than it believes"
    worker.ledger.validate([r.booking for r in worker.attempts.values() if r.booking is not None])
    assert 0 <= worker.ledger.free_pages <= worker.limits.total_pages, "more pages are booked than there are"
    assert len(worker.attempts) <= worker.limits.max_batch_size, "more attempts are booked than there are slots"
    suspect = worker.status is WorkerStatus.SUSPECT
    assert not suspect or worker.probed_s is not None, "a suspect is not asked whether it lives"
    assert not suspect or worker.resync_asked_s is not None, "a suspect is not asked for the whole truth"
    assert (worker.status is WorkerStatus.DRAINING) == (worker in state.fleet.draining), "who drains is not known"
    left = [request.prefill_left_tokens for request in worker.prefilling.values()]
    assert worker.pending_prefill_tokens == sum(left), "prefill that is due is not that of the attempts"
    assert worker.outstanding_tokens == sum(r.tokens for r in worker.attempts.values()), "outstanding tokens differ"
    foreground = [request for request in worker.attempts.values() if request.foreground]
    assert worker.foreground_slots == len(foreground), "foreground slots differ"
    assert worker.foreground_pages == sum(r.taken_pages for r in foreground), "foreground pages differ"
    background = [request for request in worker.prefilling.values() if not request.foreground]
    assert worker.background_prefills == len(background), "background prefills differ"
    column = state.fleet.state[:, worker.index]
    assert column[Column.FREE_PAGES] == worker.ledger.free_pages, "the fleet has old numbers of free pages"
    assert column[Column.BATCH] == len(worker.attempts), "the fleet has an old batch size"
