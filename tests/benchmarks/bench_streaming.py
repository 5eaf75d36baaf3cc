"""What streaming costs: many streams of 50 tokens/s over one worker, beside one Ray streaming generator per request.

Both have the same simulated engine (20 ms a step). For each number of streams: the tokens that arrived per second
beside those wanted, the delay from the end of the engine's step to the reader (p50, p99; the engine stamps its text
with the clock that all processes of a machine share), and the CPU time per token of all processes together: worker,
dispatcher, reader, and Ray's own daemons. Alternating rounds, medians.

    python -m tests.benchmarks.bench_streaming [--streams 1,16,64,256] [--seconds 4] [--repeat 3]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from actors import EngineConfig, Pool
from actors.engines.simulated import SimulatedEngine
from actors.messages import GenerationRequest, StepOutput
from actors.paging.hashes import page_hashes
from actors.sampling import sampling_params
from actors.worker.commands import StepNews, Submit
from actors.worker.engine_thread import EngineThread

STEP_S = 0.02
CONFIG = EngineConfig(
    engine="simulated",
    simulated={"step_s": STEP_S, "stamp_text": True},
    max_batch_size=512,
    cache_tokens=512 * 1024,
)
PARAMS = sampling_params(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Measurement:
    tokens_per_s: float
    delay_p50_ms: float
    delay_p99_ms: float
    cpu_us_per_token: float


class PerRequestWorker:
    """The plain Ray recipe: the same engine, one streaming generator per request, one object per token."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues: dict[int, asyncio.Queue[str | None]] = {}
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
            for ticket, text in zip(output.tickets, output.texts, strict=True):
                self._queues[ticket].put_nowait(text)
            for ticket, _ in output.finished:
                self._queues[ticket].put_nowait(None)

    async def generate(self, ticket: int, prompt: tuple[int, ...], tokens: int) -> AsyncIterator[str]:
        queue = self._queues[ticket] = asyncio.Queue()
        request = GenerationRequest(
            ticket=ticket,
            request_id=str(ticket),
            attempt=1,
            token_ids=prompt,
            max_new_tokens=tokens,
            seed=0,
            params=PARAMS,
            page_hashes=page_hashes(prompt),
        )
        self._thread.send(Submit("direct", request))
        while True:
            text = await queue.get()
            if text is None:
                del self._queues[ticket]
                return
            yield text


def prompt_of(number: int) -> tuple[int, ...]:
    return (7, 8, 9, 10 + number % 1000)


async def read_pool(pool: Pool, streams: int, tokens: int, delays: list[float]) -> None:
    async def one(number: int) -> None:
        async for delta in pool.stream(prompt_of(number), max_new_tokens=tokens, temperature=0.0):
            now = time.monotonic()
            delays.extend(now - float(stamp) for stamp in delta.text.split())

    await asyncio.gather(*(one(number) for number in range(streams)))


async def read_generators(worker: Any, streams: int, tokens: int, delays: list[float]) -> None:
    async def one(number: int) -> None:
        async for reference in worker.generate.remote(number, prompt_of(number), tokens):
            stamp = float(await reference)
            delays.append(time.monotonic() - stamp)

    await asyncio.gather(*(one(number) for number in range(streams)))


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def measure(read: Any, processes: list[psutil.Process], streams: int, tokens: int) -> Measurement:
    delays: list[float] = []
    before_s, started_s = cpu_s(processes), time.perf_counter()
    await read(streams, tokens, delays)
    elapsed_s, spent_s = time.perf_counter() - started_s, cpu_s(processes) - before_s
    total = len(delays)
    if total != streams * tokens:
        raise RuntimeError(f"{streams * tokens - total} of {streams * tokens} tokens were lost")
    delays.sort()
    p50_ms, p99_ms = delays[total // 2] * 1e3, delays[int(total * 0.99)] * 1e3
    return Measurement(total / elapsed_s, p50_ms, p99_ms, spent_s / total * 1e6)


async def compare(pool: Pool, worker: Any, arguments: argparse.Namespace) -> None:
    own = psutil.Process()
    processes = [own, *own.children(recursive=True)]
    tokens = int(arguments.seconds / STEP_S)
    modes = {
        "pool": lambda *args: read_pool(pool, *args),
        "one generator each": lambda *args: read_generators(worker, *args),
    }
    for read in modes.values():
        await measure(read, processes, 2, 10)
    print(f"{'streams':>7} {'mode':20} {'wanted/s':>9} {'got/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'CPU us/token':>13}")
    for streams in arguments.streams:
        rounds: dict[str, list[Measurement]] = {name: [] for name in modes}
        for _ in range(arguments.repeat):
            for name, read in modes.items():
                rounds[name].append(await measure(read, processes, streams, tokens))
        for name, measured in rounds.items():
            got, p50, p99, cpu = (
                statistics.median(getattr(one, field) for one in measured)
                for field in ("tokens_per_s", "delay_p50_ms", "delay_p99_ms", "cpu_us_per_token")
            )
            print(
                f"{streams:7} {name:20} {streams / STEP_S:9.0f} {got:9.0f} {p50:8.2f} {p99:8.2f} {cpu:13.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--streams", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16, 64, 256]
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with Pool.start(workers=1, cpus_per_worker=0.5, **CONFIG.model_dump(exclude={"model"})) as pool:
        worker: Any = ray.remote(PerRequestWorker).options(num_cpus=0).remote()
        ray.get(worker.__ray_ready__.remote())
        asyncio.run(compare(pool, worker, arguments))


if __name__ == "__main__":
    main()
