"""A script on a cluster of others is killed at any moment: its pool goes with it, and nothing else of the cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
import ray
from ray.util import list_named_actors

from actors.ray_session import NAMESPACE
from tests.processes import marked_environment

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
NAME = "killed"
SCRIPT = """
import os, sys, time
import ray
from actors import Pool, pool as pool_module
from actors.ray_session import ensure_ray

address, stage = sys.argv[1:]

def ready(*_):
    print("now", flush=True)
    time.sleep(600)

simulated = {"load_s": 600.0} if stage == "loading" else {"step_s": 0.01}
if stage == "loading":
    pool_module.wait_until_ready = ready
if stage == "closing":
    pool_module._stop = ready
pool = Pool.start(name="killed", engine="simulated", workers=2, wait_for="all", address=address, simulated=simulated)
calls = [pool.generate.remote((5, number), max_new_tokens=3000) for number in range(4)]
stream = iter(pool.stream((6, 7), max_new_tokens=3000))
next(stream)
if stage == "closing":
    pool.close()
ready()
"""


def members() -> set[str]:
    names = (entry["name"] for entry in list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE)
    return {name for name in names if name.partition(".")[0] == NAME}


def processes() -> list[psutil.Process]:
    """Of the actors of pools, by the titles that Ray gives them; the cluster's processes are children of this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if any(title.startswith(f"ray::{kind}") for kind in ("Worker", "Dispatcher", "FrontActor")):
                found.append(process)
    return found


@pytest.mark.parametrize("stage", ["loading", "generating", "closing"])
def test_a_script_that_is_killed_leaves_no_actor_and_no_process(stage: str, mark: str, eventually: Eventually) -> None:
    others = set(processes())
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, ray.get_runtime_context().gcs_address, stage],
        env=marked_environment(mark),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline().strip() == "now"
    assert members() == {NAME, f"{NAME}.worker-0", f"{NAME}.worker-1"}
    eventually(lambda: len(set(processes()) - others) >= 3)
    script.kill()
    script.communicate()
    eventually(lambda: not members())
    eventually(lambda: not set(processes()) - others)
    assert ray.get(ray.remote(num_cpus=0)(lambda: "well").remote(), timeout=60) == "well"
