"""The real scheduler as a simulation's dispatcher."""

from __future__ import annotations

import time
from array import array

from actors.messages import Admission, StepReport
from actors.scheduling.actions import Action, Refuse, Resync, Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import Event, Reported, Submitted, Tick, WorkerDown, WorkerExpected, WorkerUp
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Simulation
from actors.scheduling.simulator.workers import SimulatedWorker


class CoreDispatcher:
    """Feeds `Scheduler` and carries its actions out. `decision_s` has the real time that each event took."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.scheduler = Scheduler(config)
        self.decision_s = array("d")
        self.wait_errors_s: list[tuple[float, float]] = []
        """(estimated, real) waits of started requests that had to wait."""
        self._indexes: dict[str, int] = {}
        self._simulation: Simulation

    def attach(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def worker_up(self, index: int, worker: SimulatedWorker, now_s: float) -> None:
        self._indexes[worker.worker_id] = index
        self._handle(WorkerUp(worker.worker_id, f"w{index}", worker.spec.limits()), now_s)

    def worker_down(self, index: int, worker_id: str, now_s: float) -> None:
        self._handle(WorkerDown(worker_id, "killed by the simulation"), now_s)
        self._handle(WorkerExpected(f"w{index}"), now_s)

    def arrive(self, job: Job, now_s: float) -> None:
        admission = Admission(
            request_id=job.job_id,
            attempt=job.attempt,
            prompt_tokens=job.total_prompt_tokens,
            max_new_tokens=job.max_new_tokens - job.emitted_tokens,
            page_hashes=job.pages,
            priority=job.priority,
            tenant=job.tenant,
            excluded_workers=frozenset(job.killers),
            age_s=now_s - job.arrival_s,
        )
        self._handle(Submitted(admission), now_s)

    def report(self, index: int, report: StepReport, now_s: float) -> None:
        self._handle(Reported(report), now_s)

    def tick(self, now_s: float) -> None:
        self._handle(Tick(), now_s)

    def waiting(self) -> int:
        return len(self.scheduler.state.queue)

    def _handle(self, event: Event, now_s: float) -> None:
        begin_s = time.perf_counter()
        actions = self.scheduler.handle(event, now_s)
        self.decision_s.append(time.perf_counter() - begin_s)
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(grant):
                job = self._simulation.jobs[grant.request_id]
                request = self.scheduler.state.requests[grant.request_id]
                if request.estimated_wait_s > 0.0:
                    self.wait_errors_s.append((request.estimated_wait_s, request.granted_s - request.arrived_s))
                self._simulation.send(job, self._indexes[grant.worker_id])
            case Refuse(refusal):
                self._simulation.refuse(self._simulation.jobs[refusal.request_id], refusal.reason.value)
            case Resync():
                raise AssertionError("the simulation loses no report")
