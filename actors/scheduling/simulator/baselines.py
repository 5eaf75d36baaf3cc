"""Competing routers, each from its published description and with the defaults it ships.

All of them bind at arrival: they choose a worker at once, and the job waits in that worker's own queue. None refuses
(their admission limits are off, or count requests only, as shipped). They see what the original sees: what they routed
themselves, and, for Dynamo and LMETRIC, which use the engines' cache events, the workers' reports.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from actors.messages import StepReport
from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Simulation
from actors.scheduling.simulator.workers import SimulatedWorker


class View:
    """What a router knows of one worker: jobs it routed there, and pages it believes to be there."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.prefill_tokens: dict[str, int] = {}
        """Uncached prompt tokens of routed jobs that have not emitted a token."""
        self.active: Counter[bytes] = Counter()
        """How many routed jobs have a page in their prompt."""
        self.unnamed_pages = 0
        """Pages of routed prompts that nobody can share: the last ones, or all where a trace names none."""
        self.routed: set[bytes] = set()
        """Pages of prompts that were ever routed there: an approximate tree that never forgets."""
        self.resident: set[bytes] = set()
        """Pages that the worker reported."""

    def add(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        self.prefill_tokens[job.job_id] = self.uncached_tokens(job)
        self.active.update(job.pages)
        self.unnamed_pages += pages_needed(job.total_prompt_tokens) - len(job.pages)
        self.routed.update(job.pages)

    def take_in(self, report: StepReport) -> None:
        self.resident.update(report.pages_added)
        self.resident.difference_update(report.pages_evicted)
        for job_id, _ in report.first_tokens:
            self.prefill_tokens.pop(job_id, None)
        for done in report.finished:
            self._remove(done.request_id)

    def _remove(self, job_id: str) -> None:
        job = self.jobs.pop(job_id, None)
        self.prefill_tokens.pop(job_id, None)
        if job is None:
            return
        self.unnamed_pages -= pages_needed(job.total_prompt_tokens) - len(job.pages)
        for page in job.pages:
            self.active[page] -= 1
            if not self.active[page]:
                del self.active[page]

    def uncached_tokens(self, job: Job) -> int:
        """Prompt tokens that the worker would have to compute, by its reports."""
        return job.total_prompt_tokens - matched(job.pages, self.resident) * PAGE_TOKENS

    def due_tokens(self, job: Job) -> int:
        """Uncached prompt tokens that are due if the job comes here too."""
        return sum(self.prefill_tokens.values()) + self.uncached_tokens(job)


def matched(pages: Sequence[bytes], known: set[bytes]) -> int:
    """How many of `pages`, from the first on, are known."""
    for count, page in enumerate(pages):
        if page not in known:
            return count
    return len(pages)


class Router:
    """Base of the baselines: `choose` among workers that are up."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.views: dict[int, View] = {}
        self._parked: list[Job] = []
        self._simulation: Simulation

    def choose(self, job: Job) -> int:
        raise NotImplementedError

    def attach(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def worker_up(self, index: int, worker: SimulatedWorker, now_s: float) -> None:
        self.views[index] = View()
        parked, self._parked = self._parked, []
        for job in parked:
            self.arrive(job, now_s)

    def worker_down(self, index: int, worker_id: str, now_s: float) -> None:
        del self.views[index]

    def arrive(self, job: Job, now_s: float) -> None:
        if not self.views:
            self._parked.append(job)
            return
        index = self.choose(job)
        worker = self._simulation.workers[index]
        assert worker is not None
        if not worker.can_ever_run(job):
            self._simulation.refuse(job, "oversized")  # by the engine: routers do not look at lengths
            return
        self.views[index].add(job)
        self._simulation.send(job, index)

    def report(self, index: int, report: StepReport, now_s: float) -> None:
        self.views[index].take_in(report)

    def tick(self, now_s: float) -> None:
        """Routers that bind at arrival have nothing to do later."""

    def waiting(self) -> int:
        return 0

    def fewest(self, indexes: Sequence[int]) -> int:
        """The worker with the fewest requests, by lot among equals."""
        least = min(len(self.views[index].jobs) for index in indexes)
        return self.random.choice([index for index in indexes if len(self.views[index].jobs) == least])


class RoundRobinRouter(Router):
    """One after the other: vLLM production-stack's default, and nginx's."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._next = 0

    def choose(self, job: Job) -> int:
        indexes = sorted(self.views)
        index = next((i for i in indexes if i >= self._next), indexes[0])
        self._next = index + 1
        return index


class StaticSplit(Router):
    """The list of jobs is cut into equal parts, one for each worker, as a script with one process per GPU does it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._seen = 0

    def choose(self, job: Job) -> int:
        indexes = sorted(self.views)
        part = self._seen * len(indexes) // len(self._simulation.jobs)
        self._seen += 1
        return indexes[min(part, len(indexes) - 1)]


class PowerOfTwoRouter(Router):
    """Ray Serve's `PowerOfTwoChoicesRequestRouter`: of two replicas by lot, the one with the shorter queue."""

    def choose(self, job: Job) -> int:
        indexes = sorted(self.views)
        return self.fewest(self.random.sample(indexes, min(2, len(indexes))))


class LeastRequestsRouter(Router):
    """The fewest requests in flight: nginx's `least_conn`, LiteLLM's `least-busy`."""

    def choose(self, job: Job) -> int:
        return self.fewest(list(self.views))


class CacheAwareRouter(Router):
    """SGLang's `cache_aware`, with the defaults that its launcher ships: cache_threshold 0.3, balance_abs_threshold
    64, balance_rel_threshold 1.5. Out of balance, the shortest queue; else the longest matched prefix when it is more
    than that share of the prompt; else the smallest tree, here the fewest requests, as in later versions."""

    CACHE_THRESHOLD = 0.3
    BALANCE_ABS_THRESHOLD = 64
    BALANCE_REL_THRESHOLD = 1.5

    def choose(self, job: Job) -> int:
        loads = {index: len(view.jobs) for index, view in self.views.items()}
        low, high = min(loads.values()), max(loads.values())
        if high - low > self.BALANCE_ABS_THRESHOLD and high > self.BALANCE_REL_THRESHOLD * low:
            return self.fewest(list(loads))
        depths = {index: matched(job.pages, view.routed) for index, view in self.views.items()}
        best = max(depths, key=lambda index: (depths[index], -loads[index]))
        if depths[best] * PAGE_TOKENS / job.total_prompt_tokens > self.CACHE_THRESHOLD:
            return best
        return self.fewest(list(loads))


class EarlyCacheAwareRouter(CacheAwareRouter):
    """The same with the defaults of its first releases, which serve smaller pools better: 0.5, 32 and 1.0001."""

    CACHE_THRESHOLD = 0.5
    BALANCE_ABS_THRESHOLD = 32
    BALANCE_REL_THRESHOLD = 1.0001


class PrefixAffinityRouter(Router):
    """Ray Serve LLM's `PrefixCacheAffinityRouter`, defaults match_rate_threshold 0.1, imbalanced_threshold infinite,
    no eviction: the longest matched prefix from 10 % on, the shorter queue among equals; else the smallest tree."""

    MATCH_RATE_THRESHOLD = 0.1

    def choose(self, job: Job) -> int:
        depths = {index: matched(job.pages, view.routed) for index, view in self.views.items()}
        most = max(depths.values())
        if most * PAGE_TOKENS / job.total_prompt_tokens >= self.MATCH_RATE_THRESHOLD:
            return self.fewest([index for index, depth in depths.items() if depth == most])
        smallest = min(len(view.routed) for view in self.views.values())
        return self.fewest([index for index, view in self.views.items() if len(view.routed) == smallest])


class DynamoRouter(Router):
    """NVIDIA Dynamo's KV router, defaults overlap weight 1, temperature 0, no queue, output blocks not tracked: the
    lowest of prefill blocks that are due + active blocks, each with the new request; shared blocks count once."""

    def choose(self, job: Job) -> int:
        def cost(index: int) -> tuple[float, int]:
            view = self.views[index]
            fresh = pages_needed(job.total_prompt_tokens) - sum(page in view.active for page in job.pages)
            return view.due_tokens(job) / PAGE_TOKENS + len(view.active) + view.unnamed_pages + fresh, index

        return min(self.views, key=cost)


class LmetricRouter(Router):
    """LMETRIC (arXiv 2603.15202): the lowest product of uncached prompt tokens that are due and batch size. It has no
    settings."""

    def choose(self, job: Job) -> int:
        def cost(index: int) -> tuple[float, int]:
            view = self.views[index]
            return view.due_tokens(job) * (len(view.jobs) + 1), index

        return min(self.views, key=cost)


BASELINES: dict[str, type[Router]] = {
    "sglang_cache_aware": CacheAwareRouter,
    "sglang_cache_aware_early": EarlyCacheAwareRouter,
    "ray_prefix_affinity": PrefixAffinityRouter,
    "dynamo": DynamoRouter,
    "lmetric_router": LmetricRouter,
    "ray_power_of_two": PowerOfTwoRouter,
    "least_requests_router": LeastRequestsRouter,
    "round_robin_router": RoundRobinRouter,
    "static_split": StaticSplit,
}
