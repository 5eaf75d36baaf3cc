"""What workers report: what is learned from it, and what is made of reports that are lost, late, doubled or wrong."""

from __future__ import annotations

from actors.messages import AttemptFinished, StepReport
from actors.scheduling.actions import Action
from actors.scheduling.events import Reported
from actors.scheduling.health import ask_resync, trust
from actors.scheduling.records import Request, RequestState, Worker
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import end, revoke, room_appeared

TRIAL_S = 5.0
"""A worker on trial has passed when an attempt has gone on there for so long since its first token, if none has ended
before with something generated."""


def on_reported(state: SchedulerState, event: Reported) -> list[Action]:
    report = event.report
    worker = state.fleet.by_id.get(report.worker_id)
    if worker is None:
        state.ignore("report of an unknown worker")
        return []
    if report.sequence <= worker.sequence:  # no sign of life: it may have been sent before the silence
        state.ignore("report came twice or late")
        return []
    trust(worker, state.now_s)
    actions = _take_in(state, worker, report)
    if worker.on_trial and any(_goes_well(request, state.now_s) for request in worker.attempts.values()):
        worker.on_trial = False
    room_appeared(state, worker)
    return actions


def _take_in(state: SchedulerState, worker: Worker, report: StepReport) -> list[Action]:
    actions: list[Action] = []
    gap = report.sequence != worker.sequence + 1
    worker.sequence = report.sequence
    if report.full:
        worker.ledger.replace_resident(report.pages_added)
        worker.resync_asked_s = None
    else:
        worker.ledger.add_resident(report.pages_added)
        worker.ledger.remove_resident(report.pages_evicted)
        if gap:
            state.ignore("a report was lost")
        if gap and worker.resync_asked_s is None:
            actions.append(ask_resync(state, worker))
    worker.model.observe(report.steps)
    worker.progress_prefill(sum(step.prefill_tokens for step in report.steps))
    _take_in_attempts(state, worker, report)
    if report.full and report.running is not None:
        actions += _reconcile(state, worker, frozenset(report.running))
    return actions


def _take_in_attempts(state: SchedulerState, worker: Worker, report: StepReport) -> None:
    for started in report.started:
        request = _booked(state, worker, started.request_id, started.attempt)
        if request is not None:
            request.state = RequestState.RUNNING
            worker.cached(request, started.cached_tokens)
    for request_id, attempt in report.first_tokens:
        request = _booked(state, worker, request_id, attempt)
        if request is not None:
            request.state = RequestState.RUNNING
            request.first_token_s = state.now_s
            worker.prefilled(request)
    for done in report.finished:
        request = _booked(state, worker, done.request_id, done.attempt)
        if request is not None:
            _finish(state, worker, request, done)


def _booked(state: SchedulerState, worker: Worker, request_id: str, attempt: int) -> Request | None:
    """The request that is booked on this worker at this attempt.

    None for what was cancelled, revoked or taken up anew in the meantime: the worker's last words of an older attempt
    must change nothing about the current one, be it here or elsewhere.
    """
    request = worker.attempts.get(request_id)
    if request is None or request.admission.attempt != attempt:
        state.ignore("report of an attempt that is not booked")
        return None
    return request


def _goes_well(request: Request, now_s: float) -> bool:
    return request.first_token_s is not None and now_s - request.first_token_s >= TRIAL_S


def _finish(state: SchedulerState, worker: Worker, request: Request, done: AttemptFinished) -> None:
    tokens = min(max(done.completion_tokens, 0), request.admission.max_new_tokens)
    if tokens:
        worker.on_trial = False
    state.counts["finished"] += 1
    if tokens:
        state.lengths.observe(request.admission.tenant, tokens, request.admission.max_new_tokens)
    end(state, request, "attempt {} finished after {} tokens", done.attempt, tokens, output_tokens=tokens)


def _reconcile(state: SchedulerState, worker: Worker, held: frozenset[tuple[str, int]]) -> list[Action]:
    """Compare the books with everything that the worker holds. An attempt that is booked there is

    - held: so its start is confirmed, if it was not before;
    - not held, though it was confirmed: its end was in a report that is lost. Its front has most likely had that end
      from the worker, and then ignores what it is told here;
    - not held and never confirmed: it may be on its way from its front. Its lease looks after it.
    """
    actions: list[Action] = []
    for request in list(worker.attempts.values()):
        if (request.request_id, request.admission.attempt) in held:
            request.state = RequestState.RUNNING
        elif request.state is RequestState.RUNNING:
            actions += revoke(state, request, "its end on {} was in a lost report", worker.worker_id)
    return actions
