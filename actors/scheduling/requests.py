"""What fronts do: ask for a place, ask again, give up, go. Each function takes in one event; see `state.py`."""

from __future__ import annotations

import math

from actors.messages import Admission, RefusalReason
from actors.scheduling import intake
from actors.scheduling.actions import Action
from actors.scheduling.config import weight_fault
from actors.scheduling.events import Cancelled, FrontGone, Settling, Submitted, TenantsWeighed
from actors.scheduling.health import suspect
from actors.scheduling.records import Request, RequestState, WorkerStatus
from actors.scheduling.refusals import refuse, refuse_at_the_door, refuse_duplicate, wait_bound_s
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import end, enter, grant, revoke


def on_settling(state: SchedulerState, event: Settling) -> list[Action]:
    state.settled_at_s = state.now_s + event.duration_s
    return []


def on_submitted(state: SchedulerState, event: Submitted) -> list[Action]:
    admission, front_id = event.admission, event.front_id
    state.counts["submitted"] += 1
    known = state.requests.get(admission.request_id)
    if known is not None and admission.attempt <= known.admission.attempt:
        return _asked_again(state, known, admission, front_id)
    fault = intake.fault(admission)
    if fault is not None:
        return [refuse(state, admission.request_id, front_id, RefusalReason.INVALID, fault)]
    actions = [] if known is None else _supersede(state, known, admission, front_id)
    actions += _doubt(state, admission)
    refusal = refuse_at_the_door(state, admission, front_id)
    if refusal is None:
        _enqueue(state, admission, front_id)
    else:
        actions.append(refusal)
    return actions


def _doubt(state: SchedulerState, admission: Admission) -> list[Action]:
    """A request that comes again excludes the workers on which its attempts were lost. Its front may have seen such a
    worker die before anybody else did, and where no other is left the request would be sent there again at once. So
    nothing is placed there until the worker reports, which one that is well does within a step."""
    actions: list[Action] = []
    if admission.attempt == 1:
        return actions
    for worker_id in sorted(admission.excluded_workers):  # a set has no order, and a replay would act in another one
        worker = state.fleet.by_id.get(worker_id)
        if worker is not None and worker.status is WorkerStatus.UP:
            actions += suspect(state, worker)
    return actions


def _asked_again(state: SchedulerState, known: Request, admission: Admission, front_id: str) -> list[Action]:
    """A submission of an attempt that is known, or of an earlier one. The cases, in order:

    - Nobody owns the attempt, since its worker ran it before this scheduler knew of it: whoever asks for it owns it.
    - Another front's request has this id: the one who asks is refused, or it would wait for ever. The other goes on.
    - The front has gone on to a later attempt: this message was overtaken by that one, and nobody waits for its answer.
    - The same attempt with other contents: two requests of one front under one id. The second is refused.
    - The same again, in the queue: it stays where it is, and the answer comes in time.
    - The same again, with a place: the front did not hear of it, so it is told again. The grant is the same.
    """
    same_attempt = admission.attempt == known.admission.attempt
    if known.worker is not None and same_attempt and not known.front_id and front_id:
        known.front_id = front_id
        state.note(known, "attempt {} belongs to front {}", admission.attempt, front_id)
        return [grant(known, known.worker)]
    if known.front_id != front_id:
        return [refuse_duplicate(state, known, admission, front_id)]
    if not same_attempt:
        state.ignore("submission of an old attempt")
        return []
    if admission != known.admission:
        return [refuse_duplicate(state, known, admission, front_id)]
    if known.worker is None:
        state.ignore("submitted again unchanged")
        return []
    return [grant(known, known.worker)]


def _supersede(state: SchedulerState, known: Request, admission: Admission, front_id: str) -> list[Action]:
    """A later attempt takes the place of the known one, from whichever front it comes."""
    why, attempts = "attempt {} is over, attempt {} follows", (known.admission.attempt, admission.attempt)
    if known.front_id == front_id:  # the front knows: it has given the earlier attempt up itself
        end(state, known, why, *attempts)
        return []
    return revoke(state, known, why, *attempts)


def _enqueue(state: SchedulerState, admission: Admission, front_id: str) -> None:
    timeout_s = math.inf if admission.timeout_s is None else admission.timeout_s
    expected = state.lengths.expected(admission.tenant, admission.max_new_tokens)
    arrived_s = state.now_s - admission.waited_s
    request = Request(
        admission=admission,
        arrived_s=arrived_s,
        deadline_s=arrived_s + min(wait_bound_s(state, admission), timeout_s),
        expected_tokens=expected,
        work=0.0,
        asked_s=state.now_s - admission.age_s,
        front_id=front_id,
        overtakers=state.foreground_starts,
    )
    request.work = state.waits.work(admission.prompt_tokens, expected, request.own_pages, state.now_s)
    enter(state, request)
    state.note(request, "attempt {} queued as {}", admission.attempt, admission.priority.value)
    if admission.waited_s:
        state.note(request, "it had waited {:.3f} s already, with a dispatcher that was lost", admission.waited_s)


def on_cancelled(state: SchedulerState, event: Cancelled) -> list[Action]:
    request = state.requests.get(event.request_id)
    # Two fences. A cancellation may be overtaken by the next attempt of its own request, which it must not end; and it
    # may carry an id under which another front has a request.
    if request is None:
        state.ignore("cancellation of an unknown request")
    elif request.front_id not in ("", event.front_id):
        state.ignore("cancellation by another front")
    elif request.admission.attempt > event.attempt:
        state.ignore("cancellation of an old attempt")
    else:
        state.counts["cancelled"] += 1
        end(state, request, "cancelled while {}", request.state.value)
    return []


def on_front_gone(state: SchedulerState, event: FrontGone) -> list[Action]:
    if not event.front_id:  # attempts without an owner are no front's
        state.ignore("a front without a name is gone")
        return []
    # What runs is not touched: a front that was only cut off from here still reads it, and one that is really gone is
    # gone for the worker too, which cancels it and reports the end. Grants are given back: nobody may act on them.
    waiting = (RequestState.QUEUED, RequestState.GRANTED)
    for request in [r for r in state.requests.values() if r.front_id == event.front_id and r.state in waiting]:
        state.counts["cancelled"] += 1
        end(state, request, "its front was gone while it was {}", request.state.value)
    return []


def on_tenants_weighed(state: SchedulerState, event: TenantsWeighed) -> list[Action]:
    if any(weight_fault(weight) for weight in event.weights.values()):
        state.ignore("weights out of bounds")
    else:
        state.queue.weigh(event.weights)
    return []
