"""The nodes of the cluster, and what they have that this one has not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.ray_session import own_node_id

T = TypeVar("T")

LOOK_TIMEOUT_S = 60.0
"""For nodes to look for something: each starts a process for it."""
MAX_ASKED = 16
"""So many nodes with GPUs are asked, and so many others."""


def other_nodes() -> list[dict[str, Any]]:
    """All but this one, as `ray.nodes` tells of them: those with GPUs first, since workers are likely to run there; not
    too many to ask."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    others = [node for node in nodes if node["Alive"] and node["NodeID"] != own_node_id()]
    with_gpus = [node for node in others if node["Resources"].get("GPU")]
    without = [node for node in others if not node["Resources"].get("GPU")]
    return with_gpus[:MAX_ASKED] + without[:MAX_ASKED]


def asked_of(nodes: list[dict[str, Any]], look: Callable[..., T | None], *arguments: Any) -> Iterator[T | None]:
    """What `look(*arguments)`, a function of a module, returns on each of these nodes, in their order; None too where
    it raises, or the node gives no answer in time. Blocks."""
    pending = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending.append(
            ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)
        )
    deadline_s = time.monotonic() + LOOK_TIMEOUT_S
    for each in pending:
        try:
            yield ray.get(each, timeout=max(deadline_s - time.monotonic(), 0.0))
        except RayError:  # that of a timeout too
            yield None
