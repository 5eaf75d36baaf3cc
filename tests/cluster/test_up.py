"""`exlpool up`, `status` and `down`: on a machine with nothing, as a newcomer has it, and on a cluster of others."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.dashboard import Dashboard
from tests.cluster.commands import run_commands, run_program
from tests.cluster.heads import Head, environment_at, head_node, live_at, new_home
from tests.listeners import free_port
from tests.processes import marked
from tests.serve_app.running import MODEL, PROMPT, ask

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

SCRIPT = """
import time
import ray
from actors import Pool

with Pool.connect("sim", address="auto") as pool:
    print(len(ray.get(pool.generate.remote((5, 6, 7), max_new_tokens=4)).token_ids))
    deadline_s = time.monotonic() + 30.0
    while sum(worker.finished_requests for worker in pool.workers()) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.1)  # until both are reported, bounded by the deadline above
    print(sum(worker.finished_requests for worker in pool.workers()))
"""
SIMULATED: dict[str, Any] = {"name": MODEL, "engine": "simulated", "cpus_per_worker": 0.1, "wait_for": "all"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its path is short, since sockets of Ray lie in it."""
    made = Path(f"/tmp/up-{os.getpid()}")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def write(folder: Path, port: int, **settings: Any) -> Path:
    file = folder / f"{secrets.token_hex(4)}.yaml"
    model = SIMULATED | {"workers": 2, "simulated": {"step_s": 0.005}} | settings
    file.write_text(yaml.safe_dump({"models": [model], "http": {"port": port}, "fronts": {"max_replicas": 1}}))
    return file


def completion(port: int) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=ask(3, stream=False, prompt=PROMPT), timeout=60.0)


def test_a_machine_with_nothing(folder: Path, mark: str, eventually: Callable[..., None]) -> None:
    home, port = new_home(folder, token=False), free_port()
    environment = environment_at(home, mark) | {"RAY_TMPDIR": str(folder)}
    file = write(folder, port)

    (done,) = run_commands([["up", file]], environment)
    assert done.status == 0, done.err
    assert "No Ray cluster runs here: starting one" in done.err
    assert done.out.startswith(f"exlpool  RUNNING  http://127.0.0.1:{port}\nmodel sim\n  worker-0  up  node ")
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600
    assert completion(port).json()["usage"]["completion_tokens"] == 3
    tokens, finished = run_program(SCRIPT, environment=environment).split()[-2:]
    assert (tokens, finished) == ("4", "2"), "the request over HTTP and that of the script went to the same pool"

    shown, scaled, changed, moved, generated = run_commands(
        [
            ["status", "--json"],
            ["scale", 3, "--pool", MODEL],
            ["up", write(folder, port, workers=1), "--max-batch-size", 4],
            ["up", write(folder, free_port())],
            ["generate", "x", "--pool", MODEL, "--max-new-tokens", 2],
        ],
        environment,
    )
    assert shown.status == 0, shown.err
    (model,) = json.loads(shown.out)["models"]
    assert [(worker["name"], worker["state"]) for worker in model["workers"]] == [
        ("worker-0", "up"),
        ("worker-1", "up"),
    ]
    assert all(worker["node"] for worker in model["workers"])
    assert scaled.out.count("up\n") == 3, scaled.err
    assert changed.out.count("  up  ") == 1, changed.err
    assert (moved.status, moved.out) == (2, "")
    assert f"http cannot change while Ray Serve runs, which listens on 127.0.0.1 port {port}" in moved.err
    assert (generated.status, len(generated.out.split())) == (0, 2), generated.err

    ended, none = run_commands([["down"], ["status"]], environment)
    assert ended.status == 0, ended.err
    assert none.status == 2
    assert "No Ray cluster runs on this machine" in none.err
    eventually(lambda: not marked(mark))
    assert not list((home / ".local" / "state" / "exlpool").glob("*.json"))
    with pytest.raises(httpx.ConnectError):
        completion(port)


@pytest.fixture
def head(mark: str, folder: Path) -> Iterator[Head]:
    with head_node(mark, folder) as made:
        yield made


def test_a_cluster_of_others(head: Head, folder: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ctrl-C leaves behind is told, goes on and can be ended; and the cluster stays when the deployment goes."""
    environment = environment_at(head.home, mark) | {"RAY_ADDRESS": head.address}
    port = free_port()
    file = write(folder, port, simulated={"load_s": 600.0})
    with _started(["up", str(file)], environment) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        while "worker-1  starting" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. What was begun goes on: `exlpool status` shows it, and `exlpool down` ends it." in told

    shown, other, ended, none = run_commands(
        [["status"], ["status", "--name", "other"], ["down"], ["down"]], environment
    )
    assert shown.status == 1, shown.err
    assert shown.out.startswith(f"exlpool  DEPLOYING  http://127.0.0.1:{port}\n")
    assert other.status == 2
    assert "No application named 'other' runs on this cluster; there are: exlpool." in other.err
    assert ended.status == 0, ended.err
    assert none.status == 2
    assert "No application named 'exlpool' runs on this cluster." in none.err
    live_at(head.home, monkeypatch)
    assert Dashboard(head.dashboard).applications() == {}


@contextlib.contextmanager
def _started(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from cluster.cli import main; main()", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
