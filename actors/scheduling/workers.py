"""What becomes of workers: they are expected, come up, go. Each function takes in one event; see
`state.py`."""

from __future__ import annotations

import math

from actors.messages import RunningAttempt
from actors.scheduling import intake
from actors.scheduling.actions import Action
from actors.scheduling.events import WorkerDown, WorkerExpected, WorkerLost, WorkerUp
from actors.scheduling.records import Request, RequestState, Worker, WorkerStatus, fits
from actors.scheduling.refusals import refuse_oversized, refuse_the_hopeless
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import book, end, grant, revoke


def on_expected(state: SchedulerState, event: WorkerExpected) -> list[Action]:
    if event.slot_name in state.fleet.by_slot:
        state.ignore("worker expected in a slot that has one")
    else:
        state.expected[event.slot_name] = event.limits or state.expected.get(event.slot_name)
    return []


def on_up(state: SchedulerState, event: WorkerUp) -> list[Action]:
    fault = intake.limits_fault(event.limits)
    if event.worker_id in state.fleet.by_id:
        fault = "worker that is up already came up"
    if fault is not None:
        state.ignore(fault)
        return []
    old = state.fleet.by_slot.get(event.slot_name)
    actions = [] if old is None else _remove(state, old, f"{event.worker_id} has taken its place")
    state.expected.pop(event.slot_name, None)
    worker = state.fleet.add(event.worker_id, event.slot_name, event.limits, event.sequence, on_trial=event.trial)
    state.queue.tell_apart(event.limits)
    worker.quiet_since_s = state.now_s
    worker.ledger.add_resident(event.resident_pages)
    for running in event.running:
        actions += _adopt(state, worker, running)
    state.touch_all()
    return actions + refuse_oversized(state)


def _adopt(state: SchedulerState, worker: Worker, running: RunningAttempt) -> list[Action]:
    """Enter an attempt that the worker ran before this scheduler knew of it. It has no owner until a front asks for it,
    before or after."""
    admission = running.admission
    known = state.requests.get(admission.request_id)
    request = Request(admission, state.now_s, math.inf, 1.0, 0.0)
    fault = _adoption_fault(worker, request, known)
    if fault is not None:
        state.ignore(fault)
        return []
    actions: list[Action] = []
    if known is not None and known.admission.attempt == admission.attempt:
        request.front_id = known.front_id
        end(state, known, "runs already")
    elif known is not None:
        actions = revoke(state, known, "attempt {} of it runs on {}", admission.attempt, worker.worker_id)
    request.expected_tokens = state.lengths.expected(admission.tenant, admission.max_new_tokens)
    state.requests[request.request_id] = request
    book(state, request, worker, RequestState.RUNNING, running.cached_tokens)
    worker.prefilled(request)  # most likely: prefill is a small part of a life
    request.first_token_s = state.now_s
    state.fleet.changed(worker)
    state.note(request, "attempt {} runs on {}", admission.attempt, worker.worker_id)
    if request.front_id:
        actions.append(grant(request, worker))
    return actions


def _adoption_fault(worker: Worker, request: Request, known: Request | None) -> str | None:
    """Why a worker cannot be running this request, or None."""
    admission = request.admission
    fault = intake.fault(admission)
    if known is not None and known.admission.attempt > admission.attempt:
        fault = "worker runs an old attempt"
    elif known is not None and known.worker is not None:
        fault = "worker runs an attempt that is booked elsewhere"
    if fault is None and not (fits(admission, worker.limits) and worker.could_hold(request)):
        fault = "worker runs more than it can"
    return fault


def on_down(state: SchedulerState, event: WorkerDown) -> list[Action]:
    worker = state.fleet.by_id.get(event.worker_id)
    if worker is None:
        state.ignore("unknown worker went down")
        return []
    if worker.status is not WorkerStatus.DRAINING:
        state.expected[worker.slot_name] = worker.limits
    return _remove(state, worker, event.reason)


def on_lost(state: SchedulerState, event: WorkerLost) -> list[Action]:
    worker = state.fleet.by_slot.get(event.slot_name)
    actions: list[Action] = []
    if worker is not None:
        actions = _remove(state, worker, event.reason)
    elif event.slot_name not in state.expected:
        state.ignore("unknown slot was lost")
    state.expected.pop(event.slot_name, None)
    return actions + refuse_the_hopeless(state)


def _remove(state: SchedulerState, worker: Worker, reason: str) -> list[Action]:
    """Forget a worker. Fronts hear of its death from their own links too, but not where a link has not noticed, nor
    when they have a grant and have not submitted yet."""
    actions: list[Action] = []
    for request in list(worker.attempts.values()):
        actions += revoke(state, request, "worker {} is down: {}", worker.worker_id, reason)
    # Only now, when nothing refers to it any more: its column of the fleet's numbers is the next worker's.
    state.matchmaker.worker_gone(worker.index)
    state.fleet.remove(worker)
    state.touch_all()
    return actions
