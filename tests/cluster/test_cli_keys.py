"""`exlpool keys`: whatever it does to a file, a server starts with it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from serve_app.edge.keys_file import load_keys
from tests.cluster.conftest import Exlpool


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_key_is_printed_once_and_its_line_is_good(exlpool: Exlpool, file: Path) -> None:
    made = exlpool("keys", "new", "alice", "--weight", "2", "--requests-per-minute", "30", "--file", file)
    key = made.out.strip()
    assert key.startswith("exl-")
    assert key not in made.err
    found = load_keys(file).find(key)
    assert found is not None
    assert (found.tenant, found.weight, found.requests_per_minute) == ("alice", 2.0, 30.0)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert exlpool("keys", "new", "alice", "--weight", "0").status == 2


def test_a_line_for_a_file_elsewhere_is_only_printed(exlpool: Exlpool, file: Path) -> None:
    made = exlpool("keys", "new", "alice")
    file.write_text(made.err.splitlines()[-1])
    assert load_keys(file).find(made.out.strip()) is not None


@pytest.mark.parametrize(
    ("before", "arguments"),
    [
        (f"- {{tenant: alice, sha256: {'a' * 64}, weight: 2.0}}\n", ["--weight", "3"]),
        ("alice: exl-1\n", []),
        ("- alice\n", []),
        ("- {tenant: alice", []),
    ],
    ids=["another weight", "no list", "no keys", "half-written"],
)
def test_a_file_that_no_server_would_start_with_is_not_made(
    exlpool: Exlpool, file: Path, before: str, arguments: list[str]
) -> None:
    file.write_text(before)
    done = exlpool("keys", "new", "alice", *arguments, "--file", file)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"Error: .*keys\.yaml.*\n", done.err)
    assert file.read_text() == before


def test_a_key_is_added_to_a_file_without_any(exlpool: Exlpool, file: Path) -> None:
    file.write_text("[]\n")
    key = exlpool("keys", "new", "alice", "--file", file).out.strip()
    assert load_keys(file).find(key) is not None


def test_keys_are_listed_and_revoked_by_what_the_list_shows(exlpool: Exlpool, file: Path) -> None:
    keys = [exlpool("keys", "new", tenant, "--keys-file", file).out.strip() for tenant in ("alice", "bob", "bob")]
    exlpool("keys", "new", "\x1b[1mcarol", "--max-priority", "batch", "--tokens-per-minute", "1234567", "--file", file)
    listed = exlpool("keys", "list", "--file", file)
    assert listed.status == 0
    heading, alice, *_, carol = listed.out.splitlines()
    assert heading.split() == ["fingerprint", "tenant", "weight", "max_priority", "tokens_per_minute"]
    assert alice.split()[1:] == ["alice", "1", "interactive", "-"]
    assert carol.split()[2:] == ["1", "batch", "1234567"]
    assert "\x1b" not in listed.out
    entries = load_keys(file).entries
    assert not [told for told in [*keys, *(entry.sha256 for entry in entries)] if told in listed.out]

    done = exlpool("keys", "revoke", alice.split()[0], "--file", file)
    assert (done.status, done.out) == (0, f"Revoked {entries[0].fingerprint} of alice\n")
    assert exlpool("keys", "revoke", "--tenant", "bob", "--file", file).status == 0
    assert load_keys(file).entries == entries[3:]
    assert exlpool("keys", "revoke", entries[3].fingerprint, "--file", file).status == 0
    assert load_keys(file).entries == ()
    assert "refuses everybody" in exlpool("keys", "list", "--file", file).err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["list"], "--keys-file"),
        (["list", "--file", "/nowhere/keys.yaml"], "/nowhere/keys.yaml"),
        (["revoke", "aaaa", "--file", "/nowhere/keys.yaml"], "/nowhere/"),
        (["revoke", "--file", "FILE"], "fingerprint"),
        (["revoke", "aaaa", "--tenant", "a", "--file", "FILE"], "one of the two"),
        (["revoke", "aaaa", "--file", "FILE"], "Several keys"),
        (["revoke", "bbbb", "--file", "FILE"], "does not hold"),
        (["revoke", "alice", "--file", "FILE"], "--tenant"),
        (["revoke", "--tenant", "carol", "--file", "FILE"], "no key of tenant 'carol'"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(
    exlpool: Exlpool, file: Path, arguments: list[str], told: str
) -> None:
    file.write_text(f"- {{tenant: a, sha256: {'a' * 64}}}\n- {{tenant: b, sha256: {'a' * 63}b}}\n")
    before = file.read_text()
    done = exlpool("keys", *(file if argument == "FILE" else argument for argument in arguments))
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert file.read_text() == before
