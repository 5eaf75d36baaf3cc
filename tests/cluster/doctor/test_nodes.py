"""`exlpool doctor --address`: every node is asked, and one that does not answer is told."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import ray

from actors.errors import ConfigurationError
from actors.version import package_version
from cluster.doctor import trial
from cluster.doctor.facts import Package, Question
from cluster.doctor.judge_system import WANTED_VARIABLES
from cluster.doctor.nodes import ask_nodes
from tests.cluster.conftest import Exlpool
from tests.cluster.doctor.test_gather import SCRIPT
from tests.cluster.test_cli_arguments import plain

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NOWHERE = "0123456789" * 5 + "abcdef"


def living() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def test_every_node_says_what_it_is() -> None:
    (node,) = ask_nodes(Question(SCRIPT, variables=tuple(WANTED_VARIABLES)))
    assert node.name == f"{living()[0]['NodeManagerHostname']} ({living()[0]['NodeManagerAddress']})"
    assert node.machine is not None
    assert node.machine.exlpool == package_version()
    assert node.machine.ray == ray.__version__
    assert node.machine.libraries.torch is not None
    assert node.machine.libraries.torch.package == Package("7")
    assert node.machine.system.variables == WANTED_VARIABLES
    assert abs(node.clock_ahead_s) < 2.0


def test_a_node_that_does_not_answer_in_time_is_given_up() -> None:
    began_s = time.monotonic()
    (node,) = ask_nodes(Question("import time; time.sleep(600)", timeout_s=1.0), start_within_s=-0.9)
    assert time.monotonic() - began_s < 30.0
    assert (node.machine, node.silence) == (None, "it did not answer within 0.1 s")


def test_a_node_on_which_nothing_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has just died, as the list of nodes does not know yet."""
    living_now = living()
    gone = {**living_now[0], "NodeID": NOWHERE, "NodeManagerHostname": "gone"}
    monkeypatch.setattr(ray, "nodes", lambda: [*living_now, gone])
    there, silent = sorted(ask_nodes(Question(SCRIPT)), key=lambda node: node.machine is None)
    assert there.machine is not None
    assert silent.name.startswith("gone (")
    assert "the task on it failed: " in silent.silence


def test_a_cluster_without_nodes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", list)
    with pytest.raises(ConfigurationError, match="no node that is alive"):
        ask_nodes(Question(SCRIPT))


def test_the_command_looks_at_all_nodes(exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SCRIPT", SCRIPT)
    done = exlpool("doctor", "--address", "auto", "--no-gpu")
    told = " ".join(plain(done.out).split())
    assert done.status == 0, told
    assert "all nodes" in told
    assert "environment ok" in told
    assert ray.is_initialized()
    done = exlpool("doctor", "--address", "auto", "--gpu", "--json")
    told_json = json.loads(done.out)
    assert done.status == (0 if told_json["good"] else 1)
    assert told_json["parts"][-1]["name"] == "all nodes"
