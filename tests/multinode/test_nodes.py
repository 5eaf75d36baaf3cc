"""A served pool on a cluster of several machines: reached from each, and whole while machines come and go.

Who is taken away is a machine without a front, since the connections of a front's clients end with it.
"""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.multinode.programs import Load, Watch, until
from tests.multinode.ray_nodes import RayNodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

CLIENTS, TOKENS = 24, 150
FRONT = "ServeReplica:exlpool:HttpFront"
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


def is_ready(nodes: RayNodes, on: str, url: str) -> bool:
    asked = nodes[on].start(["curl", "--silent", "--fail", "--max-time", "5", f"{url}/ready"])
    asked.communicate(timeout=30.0)
    return asked.returncode == 0


def streams(nodes: RayNodes, key: str) -> Load:
    """A load on the head's front, of which every client has begun."""
    load = Load(nodes.head, f"http://{nodes.head.address}:8000", clients=CLIENTS, tokens=TOKENS, key=key)
    until(lambda: load.begun >= CLIENTS, 90.0, "every client has begun")
    return load


def test_every_machine_with_a_front_answers_every_other_that_has_a_key(nodes: RayNodes, served: str) -> None:
    fronts = nodes.where(FRONT)
    assert len(set(fronts)) == 2
    for asked, asking in {("head", "head"), ("head", "two"), *((front, "two") for front in fronts)}:
        url = f"http://{nodes[asked].address}:8000"
        until(partial(is_ready, nodes, asking, url), 90.0, f"{url} ready")
        (answer,) = Load(nodes[asking], url, clients=1, tokens=20, key=served, once=True).all()
        assert answer.fault is None
    (refused,) = Load(nodes["one"], f"http://{nodes.head.address}:8000", clients=1, tokens=20, once=True).all()
    assert refused.fault is not None
    assert refused.fault.startswith("401")


def test_a_script_on_any_machine_finds_the_served_pool(nodes: RayNodes, served: str) -> None:
    assert nodes.python(SCRIPT, on="two").split() == ["right"]


def test_a_machine_that_joins_takes_its_share_of_a_load_that_runs(nodes: RayNodes, served: str, watch: Watch) -> None:
    load = streams(nodes, served)
    began_s = time.monotonic()
    new = nodes.join("three")
    joined_s = time.monotonic()
    nodes.exlpool("scale", "6")
    until(lambda: watch.up().count(new.address) == 2, 60.0, "its workers are up")
    up_s = time.monotonic()
    until(lambda: sum(w.tokens > 0 for w in watch.workers.values() if w.address == new.address) == 2, 60.0, "in use")
    load.all()
    assert load.faults == []
    print(f"`ray start` took {joined_s - began_s:.1f} s, up {up_s - joined_s:.1f} s after it, ", end="")
    print(f"used {time.monotonic() - up_s:.1f} s later; longest gap {longest_gap_s(load):.1f} s")


def test_no_stream_is_lost_with_a_machine_and_its_workers_come_back(nodes: RayNodes, served: str, watch: Watch) -> None:
    assert len(watch.up()) == 6
    load = streams(nodes, served)
    killed_s = time.monotonic()
    nodes[without_front(nodes)].turn_off()
    until(lambda: len(watch.up()) == 4, 60.0, "the death is noticed")
    noticed_s = time.monotonic()
    nodes.join("four")
    joined_s = time.monotonic()
    until(lambda: len(watch.up()) == 6, 120.0, "its workers run on the machine that joined")
    back_s = time.monotonic()
    answers = load.all()
    through = [answer for answer in answers if answer.sent_s < killed_s < answer.done_s]
    assert len(through) > CLIENTS // 2  # the others were between two requests
    assert load.faults == []
    assert watch.up().count(nodes["four"].address) == 2
    print(f"noticed after {noticed_s - killed_s:.1f} s; joined after {joined_s - killed_s:.1f} s, ", end="")
    print(f"back {back_s - joined_s:.1f} s later; longest gap {longest_gap_s(load):.1f} s, {len(answers)} answers")


def test_a_machine_that_is_drained_is_taken_away_without_a_failed_request(
    nodes: RayNodes, served: str, watch: Watch
) -> None:
    load = streams(nodes, served)
    leaving = nodes[without_front(nodes)]
    for name in [name for name, worker in watch.workers.items() if worker.address == leaving.address]:
        nodes.exlpool("drain", name, "--grace-s", "1")
    until(lambda: leaving.address not in [w.address for w in watch.workers.values()], 60.0, "none is left there")
    leaving.run(["ray", "stop"], timeout_s=60.0)
    before = len(load.answers)
    until(lambda: len(load.answers) >= before + CLIENTS, 90.0, "everybody was answered without the machine")
    load.all()
    assert load.faults == []
    assert len(watch.up()) == 4


def without_front(nodes: RayNodes) -> str:
    """A machine that runs workers, and no front."""
    return next(name for name in nodes.where("Worker") if name not in nodes.where(FRONT))


def longest_gap_s(load: Load) -> float:
    return max(answer.gap_s for answer in load.answers)
