"""What the dispatcher costs: `pool.generate` beside a direct call to a worker's engine and `ray.util.ActorPool`.

All three run the same simulated engine (steps of no length, a fixed completion), so what differs is the way there.
Every mode is measured alternately, several times; the table shows medians.

    python -m tests.benchmarks.bench_dispatch [--requests 400] [--repeat 5]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util import ActorPool

from actors import EngineConfig, Pool
from actors.engines.simulated import SimulatedEngine
from actors.messages import GenerationRequest, StepOutput
from actors.paging.hashes import page_hashes
from actors.sampling import sampling_params
from actors.worker.commands import StepNews, Submit
from actors.worker.engine_thread import EngineThread

PROMPT = tuple(range(10, 42))
TOKENS = 8
LATENCIES = 200
WORKERS = 2
CONFIG = EngineConfig(engine="simulated", simulated={"step_s": 0.0}, max_batch_size=32, cache_tokens=65536)
PARAMS = sampling_params(temperature=0.0)


class DirectWorker:
    """The least that a worker can be: the same engine on a thread, one call per completion, no dispatcher."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._next = 0
        self._thread = EngineThread(
            lambda: SimulatedEngine(CONFIG),
            on_progress=lambda _: None,
            on_loaded=lambda _: None,
            on_news=self._on_news,
            on_end=lambda _: None,
        )
        self._thread.start()

    def _on_news(self, news: StepNews) -> None:
        self._loop.call_soon_threadsafe(self._deliver, news)

    def _deliver(self, news: StepNews) -> None:
        for columns in news.outputs.values():
            output: StepOutput = columns.message()
            for ticket, _ in output.finished:
                self._waiting.pop(ticket).set_result(None)

    async def generate(self, prompt: tuple[int, ...]) -> int:
        self._next += 1
        future = self._waiting[self._next] = self._loop.create_future()
        request = GenerationRequest(
            ticket=self._next,
            request_id=str(self._next),
            attempt=1,
            token_ids=prompt,
            max_new_tokens=TOKENS,
            seed=0,
            params=PARAMS,
            page_hashes=page_hashes(prompt),
        )
        self._thread.send(Submit("direct", request))
        await future
        return TOKENS


def sequential(call: Callable[[], Any], count: int) -> list[float]:
    """Latencies in ms of calls one after another, sorted."""
    latencies = []
    for _ in range(count):
        started_s = time.perf_counter()
        call()
        latencies.append((time.perf_counter() - started_s) * 1e3)
    return sorted(latencies)


def rate(run: Callable[[], Any], count: int) -> float:
    started_s = time.perf_counter()
    run()
    return count / (time.perf_counter() - started_s)


def measure(pool: Pool, direct: list[Any], requests: int) -> dict[str, tuple[float, float, float]]:
    """Per mode: requests/s when all are thrown in at once, and latency p50 and p99 in ms one after another."""
    actor_pool = ActorPool(direct)
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 0.0}
    prompts = [PROMPT] * requests

    def on_actor(actor: Any, prompt: tuple[int, ...]) -> Any:
        return actor.generate.remote(prompt)

    def one_on_actor_pool() -> None:
        actor_pool.submit(on_actor, PROMPT)
        actor_pool.get_next()

    bulk: dict[str, Callable[[], Any]] = {
        "direct": lambda: ray.get([on_actor(direct[i % WORKERS], PROMPT) for i in range(requests)]),
        "ActorPool": lambda: list(actor_pool.map_unordered(on_actor, prompts)),
        "pool.generate": lambda: ray.get([pool.generate.remote(PROMPT, **options) for _ in range(requests)]),
        "pool.map": lambda: list(pool.map(prompts, **options)),
    }
    one: dict[str, Callable[[], Any]] = {
        "direct": lambda: ray.get(on_actor(direct[0], PROMPT)),
        "ActorPool": one_on_actor_pool,
        "pool.generate": lambda: ray.get(pool.generate.remote(PROMPT, **options)),
        "pool.map": lambda: list(pool.map([PROMPT], **options)),
    }
    result = {}
    for name in bulk:
        latencies = sequential(one[name], LATENCIES)
        p50, p99 = latencies[LATENCIES // 2], latencies[int(LATENCIES * 0.99)]
        result[name] = (rate(bulk[name], requests), p50, p99)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    settings = CONFIG.model_dump(exclude={"model"})
    with Pool.start(workers=WORKERS, wait_for="all", cpus_per_worker=0.5, **settings) as pool:
        direct: list[Any] = [ray.remote(DirectWorker).options(num_cpus=0).remote() for _ in range(WORKERS)]
        measure(pool, direct, 50)
        rounds = [measure(pool, direct, arguments.requests) for _ in range(arguments.repeat)]
    print(f"{arguments.requests} requests of {TOKENS} tokens, {WORKERS} workers, medians of {arguments.repeat} rounds")
    print(f"{'':14} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'added p50':>10}")
    medians = {name: [statistics.median(one[name][i] for one in rounds) for i in range(3)] for name in rounds[0]}
    for name, (per_s, p50, p99) in medians.items():
        print(f"{name:14} {per_s:10.0f} {p50:8.2f} {p99:8.2f} {p50 - medians['direct'][1]:10.2f}")


if __name__ == "__main__":
    main()
