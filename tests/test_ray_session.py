"""How a script comes to a Ray cluster, as far as it can be told without one."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
import ray

from actors import ray_session
from actors.errors import ConfigurationError
from actors.ray_session import ensure_ray, require_resources, worker_name


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` would have been called with, in a process that has no Ray yet."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def test_without_an_address_the_cluster_is_a_private_one(connections: list[dict[str, Any]]) -> None:
    assert ensure_ray(None)
    assert [call["address"] for call in connections] == ["local"]


def test_an_address_goes_before_that_of_the_environment(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert ensure_ray(None)
    assert ensure_ray("local")
    assert [call["address"] for call in connections] == ["auto", "local"]


def test_a_ray_that_is_there_is_used_and_not_ours_to_close(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert not ensure_ray(None)
    assert connections == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_where_nobody_listens_is_told_at_once(connections: list[dict[str, Any]], host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ensure_ray(f"{host}:{port}")
    began_s = time.monotonic()
    with pytest.raises(ConfigurationError, match=f"Cannot connect to a Ray cluster at '{host}:{port}'"):
        ensure_ray(f"{host}:{port}")
    assert time.monotonic() - began_s < ray_session.REACH_TIMEOUT_S
    assert len(connections) == 1


def test_a_port_that_cannot_be_is_told(connections: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigurationError, match="99999999"):
        ensure_ray("127.0.0.1:99999999")


@pytest.mark.parametrize("error", [ConnectionError("nobody\nthere"), ValueError(""), RuntimeError("no")])
def test_what_ray_says_is_told_in_one_line(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigurationError, match="'nowhere'") as caught:
        ensure_ray("nowhere")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("cpus", "gpus", "words"), [(9, 0, "need 9 CPUs but the cluster has 8"), (1, 1, "need 1 GPUs but .* has 0")]
)
def test_a_cluster_that_is_too_small_is_told(
    monkeypatch: pytest.MonkeyPatch, cpus: float, gpus: float, words: str
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    require_resources(cpus=8, gpus=0)
    with pytest.raises(ConfigurationError, match=words):
        require_resources(cpus=cpus, gpus=gpus)


def test_workers_are_found_by_pool_and_slot() -> None:
    assert worker_name("stories", "worker-3") == "stories.worker-3"
