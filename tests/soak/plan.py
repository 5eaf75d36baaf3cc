"""What a soak does, and within which bounds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from actors import PoolConfig, pool_config

CONTEXT_TOKENS = 40_000
STALL_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakPlan:
    """All times in seconds. Of the load time, faults hit everything during the first half; in the second half one
    worker, the dispatcher and the pool's own front live on, so that their memory can be judged over a long life."""

    load_s: float
    seed: int
    users: int = 40
    fronts: int = 4
    front_actors: int = 2
    end_within_s: float = 90.0
    """A request that has not ended by then has no end: several times what waiting, a hang that is found, and a restart
    take together."""
    batch_ends_within_s: float = 300.0
    """The same for class batch, which gets what the other classes leave: how long that takes is the load's doing."""
    idle_within_s: float = 60.0
    close_within_s: float = 30.0
    sample_s: float = 10.0
    kill_worker_every_s: float = 25.0
    stop_worker_every_s: float = 60.0
    break_link_every_s: float = 3.0
    break_reports_every_s: float = 20.0
    kill_front_actor_every_s: float = 45.0
    kill_dispatcher_every_s: float = 120.0

    def rng(self, name: str) -> random.Random:
        """Choices of their own for everybody who chooses, the same for the same seed."""
        return random.Random(f"{self.seed}/{name}")

    @property
    def watchdog_s(self) -> float:
        """Longer than everything together may take."""
        return 180.0 + self.load_s + 2 * self.batch_ends_within_s + self.idle_within_s + self.close_within_s + 60.0


def soak_plan(minutes: float, seed: int) -> SoakPlan:
    """A run of so many minutes of load. A short one has its faults more often, so that each of them comes."""
    load_s = 60.0 * minutes
    hurry = min(1.0, load_s / 300.0)
    return SoakPlan(
        load_s=load_s,
        seed=seed,
        kill_worker_every_s=25.0 * max(hurry, 0.3),
        stop_worker_every_s=60.0 * max(hurry, 0.25),
        kill_front_actor_every_s=45.0 * max(hurry, 0.25),
        kill_dispatcher_every_s=120.0 * max(hurry, 0.15),
        sample_s=min(10.0, load_s / 12),
    )


def soak_pool() -> PoolConfig:
    """Two workers of 16 slots in all, with pages for a few long prompts at a time: less than the load asks for."""
    return pool_config(
        name="soak",
        engine="simulated",
        workers=2,
        wait_for="all",
        cache_tokens=192 * 256,
        max_batch_size=8,
        max_queued_requests=64,
        max_restarts=-1,
        max_restart_pause_s=1.0,  # nobody is to blame for these deaths
        stall_timeout_s=STALL_TIMEOUT_S,
        simulated={"step_s": 0.02, "context_tokens": CONTEXT_TOKENS},
    )
