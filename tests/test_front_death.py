"""A front dies with its process, by kill -9: its requests are taken back wherever they are, and nobody else's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors import Pool
from actors.dispatcher import decisions
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, worker_name
from actors.worker import output_stream
from tests.processes import marked_environment

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
PROMPT = (10, 11, 12)
STREAMS, CALLS = 2, 5
SCRIPT = f"""
import sys, time
from actors import Pool

with Pool.connect("shared", address=sys.argv[1]) as pool:
    streams = [iter(pool.stream((7, number), max_new_tokens=3000)) for number in range({STREAMS})]
    for stream in streams:
        next(stream)
    calls = [pool.generate.remote((8, number), max_new_tokens=3000) for number in range({CALLS})]
    print("asked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def pool(ray_cluster: None) -> Iterator[Pool]:
    settings: dict[str, Any] = {"engine": "simulated", "workers": 1, "cache_tokens": 65536, "max_batch_size": 6}
    with Pool.start(name="shared", **settings, simulated={"step_s": 0.01}) as made:
        yield made


def left(pool: Pool) -> int:
    scheduler = pool.statistics().scheduler
    return sum(scheduler.queued_requests.values()) + scheduler.running_requests


def test_a_script_that_is_killed_leaves_nothing_at_a_pool_of_others(
    pool: Pool, mark: str, eventually: Eventually
) -> None:
    """What streamed, what was to come whole, and what waited."""
    mine = iter(pool.stream(PROMPT, max_new_tokens=4000, temperature=0.0))
    token_ids = list(next(mine).token_ids)
    (before,) = pool.statistics().scheduler.workers
    worker: Any = ray.get_actor(worker_name("shared", "worker-0"), namespace=NAMESPACE)
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, ray.get_runtime_context().gcs_address],
        env=marked_environment(mark),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline().strip() == "asked"
    eventually(lambda: left(pool) == 1 + STREAMS + CALLS)
    script.kill()
    script.communicate()
    eventually(lambda: left(pool) == 1)
    eventually(lambda: ray.get(worker.debug_state.remote())["streams"] == 1)
    (after,) = pool.statistics().scheduler.workers
    assert (after.attempts, after.free_pages) == (1, before.free_pages)
    while len(token_ids) < 50:
        token_ids += next(mine).token_ids
    assert tuple(token_ids) == expected_tokens(PROMPT, 4000)[: len(token_ids)], "another front's stream is untouched"
    mine.close()  # type: ignore[attr-defined]
    eventually(lambda: left(pool) == 0)


def test_a_front_is_found_dead_within_a_second() -> None:
    """Ray says so of a stream's reader when the stream says something next."""
    assert max(output_stream.HEARTBEAT_S, decisions.HEARTBEAT_S) < 1.0
