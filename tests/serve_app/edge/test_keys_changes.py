"""Keys are added and revoked so that the file is right at every moment, whoever else changes it."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.errors import ConfigurationError
from serve_app.edge import replaced_file
from serve_app.edge.keys import KeyEntry, KeyRing, new_entry, new_key
from serve_app.edge.keys_changes import add_key, key_of_fingerprint, keys_of_tenant, revoke_keys
from serve_app.edge.keys_file import MissingKeysFile, load_keys
from serve_app.edge.replaced_file import ReplacedFile

A, B = "a" * 64, "b" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def add(file: Path, tenant: str, **options: object) -> KeyEntry:
    return add_key(file, new_entry(new_key(), tenant, **options))


def revoke(file: Path, entry: KeyEntry) -> None:
    assert revoke_keys(file, lambda keys: [key_of_fingerprint(keys, entry.fingerprint)]) == [entry]


def tenants(file: Path) -> list[str]:
    return [entry.tenant for entry in load_keys(file).entries]


def files_beside(file: Path) -> list[str]:
    return [path.name for path in file.parent.iterdir() if path != file]


def test_keys_are_added_below_each_other(file: Path) -> None:
    add(file, "a")
    file.write_text(file.read_text().rstrip("\n"))  # an editor that saves no last line break
    second = add(file, "b")
    assert load_keys(file).entries[1] == second
    assert tenants(file) == ["a", "b"]
    assert files_beside(file) == []


@pytest.mark.parametrize(
    "text", ["[]", "[]\n", f"[{{tenant: a, sha256: {A}}}]", f"- {{tenant: a, sha256: {A}}}\n...\n"]
)
def test_a_key_is_added_to_a_list_of_any_form(file: Path, text: str) -> None:
    """Where a line below would make no list of it, the keys get a line each."""
    file.write_text(text)
    before = tenants(file)
    entry = add(file, "new")
    assert tenants(file) == [*before, "new"]
    revoke(file, entry)
    assert tenants(file) == before


def test_the_last_key_that_is_revoked_leaves_a_file_that_lets_nobody_in(file: Path) -> None:
    revoke(file, add(file, "a"))
    assert file.read_text() == "[]\n"
    assert tenants(file) == []
    add(file, "b")
    assert tenants(file) == ["b"]


def test_comments_and_forms_stay(file: Path) -> None:
    block = f"-   # block\n  tenant: b\n  sha256: {B}\n"
    block_in_line = f"- tenant: c  # c\n  sha256: {'c' * 64}\n\n"
    file.write_text(f"# Ours\n- {{tenant: a, sha256: {A}}}  # a\n# Theirs\n{block_in_line}# Below\n", encoding="utf-8")
    entries = load_keys(file).entries
    revoke(file, entries[0])
    assert file.read_text() == f"# Ours\n# Theirs\n{block_in_line}# Below\n"
    add(file, "d")
    revoke(file, entries[1])
    assert [line[:15] for line in file.read_text().splitlines()] == [
        "# Ours",
        "# Theirs",
        "",
        "# Below",
        "- {tenant: d, s",
    ]
    file.write_text(block)
    revoke(file, load_keys(file).entries[0])
    assert tenants(file) == []


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        "- {tenant: a",
        "- {tenant: caf\xe9}",
        f"- {{tenant: a, sha256: {A}}}\n- {{tenant: a, weight: 2, sha256: {B}}}",
    ],
)
def test_a_broken_file_is_not_touched(file: Path, text: str) -> None:
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError, match=r"keys\.yaml"):
        add(file, "b")
    with pytest.raises(ConfigurationError, match=r"keys\.yaml"):
        revoke_keys(file, lambda keys: keys.entries)
    assert file.read_text(encoding="latin-1") == text
    assert files_beside(file) == []


def test_a_tenant_keeps_its_weight(file: Path) -> None:
    add(file, "a", weight=3.0)
    assert add(file, "a").weight == 3.0
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match="have weight 3"):
        add(file, "a", weight=1.0)
    assert file.read_bytes() == before


def test_only_what_is_there_can_be_revoked(file: Path) -> None:
    with pytest.raises(MissingKeysFile):
        revoke_keys(file, lambda keys: keys.entries)
    assert files_beside(file) == []
    key = new_key()
    entry = new_entry(key, "a")
    twin = KeyEntry(tenant="b", sha256=entry.sha256[:8] + "0" * 56)
    keys = KeyRing([entry, twin])
    assert key_of_fingerprint(keys, entry.fingerprint.upper()) is entry
    assert key_of_fingerprint(keys, key) is entry
    assert keys_of_tenant(keys, "b") == [twin]
    for wrong, told in {
        entry.sha256[:8]: "Several",
        entry.sha256[:3]: "at least 4",
        "a": "at least 4",
        "": "--tenant",
    }.items():
        with pytest.raises(ConfigurationError, match=told):
            key_of_fingerprint(keys, wrong)
    unknown = new_key()
    with pytest.raises(ConfigurationError, match="does not hold") as refused:
        key_of_fingerprint(keys, unknown)
    assert unknown not in refused.value.message
    with pytest.raises(ConfigurationError, match="no key of tenant 'c'"):
        keys_of_tenant(keys, "c")


def test_a_file_keeps_its_mode_and_its_link(file: Path) -> None:
    add(file, "a")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    link = file.with_name("link")
    link.symlink_to(file.name)
    add(link, "b")
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert tenants(file) == ["a", "b"]


def test_what_cannot_be_written_is_told_and_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        add(file / "below" / "keys.yaml", "a")
    add(file, "a")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        add(file, "b")
    assert tenants(file) == ["a"]
    assert files_beside(file) == []


def test_changes_at_once_wait_for_each_other_and_lose_nothing(file: Path) -> None:
    gone = [add(file, f"gone{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda number: add(file, f"t{number}"), range(16)))
        list(threads.map(lambda entry: revoke(file, entry), gone))
    assert set(load_keys(file).entries) == set(added)
    assert files_beside(file) == []


def test_a_change_that_takes_for_ever_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced_file, "LOCK_TIMEOUT_S", 0.05)
    with ReplacedFile(file), pytest.raises(ConfigurationError, match="Another process"):
        add(file, "a")
    left_behind = file.with_name(f".{file.name}.new")
    left_behind.write_text("what a killed process had written so far, and longer than what comes instead" * 9)
    add(file, "b")
    assert tenants(file) == ["b"]
    assert files_beside(file) == []
