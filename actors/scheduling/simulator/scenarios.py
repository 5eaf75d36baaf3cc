"""The scenarios of the comparison: workloads, pools and service levels, each with its reasons."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.scheduling.simulator import arrivals
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Death, Pool
from actors.scheduling.simulator.metrics import Slo
from actors.scheduling.simulator.traces import Replay, TraceRequest, replay
from actors.scheduling.simulator.workers import WorkerSpec

WORKERS = 8
REQUESTS = 1500
NORMAL = WorkerSpec()
TIGHT = WorkerSpec(total_pages=96)
"""24k tokens of cache: pages run out long before slots."""

MakeJobs = Callable[[random.Random], Sequence[Job]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A row of the comparison. `make` draws the jobs; the same seed draws the same ones for every policy."""

    name: str
    what: str
    make: MakeJobs
    workers: tuple[WorkerSpec, ...] = (NORMAL,) * WORKERS
    slo: Slo = field(default_factory=Slo)
    deaths: tuple[Death, ...] = ()

    def jobs(self, seed: int) -> Sequence[Job]:
        return self.make(random.Random(seed))

    def pool(self, seed: int) -> Pool:
        return Pool(workers=self.workers, deaths=self.deaths, seed=seed)


def _chat(rate: float, burstiness: float = 1.0) -> MakeJobs:
    def make(rng: random.Random) -> Sequence[Job]:
        return arrivals.multi_turn(arrivals.gamma_arrivals(REQUESTS, rate, rng, burstiness), rng)

    return make


def _hot_prefix(rng: random.Random) -> Sequence[Job]:
    return arrivals.hot_prefix(arrivals.gamma_arrivals(REQUESTS, 34.0, rng), rng)


def _heavy_tail(rng: random.Random) -> Sequence[Job]:
    return arrivals.heavy_tail(arrivals.gamma_arrivals(REQUESTS, 14.0, rng), rng)


def _dominant_tenant(rng: random.Random) -> Sequence[Job]:
    jobs = _chat(18.0)(rng)
    arrivals.mix_tenants(jobs, {"heavy": 0.6} | {f"light-{number}": 0.4 / 6 for number in range(6)}, rng)
    return jobs


DOMINANT_TENANT = "one tenant sends 60 %"
MADE_UP = (
    Scenario(name="calm chat", what="multi-turn chat, 12/s: half of what the pool can do", make=_chat(12.0)),
    Scenario(name="chat", what="multi-turn chat, 25/s", make=_chat(25.0)),
    Scenario(name="hot prefix", what="2,048-token instructions of Zipf-like popularity, 34/s", make=_hot_prefix),
    Scenario(name="heavy tail", what="lengths over two orders of magnitude, no prefixes, 14/s", make=_heavy_tail),
    Scenario(
        name="half at half speed",
        what="multi-turn chat, 18/s, four of the workers half as fast",
        make=_chat(18.0),
        workers=(NORMAL,) * 4 + (NORMAL.at_speed(0.5),) * 4,
    ),
    Scenario(
        name="page-tight",
        what="multi-turn chat, 15/s, 96 pages (24k tokens) per worker",
        make=_chat(15.0),
        workers=(TIGHT,) * WORKERS,
    ),
    Scenario(
        name="overload 1.3x",
        what="multi-turn chat, 96 pages, 19.5/s: 1.3 times page-tight",
        make=_chat(19.5),
        workers=(TIGHT,) * WORKERS,
    ),
    Scenario(
        name=DOMINANT_TENANT,
        what="multi-turn chat, 96 pages, 18/s, six other tenants",
        make=_dominant_tenant,
        workers=(TIGHT,) * WORKERS,
    ),
    Scenario(name="bursts", what="multi-turn chat, 20/s, Gamma arrivals of burstiness 0.1", make=_chat(20.0, 0.1)),
    Scenario(
        name="two workers die",
        what="multi-turn chat, 18/s; two workers die, at 15 s and 30 s, and are back 20 s later",
        make=_chat(18.0),
        deaths=(Death(at_s=15.0, index=2), Death(at_s=30.0, index=5)),
    ),
)


def from_traces(mooncake: Sequence[TraceRequest] | None, azure: Sequence[TraceRequest] | None) -> list[Scenario]:
    """The rows that replay recorded traces, for those that are given."""
    rows = []
    if mooncake is not None:
        rows.append(
            Scenario(
                name="Mooncake conversation",
                what="windows of 1,500 requests at 5/s, prompts cut at 8,192 tokens, outputs at 1,024",
                make=lambda rng: replay(mooncake, Replay(requests=REQUESTS, rate=5.0, max_prompt_tokens=8192), rng),
                slo=Slo(ttft_s=5.0, tpot_s=0.1),
            )
        )
    if azure is not None:
        settings = Replay(
            requests=2 * REQUESTS, rate=6.0, max_prompt_tokens=8192, max_output_tokens=256, max_new_tokens=256
        )
        rows.append(
            Scenario(
                name="Azure code",
                what="windows of 3,000 requests at 6/s, prompts cut at 8,192 tokens, outputs at 256",
                make=lambda rng: replay(azure, settings, rng),
                slo=Slo(ttft_s=2.0, tpot_s=0.2),
            )
        )
    return rows
