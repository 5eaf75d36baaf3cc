"""The Ray cluster that `exlpool up` starts on this machine where none runs: it stays until `exlpool down`.

Its dashboard listens on this machine only. Ray has no way to have all else do so, so what it has to be asked with is
the token that Ray keeps in the home directory. What is written down of it is enough
to end exactly this one: `ray stop` would end everybody's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.errors import ConfigurationError
from actors.ray_checks import require_temp_dir
from actors.ray_session import PRIVATE_CLUSTER
from actors.ray_token import find_token, tokens_forbidden, use_tokens
from cluster import detach
from cluster.dashboard import Dashboard, DashboardUnreachable
from cluster.processes import descendants, is_same, kill, start_time

HOST = "127.0.0.1"
PORT, DASHBOARD_PORT = 6379, 8265
"""Ray's own; where somebody has them already, free ones."""
UP_WITHIN_S = 120.0
END_WITHIN_S = 20.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """A cluster that was started here: its HOST:PORT, the URL of its dashboard, and its first process, with the time at
    which the system has started that."""

    address: str
    dashboard: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return is_same(self.pid, self.started)


def remembered() -> OwnCluster | None:
    """The cluster that was started here and still runs."""
    try:
        found = OwnCluster(**json.loads(_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.alive else None


def address_of_running(address: str | None) -> str:
    """What a command connects to that uses what runs: `address`, RAY_ADDRESS, the cluster that was started here, or
    whichever Ray finds on this machine."""
    found = address or os.environ.get("RAY_ADDRESS")
    if found:
        return found
    own = remembered()
    return "auto" if own is None else own.address


def start(report: Callable[[OwnCluster], None]) -> OwnCluster:
    """Start one, and wait until its dashboard answers. `report` hears of it as soon as there is something to end.

    :raises ConfigurationError: it does not start; the message says why.
    """
    require_temp_dir()
    port, dashboard, client = _free_port(PORT), _free_port(DASHBOARD_PORT), _free_port(0)
    log = _file().with_name("cluster.log")
    try:
        _make_token()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        pid = _start_head(log, port, dashboard, client)
    except OSError as error:
        raise ConfigurationError(f"Cannot start a Ray cluster: {error}.") from None
    cluster = OwnCluster(f"{HOST}:{port}", f"http://{HOST}:{dashboard}", pid, start_time(pid) or 0)
    _file().write_text(json.dumps(asdict(cluster)), encoding="utf-8")
    report(cluster)
    deadline_s = time.monotonic() + UP_WITHIN_S
    while not _answers(cluster.dashboard):
        if not cluster.alive or time.monotonic() > deadline_s:
            end(cluster)
            raise ConfigurationError(f"The Ray cluster did not start; {log} says why.")
        time.sleep(POLL_S)  # a poll, bounded by the deadline above
    return cluster


def end(cluster: OwnCluster) -> None:
    """End its processes, in good order where they can."""
    below = descendants(cluster.pid) if cluster.alive else {}
    if cluster.alive:
        os.kill(cluster.pid, signal.SIGTERM)
    left = {**below, cluster.pid: cluster.started}
    deadline_s = time.monotonic() + END_WITHIN_S
    while any(is_same(pid, started) for pid, started in left.items()) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)  # a poll, bounded by the deadline above
    kill(left)
    _file().unlink(missing_ok=True)


def _start_head(log: Path, port: int, dashboard: int, client: int) -> int:
    """The process id of a head that runs in the background."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = ["--port", port, "--dashboard-host", HOST, "--dashboard-port", dashboard]
    options += ["--ray-client-server-port", client, "--dashboard-agent-listen-port", 0, "--metrics-export-port", 0]
    environment = {**PRIVATE_CLUSTER, **os.environ}
    environment.pop("RAY_ADDRESS", None)  # `ray start` takes none for a head
    done = subprocess.run(
        [sys.executable, "-I", detach.__file__, str(log), *command, *map(str, options)],
        env=environment,
        cwd=Path.home(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout)


def _make_token() -> None:
    """The token that this user has, or else a new one, as Ray makes it for a private cluster: in the home directory."""
    if tokens_forbidden():
        return
    use_tokens(True)
    if find_token() is None:
        from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(generate_new_authentication_token())
        use_tokens(True)  # which reads it


def _answers(dashboard: str) -> bool:
    try:
        Dashboard(dashboard)
    except (DashboardUnreachable, ConfigurationError):
        return False
    return True


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigurationError(f"No port is free on {HOST}.")


def _file() -> Path:
    """Where the cluster of this user is written down, as the desktops' convention has it."""
    root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "exlpool" / "cluster.json"
