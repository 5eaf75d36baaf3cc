"""The part of tests/test_placing.py that needs a cluster of its own, and so a process of its own.

A head without GPUs, and two nodes with four each, which Ray only counts. Says where workers came to run, as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from typing import Any

import ray
from ray.cluster_utils import Cluster

from actors import ConfigurationError, Pool, WorkerState
from actors.cluster_room import alive_nodes
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, prepare_private_cluster, worker_name
from tests.node_death import wait

ASK_S = 30.0
GPUS = 4
"""Of each of the two nodes."""
Place = tuple[str, tuple[str, ...], str]
"""Of a worker: Ray's node, the GPUs that its state names, and those that its process sees."""


def start(**settings: Any) -> Pool:
    chosen: dict[str, Any] = {"wait_for": "all", **settings}
    return Pool.start(name="placed", engine="simulated", cpus_per_worker=0.5, **chosen)


def until_empty() -> None:
    """Ray hears with a delay that the workers before are gone."""
    deadline_s = time.monotonic() + ASK_S
    while sum(node.free.get("GPU", 0.0) for node in alive_nodes()) < 2 * GPUS:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)  # a poll, bounded by the deadline above


def node_of(actor: Any) -> str:
    return str(ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()), timeout=ASK_S))


def visible(actor: Any) -> str:
    return str(ray.get(actor.__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]), timeout=ASK_S))


def places(pool: Pool) -> list[Place]:
    actors = [ray.get_actor(worker_name("placed", state.slot_name), namespace=NAMESPACE) for state in pool.workers()]
    return [(node_of(one), state.gpus, visible(one)) for one, state in zip(actors, pool.workers(), strict=True)]


def per_node(placed: list[Place]) -> list[int]:
    return sorted(Counter(node for node, _, _ in placed).values())


def sees_its_own(placed: list[Place]) -> bool:
    return all(",".join(gpus) == seen for _, gpus, seen in placed)


def spread() -> dict[str, Any]:
    """And scaled up, down, and started again."""
    with start(workers=2, gpus_per_worker=1) as pool:
        first = per_node(places(pool))
        pool.scale(2 * GPUS)
        full = places(pool)
        pool.scale(2)
        wait(pool, lambda found: len(found) == 2)
        worker = ray.get_actor(worker_name("placed", "worker-0"), namespace=NAMESPACE)
        before = node_of(worker)
        life = pool.workers()[0].worker_id
        ray.kill(worker, no_restart=False)
        wait(pool, lambda found: found["worker-0"].worker_id not in (None, life))
        cards = Counter((node, gpus) for node, gpus, _ in full)
        back = node_of(worker)
        free = ray.available_resources().get("GPU")  # type: ignore[no-untyped-call]
    return {
        "first": first,
        "full": per_node(full),
        "cards": sorted(cards.values()),
        "own": sees_its_own(full),
        "back": back == before,
        "free": free,
    }


def pack(**settings: Any) -> dict[str, Any]:
    until_empty()
    with start(placement="pack", **settings) as pool:
        placed = places(pool)
    cards = Counter((node, card) for node, gpus, _ in placed for card in gpus)
    seen = [shown for _, _, shown in placed]
    return {"nodes": per_node(placed), "cards": sorted(cards.values()), "own": sees_its_own(placed), "seen": seen}


@ray.remote(num_cpus=0.5, label_selector={"side": "right"})
def dispatchers() -> dict[str, str]:
    """On which node the dispatchers of pools run that are started on the right one."""
    found = {}
    pools: dict[str, dict[str, Any]] = {"auto": {}, "here": {"dispatcher_node": "here"}, "script": {"detached": False}}
    for name, settings in pools.items():
        pool = Pool.start(name=name, engine="simulated", cpus_per_worker=0.5, **{"detached": True, **settings})
        found[name] = node_of(ray.get_actor(name, namespace=NAMESPACE))
        pool.delete()
    return found


def first() -> dict[str, Any]:
    """A pool of three workers on GPUs for two."""
    until_empty()
    with start(workers=3, gpus_per_worker=GPUS, wait_for="first", simulated={"load_s": 0.5}) as pool:
        at_once = [state.state for state in pool.workers()]
        tokens = ray.get(pool.generate.remote((10, 11, 12), max_new_tokens=4, temperature=0.0), timeout=ASK_S).token_ids
        found = wait(pool, lambda states: any(state.waiting for state in states.values()))
    return {
        "up": "up" in at_once,
        "right": tokens == expected_tokens((10, 11, 12), 4),
        "states": sorted(state.state for state in found.values()),
        "waiting": next(state.waiting for state in found.values() if state.waiting),
    }


def refused(**settings: Any) -> str:
    try:
        start(gpus_per_worker=GPUS + 1, **settings).close()
    except ConfigurationError as error:
        return error.message
    return "it was started"


def seen_waiting() -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []

    def progress(states: tuple[WorkerState, ...]) -> None:
        seen.extend((state.state, state.waiting) for state in states)

    refused(start_timeout_s=6.0, progress=progress)
    return seen


def main() -> None:
    prepare_private_cluster()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    nodes = {name: cluster.add_node(num_cpus=8, num_gpus=GPUS, labels={"side": name}) for name in ("left", "right")}
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    assert cluster.head_node is not None
    right = nodes["right"].node_id
    where = {"head": cluster.head_node.node_id, "right": right}
    try:
        told: dict[str, Any] = {
            "spread": spread(),
            "packed": pack(workers=GPUS, gpus_per_worker=1),
            "large": pack(workers=2, gpus_per_worker=GPUS - 1),
            "half": pack(workers=GPUS, gpus_per_worker=0.5),
            "none": pack(workers=1, gpus_per_worker=0),
            "first": first(),
            "refused": refused(wait=False),
            "late": refused(start_timeout_s=4.0),
            "waiting": seen_waiting(),
        }
        with start(workers=2, node_labels={"side": "right"}) as pool:
            told["labelled"] = [node == right for node, _, _ in places(pool)]
        found = ray.get(dispatchers.remote(), timeout=4 * ASK_S)
        names = {node: name for name, node in where.items()}
        told["dispatchers"] = {name: names.get(node, "elsewhere") for name, node in found.items()}
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
