"""Which workers are trusted: silence where work was placed, starts that nobody confirms, questions without an answer.

A worker is judged by what is booked there and not by what it said last: a hang in its first step after a pause has no
report before it that could tell of work.
"""

from __future__ import annotations

from actors.scheduling.actions import Action, Probe, Resync
from actors.scheduling.events import Tick, WorkerSuspected
from actors.scheduling.records import RequestState, Worker, WorkerStatus
from actors.scheduling.state import SchedulerState
from actors.scheduling.transitions import revoke

RESYNC_RETRY_S = 5.0
"""A resync that is not answered is asked for again after so long."""
PROBE_RETRY_S = 5.0
"""A worker that stays silent is probed again after so long, or after the stall timeout if that is shorter. The first
probe may come a moment before the step that hangs is old enough to be called so; a second one that came a whole
timeout later would double the time until somebody acts, and a probe is one small call."""


def on_tick(state: SchedulerState, event: Tick) -> list[Action]:
    actions = _suspect_the_silent(state)  # first: the starts of a worker that hangs are not the fronts' fault
    actions += _expire_leases(state)
    actions += _repeat_resyncs(state)
    state.fleet.age_releases()
    state.touch_all()
    return actions


def on_suspected(state: SchedulerState, event: WorkerSuspected) -> list[Action]:
    worker = state.fleet.by_id.get(event.worker_id)
    if worker is None:
        state.ignore("suspicion of an unknown worker")
        return []
    return suspect(state, worker)


def suspect(state: SchedulerState, worker: Worker) -> list[Action]:
    """Place nothing on this worker until its next report, which is asked for: it may be idle with its last one lost."""
    if worker.status is WorkerStatus.UP:
        worker.status = WorkerStatus.SUSPECT
        state.fleet.changed(worker)
        state.touch_all()  # who waits for it may go elsewhere
    worker.probed_s = state.now_s
    return [Probe(worker.worker_id), ask_resync(state, worker)]


def trust(worker: Worker, now_s: float) -> None:
    """The worker has been heard of, in order and just now."""
    worker.quiet_since_s = now_s
    worker.probed_s = None
    if worker.status is WorkerStatus.SUSPECT:
        worker.status = WorkerStatus.UP


def ask_resync(state: SchedulerState, worker: Worker) -> Resync:
    worker.resync_asked_s = state.now_s
    return Resync(worker.worker_id)


def _suspect_the_silent(state: SchedulerState) -> list[Action]:
    actions: list[Action] = []
    stall_timeout_s = state.config.stall_timeout_s
    retry_s = min(stall_timeout_s, PROBE_RETRY_S)
    for worker in state.fleet:
        if worker.probed_s is not None:
            if state.now_s - worker.probed_s >= retry_s:
                worker.probed_s = state.now_s
                actions.append(Probe(worker.worker_id))
        elif worker.attempts and state.now_s - worker.quiet_since_s >= stall_timeout_s:
            actions += suspect(state, worker)
    return actions


def _expire_leases(state: SchedulerState) -> list[Action]:
    """Take back grants that no report confirmed for too long: nobody acts on them, or nobody hears of it.

    Not while the worker owes the whole truth: it will name what it holds, and that confirms a start whose report was
    lost. A suspect always owes it. Afterwards such a worker is suspected itself, so that whoever asks again is not sent
    into the same hole at once.
    """
    actions: list[Action] = []
    latest_s = state.now_s - state.config.start_lease_s
    for worker in state.fleet:
        if worker.resync_asked_s is not None or not worker.prefilling:
            continue
        late = [r for r in worker.prefilling.values() if r.state is RequestState.GRANTED and r.granted_s <= latest_s]
        for request in late:
            actions += revoke(state, request, "its start on {} was never confirmed", worker.worker_id)
        if late:
            actions += suspect(state, worker)
    return actions


def _repeat_resyncs(state: SchedulerState) -> list[Action]:
    """Ask again where the answer does not come."""
    return [
        ask_resync(state, worker)
        for worker in state.fleet
        if worker.resync_asked_s is not None and state.now_s - worker.resync_asked_s >= RESYNC_RETRY_S
    ]
