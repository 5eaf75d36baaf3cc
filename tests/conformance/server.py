"""The server as a user starts it: `exlpool serve`, in a process of its own, with API keys."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from serve_app.edge.keys import new_entry, new_key
from tests.processes import marked, marked_environment

MODEL = "tiny"
"""The built-in model on two workers: right answers, 4096 tokens of context."""
SHORT = "short"
"""The built-in model with a short context and short answers, so that no request is costly."""
NARROW = "narrow"
"""One slow request at a time, and two in the queue."""
MODELS: list[dict[str, Any]] = [
    {"name": MODEL, "engine": "cpu", "workers": 2, "wait_for": "all", "cache_tokens": 32768, "max_batch_size": 16},
    {"name": SHORT, "engine": "cpu", "workers": 1, "context_tokens": 512, "default_max_new_tokens": 8},
    {
        "name": NARROW,
        "engine": "simulated",
        "workers": 1,
        "max_batch_size": 1,
        "max_queued_requests": 2,
        "simulated": {"step_s": 0.02},
    },
]
BODY_TIMEOUT_S = 3.0
MAX_CHOICES = 16
MAX_BODY_BYTES = 4 * 1024 * 1024
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `key` is good for everything, `slow_key` for one request a minute."""

    port: int
    key: str
    slow_key: str
    process: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """What clients call the base URL."""
        return f"{self.url}/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def resident_bytes(self) -> int:
        """Memory of all its processes."""
        total = 0
        for process in psutil.Process(self.process).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


@contextlib.contextmanager
def running(directory: Path, mark: str) -> Iterator[Server]:
    """Start a server whose processes carry `mark`, wait until it is ready, and end it with all of them."""
    key, slow_key = new_key(), new_key()
    keys = directory / "keys.yaml"
    keys.write_text(
        f"{new_entry(key, 'conformance').line}\n{new_entry(slow_key, 'slow', requests_per_minute=1.0).line}\n",
        encoding="utf-8",
    )
    config = directory / "serve.yaml"
    models = [{**model, "cpus_per_worker": 0} for model in MODELS]
    settings = {
        "keys_file": str(keys),
        "body_timeout_s": BODY_TIMEOUT_S,
        "max_body_bytes": MAX_BODY_BYTES,
        "max_choices": MAX_CHOICES,
    }
    config.write_text(yaml.safe_dump({**settings, "models": models}), encoding="utf-8")
    port = _free_port()
    program = Path(sys.executable).with_name("exlpool")
    command: list[str | Path] = [program, "serve", "--config", config, "--port", str(port)]
    said, log = directory / "server.out", directory / "server.log"
    with said.open("wb") as output, log.open("wb") as errors:
        child = subprocess.Popen(
            command, env=marked_environment(mark), stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        try:
            server = Server(port, key, slow_key, child.pid)
            _wait_ready(server, child, said, log)
            yield server
        finally:
            _end(child, mark)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_ready(server: Server, child: subprocess.Popen[bytes], said: Path, log: Path) -> None:
    """Until it is ready, and has said so by printing its URL."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/ready", timeout=5.0).status_code == 200 and server.url in said.read_text():
                return
        assert child.poll() is None, f"the server ended with {child.returncode}: {log.read_text()}"
        assert time.monotonic() < deadline_s, f"not ready in time: {log.read_text()}"
        time.sleep(0.1)  # a poll, bounded by the deadline above


def _end(child: subprocess.Popen[bytes], mark: str) -> None:
    """Ask it to end, as a process manager does; it fails where something of it is left."""
    child.send_signal(signal.SIGTERM)
    try:
        status = child.wait(STOP_TIMEOUT_S)
        left = marked(mark)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while left and time.monotonic() < deadline_s:
            time.sleep(0.1)  # a poll, bounded by the deadline above
            left = marked(mark)
        assert status == 128 + signal.SIGTERM, f"the server ended with {status}"
        assert not left, f"left behind: {[process.name() for process in left]}"
    finally:
        child.kill()
        for process in marked(mark):
            process.kill()
