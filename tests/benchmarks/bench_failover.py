"""How long a stream pauses when its worker dies, or hangs, until the next token comes from another worker.

Every round runs some streams of the built-in model on a pool of three workers, and kills one that has work (or stops
it, so that it hangs). Of the streams that it ran, the pause is counted from the kill to the next token, in three parts:
until the front has noticed and asks for another place, until it has that place, and until the next token has come.

    python -m tests.benchmarks.bench_failover [--kills 20] [--hangs 3] [--streams 1,8]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from actors import Pool, pool_config
from actors.dispatcher.statistics import PoolStatistics, WorkerState
from actors.front.front import Front
from actors.front.run import Piece, Run
from actors.ray_session import NAMESPACE
from actors.request.options import request_options
from tests.benchmarks.clusters import private_cluster
from tests.pool_actors import worker_pids

TOKENS = 1500
WARM_TOKENS = 30
STALL_TIMEOUT_S = 2.0
WAIT_S = 120.0
POLL_S = 0.05
CONFIG = pool_config(
    name="failover",
    engine="cpu",
    workers=3,
    wait_for="all",
    cpus_per_worker=0.1,
    cache_tokens=64 * 2048,
    context_tokens=2048,
    max_restarts=-1,
    stall_timeout_s=STALL_TIMEOUT_S,
)


@dataclass(slots=True)
class Watched:
    """One stream: when its attempts began, and when its tokens came."""

    began_s: list[float] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    run: Run | None = None

    @property
    def placed_s(self) -> float:
        """When the present attempt was given its place, or an earlier one."""
        return 0.0 if self.run is None else self.run.granted_at_s

    @property
    def resumed(self) -> bool:
        """A second attempt has made a token."""
        return len(self.began_s) > 1 and self.placed_s > self.began_s[1] and self.arrivals_s[-1] > self.placed_s


@dataclass(frozen=True, slots=True)
class Pause:
    noticed_s: float
    placed_s: float
    token_s: float

    @property
    def total_s(self) -> float:
        return self.noticed_s + self.placed_s + self.token_s


class WatchedFront(Front):
    """Notes when each attempt begins."""

    watched: dict[tuple[int, ...], Watched]

    def _attempt(self, run: Run, *, whole: bool) -> AsyncGenerator[Piece, None]:
        one = self.watched[run.request.token_ids]
        one.began_s.append(time.monotonic())
        one.run = run
        return super()._attempt(run, whole=whole)


async def states_of(dispatcher: Any) -> tuple[WorkerState, ...]:
    statistics: PoolStatistics = await dispatcher.statistics.remote()
    return statistics.workers


async def wait_until(condition: Callable[[], bool]) -> None:
    """:raises TimeoutError: it does not come true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(POLL_S)


async def wait_until_up(dispatcher: Any) -> None:
    """Until every worker can generate, and none has anything to do."""
    async with asyncio.timeout(WAIT_S):
        while any(state.worker_id is None or state.active_jobs for state in await states_of(dispatcher)):
            await asyncio.sleep(POLL_S)


async def pass_trials(front: WatchedFront) -> None:
    """A worker that has just come back takes one request at a time until one has ended well."""
    prompts = [(9, 11, 12, 13, 20 + number) for number in range(4 * CONFIG.workers)]
    front.watched = {prompt: Watched() for prompt in prompts}
    options = request_options(max_new_tokens=WARM_TOKENS, temperature=0.0, ignore_eos=True)
    await asyncio.gather(*(front.generate(prompt, options) for prompt in prompts))


async def read(front: WatchedFront, prompt: tuple[int, ...], watched: Watched) -> None:
    options = request_options(max_new_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    async for _ in front.stream(prompt, options):
        watched.arrivals_s.append(time.monotonic())


async def hit_once(front: WatchedFront, dispatcher: Any, number: int, how: signal.Signals, streams: int) -> list[Pause]:
    """The pauses of the streams that ran on the worker that was hit."""
    await wait_until_up(dispatcher)
    await pass_trials(front)
    await wait_until_up(dispatcher)
    prompts = [(10 + number % 500, 11, 12, 13, 20 + stream) for stream in range(streams)]
    front.watched = {prompt: Watched() for prompt in prompts}
    everyone = list(front.watched.values())
    pids = await worker_pids(CONFIG)
    tasks = [asyncio.create_task(read(front, prompt, watched)) for prompt, watched in front.watched.items()]
    await wait_until(lambda: all(len(watched.arrivals_s) >= WARM_TOKENS for watched in everyone))
    victim = max(await states_of(dispatcher), key=lambda state: state.active_jobs)
    hit_s = time.monotonic()
    os.kill(pids[victim.slot_name], how)
    await wait_until(lambda: sum(watched.resumed for watched in everyone) >= victim.active_jobs)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [pause_of(watched, hit_s) for watched in everyone if watched.resumed]


def pause_of(watched: Watched, hit_s: float) -> Pause:
    noticed_s, placed_s = watched.began_s[1], watched.placed_s
    token_s = next(at_s for at_s in watched.arrivals_s if at_s >= placed_s)
    return Pause(noticed_s - hit_s, placed_s - noticed_s, token_s - placed_s)


def row(name: str, streams: int, pauses: list[Pause]) -> str:
    def spread(values: list[float]) -> str:
        ordered = sorted(values)
        return f"{ordered[len(ordered) // 2] * 1e3:.0f} / {ordered[int(len(ordered) * 0.99)] * 1e3:.0f}"

    parts = [
        spread([getattr(pause, part) for pause in pauses]) for part in ("total_s", "noticed_s", "placed_s", "token_s")
    ]
    return f"| {name} | {streams} | {len(pauses)} | {' | '.join(parts)} |"


async def measure(arguments: argparse.Namespace) -> None:
    dispatcher: Any = ray.get_actor(CONFIG.name, namespace=NAMESPACE)
    front = await WatchedFront.open(dispatcher, patient=True)
    assert isinstance(front, WatchedFront)
    print("| worker | streams | hit | pause ms, median / p99 | until noticed | until placed | until the next token |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    number = 0
    rounds = (("killed", signal.SIGKILL, arguments.kills), ("stopped", signal.SIGSTOP, arguments.hangs))
    for streams, (name, how, count) in itertools.product(arguments.streams, rounds):
        pauses: list[Pause] = []
        for _ in range(count):
            number += 1
            pauses += await hit_once(front, dispatcher, number, how, streams)
        if pauses:
            print(row(name, streams, pauses), flush=True)
    await front.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--hangs", type=int, default=3)
    parser.add_argument("--streams", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8])
    arguments = parser.parse_args()
    with private_cluster(num_cpus=8), Pool.start(config=CONFIG):
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, a hang is a step of {STALL_TIMEOUT_S:g} s")
        asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
