"""How a script comes to a Ray cluster, as far as it can be told without one."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from actors import ray_session
from actors.errors import ConfigurationError
from actors.ray_checks import FoundCluster
from actors.ray_control import CLUSTER_ID_CALL
from actors.ray_session import ensure_ray, worker_name
from tests.listeners import free_port, grpc_server


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` would have been called with, in a process that has no Ray yet."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray_session, "mark_private", lambda: None)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append({"shutdown": True}))  # never the session's own cluster
    monkeypatch.setattr(ray_session, "use_tokens", lambda wanted: calls.append({"tokens": wanted}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    return calls


def addresses(connections: list[dict[str, Any]]) -> list[str]:
    return [call["address"] for call in connections if "address" in call]


def test_without_an_address_the_cluster_is_a_private_one(connections: list[dict[str, Any]]) -> None:
    assert ensure_ray(None)
    assert connections[0] == {"tokens": True}, "as Ray has it by itself"
    assert addresses(connections) == ["local"]


def test_a_private_cluster_is_as_open_as_somebody_wants_it(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert ensure_ray(None)
    assert connections[0] == {"tokens": False}


def test_an_address_goes_before_that_of_the_environment(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "require_cluster", lambda _: FoundCluster("10.0.0.7:6379", None))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert ensure_ray(None)
    assert ensure_ray("local")
    assert addresses(connections) == ["10.0.0.7:6379", "local"]


def test_a_ray_that_is_there_is_used_and_not_ours_to_close(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert not ensure_ray(None)
    assert connections == []


def test_an_address_is_looked_at_before_ray_is_asked(connections: list[dict[str, Any]]) -> None:
    target = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigurationError, match=f"Cannot connect to a Ray cluster at '{target}'"):
        ensure_ray(target)
    assert connections == []


def test_so_is_the_directory_of_a_private_cluster(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    with pytest.raises(ConfigurationError, match="RAY_TMPDIR"):
        ensure_ray(None)
    assert connections == []


def test_a_cluster_at_an_address_is_connected_to(connections: list[dict[str, Any]]) -> None:
    with grpc_server(CLUSTER_ID_CALL) as port:
        assert ensure_ray(f"127.0.0.1:{port}")
    assert connections[0] == {"tokens": False}, "it asks for none"
    assert addresses(connections) == [f"127.0.0.1:{port}"]


def test_a_token_is_used_where_one_is_asked_for(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with grpc_server(CLUSTER_ID_CALL, token="secret") as port:
        assert ensure_ray(f"127.0.0.1:{port}")
    assert connections[0] == {"tokens": True}


@pytest.mark.parametrize("error", [ConnectionError("nobody\nthere"), ValueError(""), OSError("no"), Exception("no")])
def test_what_ray_says_is_told_in_one_line(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigurationError, match="Cannot start a private Ray cluster") as caught:
        ensure_ray(None)
    assert "\n" not in caught.value.message
    assert connections[1:] == [{"shutdown": True}], "what Ray had started by then is ended"


def test_workers_are_found_by_pool_and_slot() -> None:
    assert worker_name("stories", "worker-3") == "stories.worker-3"
