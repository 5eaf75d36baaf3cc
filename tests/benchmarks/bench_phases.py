"""What a pool still does in time when it is asked for three times as much and loses a worker, and how it is afterwards.

Requests arrive at random over a front that does not wait, as a server's: a refusal is an answer. Goodput counts those
that met the SLO: the first token in time, and the others at the pace of the engine. Four phases, of which STANDARD and
RECOVERY have the very same arrivals:

- STANDARD: well below what the workers can do.
- STANDARD, one killed: the same, and a worker is killed at a third of the time.
- OVERLOAD, one killed: three times as many arrivals, and a worker is killed at a third of the time.
- RECOVERY: as STANDARD, directly after the overload.

    python -m tests.benchmarks.bench_phases [--seconds 20] [--rate 10]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from actors import ExlpoolError, Overloaded, Pool, pool_config
from actors.front.front import Front
from actors.ray_session import NAMESPACE
from actors.request.options import request_options
from tests.benchmarks.clusters import private_cluster
from tests.pool_actors import worker_pids

STEP_S = 0.05
TOKENS = 20
SLO_FIRST_S = 1.5
SLO_TOKEN_S = 2.0 * STEP_S
"""On average over a completion, a pause for a lost worker included."""
OVERLOAD = 3.0
CONFIG = pool_config(
    name="phases",
    engine="simulated",
    workers=4,
    wait_for="all",
    cpus_per_worker=0.1,
    max_batch_size=4,
    max_wait_s=1.0,
    max_restarts=-1,
    simulated={"step_s": STEP_S},
)
CAPACITY_PER_S = CONFIG.workers * CONFIG.max_batch_size / (TOKENS * STEP_S)


@dataclass(slots=True)
class Phase:
    """What became of the requests of one phase."""

    offered: int = 0
    good: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    first_s: list[float] = field(default_factory=list)

    def row(self, name: str, seconds: float) -> str:
        ordered = sorted(self.first_s) or [0.0]
        p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        share = 100 * self.good / max(self.offered, 1)
        numbers = f"{self.offered / seconds:.1f} | {self.good / seconds:.1f} | {share:.1f} %"
        return f"| {name} | {numbers} | {self.late} | {self.refused} | {self.failed} | {p50:.2f} | {p99:.2f} |"


async def ask(front: Front, number: int, phase: Phase) -> None:
    """One request, judged by the SLO."""
    began_s = time.monotonic()
    first_s = last_s = 0.0
    options = request_options(max_new_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    try:
        async for _ in front.stream((10 + number % 2000, 11, 12, 13 + number // 2000), options):
            last_s = time.monotonic()
            first_s = first_s or last_s
    except Overloaded:
        phase.refused += 1
        return
    except ExlpoolError:
        phase.failed += 1
        return
    phase.first_s.append(first_s - began_s)
    if first_s - began_s <= SLO_FIRST_S and (last_s - first_s) / (TOKENS - 1) <= SLO_TOKEN_S:
        phase.good += 1
    else:
        phase.late += 1


async def run_phase(front: Front, *, rate: float, seconds: float, seed: int, kill: bool) -> Phase:
    """Arrivals for so long; all have ended when it returns."""
    phase, rng = Phase(), random.Random(seed)
    until_s = time.monotonic() + seconds
    kill_at_s = time.monotonic() + seconds / 3 if kill else None
    next_s = time.monotonic()
    async with asyncio.TaskGroup() as requests:
        while (next_s := next_s + rng.expovariate(rate)) < until_s:
            await asyncio.sleep(next_s - time.monotonic())
            if kill_at_s is not None and next_s > kill_at_s:
                kill_at_s = None
                requests.create_task(kill_worker())
            requests.create_task(ask(front, phase.offered, phase))
            phase.offered += 1
    return phase


async def kill_worker() -> None:
    pids = await worker_pids(CONFIG)
    os.kill(next(iter(pids.values())), signal.SIGKILL)


async def wait_until_up(dispatcher: Any) -> None:
    while any(worker.worker_id is None for worker in (await dispatcher.statistics.remote()).workers):
        await asyncio.sleep(0.1)


async def measure(arguments: argparse.Namespace) -> None:
    dispatcher: Any = ray.get_actor(CONFIG.name, namespace=NAMESPACE)
    front = await Front.open(dispatcher, patient=False)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {CONFIG.workers} workers can do {CAPACITY_PER_S:.0f} "
        f"requests/s of {TOKENS} tokens; SLO: first token in {SLO_FIRST_S:g} s, then {SLO_TOKEN_S * 1e3:.0f} ms a token"
    )
    print("| phase | offered/s | goodput/s | of offered | late | refused | failed | first token s, p50 | p99 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    await run_phase(front, rate=arguments.rate, seconds=3.0, seed=0, kill=False)  # opens every link
    phases = (
        ("STANDARD", 1.0, 1, False),
        ("STANDARD, one killed", 1.0, 1, True),
        ("OVERLOAD, one killed", OVERLOAD, 2, True),
        ("RECOVERY", 1.0, 1, False),
    )
    good: dict[str, int] = {}
    for name, times, seed, kill in phases:
        if name != "RECOVERY":
            await wait_until_up(dispatcher)
        phase = await run_phase(front, rate=times * arguments.rate, seconds=arguments.seconds, seed=seed, kill=kill)
        good[name] = phase.good
        print(phase.row(name, arguments.seconds), flush=True)
    print(f"RECOVERY is {100 * good['RECOVERY'] / good['STANDARD']:.1f} % of STANDARD")
    await front.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=0.6 * CAPACITY_PER_S, help="arrivals a second in STANDARD")
    arguments = parser.parse_args()
    with private_cluster(num_cpus=8), Pool.start(config=CONFIG):
        asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
