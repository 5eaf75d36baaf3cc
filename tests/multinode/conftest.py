"""Networks of machines, where this one can make some; in CI it must. And a cluster with a served pool on one of them.

The cluster's head runs no worker, as one without a GPU, and keeps its state in a Redis on another machine. It is made
once for all tests here that want it, which go on from one to the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.machines import Network, missing
from tests.multinode.programs import Watch, until
from tests.multinode.ray_nodes import RayNodes

WORKERS = 4
DEPLOYMENT = """
http: {{host: 0.0.0.0, port: 8000, proxy_location: EveryNode}}
keys_file: {keys}
models:
  - name: sim
    engine: simulated
    workers: {workers}
    cpus_per_worker: 1
    max_batch_size: 16
    cache_tokens: 65536
    max_restarts: -1
    simulated: {{step_s: 0.02}}
listen: {{host: 0.0.0.0, port: 8001}}
fronts: {{min_replicas: 2, max_replicas: 2, cpus: 0.5}}
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    require_tools(missing())
    with Network(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For files that all machines see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Machines "head", "one" and "two", and "store" with the Redis."""
    require_tools(missing() or (None if shutil.which("redis-server") else "no redis-server here: install it"))
    with Network(tmp_path_factory.mktemp("machines")) as network:
        cluster = RayNodes(network)
        redis = cluster.start_redis()
        cluster.add("head")
        cluster.start_head()
        cluster.join("one")
        cluster.join("two")
        yield cluster
        network["store"].kill_process(redis)


@pytest.fixture(scope="session")
def served(nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Bring the deployment up; returns a key for it. Its files are in the same place on every machine."""
    folder = tmp_path_factory.mktemp("shared")
    keys, deployment = folder / "keys.yaml", folder / "cluster.yaml"
    key = nodes.exlpool("keys", "new", "alice", "--file", str(keys)).split()[-1]
    deployment.write_text(DEPLOYMENT.format(keys=keys, workers=WORKERS))
    nodes.exlpool("up", str(deployment))
    assert sorted(nodes.where("Worker")) == ["one", "one", "two", "two"]
    return key


@pytest.fixture(scope="module")
def watch(nodes: RayNodes, served: str) -> Iterator[Watch]:
    watching = Watch(nodes["one"], "sim")
    until(lambda: len(watching.up()) == WORKERS, 90.0, "every worker is up")
    yield watching
    watching.kill()


def require_tools(why_not: str | None) -> None:
    """Skip where this machine has not what the tests need; fail in CI, which has to have it (`.ci/run`)."""
    if why_not is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why_not)
