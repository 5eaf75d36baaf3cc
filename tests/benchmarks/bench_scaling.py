"""Two workers beside one: the same prompts through pools of the CPU engine, and where the rest of the speed-up goes.

Rounds alternate between the pools. CPU seconds are split between the workers and everything else (the script, its
front, the dispatcher, Ray's own daemons), so a speed-up below 2 can be read: workers that need more CPU time for the
same tokens (smaller batches, shared caches and clocks), or cores that others use.

    python -m tests.benchmarks.bench_scaling [--model DIR] [--requests 96] [--tokens 96] [--repeat 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from actors import GenerationResult, Pool, pool_config
from actors.ray_session import NAMESPACE, ensure_ray, worker_name
from actors.worker import Heartbeat

NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Max", "Emma", "Sam", "Rosa", "Leo", "Nora", "Jack")


@dataclass(frozen=True, slots=True)
class Round:
    tokens_per_s: float
    worker_cpu_us_per_token: float
    other_cpu_us_per_token: float
    busy_cores: float


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def worker_processes(pool: Pool) -> list[psutil.Process]:
    names = [worker_name(pool.config.name, f"worker-{index}") for index in range(pool.config.workers)]
    handles: list[Any] = [ray.get_actor(name, namespace=NAMESPACE) for name in names]
    beats: list[Heartbeat] = ray.get([handle.heartbeat.remote() for handle in handles])
    return [psutil.Process(beat.pid) for beat in beats]


def measure(pool: Pool, prompts: list[str], tokens: int) -> Round:
    own = psutil.Process()
    workers = worker_processes(pool)
    pids = {process.pid for process in workers}
    others = [own, *(child for child in own.children(recursive=True) if child.pid not in pids)]
    before, started_s = (cpu_s(workers), cpu_s(others)), time.perf_counter()
    results = pool.map(prompts, max_new_tokens=tokens, temperature=0.0, ignore_eos=True)
    total = sum(result.usage.completion_tokens for result in results if isinstance(result, GenerationResult))
    elapsed_s = time.perf_counter() - started_s
    worker_s, other_s = cpu_s(workers) - before[0], cpu_s(others) - before[1]
    return Round(total / elapsed_s, worker_s / total * 1e6, other_s / total * 1e6, (worker_s + other_s) / elapsed_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    prompts = [f"Once upon a time, {NAMES[i % 12]} and {NAMES[i % 11]} met." for i in range(arguments.requests)]
    ensure_ray(None)
    pools = {
        workers: Pool.start(
            config=pool_config(
                name=f"scaling-{workers}", workers=workers, engine="cpu", cpus_per_worker=0.5, model=arguments.model
            )
        )
        for workers in (1, 2)
    }
    rounds: dict[int, list[Round]] = {workers: [] for workers in pools}
    for pool in pools.values():
        measure(pool, prompts[:16], 16)
    for _ in range(arguments.repeat):
        for workers, pool in pools.items():
            rounds[workers].append(measure(pool, prompts, arguments.tokens))
    load = os.getloadavg()[0]
    print(f"{arguments.requests} requests of {arguments.tokens} tokens, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{'workers':>7} {'tokens/s':>9} {'worker CPU us/token':>20} {'other CPU us/token':>19} {'cores busy':>11}")
    for workers, measured in rounds.items():
        values = [
            statistics.median(getattr(one, field) for one in measured)
            for field in ("tokens_per_s", "worker_cpu_us_per_token", "other_cpu_us_per_token", "busy_cores")
        ]
        print(f"{workers:7} {values[0]:9.0f} {values[1]:20.0f} {values[2]:19.0f} {values[3]:11.2f}")
    ratios = [two.tokens_per_s / one.tokens_per_s for one, two in zip(rounds[1], rounds[2], strict=True)]
    print(f"speed-up of two workers: {statistics.median(ratios):.2f} (pairs: {', '.join(f'{r:.2f}' for r in ratios)})")
    for pool in pools.values():
        pool.close()
    ray.shutdown()


if __name__ == "__main__":
    main()
