"""What a pool says of itself: frozen snapshots, for people, tests and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from actors.messages import WorkerLimits
from actors.scheduling.statistics import SchedulerStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A slot of the pool and the worker in it. `worker_id` is None while none can generate there; `loading` is then
    (stage, done, total) or None, and `failure` says why none ever will. `draining`: it gets nothing more to do, and
    leaves the pool when it is empty. `node` is the address of the node on which the worker runs, or ran when it was
    last heard of (empty: it has not begun yet), and `gpus` the ids of that node's GPUs that are its own. `waiting` says
    what it waits for while Ray has no node for it, as in "waits for a node with 1 GPU: the cluster has none"."""

    slot_name: str
    worker_id: str | None
    limits: WorkerLimits | None
    loading: tuple[str, int, int] | None
    failure: Exception | None
    restarts: int
    active_jobs: int
    generated_tokens: int
    finished_requests: int
    draining: bool = False
    node: str = ""
    gpus: tuple[str, ...] = ()
    waiting: str = ""

    @property
    def state(self) -> str:
        """In one word: "up", "draining", "starting", "waiting" (for a node) or "lost"."""
        if self.failure is not None:
            return "lost"
        if self.draining:
            return "draining"
        if self.worker_id is not None:
            return "up"
        return "waiting" if self.waiting else "starting"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """Everything that the dispatcher knows: its scheduler's state and that of every worker."""

    scheduler: SchedulerStatistics
    workers: tuple[WorkerState, ...]
