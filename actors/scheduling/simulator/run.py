"""One simulation from a policy's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.errors import ConfigurationError
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.policies import POLICIES
from actors.scheduling.simulator.baselines import BASELINES
from actors.scheduling.simulator.dispatchers import CoreDispatcher
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Pool, Simulation
from actors.scheduling.simulator.metrics import Outcome, Slo, measure

POLICY_NAMES = (*POLICIES, *BASELINES)
WAIT_SHARE = 0.75
"""Of the time to first token that is allowed, what a request may wait in the scheduler's queue; the rest is for its
prefill."""


def simulate(
    make_jobs: Callable[[], Sequence[Job]],
    pool: Pool,
    policy: str,
    *,
    slo: Slo | None = None,
    config: SchedulerConfig | None = None,
) -> Outcome:
    """Run one policy over freshly made jobs.

    :raises ConfigurationError: there is no policy of that name.
    """
    known_policies([policy])
    slo = slo or Slo()
    jobs = make_jobs()
    if policy in POLICIES:
        config = config or SchedulerConfig(max_wait_s=WAIT_SHARE * slo.ttft_s)
        core = CoreDispatcher(replace(config, policy=policy, seed=pool.seed))
        Simulation(jobs, pool, core).run()
        return measure(jobs, slo, pool.workers, core.decision_s, core.wait_errors_s)
    Simulation(jobs, pool, BASELINES[policy](pool.seed)).run()
    return measure(jobs, slo, pool.workers)


def known_policies(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if there is a policy of each.

    :raises ConfigurationError: there is none of one of them.
    """
    for name in names:
        if name not in POLICY_NAMES:
            raise ConfigurationError(
                f"There is no policy {name!r}; there are {', '.join(POLICY_NAMES)}.", param="policy"
            )
    return tuple(names)
