"""What a decision costs: `python -m tests.benchmarks.bench_scheduler [--json FILE]`.

Two measurements, both with the default policy and a busy pool, in CPU time, so that other load does not count:

- microseconds per event (median, mean, p99) at 10, 100 and 1,000 workers with 100 and 100,000 waiting requests. An
  event is a report of a worker whose oldest attempt has ended, which mostly places others, or one of the arrivals that
  bring the queue back to its size.
- requests per second through the core at 8 workers: each is admitted, placed, confirmed and finished.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.messages import Admission, AttemptFinished, AttemptStarted, StepReport, StepSample, WorkerLimits
from actors.scheduling.actions import Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import Reported, Submitted, WorkerUp

LIMITS = WorkerLimits(
    engine="simulated",
    model="simulated",
    context_tokens=32_768,
    total_pages=512,
    max_batch_size=32,
    vocab_size=32_000,
    eos_token_ids=(2,),
    supported_parameters=frozenset(),
)


WARM_UP_ROUNDS = 12


class Load:
    """A scheduler with workers, and the reports they would send."""

    def __init__(self, workers: int, queued: int) -> None:
        self.random = random.Random(1)
        self.now_s = 0.0
        self.scheduler = Scheduler(SchedulerConfig(max_queued_requests=queued + 10_000, max_wait_s=1e9))
        self.running: dict[str, list[str]] = {f"w{i}#1": [] for i in range(workers)}
        self.sequences = dict.fromkeys(self.running, 0)
        self.spent_s: list[float] = []
        self._number = 0
        self._queued = queued
        for i in range(workers):
            self.scheduler.handle(WorkerUp(f"w{i}#1", f"w{i}", LIMITS), 0.0)
        self.fill()

    def fill(self) -> None:
        """Arrivals until the queue has its size."""
        while len(self.scheduler.state.queue) < self._queued:
            self.submit()

    def submit(self) -> None:
        """A prompt of a few pages behind one of 200 shared prefixes of 4 pages, for one of 50 tenants."""
        self._number += 1
        group = self.random.randrange(200)
        own = self.random.randrange(8)
        pages = [b"g%d-%d" % (group, page) for page in range(4)] + [b"u%d-%d" % (self._number, p) for p in range(own)]
        admission = Admission(
            request_id=f"r{self._number}",
            attempt=1,
            prompt_tokens=256 * len(pages) + 100,
            max_new_tokens=512,
            page_hashes=tuple(pages),
            tenant=f"t{self.random.randrange(50)}",
        )
        self._handle(Submitted(admission))

    def finish(self, worker_id: str) -> None:
        """The oldest attempt of a worker ends; everything that was started is confirmed."""
        attempts = self.running[worker_id]
        done = (AttemptFinished(attempts.pop(0), 1, 200),) if attempts else ()
        self.sequences[worker_id] += 1
        started = tuple(AttemptStarted(request_id, 1, 0) for request_id in attempts[-1:])
        self._handle(
            Reported(
                StepReport(
                    worker_id=worker_id,
                    sequence=self.sequences[worker_id],
                    started=started,
                    first_tokens=tuple((request_id, 1) for request_id in attempts),
                    finished=done,
                    steps=(StepSample(0.03, 512, len(attempts)),),
                )
            )
        )

    def _handle(self, event: Submitted | Reported) -> None:
        self.now_s += 0.001
        begin_s = time.thread_time()
        actions = self.scheduler.handle(event, self.now_s)
        self.spent_s.append(time.thread_time() - begin_s)
        for action in actions:
            if isinstance(action, Start):
                self.running[action.grant.worker_id].append(action.grant.request_id)


def decision_cost(workers: int, queued: int, events: int) -> dict[str, float]:
    """Microseconds per event in a pool that is full."""
    load = Load(workers, queued)
    names = list(load.running)
    for number in range(WARM_UP_ROUNDS * workers):  # until the pool is full and has mixed
        load.finish(names[number % workers])
        load.fill()
    load.spent_s.clear()
    while len(load.spent_s) < events:
        load.finish(load.random.choice(names))
        load.fill()
    spent_us = np.asarray(load.spent_s) * 1e6
    median, p99 = np.percentile(spent_us, (50, 99))
    return {
        "workers": workers,
        "queued": len(load.scheduler.state.queue),
        "median_us": float(median),
        "mean_us": float(spent_us.mean()),
        "p99_us": float(p99),
    }


def throughput(requests: int) -> float:
    """Requests per second through the core at 8 workers, their whole lives."""
    load = Load(8, 0)
    names = list(load.running)
    load.spent_s.clear()
    for number in range(requests):
        load.submit()
        load.finish(names[number % 8])
    return requests / sum(load.spent_s)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    rows = []
    print("| workers | queued | median µs | mean µs | p99 µs |\n|---|---|---|---|---|")
    for workers in (10, 100, 1000):
        for queued in (100, 100_000):
            row = decision_cost(workers, queued, args.events)
            rows.append(row)
            print(
                f"| {workers} | {row['queued']:.0f} | {row['median_us']:.0f} | {row['mean_us']:.0f} "
                f"| {row['p99_us']:.0f} |",
                flush=True,
            )
    rate = throughput(20_000)
    print(f"\n{rate:.0f} requests/s through the core at 8 workers")
    if args.json is not None:
        args.json.write_text(json.dumps({"decisions": rows, "requests_per_s": rate}), encoding="utf-8")


if __name__ == "__main__":
    main()
