"""Ray's autoscaler hears of the pool's demand: from no node for workers to two, and back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autoscaling import OwnAutoscalingCluster
from tests.processes import marked_environment

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0
IDLE_S = 3.0
NODE = {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}


@pytest.fixture
def autoscaled(mark: str) -> Iterator[OwnAutoscalingCluster]:
    cluster = OwnAutoscalingCluster({"gpu": NODE}, mark=mark, folder=Path("/tmp") / f"xa{mark[:8]}", idle_s=IDLE_S)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.timeout(TIMEOUT_S + 60.0)
def test_a_pool_s_demand_brings_nodes_and_they_go_when_nobody_asks_any_more(
    autoscaled: OwnAutoscalingCluster, mark: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.growing", autoscaled.address],
        cwd=ROOT,
        env=marked_environment(mark),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["before"] == 0
    assert told["refused"].startswith("The workers need 1 GPUs but the cluster has 0, and is not to grow for them")
    assert told["first"] == 1, "one worker was asked for"
    assert told["busy"] == 2, "the pool followed its load, and the cluster the pool"
    assert told["answers"] == told["right"]
    assert told["after"] == 0, "no worker is left, and so no node"
    assert told["woken"] == 1, "a request brings a node back"
