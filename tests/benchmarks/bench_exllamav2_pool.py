"""The pool's side of `bench_exllamav2`: one worker on the GPU, through the interface that scripts use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors import Pool
from actors.results import GenerationResult
from tests.benchmarks.bench_exllamav2_raw import SAMPLERS, BenchJob, Latencies

CONTEXT_TOKENS = 12288
MAX_BATCH_SIZE = 128


def start_pool(model_dir: Path, cache_tokens: int) -> tuple[Pool, list[tuple[str, float]]]:
    """The pool, and when it reached each stage of loading, in seconds."""
    start_s = time.perf_counter()
    stages: list[tuple[str, float]] = []

    def note(states: Sequence[Any]) -> None:
        stage = states[0].loading[0] if states[0].loading is not None else "process"
        if not stages or stages[-1][0] != stage:
            stages.append((stage, time.perf_counter() - start_s))

    pool = Pool.start(
        model_dir,
        engine="exllamav2",
        cache_tokens=cache_tokens,
        context_tokens=CONTEXT_TOKENS,
        max_batch_size=MAX_BATCH_SIZE,
        gpus_per_worker=0.5,  # the plain script has the rest
        cpus_per_worker=4,
        progress=note,
    )
    stages.append(("ready", time.perf_counter() - start_s))
    return pool, stages


def run_pool(pool: Pool, jobs: Sequence[BenchJob], sampler: str) -> float:
    """Seconds until the last of all jobs is done; they are handed over at once."""
    options = {"ignore_eos": True, "max_new_tokens": jobs[0].max_new_tokens, **SAMPLERS[sampler]}
    start_s = time.perf_counter()
    results = pool.map([job.token_ids for job in jobs], window=len(jobs), ordered=False, **options)
    made = sum(result.usage.completion_tokens for result in results if isinstance(result, GenerationResult))
    seconds = time.perf_counter() - start_s
    assert made == sum(job.max_new_tokens for job in jobs)
    return seconds


def run_streams(pool: Pool, jobs: Sequence[BenchJob], sampler: str) -> float:
    """The same, with every completion read token by token."""

    async def read(job: BenchJob) -> int:
        options = {"ignore_eos": True, "max_new_tokens": job.max_new_tokens, **SAMPLERS[sampler]}
        return sum([len(delta.token_ids) async for delta in pool.stream(job.token_ids, **options)])

    async def read_all() -> float:
        await read(BenchJob(jobs[0].token_ids[:8], 1, 0))  # the front of this event loop opens
        start_s = time.perf_counter()
        made = sum(await asyncio.gather(*(read(job) for job in jobs)))
        seconds = time.perf_counter() - start_s
        assert made == sum(job.max_new_tokens for job in jobs)
        return seconds

    return asyncio.run(read_all())


async def pool_latencies(
    pool: Pool, streams: Sequence[BenchJob], arrivals: Sequence[BenchJob], every_s: float
) -> Latencies:
    found = Latencies()
    running = asyncio.Event()
    last_s: dict[int, float] = {}
    counting = False

    async def stream(number: int, job: BenchJob) -> None:
        options = {"ignore_eos": True, "max_new_tokens": job.max_new_tokens, **SAMPLERS["chat"]}
        async for delta in pool.stream(job.token_ids, **options):
            now_s = time.perf_counter()
            if delta.token_ids:
                if counting and number in last_s:
                    found.gaps.append(now_s - last_s[number])
                last_s[number] = now_s
                if len(last_s) == len(streams):
                    running.set()

    async def first_token(job: BenchJob) -> None:
        start_s = time.perf_counter()
        options = {"ignore_eos": True, "max_new_tokens": job.max_new_tokens, **SAMPLERS["chat"]}
        waiting = True
        async for delta in pool.stream(job.token_ids, **options):
            if waiting and delta.token_ids:
                waiting = False
                found.first_token_s.append(time.perf_counter() - start_s)

    tasks = [asyncio.create_task(stream(number, job)) for number, job in enumerate(streams)]
    await asyncio.wait_for(running.wait(), 120)
    counting = True
    longs = []
    for job in arrivals:
        longs.append(asyncio.create_task(first_token(job)))
        await asyncio.sleep(every_s)
    await asyncio.gather(*longs)
    counting = False
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found
