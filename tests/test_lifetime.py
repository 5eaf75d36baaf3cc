"""Nothing of a pool outlives its script, however that ends: real processes, found by a mark in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.processes import marked, marked_environment

pytestmark = pytest.mark.ray

GONE_WITHIN_S = 30.0
"""A process of Ray that has just started looks for its dead cluster for five seconds, after its imports."""
START_S = 90.0

SCRIPT = """
import sys
import ray
from actors import Pool

how = sys.argv[1]
pool = Pool.start(engine="simulated", workers=2, wait_for="all", cache_tokens=8192)
references = [pool.generate.remote([5, 6, 7], max_new_tokens=4000) for _ in range(2)]
for delta in pool.stream([5, 6, 7], max_new_tokens=4000):
    break
stream = iter(pool.stream([5, 6, 7], max_new_tokens=4000))
next(stream)
print("running", flush=True)
if how == "error":
    raise RuntimeError("a mistake in the script")
if how == "with":
    with pool:
        pass
    sys.exit(0)
if how == "exit":
    sys.exit(0)
ray.get(references)
"""


@pytest.mark.parametrize("how", ["kill", "interrupt", "terminate", "error", "with", "exit"])
def test_no_process_is_left(how: str, mark: str, eventually: Callable[..., None]) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        env=marked_environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert script.stdout is not None
        line = script.stdout.readline()
        while line and line.strip() != "running":
            line = script.stdout.readline()
        assert line.strip() == "running", script.stderr.read() if script.stderr else ""
        if how in ("kill", "interrupt", "terminate"):
            assert len(marked(mark)) > 3, "the cluster, the workers and the script itself carry the mark"
            signals = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
            if how == "interrupt":
                os.killpg(script.pid, signal.SIGINT)  # as a terminal does: to the whole group
            else:
                script.send_signal(signals[how])
        script.wait(timeout=START_S)
        eventually(lambda: not marked(mark), timeout_s=GONE_WITHIN_S)
    finally:
        script.kill()
        script.communicate(timeout=10)


STREAMS_ON = """
import asyncio
import ray
from actors import Pool

async def main():
    pool = Pool.start(engine="simulated", workers=1, cache_tokens=8192)
    async for delta in pool.stream([5, 6, 7], max_new_tokens=20):
        pass
    others = asyncio.all_tasks() - {asyncio.current_task()}
    pool.close()
    assert others, "the front of this event loop reads its streams"
    await asyncio.wait(others, timeout=20)
    assert all(task.done() for task in others), others
    print("connected:", ray.is_initialized())

asyncio.run(main())
"""


def test_closing_inside_an_event_loop_starts_no_other_cluster(mark: str, eventually: Callable[..., None]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STREAMS_ON],
        env=marked_environment(mark),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["connected: False"], done.stderr
    assert "Traceback" not in done.stderr
    eventually(lambda: not marked(mark), timeout_s=GONE_WITHIN_S)
