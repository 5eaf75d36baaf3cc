"""One run from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from actors import Pool, PoolConfig
from actors.dispatcher.statistics import PoolStatistics
from actors.ray_session import NAMESPACE, prepare_private_cluster
from tests.chaos.asking import Asker
from tests.chaos.books import PAGES, PROCESSES, Books
from tests.chaos.faults import Faults
from tests.chaos.load import ask_all
from tests.chaos.plan import APPLICATION, MODEL, SETTINGS, WORKERS, ChaosPlan
from tests.chaos.questions import Question, make_questions
from tests.pool_actors import ASK_S
from tests.processes import MARK_NAME
from tests.serve_app.running import Running, free_port, http_client
from tests.soak.leftovers import busy_with, wait_until_gone

POLL_S = 0.25
LOGICAL_CPUS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    calm: Books
    chaos: Books
    faults: Faults
    took_s: dict[str, float]
    """By phase."""


class Clock:
    """How long each phase took."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._from_s = time.monotonic()

    def ended(self, phase: str) -> None:
        now_s = time.monotonic()
        self.took_s[phase], self._from_s = now_s - self._from_s, now_s


async def chaos(plan: ChaosPlan) -> Outcome:
    """Serve a pool on a private cluster, ask everything in calm and then in chaos, and look at what is left."""
    mark = os.environ[MARK_NAME] = uuid.uuid4().hex  # all processes that Ray starts inherit it
    calm, books, clock = Books(), Books(), Clock()
    running = await asyncio.to_thread(_start)
    try:
        clock.ended("start")
        dispatcher = await asyncio.to_thread(running.dispatcher, MODEL)
        config: PoolConfig = await dispatcher.config.remote()
        pool = await asyncio.to_thread(Pool.connect, config.name)
        faults = Faults(plan, config, dispatcher)
        books.faults = faults.made
        try:
            async with http_client() as http:
                asker = Asker(http, running.url, pool, faults.replica_died)
                questions = make_questions(plan.rng("questions"), plan.requests)
                await ask_all(plan, iter(questions), asker, calm)
                books.expected = calm.heard
                clock.ended("calm run")
                await _in_chaos(plan, [one for one in questions if one.number in calm.heard], asker, books, faults)
            clock.ended("chaos")
            await _look_for_pages(plan, dispatcher, books)
            clock.ended("until idle")
        finally:
            await asyncio.to_thread(pool.close)
    finally:
        await asyncio.to_thread(serve.shutdown)
        await asyncio.to_thread(ray.shutdown)
    for what in faults.still_stopped() + await wait_until_gone(mark, plan.close_within_s):
        books.fail(PROCESSES, what)
    clock.ended("end")
    return Outcome(calm, books, faults, clock.took_s)


def _start() -> Running:
    """A cluster that does not repeat here what its processes log: they are killed all the time, and say so."""
    prepare_private_cluster()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=LOGICAL_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    port = free_port()
    quiet: Any = {"log_level": "ERROR"}
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    running = Running(APPLICATION, f"http://127.0.0.1:{port}")
    running.deploy(**SETTINGS)
    running.wait_ready()
    _wait_for_all_workers(running)
    return running


def _wait_for_all_workers(running: Running) -> None:
    deadline_s = time.monotonic() + 120.0
    while sum(worker.worker_id is not None for worker in running.statistics(MODEL).workers) < WORKERS:
        assert time.monotonic() < deadline_s, "not all workers came up"
        time.sleep(POLL_S)  # a poll, bounded by the deadline above


async def _in_chaos(plan: ChaosPlan, questions: list[Question], asker: Asker, books: Books, faults: Faults) -> None:
    """Ask everything once, and again until the time is over and all faults were made."""
    until_s = time.monotonic() + plan.chaos_s
    over = asyncio.Event()
    making = asyncio.create_task(faults.go_on(over))

    def enough() -> bool:
        return making.done() or (time.monotonic() > until_s and len(faults.made) >= len(plan.faults))

    def again_and_again() -> Iterator[Question]:
        rng, all_asked = plan.rng("order"), False
        while True:
            rng.shuffle(questions)
            for question in questions:
                if all_asked and enough():
                    return
                yield question
            all_asked = True

    await ask_all(plan, again_and_again(), asker, books)
    over.set()
    await making
    books.failures += faults.failures


async def _look_for_pages(plan: ChaosPlan, dispatcher: Any, books: Books) -> None:
    """Wait until nothing runs and all workers are back; what still holds pages then has leaked them."""
    deadline_s = time.monotonic() + plan.idle_within_s
    while True:
        try:
            async with asyncio.timeout(ASK_S):
                statistics: PoolStatistics = await dispatcher.statistics.remote()
            left = busy_with(statistics)
            held = sum(worker.total_pages - worker.free_pages for worker in statistics.scheduler.workers)
        except (RayError, TimeoutError) as error:
            left, held = [f"the dispatcher does not answer: {error!r}"], 0
        if not left:
            return
        if time.monotonic() > deadline_s:
            books.fail(PAGES, f"after the load: {', '.join(left)}", held)
            books.failures += [f"left after the load: {what}" for what in left]
            return
        await asyncio.sleep(POLL_S)  # a poll, bounded by the deadline above
