"""Workloads that are made up: arrivals, lengths, shared prefixes, tenants. Same seed, same jobs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.paging.hashes import PAGE_TOKENS
from actors.results import Priority
from actors.scheduling.simulator.jobs import Job, page_name, shareable

_SYSTEM, _SESSION, _GROUP, _UNIQUE = range(4)


def gamma_arrivals(count: int, rate: float, rng: random.Random, burstiness: float = 1.0) -> list[float]:
    """Arrival times in seconds: gaps from Gamma(shape = burstiness, mean = 1 / rate); 1 is Poisson, less is burstier
    (vLLM's definition)."""
    times, now_s = [], 0.0
    for _ in range(count):
        now_s += rng.gammavariate(burstiness, 1.0 / (rate * burstiness))
        times.append(now_s)
    return times


def _lognormal(rng: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    return min(max(int(median * rng.lognormvariate(0.0, sigma)), low), high)


@dataclass(slots=True)
class _Session:
    number: int
    system: int
    system_pages: int
    tokens: int


def multi_turn(times: Sequence[float], rng: random.Random, *, open_sessions: int = 64) -> list[Job]:
    """Chats that grow turn by turn, each behind one of 12 system prompts of 512 to 2,048 tokens.

    Three of four requests go on with one of the latest `open_sessions` sessions, whose prompt then holds all earlier
    turns; sessions end at 8,000 tokens. Outputs have median 150 and at most 1,000 tokens, max_new_tokens is 1,024.
    """
    systems = [(number, rng.choice((2, 4, 8))) for number in range(12)]
    sessions: list[_Session] = []
    jobs = []
    for number, at_s in enumerate(times):
        if sessions and rng.random() < 0.75:
            session = rng.choice(sessions[-open_sessions:])
        else:
            system, pages = rng.choice(systems)
            session = _Session(number, system, pages, pages * PAGE_TOKENS)
            sessions.append(session)
        prompt = session.tokens + _lognormal(rng, 100, 0.8, 10, 2000)
        output = _lognormal(rng, 150, 0.8, 4, 1000)
        names = tuple(
            page_name(_SYSTEM, session.system, page)
            if page < session.system_pages
            else page_name(_SESSION, session.number, page)
            for page in range((prompt + output) // PAGE_TOKENS)
        )
        jobs.append(_job(number, at_s, prompt, output, 1024, names))
        session.tokens = prompt + output
        if session.tokens > 8000:
            sessions.remove(session)
    return jobs


def hot_prefix(times: Sequence[float], rng: random.Random) -> list[Job]:
    """Long instructions of 2,048 tokens shared by groups of Zipf-like popularity, and a short question each."""
    jobs = []
    for number, at_s in enumerate(times):
        group = min(int(rng.paretovariate(1.0)), 64)
        prompt = 2048 + rng.randint(100, 700)
        names = tuple(
            page_name(_GROUP, group, page) if page < 8 else page_name(_UNIQUE, number, page)
            for page in range(prompt // PAGE_TOKENS)
        )
        jobs.append(_job(number, at_s, prompt, _lognormal(rng, 100, 0.7, 4, 600), 768, names))
    return jobs


def heavy_tail(times: Sequence[float], rng: random.Random) -> list[Job]:
    """Independent requests whose prompts (median 490, up to 14,000) and outputs (median 180, up to 2,000) vary over
    two orders of magnitude; max_new_tokens is one to three times the output."""
    jobs = []
    for number, at_s in enumerate(times):
        prompt = _lognormal(rng, 490, 1.2, 16, 14_000)
        output = _lognormal(rng, 180, 1.0, 4, 2000)
        bound = min(2048, max(64, int(output * rng.uniform(1.0, 3.0))))
        names = tuple(page_name(_UNIQUE, number, page) for page in range(prompt // PAGE_TOKENS))
        jobs.append(_job(number, at_s, prompt, output, bound, names))
    return jobs


def independent(count: int, rng: random.Random) -> list[Job]:
    """A data set to go through: all there at once, class batch, prompts of median 300, outputs of median 200 tokens."""
    jobs = []
    for number in range(count):
        prompt = _lognormal(rng, 300, 0.6, 16, 3000)
        job = _job(number, 0.0, prompt, _lognormal(rng, 200, 0.6, 8, 1000), 1024, ())
        job.priority = Priority.BATCH
        jobs.append(job)
    return jobs


def mix_tenants(jobs: Sequence[Job], shares: Mapping[str, float], rng: random.Random) -> None:
    """Give every job to a tenant by lot; `shares` are relative."""
    tenants, weights = list(shares), list(shares.values())
    for job in jobs:
        job.tenant = rng.choices(tenants, weights)[0]


def mix_classes(jobs: Sequence[Job], shares: Mapping[Priority, float], rng: random.Random) -> None:
    """Put every job into a class by lot; `shares` are relative."""
    classes, weights = list(shares), list(shares.values())
    for job in jobs:
        job.priority = rng.choices(classes, weights)[0]


def _job(number: int, at_s: float, prompt: int, output: int, bound: int, names: tuple[bytes, ...]) -> Job:
    return Job(
        job_id=f"r{number}",
        arrival_s=at_s,
        prompt_tokens=prompt,
        output_tokens=min(output, bound),
        max_new_tokens=bound,
        pages=shareable(names, prompt),
        all_pages=names,
    )
