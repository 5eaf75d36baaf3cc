"""The part of tests/test_nodes.py that needs a cluster of its own, and so a process of its own.

A node dies under a pool that has workers on two, and another one joins. Says what became of the requests and the
workers, as JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.cluster_utils import Cluster

from actors import NoHealthyWorker, Pool, WorkerState
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, prepare_private_cluster

REQUESTS = 20
"""More than two workers can run together, so that each of the three has some."""
TOKENS = 300
WAIT_S = 60.0


def states(pool: Pool) -> dict[str, WorkerState]:
    """Nothing while the dispatcher is restarted, which may have been on the node."""
    try:
        return {state.slot_name: state for state in pool.statistics().workers}
    except NoHealthyWorker:
        return {}


def wait(pool: Pool, condition: Callable[[dict[str, WorkerState]], bool]) -> dict[str, WorkerState]:
    deadline_s = time.monotonic() + WAIT_S
    while not condition(found := states(pool)):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)  # a poll, bounded by the deadline above
    return found


def all_up(found: dict[str, WorkerState]) -> bool:
    return len(found) == 3 and all(state.worker_id is not None for state in found.values())


def ask(pool: Pool) -> list[bool]:
    """Whether each request ended as it had to. They go through a front in this process, which stays."""
    prompts = [(10, 11, 20 + number) for number in range(REQUESTS)]
    made = [getattr(done, "token_ids", done) for done in pool.map(prompts, max_new_tokens=TOKENS, temperature=0.0)]
    return [tokens == expected_tokens(prompt, TOKENS) for prompt, tokens in zip(prompts, made, strict=True)]


def main() -> None:
    prepare_private_cluster()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    settings: dict[str, Any] = {"cache_tokens": 65536, "max_batch_size": 8, "simulated": {"step_s": 0.01}}
    with (
        Pool.start(name="nodes", engine="simulated", workers=3, wait_for="all", **settings) as pool,
        ThreadPoolExecutor(1) as thread,
    ):
        before = wait(pool, all_up)
        asked = thread.submit(ask, pool)
        wait(pool, lambda found: sum(state.active_jobs > 0 for state in found.values()) == 3)
        cluster.remove_node(node, allow_graceful=False)
        right = asked.result(WAIT_S)
        stayed = wait(pool, lambda found: sum(state.worker_id is not None for state in found.values()) == 1)
        cluster.add_node(num_cpus=2)
        after = wait(pool, all_up)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    same = [name for name in before if after[name].worker_id == before[name].worker_id]
    up = [name for name, state in stayed.items() if state.worker_id is not None]
    print(json.dumps({"right": right, "same": same, "up without the node": up}))


if __name__ == "__main__":
    main()
