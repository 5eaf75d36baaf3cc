"""The small actor beside every script: `pool.generate.remote` is a call to it.

A call outlives the actor: when its process dies, Ray starts another one and runs there what was under way. The dead
one's streams end with it, so that its jobs are cancelled (`actors.worker.worker`) before or while their successors
begin. What a caller hears is an `ExlpoolError`, or nothing but a delay.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import ExlpoolError
from actors.request.options import request_options
from actors.request.prompt import Prompt
from actors.results import GenerationResult
from actors.script.shared_front import SharedFront

MAX_CONCURRENT_CALLS = 1000
"""Requests of one script that are served or queued in the pool at a time; Ray keeps further calls in order."""
CLOSE_TIMEOUT_S = 5.0
"""For the actor to end its calls; one that takes longer is killed with them."""


def start_front_actor(dispatcher: Any) -> Any:
    """Start one on the node of this process, whose end it could not outlive anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    front: Any = (
        ray.remote(FrontActor)
        .options(
            num_cpus=0,
            max_concurrency=MAX_CONCURRENT_CALLS,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=here,
        )
        .remote(pickle.dumps(dispatcher))
    )
    front.open.remote()  # now, so that the first request does not wait for the process
    return front


def end_front_actor(front: Any) -> None:
    """End its calls, those to come as well, with `PoolClosed`. Its process goes when nobody refers to it any more."""
    try:
        ray.get(front.close.remote(), timeout=CLOSE_TIMEOUT_S)
    except RayError:
        ray.kill(front)


class FrontActor:
    """A patient front in a process of its own, so that a busy script does not hold up its own results."""

    def __init__(self, dispatcher: bytes) -> None:
        """`dispatcher` is a pickled handle: a plain one would lie in Ray's store of objects, and its loss there would
        keep this actor from being restarted."""
        self._shared = SharedFront(pickle.loads(dispatcher))

    async def open(self) -> None:
        """Begin before the first request comes, which is told what this failed with. Nobody waits for it."""
        with suppress(ExlpoolError):
            await self._shared.get()

    async def generate(self, prompt: Prompt, **options: Any) -> GenerationResult:
        """See `Pool.generate`."""
        front = await self._shared.get()
        return await front.generate(prompt, request_options(**options))

    async def close(self) -> None:
        """End all calls with `PoolClosed`, also those to come: copies of the pool may make some."""
        await self._shared.close()

    async def debug_state(self) -> dict[str, int]:
        """Numbers for tests of what is left over."""
        return {"tasks": len(asyncio.all_tasks()) - 1}

    async def pid(self) -> int:
        """The process of this life, for tests and chaos that end it."""
        return os.getpid()

    def __repr__(self) -> str:
        return "<FrontActor>"  # short, since Ray puts it before every line of the actor's log
