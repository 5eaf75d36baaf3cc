"""Asking every node of a Ray cluster what it is, by a task on each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
from pydantic import TypeAdapter
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import actors
import cluster
from actors.errors import ConfigurationError, first_line
from cluster.doctor.facts import Machine, Question
from cluster.doctor.gather import gather_as_json
from cluster.doctor.judge import Node

START_WITHIN_S = 60.0
"""What a node has for starting a process, beside the time that the process has for looking."""
OURS = (actors, cluster)
_machine = TypeAdapter(Machine)


def ask_nodes(question: Question, *, start_within_s: float = START_WITHIN_S) -> tuple[Node, ...]:
    """What every living node of the cluster that this process is connected to says, in the order of their names. Takes
    as long as the slowest, and at most the question's `timeout_s` and `start_within_s`.

    :raises ConfigurationError: the cluster has no node.
    """
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    if not nodes:
        raise ConfigurationError("The Ray cluster has no node that is alive.", param="address")
    with sent_by_value():
        asked = {_ask(node_id, question): node_id for node_id in nodes}
    answers = _answers(asked, question.timeout_s + start_within_s)
    return tuple(sorted((_node(nodes[key], answer) for key, answer in answers.items()), key=lambda node: node.name))


@contextmanager
def sent_by_value() -> Iterator[None]:
    """Functions and classes of ours are sent as they are, not by their names: a node may have no exlpool."""
    for package in OURS:
        cloudpickle.register_pickle_by_value(package)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for package in OURS:
            cloudpickle.unregister_pickle_by_value(package)  # type: ignore[no-untyped-call]


def _ask(node_id: str, question: Question) -> Any:
    """A task that claims nothing, so that it runs however busy the node is."""
    options = {
        "num_cpus": 0,
        "max_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
    }
    return ray.remote(**options)(gather_as_json).remote(asdict(question))  # type: ignore[call-overload]


def _answers(asked: Mapping[Any, str], timeout_s: float) -> dict[str, tuple[str | Exception, float]]:
    """By node, what came or why nothing did, and when."""
    answers: dict[str, tuple[str | Exception, float]] = {}
    waiting = list(asked)
    deadline_s = time.monotonic() + timeout_s
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=max(deadline_s - time.monotonic(), 0.0))
        if not ready:
            break
        for reference in ready:
            came_s = time.time()
            try:
                answers[asked[reference]] = (ray.get(reference), came_s)
            except RayError as error:
                answers[asked[reference]] = (error, came_s)
    for reference in waiting:
        ray.cancel(reference, force=True)
        answers[asked[reference]] = (TimeoutError(f"it did not answer within {timeout_s:g} s"), 0.0)
    return answers


def _node(node: Mapping[str, Any], answer: tuple[str | Exception, float]) -> Node:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    content, came_s = answer
    if isinstance(content, Exception):
        told = str(content) if isinstance(content, TimeoutError) else f"the task on it failed: {first_line(content)}"
        return Node(name, None, told)
    machine = _machine.validate_json(content)
    gpus = float(node["Resources"].get("GPU", 0.0))
    return Node(name, machine, clock_ahead_s=machine.system.clock_s - came_s, gpus_of_ray=gpus)
