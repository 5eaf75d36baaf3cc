"""Keys: what a file may hold, which key is found, and that nothing tells one."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from actors.errors import ConfigurationError
from actors.results import Priority
from serve_app.edge.keys import KeyRing, add_line, entry_line, load_keys, new_key

A, B = "a" * 64, "b" * 64


def ring(tmp_path: Path, *lines: str) -> KeyRing:
    path = tmp_path / "keys.yaml"
    path.write_text("\n".join(lines))
    return load_keys(path)


def test_a_new_key_is_found_with_what_it_may(tmp_path: Path) -> None:
    alice, bob = new_key(), new_key()
    keys = ring(
        tmp_path,
        entry_line(alice, "alice", weight=2.0, max_priority="batch", requests_per_minute=60.0),
        entry_line(bob, "bob: the {builder}"),
    )
    found = keys.find(alice)
    assert found is not None
    assert (found.tenant, found.weight, found.max_priority) == ("alice", 2.0, Priority.BATCH)
    assert (found.requests_per_minute, found.tokens_per_minute) == (60.0, None)
    other = keys.find(bob)
    assert other is not None
    assert other.tenant == "bob: the {builder}"
    assert keys.weights == {"alice": 2.0, "bob: the {builder}": 1.0}


@pytest.mark.parametrize("key", ["", "exl-", "x" * 100_000, "\ud800", "ключ"])
def test_a_wrong_key_is_not_found(tmp_path: Path, key: str) -> None:
    assert ring(tmp_path, entry_line(new_key(), "alice")).find(key) is None


def test_the_key_itself_is_in_no_file() -> None:
    key = new_key()
    assert key not in entry_line(key, "alice")
    assert len(key) > 40


def test_lines_are_added_below_each_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first, second = new_key(), new_key()
    add_line(path, entry_line(first, "a"))
    path.write_text(path.read_text().rstrip("\n"))  # an editor that saves no last line break
    add_line(path, entry_line(second, "b"))
    keys = load_keys(path)
    assert [entry.tenant for entry in keys.entries] == ["a", "b"]
    assert keys.find(second) is keys.entries[1]


def test_a_file_that_is_made_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add_line(path, entry_line(new_key(), "a"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "valid list"),
        ("[]", "no key"),
        ("alice", "valid list"),
        ("- {tenant: a}", "key 1.sha256"),
        ("- {tenant: a, sha256: SECRET}", "key 1.sha256"),
        (f"- {{tenant: a, sha256: {A}, wait: 2}}", "key 1.wait"),
        (f"- {{tenant: a, sha256: {A}, weight: 0}}", "key 1.weight"),
        (f"- {{tenant: a, sha256: {A}, weight: 1.0e-300}}", "key 1.weight.*0.001"),
        (f"- {{tenant: a, sha256: {A}, weight: .nan}}", "key 1.weight"),
        (f"- {{tenant: a, sha256: {A}, weight: true}}", "key 1.weight"),
        (f"- {{tenant: a, sha256: {A}, max_priority: urgent}}", "key 1.max_priority"),
        (f"- {{tenant: a, sha256: {A}}}\n- {{tenant: b, sha256: {A}}}", "twice"),
        (f"- {{tenant: a, sha256: {A}}}\n- {{tenant: a, weight: 2, sha256: {B}}}", "differ"),
        ("- SECRET: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refused:
        ring(tmp_path, text)
    assert "SECRET" not in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"keys\.yaml"):
        load_keys(tmp_path / "keys.yaml")


@pytest.mark.parametrize(
    "options",
    [
        {"weight": 0.0},
        {"weight": 1e-9},
        {"weight": 1e9},
        {"weight": True},
        {"max_priority": "urgent"},
        {"requests_per_minute": -1.0},
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        entry_line(new_key(), "alice", **options)
