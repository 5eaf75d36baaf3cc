"""What a scheduler says of itself: frozen snapshots, for people, tests and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.messages import RefusalReason
from actors.results import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """One worker. `state` is "up", "trial", "suspect" or "draining"; `attempts` counts those granted or running there.

    Pages: `total_pages` = `free_pages` (no reference; some of them still resident) + those in use.
    `step_s(b) = step_base_s + b * step_per_job_s`, and a prompt token costs `prefill_s_per_token`, as learned.
    """

    worker_id: str
    slot_name: str
    state: str
    attempts: int
    max_batch_size: int
    total_pages: int
    free_pages: int
    resident_pages: int
    pending_prefill_tokens: int
    step_base_s: float
    step_per_job_s: float
    prefill_s_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStatistics:
    """One tenant in one class. `virtual_tokens` is its fair-queue counter: uncached input + 2 x output, by weight."""

    tenant: str
    priority: Priority
    queued_requests: int
    virtual_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitErrorStatistics:
    """Estimated against real waits in the queue, over recently started requests that had to wait: error = real -
    estimated. Requests of class batch that others overtook are left out: nobody could foresee those."""

    count: int = 0
    mean_s: float = 0.0
    mean_absolute_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStatistics:
    """The whole state in numbers. Counters run since the scheduler was made."""

    policy: str
    now_s: float
    queued_requests: Mapping[Priority, int]
    running_requests: int
    oldest_wait_s: float
    estimated_wait_s: float
    """What a request of class default and of usual size would wait if it came now."""
    submitted: int
    started: int
    finished: int
    cancelled: int
    refused: Mapping[RefusalReason, int]
    ignored: Mapping[str, int]
    """Events that made no sense, by reason."""
    prompt_tokens: int
    prefix_hit_tokens: int
    """Of `prompt_tokens` of started attempts, those that were resident by the books when they were placed."""
    est_wait_error: WaitErrorStatistics
    workers: tuple[WorkerStatistics, ...]
    tenants: tuple[TenantStatistics, ...]
    expected_slots: tuple[str, ...]
