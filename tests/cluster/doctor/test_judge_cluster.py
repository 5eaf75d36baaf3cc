"""A cluster is judged node by node, and as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.doctor.facts import Machine
from cluster.doctor.findings import Level
from cluster.doctor.judge import Node, judge_cluster, judge_node
from tests.cluster.doctor.machines import GOOD, HEAD, wanted
from tests.cluster.doctor.test_judge import bad, system, torch


def node(machine: Machine | None, **more: Any) -> Node:
    return Node(machine.host if machine else "gone", machine, **more)


GPU_NODE = node(GOOD, gpus_of_ray=1.0)


def test_a_cluster_of_a_head_and_a_gpu_node_is_good() -> None:
    for one in (node(HEAD), GPU_NODE):
        assert bad(judge_node(one, wanted(gpu=True))) == []
    assert bad(judge_cluster([node(HEAD), GPU_NODE], wanted(gpu=True))) == []


def test_a_node_that_does_not_answer_is_missing() -> None:
    (found,) = judge_node(node(None, silence="it did not answer within 5 s"), wanted())
    assert (found.level, found.told) == (Level.MISSING, "it did not answer within 5 s")
    assert found.cure


def test_what_a_node_lacks_is_found_there() -> None:
    (found,) = bad(judge_node(node(torch(cuda=None), gpus_of_ray=1.0), wanted()))
    assert (found.check, found.level) == ("torch", Level.MISSING)


@pytest.mark.parametrize(
    ("one", "check", "cure"),
    [
        (node(GOOD), "GPUs of Ray", "--num-gpus 1"),
        (node(system(variables={}), gpus_of_ray=1.0), "environment", "RAY_health_check_period_ms=1000"),
        (replace(GPU_NODE, clock_ahead_s=-90.0), "clock", "chrony"),
        (replace(GPU_NODE, clock_ahead_s=3.0), "clock", "chrony"),
    ],
)
def test_what_could_be_better_on_a_node_is_a_warning(one: Node, check: str, cure: str) -> None:
    (found,) = bad(judge_node(one, wanted()))
    assert (found.check, found.level) == (check, Level.WARNING)
    assert cure in found.cure


@pytest.mark.parametrize(("change", "check"), [({"python": "3.11.9"}, "Python"), ({"ray": "2.61.0"}, "Ray")])
def test_versions_that_differ_between_nodes_are_missing(change: dict[str, Any], check: str) -> None:
    (found,) = bad(judge_cluster([GPU_NODE, GPU_NODE, node(replace(HEAD, **change))], wanted()))
    assert (found.check, found.level) == (check, Level.MISSING)
    assert f"on 2, {next(iter(change.values()))} on 1" in found.told


def test_a_cluster_without_a_gpu_is_good_unless_one_is_wanted() -> None:
    assert bad(judge_cluster([node(HEAD)], wanted())) == []
    (found,) = bad(judge_cluster([node(HEAD), node(None)], wanted(gpu=True)))
    assert (found.check, found.level) == ("GPUs", Level.MISSING)
    assert "ray start --address" in found.cure
