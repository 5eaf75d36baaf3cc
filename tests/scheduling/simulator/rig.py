"""Small pools and jobs whose every second can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

from actors.messages import StepReport
from actors.scheduling.simulator.jobs import Job, page_name, shareable
from actors.scheduling.simulator.loop import Death, Pool, Simulation
from actors.scheduling.simulator.workers import SimulatedWorker, WorkerSpec

PLAIN = WorkerSpec(
    total_pages=8,
    max_batch_size=2,
    base_s=0.1,
    per_job_s=0.0,
    prefill_tokens_per_s=1000.0,
    chunk_tokens=512,
    noise=0.0,
)
"""A step takes 0.1 s and 1 ms for every prompt token; a chunk has 512 tokens, two pages."""


def job(
    name: str, *, at_s: float = 0.0, prompt: int = 100, output: int = 1, bound: int | None = None, shared: int = 0
) -> Job:
    """`shared` tells prompts apart: those of one number begin alike, page by page."""
    names = tuple(page_name(shared, page) for page in range((prompt + output) // 256))
    return Job(
        job_id=name,
        arrival_s=at_s,
        prompt_tokens=prompt,
        output_tokens=output,
        max_new_tokens=output if bound is None else bound,
        pages=shareable(names, prompt),
        all_pages=names,
    )


def pool(*workers: WorkerSpec, deaths: tuple[Death, ...] = (), report_lag_s: float = 0.0) -> Pool:
    return Pool(workers=workers or (PLAIN,), report_lag_s=report_lag_s, grant_lag_s=0.0, deaths=deaths)


class InOrder:
    """A dispatcher that sends job after job to the workers that are up, in turn, and keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, StepReport]] = []
        self.downs: list[str] = []
        self.up: list[int] = []
        self.parked: list[Job] = []
        self.arrived: list[tuple[float, str, int]] = []
        self._simulation: Simulation

    def attach(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def worker_up(self, index: int, worker: SimulatedWorker, now_s: float) -> None:
        self.up.append(index)
        parked, self.parked = self.parked, []
        for one in parked:
            self._send(one)

    def worker_down(self, index: int, worker_id: str, now_s: float) -> None:
        self.up.remove(index)
        self.downs.append(worker_id)

    def arrive(self, job: Job, now_s: float) -> None:
        self.arrived.append((now_s, job.job_id, job.attempt))
        self._send(job)

    def _send(self, job: Job) -> None:
        if self.up:
            self.up.append(self.up.pop(0))
            self._simulation.send(job, self.up[-1])
        else:
            self.parked.append(job)

    def report(self, index: int, report: StepReport, now_s: float) -> None:
        self.reports.append((now_s, report))

    def tick(self, now_s: float) -> None:
        """It never holds a job back."""

    def waiting(self) -> int:
        return 0


def simulate(jobs: Sequence[Job], of: Pool) -> InOrder:
    dispatcher = InOrder()
    Simulation(jobs, of, dispatcher).run()
    return dispatcher
