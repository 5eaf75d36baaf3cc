"""Two workers beside one: the same prompts through pools of the CPU engine, and where the rest of the speed-up goes.

Rounds alternate between the pools and the same engines without a pool, each in a process of its own: what two of those
gain is what the machine has to give. CPU seconds of the pools are split between the workers and everything else (the
script, its front, the dispatcher, Ray's own daemons), so a speed-up below 2 can be read: engines that need more CPU
time for the same tokens (smaller batches, shared caches and clocks), or cores that others use.

    python -m tests.benchmarks.bench_scaling [--model DIR] [--requests 96] [--tokens 96] [--repeat 5]
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
from actors.builtin_model import builtin_model_path
from actors.messages import Heartbeat
from actors.ray_session import NAMESPACE, ensure_ray, worker_name
from actors.request.prompt import PromptEncoder
from tests.benchmarks.bare_engines import BareEngines

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


def start_pool(workers: int, model: Path | None) -> Pool:
    name = f"scaling-{workers}"
    return Pool.start(
        config=pool_config(name=name, workers=workers, wait_for="all", engine="cpu", cpus_per_worker=0.5, model=model),
    )


def report(pools: dict[int, list[Round]], bare: dict[int, list[tuple[float, float]]]) -> None:
    """Medians of all rounds, and the speed-up of each pair."""
    print(f"{'':16} {'tokens/s':>9} {'engine CPU us/token':>20} {'other CPU us/token':>19} {'cores busy':>11}")
    for workers, measured in pools.items():
        values = [
            statistics.median(getattr(one, field) for one in measured)
            for field in ("tokens_per_s", "worker_cpu_us_per_token", "other_cpu_us_per_token", "busy_cores")
        ]
        print(f"pool of {workers:<8} {values[0]:9.0f} {values[1]:20.0f} {values[2]:19.0f} {values[3]:11.2f}")
    for engines, pairs in bare.items():
        rate, cpu_us = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{engines} bare {'engines' if engines > 1 else 'engine':9} {rate:9.0f} {cpu_us:20.0f}")
    ratios = {
        "workers": [two.tokens_per_s / one.tokens_per_s for one, two in zip(pools[1], pools[2], strict=True)],
        "bare engines": [two[0] / one[0] for one, two in zip(bare[1], bare[2], strict=True)],
    }
    for name, values in ratios.items():
        pairs_text = ", ".join(f"{ratio:.2f}" for ratio in values)
        print(f"speed-up of two {name}: {statistics.median(values):.2f} (pairs: {pairs_text})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    texts = [f"Once upon a time, {NAMES[i % 12]} and {NAMES[i % 11]} met." for i in range(arguments.requests)]
    encoder = PromptEncoder.load(arguments.model or builtin_model_path())
    prompts = [encoder.encode(text) for text in texts]
    rounds: dict[int, list[Round]] = {1: [], 2: []}
    bare: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    ensure_ray(None)
    with (
        start_pool(1, arguments.model) as one,
        start_pool(2, arguments.model) as two,
        BareEngines(1, arguments.model) as engine,
        BareEngines(2, arguments.model) as engines,
    ):
        for repetition in range(arguments.repeat + 1):
            for workers, pool, free in ((1, one, engine), (2, two, engines)):
                through_pool, alone = measure(pool, texts, arguments.tokens), free.run(prompts, arguments.tokens)
                if repetition:  # the first one warms up
                    rounds[workers].append(through_pool)
                    bare[workers].append(alone)
        load = os.getloadavg()[0]
        print(f"{arguments.requests} requests of {arguments.tokens} tokens, {os.cpu_count()} cores, load {load:.1f}")
        report(rounds, bare)
    ray.shutdown()


if __name__ == "__main__":
    main()
