"""What one dispatcher costs as the cluster grows: 1, 8, 64 and 256 workers, all with simulated engines.

For each size, in turn: the dispatcher's CPU while nothing runs and while every worker generates; the time until
single requests have a place, in both; and requests per second when as many as are allowed are under way, with the CPU
that dispatcher and front spend on each. Workers share a few processes (`hosted_workers`), since what is measured is not
theirs. A front is another process or loop for every script and every Serve replica, so the bound of a cluster is the
dispatcher: it has one event loop, so at most 1 s of CPU per second.

    python -m tests.benchmarks.bench_cluster_size [--workers 1,8,64,256] [--requests 2000] [--repeat 3] [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from actors.builtin_model import builtin_model_path
from actors.config import pool_config
from actors.front.front import Front
from actors.ray_session import ensure_ray
from actors.request.options import request_options
from tests.benchmarks.hosted_workers import open_front, start_hosted_pool

HOSTS = 8
STEP_S = 0.1
"""Of running streams: ten steps a second, so that reports, which come every 250 ms at most, are what is measured."""
ENDLESS_TOKENS = 100_000
LATENCIES = 50
UNDER_WAY = 256
PROMPT = tuple(range(10, 42))
READY_S = 300.0


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU in percent of a core, times in milliseconds."""

    idle_cpu: float
    busy_cpu: float
    idle_p50_ms: float
    idle_p90_ms: float
    busy_p50_ms: float
    busy_p90_ms: float
    requests_per_s: float
    dispatcher_us: float
    front_us: float


def cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


async def share_of_core(process: psutil.Process, seconds: float) -> float:
    """Percent of a core that a process takes for so long from now."""
    before_s, started_s = cpu_s(process), time.perf_counter()
    await asyncio.sleep(seconds)
    return 100.0 * (cpu_s(process) - before_s) / (time.perf_counter() - started_s)


async def placed_after_ms(front: Front) -> float:
    """From the asking for a request to the granting of its place."""
    async with aclosing(front.stream(PROMPT, request_options(max_new_tokens=2, temperature=0.0))) as deltas:
        timing = (await anext(deltas)).timing
        assert timing is not None, "the first delta has one"
        return timing.queue_s * 1e3


async def latencies(front: Front) -> tuple[float, float]:
    """Median and 90th percentile of single requests, one after another."""
    found = sorted([await placed_after_ms(front) for _ in range(LATENCIES)])
    return found[LATENCIES // 2], found[int(LATENCIES * 0.9)]


async def throw_in(front: Front, requests: int) -> None:
    """So many requests of one token, UNDER_WAY of them at a time."""
    options = request_options(max_new_tokens=1, temperature=0.0)
    remaining = iter(range(requests))

    async def one_after_another() -> None:
        for _ in remaining:
            await front.generate(PROMPT, options)

    await asyncio.gather(*(one_after_another() for _ in range(UNDER_WAY)))


async def while_all_generate(front: Front, workers: int, measure: Callable[[], Awaitable[Any]]) -> Any:
    """Have a stream run for every worker meanwhile."""
    endless = request_options(max_new_tokens=ENDLESS_TOKENS, temperature=0.0, ignore_eos=True)
    began = asyncio.Semaphore(0)

    async def run() -> None:
        async with aclosing(front.stream(PROMPT, endless)) as deltas:
            await anext(deltas)
            began.release()
            async for _ in deltas:
                pass

    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(run()) for _ in range(workers)]
        for _ in streams:
            await began.acquire()
        result = await measure()
        for stream in streams:
            stream.cancel()
    return result


@asynccontextmanager
async def opened(workers: int, step_s: float) -> AsyncIterator[tuple[Front, psutil.Process]]:
    """A front of a pool all of whose workers are ready and linked to it, and the process of its dispatcher."""
    config = pool_config(
        name=f"size-{workers}-{time.monotonic_ns()}",
        workers=workers,
        engine="simulated",
        cache_tokens=262_144,
        simulated={"step_s": step_s, "context_tokens": 131_072},
    )
    dispatcher, hosts = start_hosted_pool(config, str(builtin_model_path()), HOSTS)
    try:
        front = await open_front(dispatcher)
        async with asyncio.timeout(READY_S):
            version = -1
            while True:
                version, states = await dispatcher.progress.remote(version)
                if all(state.worker_id is not None for state in states):
                    break
        await throw_in(front, max(4 * workers, UNDER_WAY))
        yield front, psutil.Process(await dispatcher.pid.remote())
        await front.close()
    finally:
        for actor in (dispatcher, *hosts):
            ray.kill(actor)


async def measure(workers: int, arguments: argparse.Namespace) -> Measured:
    async with opened(workers, STEP_S) as (front, process):
        idle_cpu, idle = await share_of_core(process, arguments.seconds), await latencies(front)

        async def busy() -> tuple[float, tuple[float, float]]:
            return await share_of_core(process, arguments.seconds), await latencies(front)

        busy_cpu, loaded = await while_all_generate(front, workers, busy)
    async with opened(workers, 0.0) as (front, process):
        processes = (process, psutil.Process())
        before = [cpu_s(one) for one in processes]
        started_s = time.perf_counter()
        await throw_in(front, arguments.requests)
        per_s = arguments.requests / (time.perf_counter() - started_s)
        spent_us = [1e6 * (cpu_s(one) - was) / arguments.requests for one, was in zip(processes, before, strict=True)]
    dispatcher_us, front_us = spent_us
    return Measured(idle_cpu, busy_cpu, idle[0], idle[1], loaded[0], loaded[1], per_s, dispatcher_us, front_us)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,8,64,256")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    sizes = [int(text) for text in arguments.workers.split(",")]
    ensure_ray(None)
    rounds: dict[int, list[Measured]] = {size: [] for size in sizes}
    for _ in range(arguments.repeat):
        for size in sizes:
            rounds[size].append(asyncio.run(measure(size, arguments)))
            print(f"{size} workers: {rounds[size][-1]}", flush=True)
    print(f"medians of {arguments.repeat} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'workers':>7} {'idle CPU %':>10} {'busy CPU %':>10} {'placed after ms, idle':>21} {'busy':>15} "
        f"{'requests/s':>10} {'CPU us per request: dispatcher':>31} {'front':>6}"
    )
    for size, measured in rounds.items():
        middle = [statistics.median(getattr(one, name) for one in measured) for name in Measured.__slots__]
        idle_cpu, busy_cpu, idle_50, idle_90, busy_50, busy_90, per_s, dispatcher_us, front_us = middle
        print(
            f"{size:7} {idle_cpu:10.1f} {busy_cpu:10.1f} {f'{idle_50:.1f} / {idle_90:.1f}':>21} "
            f"{f'{busy_50:.1f} / {busy_90:.1f}':>15} {per_s:10.0f} {dispatcher_us:31.0f} {front_us:6.0f}"
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
