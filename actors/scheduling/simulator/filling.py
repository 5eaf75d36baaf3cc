"""Class batch fills the gaps: chats with and without a data set behind them. Run with `python -m`."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from actors.results import Priority
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.simulator.arrivals import gamma_arrivals, independent, multi_turn
from actors.scheduling.simulator.intervals import interval
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Pool
from actors.scheduling.simulator.metrics import Outcome
from actors.scheduling.simulator.run import simulate
from actors.scheduling.simulator.workers import WorkerSpec

WORKERS = 8
CHATS = 1500
CHATS_FROM_S = 30.0
DATA_SET = 2000
"""A little more than fits beside the chats while they go on."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent beside the chats, if anything, and when all of it arrives."""

    name: str
    data_set: Priority | None = None
    at_s: float = CHATS_FROM_S + 20.0


CASES = (
    Case("no data set"),
    Case("data set, class batch", Priority.BATCH),
    Case("the same, 30 s before the first chat", Priority.BATCH, 0.0),
    Case("the same, at once with the first chat", Priority.BATCH, CHATS_FROM_S),
    Case("data set, class default", Priority.DEFAULT),
    Case("data set, class interactive", Priority.INTERACTIVE),
)


def jobs(case: Case, rate: float, seed: int) -> Sequence[Job]:
    """Interactive chats, and the data set of another tenant."""
    rng = random.Random(seed)
    chats = multi_turn(gamma_arrivals(CHATS, rate, rng), rng)
    for job in chats:
        job.tenant, job.priority = "chats", Priority.INTERACTIVE
        job.arrival_s += CHATS_FROM_S
    if case.data_set is None:
        return chats
    rows = independent(DATA_SET, rng)
    for job in rows:
        job.job_id, job.tenant, job.priority = f"row-{job.job_id}", "data set", case.data_set
        job.arrival_s = case.at_s
    return [*chats, *rows]


def run(case: Case, rate: float, seed: int) -> Outcome:
    """Nothing is refused for waiting, so that the cases compare."""
    pool = Pool(workers=(WorkerSpec(),) * WORKERS, seed=seed)
    config = SchedulerConfig(max_queued_requests=CHATS + DATA_SET + 1, max_wait_s=1e9, max_batch_wait_s=1e9)
    return simulate(partial(jobs, case, rate, seed), pool, "cost", config=config)


def row(case: Case, outcomes: Sequence[Outcome]) -> str:
    """Markdown: what the chats felt, and how long both took."""
    chats = [outcome.tenants["chats"] for outcome in outcomes]
    cells = (
        str(interval([group.goodput for group in chats])),
        f"{fmean(group.ttft_s.mean for group in chats):.3f}",
        f"{fmean(group.ttft_s.p50 for group in chats):.3f}",
        f"{fmean(group.ttft_s.p99 for group in chats):.3f}",
        f"{1000 * fmean(group.tpot_s.mean for group in chats):.1f}",
        f"{fmean(o.makespan_s for o in outcomes):.1f}",
    )
    return f"| {case.name} | " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m actors.scheduling.simulator.filling", description=__doc__)
    parser.add_argument("--rate", type=float, default=12.0, help="chat requests per second (12)")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each case (10)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args(arguments)
    print("| | chats: goodput % | TTFT mean s | p50 s | p99 s | TPOT mean ms | all done at s |")
    print("|---|---|---|---|---|---|---|")
    data = {}
    for case in CASES:
        outcomes = [run(case, args.rate, seed) for seed in range(args.seeds)]
        print(row(case, outcomes), flush=True)
        data[case.name] = [asdict(outcome) for outcome in outcomes]
    if args.json is not None:
        args.json.write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    main()
