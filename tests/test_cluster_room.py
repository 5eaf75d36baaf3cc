"""What a cluster can hold: what is refused, what waits, and what people are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from actors import ConfigurationError, cluster_room
from actors.cluster_room import Claim, Growth, Node, require_room, room_for, what_is_missing
from actors.worker_places import WorkerPlaces

GPU = Claim(1.0, 1.0)


def node(name: str, cpus: float, gpus: float = 0.0, *, free: float | None = None, labels: Any = None) -> Node:
    """`free` are GPUs; none: all."""
    now = {"CPU": cpus, "GPU": gpus if free is None else free}
    return Node(name * 56, {"CPU": cpus, "GPU": gpus}, now, labels or {})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a cluster of these nodes, which grows so."""

    def have(growth: Growth, *nodes: Node, types: tuple[Mapping[str, float], ...] | None = None) -> None:
        monkeypatch.setattr(cluster_room, "alive_nodes", lambda: nodes)
        monkeypatch.setattr(cluster_room, "growth", lambda: growth)
        monkeypatch.setattr(cluster_room, "node_types", lambda: types)
        monkeypatch.setattr("actors.worker_places.alive_nodes", lambda: nodes)

    return have


@pytest.mark.parametrize(
    ("workers", "claim", "words"),
    [
        (9, Claim(1.0), "need 9 CPUs but the cluster has 8: lower `workers` or `cpus_per_worker`"),
        (1, GPU, "need 1 GPUs but the cluster has 0: lower `workers` or `gpus_per_worker`"),
    ],
)
def test_a_private_cluster_that_is_too_small_is_told_at_once(
    cluster: Any, workers: int, claim: Claim, words: str
) -> None:
    cluster(Growth.NEVER, node("a", 8))
    require_room(8, Claim(1.0), wait=True)
    with pytest.raises(ConfigurationError, match=words):
        require_room(workers, claim, wait=True)


def test_a_worker_is_on_one_node_so_gpus_of_two_do_not_add_up(cluster: Any) -> None:
    cluster(Growth.NEVER, node("a", 4, 2), node("b", 4, 2))
    require_room(2, Claim(1.0, 2.0), wait=True)
    require_room(8, Claim(0.5, 0.5), wait=True)
    with pytest.raises(ConfigurationError, match="can hold 0 of 1 workers: each needs 3 GPUs and 1 CPU, all on one"):
        require_room(1, Claim(1.0, 3.0), wait=True)


@pytest.mark.parametrize("growth", [Growth.BY_HAND, Growth.AUTOSCALER])
def test_where_nodes_can_join_workers_wait_unless_the_user_said_otherwise(cluster: Any, growth: Growth) -> None:
    cluster(growth, node("head", 4))
    require_room(2, GPU, wait=True)
    with pytest.raises(ConfigurationError, match="need 2 GPUs but the cluster has 0, and is not to grow for them"):
        require_room(2, GPU, wait=False)


def test_what_no_kind_of_node_could_ever_hold_is_refused_at_once(cluster: Any) -> None:
    cluster(Growth.AUTOSCALER, node("head", 4), types=({"CPU": 8, "GPU": 2}, {"CPU": 64}))
    require_room(100, Claim(1.0, 2.0), wait=True)
    with pytest.raises(ConfigurationError, match="has 0, and its autoscaler can add no node that holds one"):
        require_room(1, Claim(1.0, 4.0), wait=True)


def test_only_nodes_with_the_labels_count(cluster: Any) -> None:
    cluster(Growth.NEVER, node("a", 4, 2), node("b", 4, 1, labels={"card": "a100"}))
    labelled = Claim(1.0, 1.0, {"card": "a100"})
    assert room_for(labelled) == 1
    with pytest.raises(ConfigurationError, match="1 of 2 workers: each needs 1 GPU, 1 CPU and the label card=a100"):
        require_room(2, labelled, wait=True)


@pytest.mark.parametrize(
    ("nodes", "claim", "told"),
    [
        ((node("a", 8, 2, free=0),), GPU, "1 GPU and 1 CPU: the cluster has 2 GPUs, none free"),
        ((node("a", 8),), GPU, "1 GPU and 1 CPU: the cluster has 0 GPUs"),
        ((node("a", 8, 1), node("b", 8, 1)), Claim(1, 2), "2 GPUs and 1 CPU: the cluster has 2 GPUs, 2 free, on no "),
        ((node("a", 8),), Claim(1, 0, {"k": "v"}), "1 CPU and the label k=v: the cluster has 8 CPUs, 8 free, on nodes"),
    ],
)
def test_what_a_worker_waits_for_is_told(nodes: tuple[Node, ...], claim: Claim, told: str) -> None:
    assert f"waits for a node with {told}" in what_is_missing(claim, nodes)


def test_packing_fills_the_fullest_node_first_and_then_lets_ray_choose(cluster: Any) -> None:
    cluster(Growth.BY_HAND, node("a", 8, 4), node("b", 8, 4, free=2), node("c", 8, 4, free=0))
    places = WorkerPlaces()
    chosen = [places.choose("pack", GPU) for _ in range(7)]
    assert [one and one.node_id[0] for one in chosen] == [*"bbaaaa", None]
    assert WorkerPlaces().choose("spread", GPU) == "SPREAD"
