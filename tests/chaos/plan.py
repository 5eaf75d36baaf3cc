"""What a run of the chaos does, and within which bounds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

WORKERS = 4
REPLICAS = 2
APPLICATION = "chaos"
MODEL = "tiny"
STALL_TIMEOUT_S = 2.0
MAX_RESTART_PAUSE_S = 1.0
"""Nobody is to blame for these deaths: workers that wait ever longer would leave the pool idle."""
SETTINGS: dict[str, Any] = {
    "name": MODEL,
    "engine": "cpu",
    "workers": WORKERS,
    "cpus_per_worker": 0.1,
    "cache_tokens": 64 * 256,
    "context_tokens": 2048,
    "max_batch_size": 16,
    "max_restarts": -1,
    "max_restart_pause_s": MAX_RESTART_PAUSE_S,
    "stall_timeout_s": STALL_TIMEOUT_S,
    "fronts": {"min_replicas": REPLICAS, "max_replicas": REPLICAS},
    "access_log": False,
}

KILL_WORKER = "worker killed"
STOP_WORKER = "worker stopped until it was ended"
PAUSE_WORKER = "worker stopped for a second"
KILL_DISPATCHER = "dispatcher killed"
KILL_REPLICA = "replica of the HTTP front killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """All times in seconds. Each of `requests` different requests is asked at least once while `faults` come one after
    another, again and again until `chaos_s` are over. Faults of workers are so far apart that a request which was hit
    has gone on for a while before it is hit again: one that two workers die of in a row is refused as the suspect."""

    requests: int
    chaos_s: float
    fault_every_s: float
    faults: tuple[str, ...]
    seed: int
    users: int = 24
    end_within_s: float = 90.0
    """A request that has not ended by then has no end."""
    idle_within_s: float = 60.0
    close_within_s: float = 30.0

    def rng(self, name: str) -> random.Random:
        """Choices of their own for everybody who chooses, the same for the same seed."""
        return random.Random(f"{self.seed}/{name}")

    @property
    def watchdog_s(self) -> float:
        """Longer than everything together may take."""
        return 300.0 + 2 * self.chaos_s + 2 * self.end_within_s + self.idle_within_s + self.close_within_s


def chaos_plan(minutes: float, seed: int) -> ChaosPlan:
    """The long form: so many minutes of faults."""
    others = (KILL_DISPATCHER, PAUSE_WORKER, KILL_REPLICA, STOP_WORKER)
    faults = tuple(fault for other in others for fault in (KILL_WORKER, other))
    return ChaosPlan(requests=600, chaos_s=60.0 * minutes, fault_every_s=3.0, faults=faults, seed=seed)


def short_plan(seed: int) -> ChaosPlan:
    """Nearly every kind of fault, once or twice."""
    faults = (KILL_WORKER, KILL_REPLICA, KILL_WORKER, KILL_DISPATCHER, STOP_WORKER)
    return ChaosPlan(requests=90, chaos_s=20.0, fault_every_s=4.0, faults=faults, seed=seed, users=16)
