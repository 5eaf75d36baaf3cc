"""A client that goes away is cancelled wherever its request is: queued, in prefill or decoding; stream or not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import ray

from actors import Pool
from actors.config import SimulatedOptions
from serve_app.api.app import create_api
from serve_app.models.served import Models
from tests.serve_app.api.live import LiveServer, served
from tests.serve_app.api.recording import RecordingObserver

pytestmark = pytest.mark.ray

Eventually = Callable[[Callable[[], bool]], None]
GONE_WITHIN_S = 1.0
SETTLED_WITHIN_S = 5.0
"""Longer than a prompt's rest takes, and far less than 2,000 tokens do."""


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    """One job at a time, slow: 20 ms a token, and 128 ms for each 256 tokens of a prompt."""
    simulated = SimulatedOptions(step_s=0.02, prefill_tokens_per_s=2000.0)
    with Pool.start(
        name="slow", engine="simulated", workers=1, max_batch_size=1, chunk_tokens=256, simulated=simulated
    ) as made:
        yield made


@pytest.fixture(scope="module")
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture(scope="module")
def live(pool: Pool, observer: RecordingObserver, eventually: Eventually) -> Iterator[LiveServer]:
    with LiveServer(create_api(Models([served("slow", "slow")]), observer=observer)) as server:
        eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
        yield server


def ask(server: LiveServer, **fields: Any) -> socket.socket:
    """Send a request over a connection of its own and leave the answer unread."""
    body = json.dumps({"model": "slow", "max_tokens": 2000, **fields}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30.0)
    connection.sendall(head.encode() + b"\r\n" + body)
    return connection


def is_idle(pool: Pool) -> bool:
    """Nothing queued, nothing running, and every page free."""
    statistics = pool.statistics()
    scheduler = statistics.scheduler
    worker = scheduler.workers[0]
    return (
        not sum(scheduler.queued_requests.values())
        and not scheduler.running_requests
        and worker.free_pages == worker.total_pages
        and statistics.workers[0].active_jobs == 0
    )


def assert_gone(condition: Callable[[], bool], left_at_s: float) -> None:
    """`condition` holds within a second of the client's leave."""
    while not condition():
        assert time.monotonic() - left_at_s < GONE_WITHIN_S, "the request was not cancelled in time"
        time.sleep(0.01)  # a poll, bounded by the assertion above


def settled_tokens(pool: Pool, eventually: Eventually) -> int:
    """All tokens that the worker has made, one of this function's own among them, once everything before has left it.

    The dispatcher forgets a cancelled request at once, and the worker makes a token or two before it hears of that.
    The worker takes one job at a time, so one that follows begins after that, and ends by the worker's own report.
    """
    ray.get(pool.generate.remote([7], max_new_tokens=1, timeout_s=SETTLED_WITHIN_S))
    eventually(lambda: is_idle(pool))
    return pool.statistics().workers[0].generated_tokens


def queued(pool: Pool) -> int:
    return sum(pool.statistics().scheduler.queued_requests.values())


@pytest.mark.parametrize("stream", [False, True])
def test_while_decoding(pool: Pool, live: LiveServer, eventually: Eventually, stream: bool) -> None:
    tokens = pool.statistics().workers[0].generated_tokens
    with closing(ask(live, prompt=[5] * 300, stream=stream)):
        eventually(lambda: pool.statistics().workers[0].generated_tokens > tokens + 2)
    assert_gone(lambda: is_idle(pool), time.monotonic())


@pytest.mark.parametrize("stream", [False, True])
def test_while_its_prompt_is_computed(pool: Pool, live: LiveServer, eventually: Eventually, stream: bool) -> None:
    tokens = settled_tokens(pool, eventually)
    prompt = [6 + stream] * 6000  # 3 s of prefill
    with closing(ask(live, prompt=prompt, stream=stream)):
        eventually(lambda: pool.statistics().scheduler.running_requests == 1)
    assert_gone(lambda: is_idle(pool), time.monotonic())
    assert settled_tokens(pool, eventually) == tokens + 1, "the prompt's own first token was never made"


@pytest.mark.parametrize("stream", [False, True])
def test_while_queued(pool: Pool, live: LiveServer, eventually: Eventually, stream: bool) -> None:
    with closing(ask(live, prompt=[8] * 20, stream=True)):
        eventually(lambda: pool.statistics().scheduler.running_requests == 1)
        with closing(ask(live, prompt=[9] * 20, stream=stream)):
            eventually(lambda: queued(pool) == 1)
        assert_gone(lambda: queued(pool) == 0, time.monotonic())
        assert pool.statistics().scheduler.running_requests == 1
    assert_gone(lambda: is_idle(pool), time.monotonic())


def test_all_choices_of_a_request(pool: Pool, live: LiveServer, eventually: Eventually) -> None:
    with closing(ask(live, prompt=[10] * 20, n=4, stream=True)):
        eventually(lambda: pool.statistics().scheduler.running_requests == 1 and queued(pool) == 3)
    assert_gone(lambda: is_idle(pool), time.monotonic())


def test_a_client_that_stops_waiting(pool: Pool, live: LiveServer, eventually: Eventually) -> None:
    """As the official client does at its timeout."""
    body = {"model": "slow", "prompt": [11] * 20, "max_tokens": 2000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{live.url}/v1/completions", json=body, timeout=0.5)
    assert_gone(lambda: is_idle(pool), time.monotonic())


def test_the_observer_hears_that_they_left(
    live: LiveServer, pool: Pool, observer: RecordingObserver, eventually: Eventually
) -> None:
    count = len(observer.records)
    for stream in (False, True):
        with closing(ask(live, prompt=[12] * 20, stream=stream)):
            eventually(lambda: pool.statistics().scheduler.running_requests == 1)
        eventually(lambda: is_idle(pool))
    eventually(lambda: len(observer.records) == count + 2)
    assert [record.outcome for record in observer.records[count:]] == ["disconnected"] * 2
