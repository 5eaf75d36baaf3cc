"""What a Ray cluster can hold: now, and when it grows.

Ray takes every actor and lets it wait for a node that can hold it; while it waits its claim is demand, which Ray's
autoscaler hears of. So a pool asks for its workers and says what they wait for. It is refused only where waiting is in
vain, or unwanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import ray
import ray._private.state
from ray.core.generated import gcs_pb2
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import ConfigurationError

_STORE = b"exlpool"
_PRIVATE_KEY = b"private cluster"
_STATUS_KEY = "__autoscaling_status"
"""Where the monitor of a cluster writes what it sees, in JSON (Ray's first autoscaler)."""
_STATE_STORE, _SECOND_KEY = b"__autoscaler", b"__autoscaler_v2_enabled"
"""Where a cluster says that it has Ray's second autoscaler."""
_NO_TYPE = "node_"
"""The monitor of a cluster that nobody scales names every node so, with the node's id."""
PLACED: Mapping[str, Any] = {"num_cpus": 0, "memory": 1}
"""What an actor claims that takes no part of a node and is to run on a certain one. Of an actor that claims nothing at
all Ray 2.60 ignores a wish for a node, and starts it on any; every node has a byte."""
_HEAD = "node:__internal_head__"


class Growth(Enum):
    """How a cluster can come to have more nodes."""

    NEVER = "never"
    """It is private: one machine, for one script or command."""
    BY_HAND = "by hand"
    AUTOSCALER = "autoscaler"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one worker takes, all of it on one node, and the labels that this node must have."""

    cpus: float = 0.0
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [_counted(self.gpus, "GPU")] if self.gpus else []
        words += [_counted(self.cpus, "CPU")] if self.cpus or not words else []
        words += [f"the label {name}={value}" for name, value in self.labels.items()]
        return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


NO_CLAIM = Claim()


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is there, with its resources, all and those that are free now."""

    node_id: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str]

    def holds(self, claim: Claim) -> int:
        """How many workers of this claim it could hold if it were empty."""
        return _count(self.total, claim) if self._fits(claim) else 0

    def room(self, claim: Claim) -> int:
        """How many more workers of this claim it can hold now."""
        return _count(self.free, claim) if self._fits(claim) else 0

    def _fits(self, claim: Claim) -> bool:
        return all(self.labels.get(name) == value for name, value in claim.labels.items())


def alive_nodes() -> tuple[Node, ...]:
    """The nodes of the cluster. It asks the cluster, and blocks."""
    free: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return tuple(
        Node(node["NodeID"], node["Resources"], free.get(node["NodeID"], {}), node.get("Labels", {}))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    )


def on_head() -> Any:
    """Ray's scheduling strategy for what belongs on the head, where there is one, and else anywhere."""
    head = next((node.node_id for node in alive_nodes() if _HEAD in node.total), None)
    return None if head is None else NodeAffinitySchedulingStrategy(head, soft=True)


def mark_private() -> None:
    """Say to every process of the cluster that it is private."""
    _internal_kv_put(_PRIVATE_KEY, b"1", overwrite=True, namespace=_STORE)


def growth() -> Growth:
    if _internal_kv_get(_PRIVATE_KEY, namespace=_STORE):
        return Growth.NEVER
    if _internal_kv_get(_SECOND_KEY, namespace=_STATE_STORE) == b"1":
        return Growth.AUTOSCALER
    status: Any = json.loads(_internal_kv_get(_STATUS_KEY) or "{}")
    report = status.get("autoscaler_report") or {}
    types = {*(report.get("active_nodes") or {}), *(report.get("pending_launches") or {})}
    types |= {*(report.get("node_type_mapping") or {}).values()}
    return Growth.AUTOSCALER if any(not name.startswith(_NO_TYPE) for name in types) else Growth.BY_HAND


