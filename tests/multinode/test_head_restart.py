"""The head is killed, with all that runs on it, and starts again: its state is in a Redis on another machine.

Fronts and workers run on two other machines, and so do their clients.
"""

from __future__ import annotations

import time

import pytest

from tests.multinode.conftest import WORKERS
from tests.multinode.programs import Answer, Load, Watch, until
from tests.multinode.ray_nodes import RayNodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

CLIENTS, TOKENS = 16, 500
HEAD_AWAY_S = 2.0
NEW_WITHIN_S = 60.0
"""From when the head runs again to the answer of a request that came then. Seconds on a quiet machine."""


def test_streams_go_on_while_the_head_is_away_and_requests_are_admitted_again(nodes: RayNodes, served: str) -> None:
    url = f"http://{nodes['one'].address}:8001"  # the front's own listener
    streams = Load(nodes["two"], url, clients=CLIENTS, tokens=TOKENS, key=served)
    until(lambda: streams.begun >= CLIENTS, 90.0, "every client has begun")
    short = Load(nodes["two"], url, clients=2, tokens=5, key=served)
    until(lambda: len(short.answers) >= 4, 60.0, "short requests are answered")
    assert nodes.where("Dispatcher") == ["head"]
    killed_s = time.monotonic()
    nodes.head.kill_processes()
    time.sleep(HEAD_AWAY_S)  # for so long nobody starts it again
    nodes.start_head()
    back_s = time.monotonic()
    until(lambda: served_since(short, back_s), NEW_WITHIN_S, "a new request is served")
    served_s = time.monotonic()
    watch = Watch(nodes["one"], "sim")
    until(lambda: len(watch.up()) == WORKERS, 60.0, "every worker is up")
    watch.kill()
    answers = streams.all()
    short.stop()
    through = [answer for answer in answers if answer.sent_s < killed_s < answer.done_s]
    assert [answer.fault for answer in through if answer.fault] == []
    assert told_of(streams, killed_s) == told_of(short, killed_s) == []
    assert len(through) > CLIENTS // 2  # the others were between two requests
    assert nodes.where("ServeController") == ["head"]
    assert all(worker.tokens for worker in watch.workers.values()), "no worker has begun anew"
    print(f"the head was back {back_s - killed_s:.1f} s after its death, a request sent then was answered ", end="")
    print(
        f"{served_s - back_s:.1f} s later; longest silence of a stream {max(a.gap_s for a in through):.1f} s,", end=""
    )
    print(f" slowest short request {slowest_s(short.answers, killed_s):.1f} s")


def served_since(load: Load, moment_s: float) -> bool:
    return any(answer.sent_s > moment_s and answer.fault is None for answer in load.answers)


def told_of(load: Load, killed_s: float) -> list[str]:
    """What went wrong, and when."""
    return [f"{answer.done_s - killed_s:.1f} s: {answer.fault}" for answer in load.answers if answer.fault]


def slowest_s(answers: list[Answer], after_s: float) -> float:
    return max(answer.done_s - answer.sent_s for answer in answers if answer.done_s > after_s)
