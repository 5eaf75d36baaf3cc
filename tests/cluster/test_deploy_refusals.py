"""A front that refuses its settings is asked where it listens, and only where that is this machine."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import deploy_refusals
from cluster.deploy_refusals import refused_settings

DASHBOARD = "http://127.0.0.1:8265"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was asked; everybody refuses."""
    urls: list[str] = []

    def ask(url: str) -> dict[str, str]:
        urls.append(url)
        return {"refused_settings": "no"}

    monkeypatch.setattr(deploy_refusals, "ask_ready", ask)
    return urls


def document(**application: Any) -> dict[str, Any]:
    http = {"host": "0.0.0.0", "port": 8123}
    return {"http_options": http, "applications": [{"name": "a", "import_path": "b:c", **application}]}


@pytest.mark.parametrize(
    ("content", "url"),
    [
        (document(), "http://127.0.0.1:8123"),
        (document(route_prefix="/models/"), "http://127.0.0.1:8123/models"),
        (document(route_prefix=None, args=None), "http://127.0.0.1:8123"),
        (document(args={"listen": {"port": 9000}}, route_prefix="/x"), "http://127.0.0.1:9000"),
        (document(args={"listen": {"host": "::", "tls_certificate": "/c.pem"}}), "https://127.0.0.1:8000"),
        ({"applications": document()["applications"]}, "http://127.0.0.1:8000"),
        ({**document(), "http_options": {"host": "::1", "ssl_certfile": "/c.pem"}}, "https://[::1]:8000"),
    ],
)
def test_it_is_asked_where_it_listens(asked: list[str], content: dict[str, Any], url: str) -> None:
    assert refused_settings(content, DASHBOARD) == {"a": "no"}
    assert asked == [url]


@pytest.mark.parametrize("dashboard", ["http://10.0.0.7:8265", "https://ray.example"])
def test_the_front_of_another_machine_is_not_looked_for_on_this_one(asked: list[str], dashboard: str) -> None:
    assert refused_settings(document(), dashboard) == {}
    assert asked == []


@pytest.mark.parametrize("answer", [{"status": "ready"}, ["no"], "no", None])
def test_what_says_nothing_of_it_refuses_nothing(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(deploy_refusals, "ask_ready", lambda _: answer)
    assert refused_settings(document(), DASHBOARD) == {}
