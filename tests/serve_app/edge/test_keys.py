"""Keys: which key is found, what it may, and that nothing tells one."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from actors.errors import ConfigurationError
from actors.results import Priority
from serve_app.edge.keys import KeyRing, new_entry, new_key


def test_a_new_key_is_found_with_what_it_may() -> None:
    alice, bob = new_key(), new_key()
    options: dict[str, Any] = {"weight": 2.0, "max_priority": "batch", "requests_per_minute": 60.0}
    keys = KeyRing([new_entry(alice, "alice", **options), new_entry(bob, "bob")])
    found = keys.find(alice)
    assert found is not None
    assert (found.tenant, found.weight, found.max_priority) == ("alice", 2.0, Priority.BATCH)
    assert (found.requests_per_minute, found.tokens_per_minute) == (60.0, None)
    other = keys.find(bob)
    assert other is not None
    assert other.tenant == "bob"
    assert keys.weights == {"alice": 2.0, "bob": 1.0}


@pytest.mark.parametrize("key", ["", "exl-", "x" * 100_000, "\ud800", "ключ"])
def test_a_wrong_key_is_not_found(key: str) -> None:
    assert KeyRing([new_entry(new_key(), "alice")]).find(key) is None
    assert KeyRing([]).find(key) is None


def test_the_key_itself_is_in_no_file() -> None:
    key = new_key()
    entry = new_entry(key, "alice")
    assert key not in entry.line + repr(entry)
    assert hashlib.sha256(key.encode()).hexdigest().startswith(entry.fingerprint)
    assert len(entry.fingerprint) < len(entry.sha256) < len(new_key()) * 2


@pytest.mark.parametrize(
    "options",
    [
        {"weight": 0.0},
        {"weight": 1e-9},
        {"weight": 1e9},
        {"weight": True},
        {"max_priority": "urgent"},
        {"requests_per_minute": -1.0},
        {"requests_per_minute": float("inf")},
        {"tokens_per_minute": float("nan")},
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        new_entry(new_key(), "alice", **options)


@pytest.mark.parametrize("tenant", ["", "x" * 129, "\udcff"])
def test_a_tenant_that_no_file_can_name_is_refused(tenant: str) -> None:
    with pytest.raises(ConfigurationError, match="tenant"):
        new_entry(new_key(), tenant)
