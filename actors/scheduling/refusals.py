"""How the scheduler says no: at arrival, after a wait, when nobody is left."""

from __future__ import annotations

from actors.messages import Admission, Refusal, RefusalReason
from actors.results import Priority
from actors.scheduling import intake
from actors.scheduling.actions import Action, Refuse
from actors.scheduling.records import Request, WorkerStatus, fits
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import end

RESTART_RETRY_S = 3.0
"""When to try again where no worker is up and one is to come: what a small model takes to be loaded."""
_NO_WORKER = "No worker is up and none is expected to come."


def refuse(
    state: SchedulerState,
    request_id: str,
    front_id: str,
    reason: RefusalReason,
    message: str,
    retry_after_s: float | None = None,
) -> Refuse:
    """Tell a front no. The request must not be known any more, or belong to another submission."""
    state.refused[reason] += 1
    state.journal.note(request_id, state.now_s, "refused ({}): {}", reason.value, message)
    return Refuse(Refusal(request_id, reason, message, retry_after_s), front_id)


def wait_bound_s(state: SchedulerState, admission: Admission) -> float:
    """The longest that a request of this class may wait, its own time limit aside."""
    config = state.config
    return config.max_batch_wait_s if admission.priority is Priority.BATCH else config.max_wait_s


def _retry_after_s(state: SchedulerState) -> float:
    """Until half of the queue, or of the longest wait, will be free."""
    wait_s = state.waits.wait_s(state.queue.work, None)
    return state.waits.retry_after_s(wait_s, min(wait_s, state.config.max_wait_s))


def refuse_at_the_door(state: SchedulerState, admission: Admission, front_id: str) -> Refuse | None:
    """Refuse what is well formed and may not wait all the same; None if it may.

    A request that ran before (attempt 2 and later), or waited before with a dispatcher that was lost, is not subject to
    the bound of the queue: it was let in once, and its front may have shown a part of it already.
    """
    name, limits = admission.request_id, state.known_limits()
    if not state.hopeful():
        return refuse(state, name, front_id, RefusalReason.NO_WORKER, _NO_WORKER)
    if limits and not any(fits(admission, limit) for limit in limits):
        text = intake.size_message(admission, limits)
        return refuse(state, name, front_id, RefusalReason.OVERSIZED, text)
    if len(state.queue) >= state.config.max_queued_requests and not intake.was_let_in(admission):
        text = f"{len(state.queue)} requests wait already, which is the bound."
        return refuse(state, name, front_id, RefusalReason.QUEUE_FULL, text, _retry_after_s(state))
    return None


def refuse_duplicate(state: SchedulerState, known: Request, admission: Admission, front_id: str) -> Refuse:
    """Refuse a submission under the name of a request that is known, and goes on as if nothing had been said."""
    attempt = known.admission.attempt
    text = f"Request {admission.request_id!r}, attempt {attempt}, is {known.state.value} already."
    return refuse(state, admission.request_id, front_id, RefusalReason.DUPLICATE, text)


def press_back(state: SchedulerState, request: Request) -> list[Action]:
    """Refuse a request that has just arrived, and has to wait, if it would wait too long."""
    if request.admission.waited_s:  # how long it has to wait in all was foreseen by somebody else, if at all
        return []
    waits = state.waits
    place_wait_s = request.place_wait_s if request.wants >= 0 else None
    if place_wait_s is not None:
        waits.looked(place_wait_s)
    work_ahead = request.work_ahead * _share_that_competes(state, request)
    request.estimated_wait_s, request.wait_scale = waits.wait_s(work_ahead, place_wait_s), waits.scale
    bound_s = request.deadline_s - request.arrived_s
    if request.estimated_wait_s <= bound_s or request.admission.attempt > 1:
        return []
    text = (
        f"It would wait about {request.estimated_wait_s:.1f} s for a worker, with "
        f"{len(state.queue) - 1} other requests waiting; {bound_s:.1f} s are the most it may."
    )
    retry_after_s = waits.retry_after_s(request.estimated_wait_s, bound_s)
    end(state, request, "not admitted")
    return [refuse(state, request.request_id, request.front_id, RefusalReason.WAIT_TOO_LONG, text, retry_after_s)]


def _share_that_competes(state: SchedulerState, request: Request) -> float:
    """Of the work ahead, what a request of this size has to wait for, in a pool of unequal workers.

    Workers of up to some size serve only what fits them: so a small request waits no longer than the small requests
    keep the small workers busy, however many large ones wait for a large worker. The best such size counts.
    """
    sizes, priority = state.fleet.sizes_tokens(), request.admission.priority
    if not sizes or state.queue.most_tokens(priority) <= min(sizes):
        return 1.0
    workers, total, best = 0, sum(sizes.values()), 1.0
    for size_tokens in sorted(size for size in sizes if size >= request.tokens):
        workers += sizes[size_tokens]
        best = min(best, state.queue.share_up_to(priority, size_tokens) * total / workers)
    return best


def refuse_expired(state: SchedulerState) -> list[Action]:
    """Refuse whoever has waited for as long as it may."""
    return [_refuse_expired(state, request) for request in state.queue.expired(state.now_s)]


def _refuse_expired(state: SchedulerState, request: Request) -> Refuse:
    waited_s = state.now_s - request.arrived_s
    timeout_s = request.admission.timeout_s
    end(state, request, "waited {:.1f} s, which is its limit", waited_s)
    if not any(worker.status is WorkerStatus.UP for worker in state.fleet):
        text = f"It waited {waited_s:.1f} s, and no worker is up: they are being loaded or restarted."
        return refuse(state, request.request_id, request.front_id, RefusalReason.NO_WORKER, text, RESTART_RETRY_S)
    if timeout_s is not None and timeout_s <= wait_bound_s(state, request.admission):
        text = f"It waited {waited_s:.1f} s for a worker; its own time limit was {timeout_s:.1f} s."
        return refuse(state, request.request_id, request.front_id, RefusalReason.DEADLINE, text)
    text = f"It waited {waited_s:.1f} s for a worker, the longest that a request may."
    retry_after_s = _retry_after_s(state)
    return refuse(state, request.request_id, request.front_id, RefusalReason.WAIT_TOO_LONG, text, retry_after_s)


def refuse_oversized(state: SchedulerState) -> list[Action]:
    """Workers came or went: refuse whoever waits and fits none of those that there are or will be again."""
    limits = state.known_limits()
    if not limits or state.checked_limits == set(limits):
        state.checked_limits = frozenset(limits)
        return []
    state.checked_limits = frozenset(limits)
    actions: list[Action] = []
    for request in list(state.queue):
        if not any(fits(request.admission, limit) for limit in limits):
            end(state, request, "fits no worker")
            text = intake.size_message(request.admission, limits)
            actions.append(refuse(state, request.request_id, request.front_id, RefusalReason.OVERSIZED, text))
    return actions


def refuse_the_hopeless(state: SchedulerState) -> list[Action]:
    """A worker is gone for good, or is being emptied: refuse whoever waits for what will not come any more."""
    if state.hopeful():
        return refuse_oversized(state)
    actions: list[Action] = []
    for request in list(state.queue):
        end(state, request, "no worker is left")
        actions.append(refuse(state, request.request_id, request.front_id, RefusalReason.NO_WORKER, _NO_WORKER))
    return actions
