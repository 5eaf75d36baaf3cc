"""A served pool on a cluster of several machines: reached from each, and whole while machines come and go.

The head runs no worker, as one without a GPU. Fronts run there and on machine "one", workers on "one", "two" and
"three". One cluster for all tests here, which go on from one to the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.machines import Network
from tests.multinode.ray_nodes import Load, RayNodes, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

TOKENS = 150
BACK_WITHIN_S = 120.0
DEPLOYMENT = """
proxy_location: EveryNode
http_options: {{host: 0.0.0.0, port: 8000}}
applications:
  - name: exlpool
    route_prefix: /
    import_path: serve_app:build_app
    args:
      keys_file: {keys}
      models:
        - name: sim
          engine: simulated
          workers: 4
          cpus_per_worker: 1
          max_batch_size: 16
          cache_tokens: 65536
          max_restarts: -1
          simulated: {{step_s: 0.02}}
      fronts: {{min_replicas: 2, max_replicas: 2}}
    deployments:
      - name: HttpFront
        ray_actor_options: {{num_cpus: 0, resources: {{front: 1}}}}
"""
SCRIPT = """
import ray
from actors import Pool
from actors.engines.simulated import expected_tokens
with Pool.connect("sim", address="auto") as pool:
    prompt = (5, 6, 7)
    result = ray.get(pool.generate.remote(prompt, max_new_tokens=30, temperature=0.0))
    assert result.token_ids == expected_tokens(prompt, 30)
    streamed = [token for delta in pool.stream(prompt, max_new_tokens=30, temperature=0.0) for token in delta.token_ids]
    assert tuple(streamed) == result.token_ids
    print("right")
"""


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    """The name of the file of keys is the same on every machine."""
    return str(folder / "keys.yaml")


@pytest.fixture(scope="module")
def nodes(network: Network, folder: Path) -> Iterator[RayNodes]:
    cluster = RayNodes(network)
    cluster.add("head")
    cluster.start_head()
    cluster.join("one", fronts=1)
    cluster.join("two")
    yield cluster


@pytest.fixture(scope="module")
def served(nodes: RayNodes, folder: Path) -> str:
    """Bring the application up; returns a key for it."""
    keys, deployment = folder / "keys.yaml", folder / "serve.yaml"
    key = nodes.exlpool("keys", "new", "alice", "--file", str(keys)).split()[-1]
    deployment.write_text(DEPLOYMENT.format(keys=keys))
    nodes.exlpool("deploy", str(deployment))
    return key


def ask_ready(nodes: RayNodes, on: str, url: str) -> int:
    command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", f"{url}/ready"]
    return int(nodes[on].run(command, timeout_s=30.0))


def everybody_up(nodes: RayNodes, workers: int) -> bool:
    return len(nodes.where("Worker")) == workers


def test_every_machine_with_a_front_answers_every_other_that_has_a_key(nodes: RayNodes, served: str) -> None:
    assert sorted(nodes.where("Worker")) == ["one", "one", "two", "two"]
    assert sorted(nodes.where("ServeReplica:exlpool:HttpFront")) == ["head", "one"]
    for asked, asking in (("head", "head"), ("head", "two"), ("one", "two")):
        url = f"http://{nodes[asked].address}:8000"
        until(lambda url=url, asking=asking: ask_ready(nodes, asking, url) == 200, 30.0, f"{url} ready")
        (answer,) = Load(nodes[asking], url, clients=1, tokens=20, key=served, once=True).stop()
        assert answer.fault is None
    (refused,) = Load(nodes["two"], f"http://{nodes['one'].address}:8000", clients=1, tokens=20, once=True).stop()
    assert refused.fault is not None
    assert refused.fault.startswith("401")
