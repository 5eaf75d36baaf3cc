"""A scheduler's state as frozen statistics."""

from __future__ import annotations

from actors.scheduling.records import Worker
from actors.scheduling.state import SchedulerState
from actors.scheduling.statistics import SchedulerStatistics, TenantStatistics, WorkerStatistics


def summarize(state: SchedulerState, now_s: float) -> SchedulerStatistics:
    """Everything at once. Costs time in proportion to requests and workers: for people and metrics, not per event."""
    queue, counts = state.queue, state.counts
    oldest_s = min((request.arrived_s for request in queue), default=now_s)
    return SchedulerStatistics(
        policy=state.config.policy,
        now_s=now_s,
        queued_requests=queue.counts(),
        running_requests=len(state.requests) - len(queue),
        oldest_wait_s=now_s - oldest_s,
        estimated_wait_s=state.waits.wait_s(queue.work, None) if queue else 0.0,
        submitted=counts["submitted"],
        started=counts["started"],
        finished=counts["finished"],
        cancelled=counts["cancelled"],
        refused=dict(state.refused),
        ignored=dict(state.ignored),
        prompt_tokens=counts["prompt_tokens"],
        prefix_hit_tokens=counts["prefix_hit_tokens"],
        est_wait_error=state.waits.statistics(),
        workers=tuple(_worker(worker) for worker in state.fleet),
        tenants=tuple(
            TenantStatistics(tenant=name, priority=priority, queued_requests=waiting, virtual_tokens=counter)
            for priority, name, waiting, counter in queue.tenants()
        ),
        expected_slots=tuple(state.expected),
    )


def _worker(worker: Worker) -> WorkerStatistics:
    times = worker.model.times
    return WorkerStatistics(
        worker_id=worker.worker_id,
        slot_name=worker.slot_name,
        state=worker.condition,
        attempts=len(worker.attempts),
        max_batch_size=worker.limits.max_batch_size,
        total_pages=worker.ledger.total_pages,
        free_pages=worker.ledger.free_pages,
        resident_pages=len(worker.ledger.resident),
        pending_prefill_tokens=worker.pending_prefill_tokens,
        step_base_s=times.base_s,
        step_per_job_s=times.per_job_s,
        prefill_s_per_token=times.prefill_s,
    )
