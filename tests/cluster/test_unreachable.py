"""A cluster that cannot be reached, or goes away: every command says so in one sentence, and does not hang."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from actors import Pool, ray_control
from cluster import dashboard, deploy
from cluster.bounded import ClusterSilent, call_within
from tests.cluster.conftest import Exlpool
from tests.cluster.heads import Head, environment_at, head_node
from tests.cluster.test_serve_deploy import document, write
from tests.listeners import Answer, free_port, http_server, silent_server

SOON_S = 15.0
RUN_S = 100.0
LOAD_SLOWLY = "engine: simulated\nsimulated: {load_s: 300}\n"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "ASK_TIMEOUT_S", 1.0)
    monkeypatch.setattr(deploy, "GONE_AFTER_S", 1.0)
    monkeypatch.setattr(ray_control, "ANSWER_TIMEOUT_S", 1.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "serve.yaml", document())


def told(exlpool: Exlpool, *arguments: object) -> str:
    """The one sentence with which a command ends."""
    began_s = time.monotonic()
    done = exlpool(*arguments)
    assert time.monotonic() - began_s < SOON_S
    assert (done.status, done.out) == (2, "")
    lines = done.err.strip().splitlines()
    assert lines[-1].startswith("Error: "), done.err
    return lines[-1]


# exlpool deploy

ANSWERS: list[tuple[Answer, str]] = [
    (lambda *_: (200, b"<html>hello</html>"), "no Ray dashboard"),
    (lambda *_: (200, {"version": 4}), "no Ray dashboard"),
    (lambda *_: (200, ["ray_version"]), "no Ray dashboard"),
    (lambda *_: (503, b"busy"), "no Ray dashboard"),
    (lambda *_: (404, b"what?"), "404"),
    (lambda *_: (401, b"Unauthorized"), "RAY_AUTH_TOKEN"),
    (lambda *_: (403, b"Forbidden"), "RAY_AUTH_TOKEN"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_dashboard_of_ours_is_told(exlpool: Exlpool, file: Path, answer: Answer, words: str) -> None:
    with http_server(answer) as port:
        address = f"http://127.0.0.1:{port}"
        assert re.search(f"Cannot deploy to {address}: .*{words}", told(exlpool, "deploy", file, "--address", address))


def test_who_says_nothing_is_given_up(exlpool: Exlpool, file: Path) -> None:
    with silent_server() as port:
        assert "no answer" in told(exlpool, "deploy", file, "--address", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:{free}", "Connection refused"),
        ("https://127.0.0.1:{free}", "Connection refused"),
        ("http://nowhere.invalid:8265", "not known"),
        ("127.0.0.1:8265", "no address of a dashboard"),
        ("ray://127.0.0.1:10001", "no address of a dashboard"),
        ("http://", "no address of a dashboard"),
        ("http://[::1", "no address of a dashboard"),
        ("http://127.0.0.1:99999999", "no address of a dashboard"),
    ],
)
def test_an_address_without_a_dashboard_is_told(exlpool: Exlpool, file: Path, address: str, words: str) -> None:
    address = address.format(free=free_port())
    assert words in told(exlpool, "deploy", file, "--address", address)


class FakeDashboard:
    """A dashboard whose application is always being deployed."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.deployed = False

    def __call__(self, method: str, path: str) -> tuple[int, Any]:
        if path.endswith("/version"):
            return 200, {"ray_version": "2.60.0"}
        if method == "PUT":
            self.deployed = True
            return 200, {}
        if self.deployed:
            self.asked.set()
        return 200, {"applications": {"exlpool": {"status": "DEPLOYING", "last_deployed_time_s": 1.0}}}


def test_a_cluster_that_goes_away_during_the_wait_is_told(exlpool: Exlpool, file: Path) -> None:
    fake, port = FakeDashboard(), 0
    ready = threading.Event()

    def serve_until_asked() -> None:
        nonlocal port
        with http_server(fake) as port:
            ready.set()
            assert fake.asked.wait(SOON_S)

    server = threading.Thread(target=serve_until_asked)
    server.start()
    assert ready.wait(SOON_S)
    assert "The cluster went away" in told(exlpool, "deploy", file, "--address", f"http://127.0.0.1:{port}")
    server.join(SOON_S)


def test_an_application_that_never_runs_is_given_up_in_time(
    exlpool: Exlpool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "SETTLE_S", 0.0)
    with http_server(FakeDashboard()) as port:
        words = told(exlpool, "deploy", file, "--address", f"http://127.0.0.1:{port}", "--timeout-s", "1")
    assert "Not running within 1 s: exlpool is DEPLOYING." in words


# Commands that use a pool


@pytest.mark.parametrize("command", [["generate", "Hello"], ["run", "{prompts}"], ["serve", "--port", "{free}"]])
def test_no_cluster_at_the_address_is_told(
    exlpool: Exlpool, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello\n")
    words = [part.format(prompts=prompts, free=free_port()) for part in command]
    with silent_server() as port:
        target = f"127.0.0.1:{port}"
        error = told(exlpool, *words, "--engine", "simulated", "--address", target)
    assert f"Cannot connect to a Ray cluster at '{target}'" in error


def test_pool_connect_tells_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from actors import ConfigurationError

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with silent_server() as port, pytest.raises(ConfigurationError, match="Cannot connect to a Ray cluster"):
        Pool.connect("stories", address=f"127.0.0.1:{port}")


def test_what_ray_raises_is_one_sentence(exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise ActorUnavailableError("Socket closed\nover\nmany lines", None)

    monkeypatch.setattr(Pool, "start", start)
    assert "The Ray cluster failed, or went away: " in told(exlpool, "generate", "Hello")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with head_node("unreachable-test", Path(f"/tmp/away-{os.getpid()}")) as started:
        yield started


@pytest.mark.ray
def test_a_cluster_that_dies_while_workers_load_is_told(
    head: Head, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    settings = tmp_path / "pool.yaml"
    settings.write_text(LOAD_SLOWLY)
    arguments = ["generate", "Hello", "--config", str(settings), "--address", head.address]
    command = subprocess.Popen(
        [sys.executable, "-c", "from cluster.cli import main; main()", *arguments],
        env=environment_at(head.home, "unreachable-test"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: _has_worker(head), timeout_s=RUN_S)
        head.kill()
        out, errors = command.communicate(timeout=RUN_S)
    finally:
        command.kill()
    assert (command.returncode != 0, out) == (True, "")
    assert "Traceback" not in errors
    assert "Error: " in errors or "GCS" in errors, errors


def _has_worker(head: Head) -> bool:
    return any("Worker" in " ".join(one.cmdline()) for one in head.process.children(recursive=True))


# Serve, which has no time limits of its own


def test_a_call_that_does_not_end_is_given_up() -> None:
    with pytest.raises(ClusterSilent, match=r"within 0\.1 s \(the status\)"):
        call_within(0.1, "the status", threading.Event().wait)


def test_a_call_that_ends_gives_what_it_gave() -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    assert call_within(5.0, "a sum", lambda: 1 + 1) == 2
    with pytest.raises(TimeoutError, match="its own"):
        call_within(5.0, "a failure", fail)
