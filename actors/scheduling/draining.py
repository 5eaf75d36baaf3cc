"""How a worker is emptied: nothing more is placed there, and what it runs ends there or, after a grace, goes on
elsewhere. See `state.py`."""

from __future__ import annotations

import math

from actors.scheduling.actions import Action, StopWorker
from actors.scheduling.events import WorkerDraining, WorkerKept
from actors.scheduling.health import suspect
from actors.scheduling.records import Request, WorkerStatus, fits
from actors.scheduling.refusals import refuse_the_hopeless
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import move


def on_draining(state: SchedulerState, event: WorkerDraining) -> list[Action]:
    worker = state.fleet.by_id.get(event.worker_id)
    if worker is None:
        state.ignore("draining of an unknown worker")
        return []
    worker.moves_at_s = math.inf if event.grace_s is None else state.now_s + event.grace_s
    if worker.status is WorkerStatus.DRAINING:
        return []
    state.fleet.drain(worker)
    state.matchmaker.worker_gone(worker.index)
    state.touch_all()
    return refuse_the_hopeless(state)


def on_kept(state: SchedulerState, event: WorkerKept) -> list[Action]:
    worker = state.fleet.by_id.get(event.worker_id)
    if worker is None or worker.status is not WorkerStatus.DRAINING or worker.stop_asked:
        state.ignore("a worker is kept that is not being emptied, or is stopped already")
        return []
    state.fleet.keep(worker)
    state.touch_all()
    # It may have fallen silent meanwhile, which changes nothing for a worker on which nothing is placed.
    return [] if worker.probed_s is None else suspect(state, worker)


def empty_the_draining(state: SchedulerState) -> list[Action]:
    """Move what has had its grace; workers that have nothing left are to be stopped, once each."""
    actions: list[Action] = []
    for worker in state.fleet.draining:
        if worker.attempts and worker.moves_at_s <= state.now_s:
            for request in [r for r in worker.attempts.values() if _could_run_elsewhere(state, r)]:
                actions += move(state, request, worker)
        if not worker.attempts and not worker.stop_asked:
            worker.stop_asked = True
            actions.append(StopWorker(worker.worker_id))
    return actions


def _could_run_elsewhere(state: SchedulerState, request: Request) -> bool:
    """Whether there is, or will be, another worker for it; if not, it is better off where it runs."""
    admission = request.admission
    if any(limits is None or fits(admission, limits) for limits in state.expected.values()):
        return True
    return any(other.status is not WorkerStatus.DRAINING and fits(admission, other.limits) for other in state.fleet)
