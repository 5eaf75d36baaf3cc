"""A data set over unequal workers: how near to the lower bound it ends. Run with `python -m`."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from actors.scheduling.config import SchedulerConfig
from actors.scheduling.simulator.arrivals import independent
from actors.scheduling.simulator.loop import Pool
from actors.scheduling.simulator.metrics import Outcome
from actors.scheduling.simulator.run import simulate
from actors.scheduling.simulator.workers import WorkerSpec

SPEEDS = (1.0, 1.0, 1.0, 0.8, 0.8, 0.6, 0.5, 0.4)
POLICIES = ("cost", "lmetric", "least_requests", "ray_power_of_two", "round_robin_router", "static_split")


def run(jobs: int, speeds: Sequence[float], policy: str, seed: int) -> Outcome:
    """All jobs are there at once, with class batch; nothing is refused for waiting."""
    pool = Pool(workers=tuple(WorkerSpec().at_speed(speed) for speed in speeds), seed=seed)
    config = SchedulerConfig(max_queued_requests=jobs + 1)
    return simulate(lambda: independent(jobs, random.Random(seed)), pool, policy, config=config)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m actors.scheduling.simulator.makespan", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--speeds", default=",".join(map(str, SPEEDS)))
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args(arguments)
    speeds = [float(speed) for speed in args.speeds.split(",")]
    data = {}
    print("| policy | makespan s | lower bound s | above the bound |\n|---|---|---|---|")
    for policy in args.policies.split(","):
        outcomes = [run(args.jobs, speeds, policy, seed) for seed in range(args.seeds)]
        span_s = sum(o.makespan_s for o in outcomes) / len(outcomes)
        bound_s = sum(o.bound_s for o in outcomes) / len(outcomes)
        print(f"| `{policy}` | {span_s:.1f} | {bound_s:.1f} | {100 * (span_s / bound_s - 1):.1f} % |", flush=True)
        data[policy] = [asdict(outcome) for outcome in outcomes]
    if args.json is not None:
        args.json.write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    main()
