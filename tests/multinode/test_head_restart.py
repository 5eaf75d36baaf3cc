"""The head is killed, with all that runs on it, and starts again: its state is in a Redis on another machine.

Fronts and workers run on two other machines, and so do their clients.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.conftest import require_tools
from tests.multinode.machines import Network
from tests.multinode.programs import Answer, Load, Watch, until
from tests.multinode.ray_nodes import RayNodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

PASSWORD = "not-a-secret"
CLIENTS, TOKENS = 16, 500
HEAD_AWAY_S = 5.0
NEW_WITHIN_S = 60.0
"""From when the head runs again to the answer of a request that came then. Seconds on a quiet machine."""
DEPLOYMENT = """
http: {host: 0.0.0.0, port: 8000, proxy_location: EveryNode}
remote_without_keys: true
models:
  - name: sim
    engine: simulated
    workers: 4
    cpus_per_worker: 1
    max_batch_size: 16
    cache_tokens: 65536
    max_restarts: -1
    simulated: {step_s: 0.02}
fronts: {min_replicas: 2, max_replicas: 2, cpus: 0.5}
"""


@pytest.fixture(scope="module")
def redis(network: Network, folder: Path) -> Iterator[str]:
    """The address of a Redis on a machine of its own."""
    require_tools(None if shutil.which("redis-server") else "no redis-server here: install it")
    machine = network.add("store", {"PATH": os.environ["PATH"]})
    options = ["--bind", machine.address, "--requirepass", PASSWORD, "--save", "", "--dir", str(folder)]
    server = machine.start(["redis-server", *options], log=folder / "redis.log")
    yield f"{machine.address}:6379"
    machine.kill_process(server)


@pytest.fixture(scope="module")
def nodes(network: Network, redis: str, folder: Path) -> RayNodes:
    cluster = RayNodes(network)
    cluster.add("head")
    start_head(cluster, redis)
    for name in ("one", "two"):
        cluster.join(name, cpus=3)
    file = folder / "cluster.yaml"
    file.write_text(DEPLOYMENT)
    cluster.exlpool("up", str(file))
    return cluster


def start_head(nodes: RayNodes, redis: str) -> None:
    nodes.start_head("--redis-password", PASSWORD, RAY_REDIS_ADDRESS=redis, RAY_external_storage_namespace="exlpool")


def test_streams_go_on_while_the_head_is_away_and_requests_are_admitted_again(nodes: RayNodes, redis: str) -> None:
    url = f"http://{nodes['one'].address}:8000"
    streams = Load(nodes["two"], url, clients=CLIENTS, tokens=TOKENS)
    until(lambda: streams.begun >= CLIENTS, 90.0, "every client has begun")
    short = Load(nodes["two"], url, clients=2, tokens=5)
    until(lambda: len(short.answers) >= 4, 60.0, "short requests are answered")
    dispatcher = nodes.where("Dispatcher")
    killed_s = time.monotonic()
    nodes.head.kill_processes()
    time.sleep(HEAD_AWAY_S)  # it is this long that nobody starts it
    start_head(nodes, redis)
    back_s = time.monotonic()
    until(
        lambda: any(a.sent_s > back_s and not a.fault for a in short.answers), NEW_WITHIN_S, "a new request is served"
    )
    new_s = time.monotonic()
    assert streams.faults == []
    assert short.faults == []
    watch = Watch(nodes["one"], "sim")
    until(lambda: len(watch.up()) == 4, 60.0, "every worker is up")
    watch.kill()
    answers = streams.all()
    short.stop()
    assert streams.faults == []
    assert short.faults == []
    through = [answer for answer in answers if answer.sent_s < killed_s < answer.done_s]
    assert len(through) == CLIENTS
    assert "head" in nodes.where("ServeController")
    print(f"dispatcher was on {dispatcher}, is on {nodes.where('Dispatcher')}")
    print(f"head back after {back_s - killed_s:.1f} s, a request sent then was answered {new_s - back_s:.1f} s later")
    print(f"longest silence of a stream that ran {max(a.gap_s for a in through):.1f} s")
    print(
        f"slowest short request {slowest_s(short.answers, killed_s):.1f} s, before {slowest_s(short.answers, 0.0):.1f}"
    )


def slowest_s(answers: list[Answer], after_s: float) -> float:
    return max(answer.done_s - answer.sent_s for answer in answers if answer.done_s > after_s)