def node_types() -> tuple[Mapping[str, float], ...] | None:
    """The resources of the kinds of nodes that the cluster's autoscaler can add; None: nobody has told Ray's control
    service, which is so with `ray up`."""
    config: Any = ray._private.state.state.get_cluster_config()
    if config is None:
        return None
    return tuple(dict(group.resources) for group in config.node_group_configs if group.max_count)


def require_room(workers: int, claim: Claim, *, wait: bool) -> None:
    """Refuse workers for which the cluster, this pool's own included, has no place and will have none; where `wait` is
    false also those for which it would have to grow.

    :raises ConfigurationError: saying what is missing and which setting helps.
    """
    nodes = alive_nodes()
    held = sum(node.holds(claim) for node in nodes)
    if workers <= held:
        return
    grows = growth()
    if wait and grows is Growth.BY_HAND:
        return
    if wait and grows is Growth.AUTOSCALER:
        types = node_types()
        if held or types is None or any(_count(resources, claim) for resources in types):
            return
        raise _refusal(workers, claim, nodes, ", and its autoscaler can add no node that holds one")
    raise _refusal(workers, claim, nodes, "" if wait or grows is Growth.NEVER else ", and is not to grow for them")


def _refusal(workers: int, claim: Claim, nodes: tuple[Node, ...], more: str) -> ConfigurationError:
    """What is short in all, GPUs first, or else on every single node."""
    for kind, each, setting in (("GPU", claim.gpus, "gpus_per_worker"), ("CPU", claim.cpus, "cpus_per_worker")):
        total = _total(nodes, kind)
        if workers * each > total:
            return ConfigurationError(
                f"The workers need {workers * each:g} {kind}s but the cluster has {total:g}{more}: "
                f"lower `workers` or `{setting}`.",
                param=setting,
            )
    held = sum(node.holds(claim) for node in nodes)
    return ConfigurationError(
        f"The nodes of the cluster can hold {held} of {workers} workers{more}: each needs {claim}, all on one node.",
        param="workers",
    )


def room_for(claim: Claim) -> int:
    """How many more workers the cluster can hold now."""
    return sum(node.room(claim) for node in alive_nodes())


def waits_for_node(actor: Any) -> bool:
    """Whether Ray has found no node for an actor yet, whose process therefore does not begin."""
    told: Any = ray._private.state.state.get_actor_info(actor._actor_id)
    if told is None:
        return False
    table: Any = gcs_pb2.ActorTableData  # type: ignore[attr-defined] # it makes its classes when it is imported
    info = table.FromString(told)
    begins = table.PENDING_CREATION, table.RESTARTING
    return info.state in begins and not info.address.worker_id  # an address alone is of the node that it queues at


def what_is_missing(claim: Claim, nodes: Iterable[Node]) -> str:
    """Why a worker waits, as a sentence without subject."""
    nodes = tuple(nodes)
    kind = "GPU" if claim.gpus else "CPU"
    total, free = _total(nodes, kind), sum(node.free.get(kind, 0.0) for node in nodes)
    has = f"the cluster has {_counted(total, kind)}"
    if total:
        has += f", {free:g} free" if free else ", none free"
    if free and any(node.room(Claim(claim.cpus, claim.gpus)) for node in nodes):
        has += ", on nodes without that label" if claim.labels else ""
    elif free:
        has += ", on no node enough"
    return f"waits for a node with {claim}: {has}"


def _total(nodes: Iterable[Node], kind: str) -> float:
    return sum(node.total.get(kind, 0.0) for node in nodes)


def _count(resources: Mapping[str, float], claim: Claim) -> int:
    """How many claims the resources of one node hold. A GPU that is shared is whole for nobody else, but how the free
    part of a node's GPUs lies only its Ray knows."""
    claimed = (("CPU", claim.cpus), ("GPU", claim.gpus))
    return int(min((resources.get(name, 0.0) // amount for name, amount in claimed if amount > 0.0), default=1024.0))


def _counted(amount: float, what: str) -> str:
    return f"{amount:g} {what}" + ("" if amount == 1 else "s")
