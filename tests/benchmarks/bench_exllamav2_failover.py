"""What a killed worker costs on GPUs: two workers, one each, and streams of which half are greedy and half seeded.

    python -m tests.benchmarks.make_model /tmp/model
    python -m tests.benchmarks.bench_exllamav2_failover /tmp/model

The same streams run four times: in calm, in calm beside others (so that batches have other sizes, and fp16 rounds
otherwise: what differs then is no fault), with one worker killed under them, and with that in calm again. Printed are
the streams that ended with all their tokens, those that had exactly the tokens of the first run, the longest gap that
each stream saw, and the time until the killed worker can generate again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors import Pool
from actors.ray_session import NAMESPACE, worker_name

PROMPT_TOKENS = 64
RUNNING_TIMEOUT_S = 120.0
BACK_TIMEOUT_S = 300.0
POLL_S = 0.05


@dataclass(slots=True)
class Stream:
    """What one client saw."""

    greedy: bool
    token_ids: list[int] = field(default_factory=list)
    longest_gap_s: float = 0.0
    error: str = ""
    counted_tokens: int = 0


async def read(pool: Pool, number: int, tokens: int, shown: Stream) -> None:
    """Read stream `number`, whose prompt and seed follow from it."""
    prompt = [random.Random(number).randrange(300, 2000) for _ in range(PROMPT_TOKENS)]
    sampler: dict[str, Any] = {"temperature": 0.0} if shown.greedy else {"temperature": 0.9, "top_k": 50, "top_p": 0.95}
    last_s = 0.0
    try:
        async for delta in pool.stream(prompt, max_new_tokens=tokens, seed=number, ignore_eos=True, **sampler):
            now_s = time.perf_counter()
            if delta.token_ids:
                shown.longest_gap_s = max(shown.longest_gap_s, now_s - last_s if last_s else 0.0)
                last_s = now_s
                shown.token_ids += delta.token_ids
            if delta.usage is not None:
                shown.counted_tokens = delta.usage.completion_tokens
    except Exception as error:  # noqa: BLE001 - it is counted and printed
        shown.error = f"{type(error).__name__}: {error}"


async def run(
    pool: Pool, count: int, tokens: int, *, others: int = 0, fault: Callable[[Sequence[Stream]], Awaitable[None]]
) -> list[Stream]:
    streams = [Stream(greedy=number % 2 == 0) for number in range(count)]
    beside = [Stream(greedy=True) for _ in range(others)]
    reads = [read(pool, number, tokens, stream) for number, stream in enumerate((*streams, *beside))]
    await asyncio.gather(*reads, fault(streams))
    return streams


async def nothing(_: Sequence[Stream]) -> None:
    """A calm run."""


def killing(pool: Pool, slot_name: str, after_tokens: int) -> Callable[[Sequence[Stream]], Awaitable[None]]:
    async def kill(streams: Sequence[Stream]) -> None:
        async with asyncio.timeout(RUNNING_TIMEOUT_S):
            while min(len(stream.token_ids) for stream in streams) < after_tokens:
                await asyncio.sleep(POLL_S)
        handle: Any = ray.get_actor(worker_name(pool.config.name, slot_name), namespace=NAMESPACE)
        beat = await handle.heartbeat.remote()
        lengths = [len(stream.token_ids) for stream in streams]
        os.kill(beat.pid, signal.SIGKILL)
        killed_s = time.perf_counter()
        print(f"killed {beat.worker_id} when streams had {min(lengths)} to {max(lengths)} tokens")
        async with asyncio.timeout(BACK_TIMEOUT_S):
            while True:
                state = next(w for w in pool.statistics().workers if w.slot_name == slot_name)
                if state.worker_id not in (None, beat.worker_id):
                    break
                await asyncio.sleep(POLL_S)
        print(f"{slot_name} can generate again after {time.perf_counter() - killed_s:.1f} s")

    return kill


def tell(name: str, calm: Sequence[Stream], streams: Sequence[Stream], tokens: int) -> None:
    right = sum(not s.error and len(s.token_ids) == s.counted_tokens == tokens for s in streams)
    cells = [name, f"{right} of {len(streams)}"]
    for greedy in (True, False):
        pairs = [
            (one.token_ids, other.token_ids) for one, other in zip(calm, streams, strict=True) if one.greedy is greedy
        ]
        firsts = [
            next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
            for one, other in pairs
        ]
        parted = sorted(place for place in firsts if place is not None)
        cells.append(f"{len(pairs) - len(parted)} of {len(pairs)}" + (f", others part at {parted}" if parted else ""))
    gaps = sorted(stream.longest_gap_s for stream in streams)
    hit = [gap for gap in gaps if gap > 3 * gaps[0] + 0.05]
    cells += [f"{gaps[0]:.3f}", f"{statistics.median(hit):.3f} ({len(hit)})" if hit else "none", f"{gaps[-1]:.3f}"]
    print("| " + " | ".join(cells) + " |")
    for stream in streams:
        if stream.error:
            print("  ", stream.error)


async def compare(pool: Pool, count: int, tokens: int) -> None:
    first = await run(pool, count, tokens, fault=nothing)
    beside = await run(pool, count, tokens, others=count // 2, fault=nothing)
    killed = await run(pool, count, tokens, fault=killing(pool, "worker-0", tokens // 4))
    again = await run(pool, count, tokens, fault=nothing)
    print("| run | ended with all tokens | greedy as in the first run | seeded | gap s: least | hit, median | most |")
    print("|---|---|---|---|---|---|---|")
    for name, streams in (("calm", first), ("beside others", beside), ("a worker killed", killed), ("calm", again)):
        tell(name, first, streams, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--cache-tokens", type=int, default=131_072)
    parser.add_argument("--engine", default="exllamav2", help="cpu tries this file itself without a GPU")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {"engine": arguments.engine, "cache_tokens": arguments.cache_tokens}
    settings |= {"workers": 2, "wait_for": "all"}
    with Pool.start(arguments.model, **settings) as pool:
        asyncio.run(compare(pool, arguments.streams, arguments.tokens))


if __name__ == "__main__":
    main()
