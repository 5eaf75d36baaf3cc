"""The only places where a request changes its state: it is queued, booked, ended; see `records.RequestState`.

queued --book--> granted --(a report names it)--> running
   \\________________\\_______________________________\\____ end, revoke, move: forgotten
"""

from __future__ import annotations

from actors.messages import Grant, Revocation
from actors.scheduling.actions import Action, Revoke, Start
from actors.scheduling.records import Request, RequestState, Worker
from actors.scheduling.state import SchedulerState


def enter(state: SchedulerState, request: Request) -> None:
    """Put a request that has just arrived into the queue."""
    request.work_ahead = state.queue.work_ahead(request)
    state.requests[request.request_id] = state.arrived = request
    state.queue.push(request)


def book(state: SchedulerState, request: Request, worker: Worker, status: RequestState, cached_tokens: int) -> None:
    """Enter a request that is not in the queue (any more) into a worker's books, as GRANTED or RUNNING."""
    worker.book(request, state.now_s, cached_tokens)
    request.state = status
    state.fleet.changed(worker)


def end(state: SchedulerState, request: Request, why: str, *values: object, output_tokens: float | None = None) -> None:
    """Forget a request, in whatever state it is, and give back all that it holds.

    Its tenant is charged for `output_tokens`; None: nobody knows, so for what it is likely to have had.
    """
    del state.requests[request.request_id]
    worker = request.worker
    if worker is None:
        leave_queue(state, request)
    else:
        # In this order: how much output it is likely to have had depends on the batch that it is still part of, and
        # the fleet's numbers are taken anew when its pages are back.
        if output_tokens is None:
            output_tokens = worker.likely_output_tokens(request, state.now_s)
        state.queue.settle(request, output_tokens)
        worker.release(request)
        room_appeared(state, worker)
    state.note(request, why, *values)


def revoke(state: SchedulerState, request: Request, why: str, *values: object) -> list[Action]:
    """End a request whose front did not ask for that: so the front is told, or it would wait for ever.

    An attempt without an owner (see `events.WorkerUp`) has nobody to tell.
    """
    end(state, request, why, *values)
    if not request.front_id:
        return []
    reason = why.format(*values)
    return [Revoke(Revocation(request.request_id, request.admission.attempt, reason), request.front_id)]


def move(state: SchedulerState, request: Request, worker: Worker) -> list[Action]:
    """Take a request's place on a worker that is well, so that it goes on elsewhere.

    Whose an attempt without an owner is (see `events.WorkerUp`), is for the fronts to know: all are told.
    """
    why = "worker {} is being emptied"
    end(state, request, why, worker.worker_id)
    reason = why.format(worker.worker_id)
    revocation = Revocation(request.request_id, request.admission.attempt, reason, moved=True)
    return [Revoke(revocation, request.front_id)]


def grant(request: Request, worker: Worker) -> Start:
    """What the front of a booked request is told; always the same for one attempt."""
    return Start(Grant(request.request_id, request.admission.attempt, worker.worker_id), request.front_id)


def leave_queue(state: SchedulerState, request: Request) -> None:
    """Take a request out of the queue; a worker that was kept for it is there for others again."""
    state.queue.remove(request)
    index = state.matchmaker.forget(request)
    if index is not None:
        state.touch(index)


def room_appeared(state: SchedulerState, worker: Worker) -> None:
    """A worker has more room than before, or another status."""
    state.fleet.changed(worker)
    state.touch(worker.index)
