"""What came out of a simulation, in the field's usual terms (vLLM's definitions)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.messages import Priority
from actors.paging import PAGE_TOKENS
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
class Outcome:
    """One run. Shares are of all requests, refused ones included; `goodput_per_s` is good requests per second of
    arrivals."""

    requests: int
    goodput: float
    goodput_per_s: float
    rejected: float
    rejections: dict[str, int]
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    prefix_hit_rate: float
    unlimited_hit_rate: float
    tenant_goodput: dict[str, float]
    tenant_tokens: dict[str, float]
    class_ttft_s: dict[str, Spread]
    makespan_s: float
    bound_s: float
    attempts: float
    decision_us: Spread | None = None
    wait_error_s: Spread | None = None


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Mean and percentiles; zeros of nothing."""
    if not len(values):
        return Spread(0.0, 0.0, 0.0)
    p50, p99 = np.percentile(values, (50, 99))
    return Spread(float(np.mean(values)), float(p50), float(p99))


def unlimited_hit_rate(jobs: Sequence[Job]) -> float:
    """The share of prompt tokens that a cache without bound, shared by all workers, would save."""
    seen: set[bytes] = set()
    hit = 0
    for job in sorted(jobs, key=lambda job: job.arrival_s):
        for page in job.pages:
            if page not in seen:
                break
            hit += PAGE_TOKENS
        seen.update(job.pages)
        seen.update(job.all_pages)
    return hit / max(sum(job.prompt_tokens for job in jobs), 1)


def makespan_bound_s(jobs: Sequence[Job], workers: Sequence[WorkerSpec]) -> float:
    """No schedule is faster: all work at the sum of the workers' top speeds, or the longest job alone on the fastest.

    A worker's top speed: every slot decodes, so a token costs `step(max_batch) / max_batch`; prefill adds its own time
    without cache hits. Noise is even around 1. The pages are taken to suffice.
    """
    outputs = sum(job.output_tokens for job in jobs)
    prompts = sum(job.prompt_tokens for job in jobs)
    speed = 0.0
    for w in workers:
        token_s = (w.base_s + w.per_job_s * w.max_batch_size) / w.max_batch_size
        speed += 1.0 / (outputs * token_s + prompts / w.prefill_tokens_per_s)
    fastest = min(workers, key=lambda w: w.base_s + w.per_job_s)
    longest_s = max(
        job.output_tokens * (fastest.base_s + fastest.per_job_s) + job.prompt_tokens / fastest.prefill_tokens_per_s
        for job in jobs
    )
    return max(1.0 / speed, longest_s)


def measure(
    jobs: Sequence[Job],
    slo: Slo,
    workers: Sequence[WorkerSpec],
    decision_s: Sequence[float] | None = None,
    waits: Sequence[tuple[float, float]] = (),
) -> Outcome:
    """Sum a run up."""
    served = [job for job in jobs if job.done_s is not None]
    good = [job for job in jobs if slo.met(job)]
    span_s = max(job.arrival_s for job in jobs) or 1.0
    prompt_tokens = sum(job.prompt_tokens for job in served)
    tenants = sorted({job.tenant for job in jobs})
    tokens = Counter[str]()
    for job in served:
        tokens[job.tenant] += job.computed_tokens + 2 * job.output_tokens
    total = max(tokens.total(), 1)
    return Outcome(
        requests=len(jobs),
        goodput=len(good) / len(jobs),
        goodput_per_s=len(good) / span_s,
        rejected=1 - len(served) / len(jobs),
        rejections=dict(Counter(job.refused for job in jobs if job.refused is not None)),
        ttft_s=spread([job.ttft_s for job in served]),
        tpot_s=spread([job.tpot_s for job in served]),
        e2e_s=spread([job.e2e_s for job in served]),
        prefix_hit_rate=1 - sum(job.computed_tokens for job in served) / max(prompt_tokens, 1),
        unlimited_hit_rate=unlimited_hit_rate(jobs),
        tenant_goodput={t: _share([job for job in jobs if job.tenant == t], slo) for t in tenants},
        tenant_tokens={tenant: tokens[tenant] / total for tenant in tenants},
        class_ttft_s={p.value: spread([j.ttft_s for j in served if j.priority is p]) for p in Priority},
        makespan_s=max((job.done_s for job in served if job.done_s is not None), default=0.0),
        bound_s=makespan_bound_s(jobs, workers),
        attempts=sum(job.attempt for job in jobs) / len(jobs),
        decision_us=None if decision_s is None else spread(np.asarray(decision_s) * 1e6),
        wait_error_s=spread([abs(real - estimated) for estimated, real in waits]) if waits else None,
    )


def _share(jobs: Sequence[Job], slo: Slo) -> float:
    return sum(map(slo.met, jobs)) / len(jobs)
