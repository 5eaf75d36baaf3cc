"""Competing routers, each from its published description and with the defaults it ships.

All of them bind at arrival: they choose a worker at once, and the job waits in that worker's own queue. None refuses
(their admission limits are off, or count requests only, as shipped). They see what the original sees: what they routed
themselves, and, for Dynamo and LMETRIC, which use the engines' cache events, the workers' reports.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from actors.messages import StepReport
from actors.paging import PAGE_TOKENS, pages_needed
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.loop import Simulation
from actors.scheduling.simulator.workers import SimulatedWorker


class View:
    """What a router knows of one worker: jobs it routed there, and pages it believes to be there."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.prefill_tokens: dict[str, int] = {}
        """Uncached prompt tokens of routed jobs that have not emitted a token."""
        self.total_pages: dict[str, int] = {}
        self.routed: set[bytes] = set()
        """Pages of prompts that were ever routed there: an approximate tree that never forgets."""
        self.resident: set[bytes] = set()
        """Pages that the worker reported."""

    def matched(self, pages: Sequence[bytes], known: set[bytes]) -> int:
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
        view = self.views[index]
        view.jobs[job.job_id] = job
        hits = view.matched(job.pages, view.resident)
        view.prefill_tokens[job.job_id] = job.total_prompt_tokens - hits * PAGE_TOKENS
        view.total_pages[job.job_id] = pages_needed(job.total_prompt_tokens)
        view.routed.update(job.pages)
        self._simulation.send(job, index)

    def report(self, index: int, report: StepReport, now_s: float) -> None:
        view = self.views[index]
        view.resident.update(report.pages_added)
        view.resident.difference_update(report.pages_evicted)
        for job_id, _ in report.first_tokens:
            view.prefill_tokens.pop(job_id, None)
        for done in report.finished:
            view.jobs.pop(done.request_id, None)
            view.prefill_tokens.pop(done.request_id, None)
            view.total_pages.pop(done.request_id, None)

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
    """Job i of the list goes to worker i modulo the number of workers, as a script with one process per GPU does it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._seen = 0

    def choose(self, job: Job) -> int:
        indexes = sorted(self.views)
        index = indexes[self._seen % len(indexes)]
        self._seen += 1
        return index


class PowerOfTwoRouter(Router):
    """Ray Serve's `PowerOfTwoChoicesRequestRouter`: of two replicas by lot, the one with the shorter queue."""

    def choose(self, job: Job) -> int:
        indexes = sorted(self.views)
        return self.fewest(self.random.sample(indexes, min(2, len(indexes))))


class CacheAwareRouter(Router):
    """SGLang's `cache_aware`, defaults cache_threshold 0.5, balance_abs_threshold 32, balance_rel_threshold 1.1:
    out of balance, the shortest queue; else the longest matched prefix when it is more than half of the prompt; else
    the smallest tree, here the fewest requests, as in later versions."""

    CACHE_THRESHOLD = 0.5
    BALANCE_ABS_THRESHOLD = 32
    BALANCE_REL_THRESHOLD = 1.1

    def choose(self, job: Job) -> int:
        loads = {index: len(view.jobs) for index, view in self.views.items()}
        low, high = min(loads.values()), max(loads.values())
        if high - low > self.BALANCE_ABS_THRESHOLD and high > self.BALANCE_REL_THRESHOLD * low:
            return self.fewest(list(loads))
        matched = {index: view.matched(job.pages, view.routed) for index, view in self.views.items()}
        best = max(matched, key=lambda index: (matched[index], -loads[index]))
        if matched[best] * PAGE_TOKENS / job.total_prompt_tokens > self.CACHE_THRESHOLD:
            return best
        return self.fewest(list(loads))


class PrefixAffinityRouter(Router):
    """Ray Serve LLM's `PrefixCacheAffinityRouter`, defaults match_rate_threshold 0.1, imbalanced_threshold infinite,
    no eviction: the longest matched prefix from 10 % on, the shorter queue among equals; else the smallest tree."""

    MATCH_RATE_THRESHOLD = 0.1

    def choose(self, job: Job) -> int:
        matched = {index: view.matched(job.pages, view.routed) for index, view in self.views.items()}
        most = max(matched.values())
        if most * PAGE_TOKENS / job.total_prompt_tokens >= self.MATCH_RATE_THRESHOLD:
            return self.fewest([index for index, pages in matched.items() if pages == most])
        smallest = min(len(view.routed) for view in self.views.values())
        return self.fewest([index for index, view in self.views.items() if len(view.routed) == smallest])


class DynamoRouter(Router):
    """NVIDIA Dynamo's KV router, defaults overlap weight 1, temperature 0, no queue: the lowest of
    uncached prefill blocks that are due (the new request's included) + active decode blocks."""

    def choose(self, job: Job) -> int:
        def cost(index: int) -> tuple[float, int]:
            view = self.views[index]
            hits = view.matched(job.pages, view.resident)
            due = sum(view.prefill_tokens.values()) + job.total_prompt_tokens - hits * PAGE_TOKENS
            return due / PAGE_TOKENS + sum(view.total_pages.values()) + pages_needed(job.total_prompt_tokens), index

        return min(self.views, key=cost)


class LmetricRouter(Router):
    """LMETRIC (arXiv 2603.15202): the lowest product of uncached prompt tokens that are due and batch size. It has no
    settings."""

    def choose(self, job: Job) -> int:
        def cost(index: int) -> tuple[float, int]:
            view = self.views[index]
            hits = view.matched(job.pages, view.resident)
            due = sum(view.prefill_tokens.values()) + job.total_prompt_tokens - hits * PAGE_TOKENS
            return due * (len(view.jobs) + 1), index

        return min(self.views, key=cost)


BASELINES: dict[str, type[Router]] = {
    "sglang_cache_aware": CacheAwareRouter,
    "ray_prefix_affinity": PrefixAffinityRouter,
    "dynamo": DynamoRouter,
    "lmetric_router": LmetricRouter,
    "ray_power_of_two": PowerOfTwoRouter,
    "round_robin_router": RoundRobinRouter,
    "static_split": StaticSplit,
}
