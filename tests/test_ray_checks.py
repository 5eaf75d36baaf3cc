"""What keeps a process from a Ray cluster is told in one sentence, within seconds, before Ray is asked."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from actors import ray_checks, ray_control
from actors.errors import ConfigurationError
from actors.ray_checks import FoundCluster, require_cluster, require_temp_dir
from actors.ray_control import CLUSTER_ID_CALL
from actors.ray_token import RayToken
from tests.cluster.heads import AUTHENTICATION
from tests.listeners import free_port, grpc_server, http_server, silent_server

START_S = 90.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_control, "ANSWER_TIMEOUT_S", 1.0)
    for name in AUTHENTICATION:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def refusal_of(target: str) -> str:
    began_s = time.monotonic()
    with pytest.raises(ConfigurationError) as caught:
        require_cluster(target)
    assert time.monotonic() - began_s < 10.0
    assert caught.value.message.startswith(f"Cannot connect to a Ray cluster at {target!r}: ")
    assert "\n" not in caught.value.message
    return caught.value.message


OTHERS: list[tuple[AbstractContextManager[int], str]] = [
    (silent_server(), "gives no answer|gave no answer|does not speak"),
    (http_server(lambda *_: (200, b"<html>")), "does not speak Ray's protocol"),
    (grpc_server("/somebody.Else/Call"), "is no Ray cluster"),
    (grpc_server(CLUSTER_ID_CALL, refusal=grpc.StatusCode.INTERNAL), "is no Ray cluster"),
]


@pytest.mark.parametrize(("server", "words"), OTHERS, ids=["silent", "http", "other grpc", "broken"])
def test_somebody_else_at_the_address_is_told(server: AbstractContextManager[int], words: str) -> None:
    with server as port:
        assert re.search(words, refusal_of(f"127.0.0.1:{port}"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_nobody_at_the_address_is_told(host: str) -> None:
    assert "Connection refused" in refusal_of(f"{host}:{free_port()}")


def test_a_host_that_is_not_there_is_told() -> None:
    assert "not known" in refusal_of("nowhere.invalid:6379")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("somewhere", "HOST:PORT"),
        ("127.0.0.1:", "HOST:PORT"),
        (":6379", "HOST:PORT"),
        ("127.0.0.1:six", "HOST:PORT"),
        ("127.0.0.1:99999999", "99999999"),
        ("http://127.0.0.1:8265", "HOST:PORT"),
        ("ray://127.0.0.1:10001", "Ray Client"),
    ],
)
def test_what_is_no_address_is_told(target: str, words: str) -> None:
    assert words in refusal_of(target)


def test_a_cluster_is_recognised_and_shown_no_token_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    shown: list[str | None] = []
    with grpc_server(CLUSTER_ID_CALL, shown=shown) as port:
        assert require_cluster(f"127.0.0.1:{port}") == FoundCluster(f"127.0.0.1:{port}", None)
    assert shown == [None]


def test_the_token_that_is_here_is_shown_to_who_asks(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("secret\n")
    with grpc_server(CLUSTER_ID_CALL, token="secret") as port:
        found = require_cluster(f"127.0.0.1:{port}")
    assert found.token == RayToken("secret", str(home / ".ray" / "auth_token"))
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "it wants a token, and there is none here: put the output of `ray get-auth-token`"),
        ({"RAY_AUTH_TOKEN": "old"}, "it wants another token than that of RAY_AUTH_TOKEN: put"),
        ({"RAY_AUTH_TOKEN": "secret", "RAY_AUTH_MODE": "disabled"}, "may not show: unset RAY_AUTH_MODE"),
    ],
)
def test_a_token_that_does_not_do_is_told(
    monkeypatch: pytest.MonkeyPatch, home: Path, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with grpc_server(CLUSTER_ID_CALL, token="secret") as port:
        assert words in refusal_of(f"127.0.0.1:{port}")


def test_a_file_without_a_token_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    with (
        grpc_server(CLUSTER_ID_CALL, token="secret") as port,
        pytest.raises(ConfigurationError, match="RAY_AUTH_TOKEN_PATH names '/nowhere'"),
    ):
        require_cluster(f"127.0.0.1:{port}")


# Where a private cluster keeps its files


@pytest.fixture(params=["RAY_TMPDIR", "TMPDIR"])
def variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return str(request.param)


@pytest.mark.parametrize(
    ("directory", "words"),
    [
        ("/tmp/" + "x" * 60, "bytes too long"),
        ("/proc/none", "No such file or directory|Permission denied"),
        ("/dev/null", "Not a directory"),
        ("somewhere", "absolute path"),
        ("", "absolute path"),
    ],
)
def test_a_directory_that_will_not_do_is_told(
    variable: str, directory: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, directory)
    with pytest.raises(ConfigurationError, match=words) as caught:
        require_temp_dir()
    assert f"which {variable} names" in caught.value.message
    assert "set RAY_TMPDIR" in caught.value.message


def test_a_directory_is_made_where_it_can_be(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(f"/tmp/made-{os.getpid()}")
    monkeypatch.setenv(variable, str(short))
    try:
        require_temp_dir()
        assert (short / "ray").is_dir()
    finally:
        with contextlib.suppress(OSError):
            (short / "ray").rmdir()
            short.rmdir()


def test_the_longest_path_is_the_longest_that_ray_can_use(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = ray_checks.SOCKET_PATH_BYTES - len("/" + ray_checks.LONGEST_SOCKET.format(pid=os.getpid()))
    fits = "/tmp/" + "x" * (spare - len("/tmp/"))
    try:
        monkeypatch.setenv(variable, fits)
        require_temp_dir()
        monkeypatch.setenv(variable, fits + "x")
        with pytest.raises(ConfigurationError, match="1 bytes too long"):
            require_temp_dir()
    finally:
        with contextlib.suppress(OSError):
            Path(fits, "ray").rmdir()
            Path(fits).rmdir()


LONGEST = """
import os, sys
from pathlib import Path
import ray
from actors import ray_checks, ray_control
from actors.ray_session import ensure_ray

spare = ray_checks.SOCKET_PATH_BYTES - len("/" + ray_checks.LONGEST_SOCKET.format(pid=os.getpid()))
os.environ["RAY_TMPDIR"] = sys.argv[1] + "x" * (spare - len(sys.argv[1]))
ensure_ray(None)
print(ray.nodes()[0]["Alive"])
"""


@pytest.mark.ray
def test_ray_starts_in_the_longest_path_that_is_let_through() -> None:
    """So that the bound is Ray's own, and not one that somebody has guessed."""
    root = Path(f"/tmp/long-{os.getpid()}-")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", LONGEST, str(root)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    finally:
        for left in Path("/tmp").glob(f"{root.name}*"):
            subprocess.run(["rm", "-r", str(left)], check=False)
    assert done.stdout.strip() == "True", done.stderr
