"""A node dies: the streams of its workers go on elsewhere, and its workers start again on a node that joins.

Three raylets on this machine: one for the script, and two with two workers each of the simulated engine, whose tokens
follow from the prompt.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import ray
from ray.cluster_utils import Cluster

from actors import Pool, pool_config
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, prepare_private_cluster
from tests.processes import MARK_NAME
from tests.soak.leftovers import busy_with, wait_until_gone

WORKERS_PER_NODE = 2
TOKENS = 250
STEP_S = 0.02
STREAMS, WHOLE = 24, 24
TOKENS_BEFORE = 20
ENDS_WITHIN_S = 90.0
BACK_WITHIN_S = 90.0
POLL_S = 0.1
CONFIG = pool_config(
    name="nodes",
    engine="simulated",
    workers=2 * WORKERS_PER_NODE,
    wait_for="all",
    cpus_per_worker=1.0,
    max_batch_size=16,
    max_restarts=-1,
    simulated={"step_s": STEP_S},
)


@dataclass(slots=True)
class NodeDeath:
    """What users saw of it. Times in seconds since the node was killed."""

    failures: list[str] = field(default_factory=list)
    answers: int = 0
    longest_gap_s: float = 0.0
    back_s: float = 0.0

    def lines(self) -> list[str]:
        told = [
            f"A node of {WORKERS_PER_NODE} workers killed under {STREAMS} streams and {WHOLE} whole requests: "
            f"{self.answers} right answers, longest gap in a stream {self.longest_gap_s:.2f} s, "
            f"its workers ran on a node that joined {self.back_s:.1f} s after its death.",
        ]
        return [*told, *(f"WRONG: {failure}" for failure in self.failures)]


async def node_dies() -> NodeDeath:
    """One run from its beginning to its end."""
    mark = os.environ[MARK_NAME] = uuid.uuid4().hex
    prepare_private_cluster()
    seen = NodeDeath()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=WORKERS_PER_NODE) for _ in range(2)]
        await asyncio.to_thread(_connect, cluster)
        pool = await asyncio.to_thread(Pool.start, config=CONFIG)
        try:
            await _lose_a_node(cluster, nodes[1], pool, seen)
        finally:
            await asyncio.to_thread(pool.close)
    finally:
        await asyncio.to_thread(ray.shutdown)
        await asyncio.to_thread(cluster.shutdown)
    seen.failures += [f"left over: {what}" for what in await wait_until_gone(mark, 30.0)]
    return seen


def _connect(cluster: Cluster) -> None:
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    cluster.wait_for_nodes()


async def _lose_a_node(cluster: Cluster, node: Any, pool: Pool, seen: NodeDeath) -> None:
    prompts = [(10, 11, 12, 20 + number) for number in range(STREAMS + WHOLE)]
    arrivals: dict[int, list[float]] = {number: [] for number in range(STREAMS)}
    begun = asyncio.Event()

    async def stream(number: int) -> tuple[int, ...]:
        token_ids: list[int] = []
        async for delta in pool.stream(prompts[number], max_new_tokens=TOKENS, temperature=0.0):
            arrivals[number].append(time.monotonic())
            token_ids += delta.token_ids
            if all(len(times) >= TOKENS_BEFORE for times in arrivals.values()):
                begun.set()
        return tuple(token_ids)

    async def whole(number: int) -> tuple[int, ...]:
        result = await pool.generate.remote(prompts[number], max_new_tokens=TOKENS, temperature=0.0)
        return result.token_ids

    asked = [*(stream(number) for number in range(STREAMS)), *(whole(STREAMS + number) for number in range(WHOLE))]
    tasks = [asyncio.create_task(one) for one in asked]
    async with asyncio.timeout(ENDS_WITHIN_S):
        await begun.wait()
    killed_s = time.monotonic()
    await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
    await asyncio.wait(tasks, timeout=ENDS_WITHIN_S)
    for prompt, task in zip(prompts, tasks, strict=True):
        _judge(prompt, task, seen)
    seen.longest_gap_s = max(after - before for times in arrivals.values() for before, after in pairwise(times))
    cluster.add_node(num_cpus=WORKERS_PER_NODE)  # Ray sets signal handlers, which only the main thread may
    seen.failures += await _wait_until_idle(pool)
    seen.back_s = time.monotonic() - killed_s


def _judge(prompt: tuple[int, ...], task: asyncio.Task[tuple[int, ...]], seen: NodeDeath) -> None:
    if not task.done():
        task.cancel()
        seen.failures.append(f"{prompt} has no end")
    elif task.exception() is not None:
        seen.failures.append(f"{prompt}: {task.exception()!r}")
    elif task.result() != expected_tokens(prompt, TOKENS):
        seen.failures.append(f"{prompt}: other tokens than expected, {len(task.result())} of {TOKENS}")
    else:
        seen.answers += 1


async def _wait_until_idle(pool: Pool) -> list[str]:
    """Until every worker is up again and nothing runs; returns what is still wrong at the end."""
    deadline_s = time.monotonic() + BACK_WITHIN_S
    while True:
        left = busy_with(await asyncio.to_thread(pool.statistics))
        if not left or time.monotonic() > deadline_s:
            return left
        await asyncio.sleep(POLL_S)  # a poll, bounded by the deadline above
