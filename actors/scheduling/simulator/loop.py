"""The simulation: one heap of events, workers, and a dispatcher that places jobs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.messages import StepReport
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.workers import SimulatedWorker, WorkerSpec

TICK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Worker `index` dies at `at_s` and is back, with an empty cache, after `restart_s`."""

    at_s: float
    index: int
    restart_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What runs: the workers, how late everybody hears of everything, and what goes wrong."""

    workers: tuple[WorkerSpec, ...]
    report_lag_s: float = 0.02
    """From the end of a step until the dispatcher has its report: the report interval and the way."""
    grant_lag_s: float = 0.002
    """From a decision until the worker has the job: dispatcher to front to worker."""
    deaths: tuple[Death, ...] = ()
    seed: int = 0


class Dispatcher(Protocol):
    """Places jobs. It reaches workers only through `simulation.send` and `simulation.refuse`."""

    def attach(self, simulation: Simulation) -> None: ...

    def worker_up(self, index: int, worker: SimulatedWorker, now_s: float) -> None: ...

    def worker_down(self, index: int, worker_id: str, now_s: float) -> None: ...

    def arrive(self, job: Job, now_s: float) -> None: ...

    def report(self, index: int, report: StepReport, now_s: float) -> None: ...

    def tick(self, now_s: float) -> None: ...

    def waiting(self) -> int:
        """Jobs that the dispatcher itself holds."""
        ...


class Simulation:
    """Runs jobs through a dispatcher. Use once."""

    def __init__(self, jobs: Sequence[Job], pool: Pool, dispatcher: Dispatcher) -> None:
        self.jobs = {job.job_id: job for job in jobs}
        self.pool = pool
        self.now_s = 0.0
        self.unfinished = len(jobs)
        self.workers: list[SimulatedWorker | None] = [None] * len(pool.workers)
        self._lives = [0] * len(pool.workers)
        self._dispatcher = dispatcher
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = 0
        self._ticking = False
        dispatcher.attach(self)
        for index in range(len(pool.workers)):
            self._push(0.0, self._on_up, index)
        for death in pool.deaths:
            self._push(death.at_s, self._on_down, death)
        for job in jobs:
            self._push(job.arrival_s, self._on_arrive, job)

    def _push(self, at_s: float, handler: Callable[[Any], None], payload: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_s, self._order, handler, payload))

    def run(self) -> None:
        """Run until every job is done or refused."""
        while self.unfinished:
            self.now_s, _, handler, payload = heapq.heappop(self._heap)
            handler(payload)
            if not self._ticking and self._dispatcher.waiting():
                self._ticking = True
                self._push(self.now_s + TICK_S, self._on_tick, None)

    # For dispatchers.

    def send(self, job: Job, index: int) -> None:
        """Have a job started on a worker."""
        job.worker = index
        worker = self.workers[index]
        assert worker is not None
        self._push(self.now_s + self.pool.grant_lag_s, self._on_submit, (worker, job, job.attempt))

    def refuse(self, job: Job, reason: str) -> None:
        job.refused = reason
        self.unfinished -= 1

    # Events.

    def _on_arrive(self, job: Job) -> None:
        self._dispatcher.arrive(job, self.now_s)

    def _on_tick(self, _: None) -> None:
        self._ticking = False
        self._dispatcher.tick(self.now_s)

    def _on_up(self, index: int) -> None:
        self._lives[index] += 1
        spec, life = self.pool.workers[index], self._lives[index]
        worker = SimulatedWorker(f"w{index}#{life}", spec, self.pool.seed * 1009 + index * 31 + life)
        self.workers[index] = worker
        self._dispatcher.worker_up(index, worker, self.now_s)

    def _on_down(self, death: Death) -> None:
        worker = self.workers[death.index]
        if worker is None:
            return
        self.workers[death.index] = None
        self._push(self.now_s + death.restart_s, self._on_up, death.index)
        self._dispatcher.worker_down(death.index, worker.worker_id, self.now_s)
        for job in worker.die(self.now_s):
            self._replay(job, worker.worker_id)

    def _replay(self, job: Job, worker_id: str) -> None:
        """The front of a job whose worker died asks again, with what was emitted as part of the prompt."""
        job.emitted_tokens += min(job.generated, job.left_tokens - 1)  # its end was still under way, and is lost
        job.generated = 0
        job.attempt += 1
        job.killers.add(worker_id)
        self._dispatcher.arrive(job, self.now_s)

    def _on_submit(self, payload: tuple[SimulatedWorker, Job, int]) -> None:
        worker, job, attempt = payload
        if job.attempt != attempt or job.done_s is not None or job.refused is not None:
            return
        if worker not in self.workers:
            job.generated = 0
            self._replay(job, worker.worker_id)
            return
        before_s = worker.until_s
        worker.submit(job, self.now_s)
        if before_s is None:
            self._begin(worker)
        elif worker.until_s != before_s:
            self._push(worker.until_s or 0.0, self._on_step, (worker, worker.until_s))

    def _begin(self, worker: SimulatedWorker) -> None:
        worker.begin(self.now_s)
        if worker.until_s is not None:
            self._push(worker.until_s, self._on_step, (worker, worker.until_s))

    def _on_step(self, payload: tuple[SimulatedWorker, float]) -> None:
        worker, until_s = payload
        if worker.until_s != until_s or worker not in self.workers:
            return
        self.unfinished -= len(worker.end(self.now_s))
        self._begin(worker)
        self._push(self.now_s + self.pool.report_lag_s, self._on_report, (worker, worker.report()))

    def _on_report(self, payload: tuple[SimulatedWorker, StepReport]) -> None:
        worker, report = payload
        if worker in self.workers:
            self._dispatcher.report(self.workers.index(worker), report, self.now_s)
