"""On which nodes and GPUs workers run, and what is said while there is none for them."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import marked, marked_environment

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, Any]]:
    """What `tests.placing` saw."""
    mark = uuid.uuid4().hex
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.placing"],
            cwd=ROOT,
            env=marked_environment(mark),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        for process in marked(mark):
            process.kill()


@pytest.mark.timeout(TIMEOUT_S + 30.0)
def test_workers_spread_over_the_nodes_the_first_ones_and_those_that_are_added(told: dict[str, Any]) -> None:
    assert told["spread"]["first"] == [1, 1]
    assert told["spread"]["full"] == [4, 4]
    assert told["spread"]["cards"] == [1] * 8, "each has a GPU of its own"
    assert told["spread"]["own"]


def test_one_that_dies_starts_again_on_its_node_and_nothing_is_kept_for_those_that_left(told: dict[str, Any]) -> None:
    assert told["spread"]["back"]
    assert told["spread"]["free"] == 6.0


def test_packed_workers_fill_one_node_first(told: dict[str, Any]) -> None:
    assert told["packed"]["nodes"] == [4]
    assert told["packed"]["own"]
    assert sorted(told["packed"]["seen"]) == ["0", "1", "2", "3"]


def test_all_gpus_of_a_worker_are_on_one_node(told: dict[str, Any]) -> None:
    assert told["large"]["nodes"] == [1, 1]
    assert told["large"]["cards"] == [1] * 6
    assert told["large"]["own"]


def test_two_workers_share_a_gpu_of_which_each_claims_half(told: dict[str, Any]) -> None:
    assert told["half"]["nodes"] == [4]
    assert told["half"]["cards"] == [2, 2]


def test_a_worker_that_claims_no_gpu_sees_none(told: dict[str, Any]) -> None:
    assert told["none"]["seen"] == [""]


def test_labels_keep_workers_to_the_nodes_that_have_them(told: dict[str, Any]) -> None:
    assert told["labelled"] == [True, True]


def test_the_dispatcher_is_on_the_head_unless_it_belongs_to_a_script_or_is_told_to_be_here(
    told: dict[str, Any],
) -> None:
    assert told["dispatchers"] == {"auto": "head", "here": "right", "script": "right"}


def test_what_a_worker_waits_for_is_said_while_it_waits_and_at_the_end(told: dict[str, Any]) -> None:
    missing = "waits for a node with 5 GPUs and 0.5 CPUs: the cluster has 8 GPUs, 8 free, on no node enough"
    assert ["waiting", missing] in told["waiting"]
    assert told["late"] == f"The workers were not ready within 4 s: worker-0 {missing}."


def test_a_pool_generates_with_its_first_worker_while_another_waits(told: dict[str, Any]) -> None:
    first = told["first"]
    assert first["up"]
    assert first["right"]
    assert first["states"].count("waiting") == 1
    assert first["waiting"] == "waits for a node with 4 GPUs and 0.5 CPUs: the cluster has 8 GPUs, none free"


def test_without_waiting_it_is_refused_at_once(told: dict[str, Any]) -> None:
    assert told["refused"].startswith("The nodes of the cluster can hold 0 of 1 workers")
