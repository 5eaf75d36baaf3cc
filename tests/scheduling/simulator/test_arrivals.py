"""Workloads that are made up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from actors.paging.hashes import PAGE_TOKENS
from actors.results import Priority
from actors.scheduling.simulator import arrivals
from actors.scheduling.simulator.jobs import Job

Make = Callable[[Sequence[float], random.Random], list[Job]]
MAKERS: dict[str, Make] = {
    "chat": arrivals.multi_turn,
    "hot prefix": arrivals.hot_prefix,
    "heavy tail": arrivals.heavy_tail,
    "independent": lambda times, rng: arrivals.independent(len(times), rng),
}


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_arrivals_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    """The gaps' coefficient of variation is 1 / sqrt(burstiness): 1 for Poisson."""
    times = arrivals.gamma_arrivals(20_000, 5.0, random.Random(3), burstiness)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) >= 0.0
    assert fmean(gaps) == pytest.approx(1 / 5.0, rel=0.05)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_jobs_are_possible_and_the_same_for_a_seed(name: str) -> None:
    def make(seed: int) -> list[Job]:
        rng = random.Random(seed)
        return MAKERS[name](arrivals.gamma_arrivals(300, 10.0, rng), rng)

    jobs = make(5)
    for job in jobs:
        assert 1 <= job.output_tokens <= job.max_new_tokens
        assert len(job.pages) <= (job.prompt_tokens - 1) // PAGE_TOKENS
        assert job.pages == job.all_pages[: len(job.pages)]
        assert len(set(job.all_pages)) == len(job.all_pages)
    assert len({job.job_id for job in jobs}) == 300
    signature = [(j.arrival_s, j.prompt_tokens, j.output_tokens, j.pages) for j in jobs]
    assert signature == [(j.arrival_s, j.prompt_tokens, j.output_tokens, j.pages) for j in make(5)]
    assert signature != [(j.arrival_s, j.prompt_tokens, j.output_tokens, j.pages) for j in make(6)]


def test_a_turn_of_a_chat_holds_the_turns_before_it() -> None:
    jobs = arrivals.multi_turn([float(i) for i in range(400)], random.Random(1))
    seen: set[bytes] = set()
    found = 0
    for job in jobs:
        resident = [page for page in job.pages if page in seen]
        assert tuple(resident) == job.pages[: len(resident)], "what is known of a prompt is a prefix of it"
        found += bool(resident)
        seen.update(job.all_pages)
    assert found > 350


def test_tenants_and_classes_are_mixed_by_share() -> None:
    jobs = arrivals.independent(4000, random.Random(1))
    arrivals.mix_tenants(jobs, {"a": 3.0, "b": 1.0}, random.Random(2))
    arrivals.mix_classes(jobs, {Priority.INTERACTIVE: 1.0, Priority.BATCH: 1.0}, random.Random(3))
    assert Counter(job.tenant for job in jobs)["a"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert Counter(job.priority for job in jobs)[Priority.BATCH] / 4000 == pytest.approx(0.5, abs=0.03)
