"""One run from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import Counter
from typing import Any

import ray

from actors import Pool
from actors.builtin_model import builtin_model_path
from actors.ray_session import NAMESPACE, prepare_private_cluster
from actors.request.prompt import PromptEncoder
from tests.processes import MARK_NAME
from tests.soak.checker import Checker
from tests.soak.faults import Chaos
from tests.soak.fronts import FrontActors, FrontSlots, wait_for_event
from tests.soak.leftovers import State, debug_states, other_tasks, wait_until_gone, wait_until_idle
from tests.soak.load import Surroundings, User
from tests.soak.memory import MemoryWatch
from tests.soak.plan import SoakPlan, soak_pool
from tests.soak.report import judge_memory

TOUCH_S = 60.0


async def soak(plan: SoakPlan) -> tuple[Checker, MemoryWatch]:
    """Start a pool on a private cluster, load it, break it, and look at what is left. Ends within the watchdog's time,
    whatever the pool does."""
    mark = os.environ[MARK_NAME] = uuid.uuid4().hex  # all processes that Ray starts inherit it
    _start_cluster()
    checker = Checker()
    pool = await asyncio.to_thread(Pool.start, config=soak_pool())
    try:
        around = _surroundings(plan, pool, checker)
        watch = MemoryWatch(around, mark)
        await _touch(pool)
        before, tasks_before = await _state_before(around), other_tasks()
        await _load(around, watch)
        _tell(checker, "after the load", await wait_until_idle(around, before))
        more_tasks = Counter(other_tasks()) - Counter(tasks_before)
        _tell(checker, "after the load", [f"{count} task(s) {name}" for name, count in more_tasks.items()])
    finally:
        await asyncio.to_thread(pool.close)
        await asyncio.to_thread(ray.shutdown)
    _tell(checker, "after the pool was closed", await wait_until_gone(mark, plan.close_within_s))
    checker.judge_shares()
    judge_memory(plan, watch, checker)
    return checker, watch


def _start_cluster() -> None:
    """A private one, which does not repeat here what its processes log: they are killed all the time, and say so."""
    prepare_private_cluster()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _surroundings(plan: SoakPlan, pool: Pool, checker: Checker) -> Surroundings:
    dispatcher: Any = ray.get_actor(pool.config.name, namespace=NAMESPACE)
    return Surroundings(
        plan=plan,
        pool=pool,
        dispatcher=dispatcher,
        encoder=PromptEncoder.load(builtin_model_path()),
        checker=checker,
        slots=FrontSlots(dispatcher, checker, plan.rng("fronts"), plan.fronts),
        actors=FrontActors(dispatcher, plan.front_actors),
        stop=asyncio.Event(),
    )


async def _touch(pool: Pool) -> None:
    """Use every front of the pool on every worker once, so that what they keep open is open before the load."""
    async with asyncio.timeout(TOUCH_S):
        for _ in range(4):
            prompts = [(10, 11, 12, number) for number in range(16)]
            await asyncio.gather(*(pool.generate.remote(prompt, max_new_tokens=8) for prompt in prompts))
            await asyncio.to_thread(_map, pool, prompts)
            await asyncio.gather(*(_read(pool, prompt) for prompt in prompts))


def _map(pool: Pool, prompts: list[Any]) -> None:
    for _ in pool.map(prompts, max_new_tokens=8):
        pass


async def _read(pool: Pool, prompt: Any) -> None:
    async for _ in pool.stream(prompt, max_new_tokens=8):
        pass


async def _state_before(around: Surroundings) -> State:
    left = await wait_until_idle(around, None)
    assert not left, left
    return await debug_states(around)


async def _load(around: Surroundings, watch: MemoryWatch) -> None:
    """Everything at once for the time of the plan. Users stop first, while their fronts are still there."""
    chaos, stop_fronts = Chaos(around), asyncio.Event()
    async with asyncio.TaskGroup() as fronts:
        for index in range(around.plan.fronts):
            fronts.create_task(around.slots.keep(index, stop_fronts))
        async with asyncio.TaskGroup() as tasks:
            for number in range(around.plan.users):
                tasks.create_task(User(f"user-{number}", around, tasks).live())
            for fault, every_s in chaos.kinds().items():
                tasks.create_task(chaos.repeat(fault, every_s))
            tasks.create_task(watch.watch())
            await wait_for_event(around.stop, around.plan.load_s)
            around.stop.set()
        stop_fronts.set()
    for index in range(around.plan.front_actors):
        around.actors.kill(index, replace=False)


def _tell(checker: Checker, when: str, left: list[str]) -> None:
    for what in left:
        checker.fail(f"left {when}: {what}")
