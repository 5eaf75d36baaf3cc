"""Clusters as an administrator starts them, each with a dashboard."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

import cluster
from tests.listeners import free_port
from tests.processes import marked_environment

UP_WITHIN_S = 90.0
END_S = 10.0


@dataclass(frozen=True)
class Head:
    """A running head node. `address` is that of the cluster, `dashboard` the URL of its dashboard."""

    address: str
    dashboard: str
    process: psutil.Process

    def kill(self) -> None:
        """End the whole cluster at once."""
        started = [*self.process.children(recursive=True), self.process]
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(started, timeout=END_S)


@contextlib.contextmanager
def head_node(mark: str, folder: Path) -> Iterator[Head]:
    """A cluster that answers, gone with the `with` block. `folder` holds its files; its path must be short."""
    port, dashboard = free_port(), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(port)]
    options = ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "4"]
    options += ["--ray-client-server-port", str(free_port()), "--temp-dir", str(folder)]
    options += ["--dashboard-agent-listen-port", "0", "--metrics-export-port", "0"]
    environment = marked_environment(mark) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment["PYTHONPATH"] = str(Path(cluster.__file__).parent.parent)
    started = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", psutil.Process(started.pid))
    try:
        deadline_s = time.monotonic() + UP_WITHIN_S
        while not _answers(head.dashboard):
            assert started.poll() is None, f"ray start ended with {started.returncode}"
            assert time.monotonic() < deadline_s, "the dashboard does not answer"
            time.sleep(0.2)  # a poll, bounded by the deadline above
        yield head
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            head.kill()


def _answers(dashboard: str) -> bool:
    try:
        return httpx.get(f"{dashboard}/api/version", timeout=2.0).status_code in (200, 401)
    except httpx.HTTPError:
        return False
