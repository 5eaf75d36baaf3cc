"""Clusters as an administrator starts them, each with a dashboard."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

import cluster
from tests.listeners import free_port
from tests.processes import marked_environment

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""The variables that say what Ray has by itself otherwise."""
NO_VARIABLES: Mapping[str, str] = {}
SERVE = "/api/serve/applications/"
ASK_S = 30.0
UP_WITHIN_S = 90.0
END_S = 10.0


@dataclass(frozen=True)
class Head:
    """A running head node. `address` is that of the cluster, `dashboard` the URL of its dashboard, `home` the home
    directory of who started it, where a token may be."""

    address: str
    dashboard: str
    process: psutil.Process
    home: Path

    def kill(self) -> None:
        """End the whole cluster at once."""
        started = [*self.process.children(recursive=True), self.process]
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(started, timeout=END_S)


def new_home(folder: Path, *, token: bool = True) -> Path:
    """A home directory as it is after the first local `ray.init`, which makes a token, or (`token=False`) before it."""
    home = folder / "home"
    home.mkdir(parents=True)
    if token:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(generate_new_authentication_token())
    return home


def environment_at(home: Path, mark: str) -> dict[str, str]:
    """That of a process of somebody who has this home directory, and leaves authentication to Ray."""
    environment = marked_environment(mark) | {"HOME": str(home)}
    for name in AUTHENTICATION:
        environment.pop(name, None)
    return environment


def live_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for this process."""
    monkeypatch.setenv("HOME", str(home))
    for name in AUTHENTICATION:
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def head_node(
    mark: str, folder: Path, *, token: bool = True, variables: Mapping[str, str] = NO_VARIABLES
) -> Iterator[Head]:
    """A cluster that answers, gone with the `with` block. `folder` holds its files; its path must be short.

    It asks for a token where its administrator has one (`token`), as Ray does it by itself. `variables` are put into
    the environment of its processes.
    """
    port, dashboard = free_port(), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(port)]
    options = ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "4"]
    options += ["--ray-client-server-port", str(free_port()), "--temp-dir", str(folder)]
    options += ["--dashboard-agent-listen-port", "0", "--metrics-export-port", "0"]
    home = new_home(folder, token=token)
    environment = environment_at(home, mark) | {"RAY_USAGE_STATS_ENABLED": "0"} | dict(variables)
    environment["PYTHONPATH"] = str(Path(cluster.__file__).parent.parent)
    started = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", psutil.Process(started.pid), home)
    try:
        deadline_s = time.monotonic() + UP_WITHIN_S
        while not _answers(head.dashboard, variables.get("RAY_AUTH_TOKEN") or _token_at(home)):
            assert started.poll() is None, f"ray start ended with {started.returncode}"
            assert time.monotonic() < deadline_s, "the dashboard does not answer"
            time.sleep(0.2)  # a poll, bounded by the deadline above
        yield head
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            head.kill()


def _token_at(home: Path) -> str:
    file = home / ".ray" / "auth_token"
    return file.read_text() if file.exists() else ""


def _answers(dashboard: str, token: str) -> bool:
    """Asked for what it has to ask the rest of the cluster for, which may begin later."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}  # an empty one is no header
    try:
        answer = httpx.get(f"{dashboard}{SERVE}", headers=headers, timeout=ASK_S)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200
