"""The part of tests/test_autoscaling_cluster.py that uses the cluster, in a process of its own.

A pool of one worker to begin with and at most two, of which an idle one has none. Says how many nodes for workers there
were, and what was answered, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from actors import ConfigurationError, Pool
from actors.cluster_room import alive_nodes
from actors.engines.simulated import expected_tokens
from actors.ray_session import ensure_ray

WAIT_S = 100.0
REQUESTS, TOKENS = 40, 200
SETTINGS: dict[str, Any] = {
    "engine": "simulated",
    "gpus_per_worker": 1,
    "min_workers": 0,
    "max_workers": 2,
    "scale_up_wait_s": 0.5,
    "scale_down_after_s": 2.0,
    "max_batch_size": 4,
    "start_timeout_s": WAIT_S,
    "simulated": {"step_s": 0.02},
}


def gpu_nodes() -> int:
    return sum("GPU" in node.total for node in alive_nodes())


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)  # a poll, bounded by the deadline above


def ask(pool: Pool, count: int) -> int:
    """How many of so many requests were answered as they have to be."""
    prompts = [(10, 11, 20 + number) for number in range(count)]
    made = [getattr(done, "token_ids", done) for done in pool.map(prompts, max_new_tokens=TOKENS, temperature=0.0)]
    return sum(tokens == expected_tokens(prompt, TOKENS) for prompt, tokens in zip(prompts, made, strict=True))


def refused() -> str:
    try:
        Pool.start(**SETTINGS, wait=False).close()
    except ConfigurationError as error:
        return error.message
    return "it was started"


def main() -> None:
    ensure_ray(sys.argv[1], quiet=True)
    told: dict[str, Any] = {"before": gpu_nodes(), "refused": refused(), "answers": REQUESTS}
    with Pool.start(**SETTINGS) as pool, ThreadPoolExecutor(1) as thread:
        told["first"] = gpu_nodes()
        asked = thread.submit(ask, pool, REQUESTS)
        until(lambda: sum(worker.state == "up" for worker in pool.workers()) == 2)
        told["busy"] = gpu_nodes()
        told["right"] = asked.result(WAIT_S)
        until(lambda: not pool.workers() and gpu_nodes() == 0)
        told["after"] = gpu_nodes()
        ask(pool, 1)
        told["woken"] = gpu_nodes()
    ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
