"""The part of test_nodes.py that needs a cluster of its own, and so a process of its own: two nodes are asked, then the
second one's Ray is stopped, as on a machine that hangs, and both are asked again.

Prints as JSON for each time what the nodes answered: an empty text, or why there was no answer.
"""

from __future__ import annotations

import json
import logging
import os
import signal

import ray
from ray.cluster_utils import Cluster

from actors.ray_session import NAMESPACE, prepare_private_cluster
from cluster.doctor.facts import Question
from cluster.doctor.nodes import ask_nodes
from tests.cluster.doctor.test_gather import SCRIPT

ANSWER_S, SILENCE_S = 60.0, 8.0


def silences(within_s: float) -> list[str]:
    nodes = ask_nodes(Question(SCRIPT, timeout_s=within_s / 2), start_within_s=within_s / 2)
    return sorted(node.silence for node in nodes)


def main() -> None:
    prepare_private_cluster()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    before = silences(ANSWER_S)
    (raylet,) = node.all_processes["raylet"]
    os.kill(raylet.process.pid, signal.SIGSTOP)
    try:
        after = silences(SILENCE_S)
    finally:
        os.kill(raylet.process.pid, signal.SIGCONT)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    main()
