"""What came out of a simulation, in the field's usual terms (vLLM's definitions)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.paging.hashes import PAGE_TOKENS
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.workers import WorkerSpec


@dataclass(frozen=True, slots=True)
class Slo:
    """A request is good when it was served, its first token came within `ttft_s`, and it had at most `tpot_s` per
    further token."""

    ttft_s: float = 2.0
    tpot_s: float = 0.075

    def met(self, job: Job) -> bool:
        return job.done_s is not None and job.ttft_s <= self.ttft_s and job.tpot_s <= self.tpot_s


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds, over the requests that were served."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What one tenant or one class got."""

    requests: int
    goodput: float
    """Share of its own requests."""
    rejected: float
    service: float
    """Its share of all service: prompt tokens computed x 1 + output tokens x 2."""
    output_tokens_per_s: float
    ttft_s: Spread
    tpot_s: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run. Shares are of all requests, refused ones included; `goodput_per_s` is good requests per second of the
    run, which lasts until the last request is done."""

    requests: int
    goodput: float
    goodput_per_s: float
    rejected: float
    rejections: dict[str, int]
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    prefix_hit_rate: float
    """Share of the prompt tokens of served requests that did not have to be computed."""
    unlimited_hit_rate: float
    """The same of all requests, had there been one cache without bound for all workers."""
    tenants: dict[str, Group]
    classes: dict[str, Group]
    makespan_s: float
    bound_s: float
    """Of the makespan of those that were served, see `makespan_bound_s`."""
    attempts: float
    decision_us: Spread | None = None
    wait_error_s: Spread | None = None


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Mean and percentiles; zeros of nothing."""
    if not len(values):
        return Spread(0.0, 0.0, 0.0)
    p50, p99 = np.percentile(values, (50, 99))
    return Spread(float(np.mean(values)), float(p50), float(p99))


def unlimited_hits(jobs: Sequence[Job]) -> dict[str, int]:
    """Prompt tokens of each job that a cache without bound, shared by all workers, would hold when it arrives."""
    seen: set[bytes] = set()
    hits = {}
    for job in sorted(jobs, key=lambda job: job.arrival_s):
        fresh = (count for count, page in enumerate(job.pages) if page not in seen)
        hits[job.job_id] = PAGE_TOKENS * next(fresh, len(job.pages))
        seen.update(job.pages)
        seen.update(job.all_pages)
    return hits


def makespan_bound_s(jobs: Sequence[Job], workers: Sequence[WorkerSpec]) -> float:
    """No schedule of these jobs is done earlier: all work at the sum of the workers' top speeds, from the first arrival
    on, or any one job alone on the fastest worker, from its arrival on.

    A worker's top speed: every slot decodes, so a token costs `step(max_batch) / max_batch`; prefill adds its own time,
    for what an unlimited shared cache would not hold. Noise is even around 1. The pages are taken to suffice.
    """
    outputs = sum(job.output_tokens for job in jobs)
    hits = unlimited_hits(jobs)
    misses = sum(job.prompt_tokens for job in jobs) - sum(hits.values())
    speed = 0.0
    for w in workers:
        token_s = (w.base_s + w.per_job_s * w.max_batch_size) / w.max_batch_size
        speed += 1.0 / (outputs * token_s + misses / w.prefill_tokens_per_s)
    fastest = min(workers, key=lambda w: w.base_s + w.per_job_s)
    step_s = fastest.base_s + fastest.per_job_s
    alone_s = max(
        job.arrival_s
        + job.output_tokens * step_s
        + (job.prompt_tokens - hits[job.job_id]) / fastest.prefill_tokens_per_s
        for job in jobs
    )
    return max(min(job.arrival_s for job in jobs) + 1.0 / speed, alone_s)


def measure(
    jobs: Sequence[Job],
    slo: Slo,
    workers: Sequence[WorkerSpec],
    decision_s: Sequence[float] | None = None,
    waits: Sequence[tuple[float, float]] = (),
) -> Outcome:
    """Sum a run up."""
    served = [job for job in jobs if job.done_s is not None]
    good = sum(map(slo.met, jobs))
    makespan_s = max((job.done_s for job in served if job.done_s is not None), default=0.0)
    prompt_tokens = sum(job.prompt_tokens for job in jobs)
    return Outcome(
        requests=len(jobs),
        goodput=good / len(jobs),
        goodput_per_s=good / makespan_s if served else 0.0,
        rejected=1 - len(served) / len(jobs),
        rejections=dict(Counter(job.refused for job in jobs if job.refused is not None)),
        ttft_s=spread([job.ttft_s for job in served]),
        tpot_s=spread([job.tpot_s for job in served]),
        e2e_s=spread([job.e2e_s for job in served]),
        prefix_hit_rate=hit_rate(served),
        unlimited_hit_rate=sum(unlimited_hits(jobs).values()) / prompt_tokens,
        tenants=_groups(jobs, slo, makespan_s, lambda job: job.tenant),
        classes=_groups(jobs, slo, makespan_s, lambda job: job.priority.value),
        makespan_s=makespan_s,
        bound_s=makespan_bound_s(served, workers) if served else 0.0,
        attempts=sum(job.attempt for job in jobs) / len(jobs),
        decision_us=None if decision_s is None else spread(np.asarray(decision_s) * 1e6),
        wait_error_s=spread([abs(real - estimated) for estimated, real in waits]) if waits else None,
    )


def hit_rate(served: Sequence[Job]) -> float:
    """The share of prompt tokens that was not computed; what a replay computes again counts against it."""
    prompt_tokens = sum(job.prompt_tokens for job in served)
    return 1 - sum(job.computed_tokens for job in served) / prompt_tokens if prompt_tokens else 0.0


def _groups(jobs: Sequence[Job], slo: Slo, makespan_s: float, key: Callable[[Job], str]) -> dict[str, Group]:
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(key(job), []).append(job)
    total = sum(map(_service, jobs))
    return {name: _group(members[name], slo, makespan_s, total) for name in sorted(members)}


def _group(jobs: Sequence[Job], slo: Slo, makespan_s: float, total_service: int) -> Group:
    served = [job for job in jobs if job.done_s is not None]
    return Group(
        requests=len(jobs),
        goodput=sum(map(slo.met, jobs)) / len(jobs),
        rejected=1 - len(served) / len(jobs),
        service=sum(map(_service, jobs)) / max(total_service, 1),
        output_tokens_per_s=sum(job.output_tokens for job in served) / makespan_s if served else 0.0,
        ttft_s=spread([job.ttft_s for job in served]),
        tpot_s=spread([job.tpot_s for job in served]),
    )


def _service(job: Job) -> int:
    return job.computed_tokens + 2 * job.output_tokens if job.done_s is not None else 0
