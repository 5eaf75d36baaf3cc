"""What a keys file may hold, what it says when it holds nothing, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.errors import ConfigurationError
from serve_app.edge import keys_file
from serve_app.edge.keys import new_entry, new_key
from serve_app.edge.keys_file import MissingKeysFile, load_keys, look_for_keys

A, B = "a" * 64, "b" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_file_holds_keys_in_any_form_of_a_list(file: Path) -> None:
    lines = [new_entry(new_key(), "bob: the {builder}").line, f"- tenant: b  # block\n  sha256: {A}"]
    file.write_text("\ufeff# Ours\r\n" + "\n".join(lines), encoding="utf-8")
    assert [entry.tenant for entry in load_keys(file).entries] == ["bob: the {builder}", "b"]
    file.write_text(f"[{{tenant: a, sha256: {A}}}]")
    assert [entry.tenant for entry in load_keys(file).entries] == ["a"]


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "# none left\n", "---\n", "null"])
def test_a_file_without_keys_lets_nobody_in(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_keys(file).entries == ()
    found = look_for_keys(file, None)
    assert found.state == "empty"
    assert found.keys is not None
    assert found.keys.find(new_key()) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("alice", "not a list"),
        ("{}", "not a list"),
        ("false", "not a list"),
        ("- {tenant: a}", "key 1.sha256"),
        ("- {tenant: a, sha256: SECRET}", "key 1.sha256"),
        (f"- {{tenant: a, sha256: {A}, wait: 2}}", "key 1.wait"),
        (f"- {{tenant: a, sha256: {A}, exl-SECRET: 2}}", "key 1"),
        (f"- {{tenant: a, sha256: {A}, weight: 0}}", "key 1.weight"),
        (f"- {{tenant: a, sha256: {A}, weight: 1.0e-300}}", "key 1.weight.*0.001"),
        (f"- {{tenant: a, sha256: {A}, weight: .nan}}", "key 1.weight"),
        (f"- {{tenant: a, sha256: {A}, weight: true}}", "key 1.weight"),
        (f"- {{tenant: a, sha256: {A}, requests_per_minute: .inf}}", "key 1.requests_per_minute"),
        (f"- {{tenant: a, sha256: {A}, max_priority: urgent}}", "key 1.max_priority"),
        (f"- {{tenant: a, sha256: {A}}}\n- {{tenant: b, sha256: {A}}}", "twice"),
        (f"- {{tenant: a, sha256: {A}}}\n- {{tenant: a, weight: 2, sha256: {B}}}", "differ"),
        (f"- {{tenant: a, tenant: b, sha256: {A}}}", "twice"),
        ("- SECRET: [", "not valid YAML"),
        (f"- {{tenant: a, sha256: {A}", "not valid YAML"),
        (f"- {{tenant: a, sha256: {A}}}\n---\n[]", "not valid YAML"),
        (f"- &a {{tenant: a, sha256: {A}}}\n- *a", "not valid YAML"),
        ("- 2001-13-01", "not valid YAML"),
        ("- !!bool SECRET", "not valid YAML"),
        ("- !!timestamp SECRET", "not valid YAML"),
        ("- {[a]: SECRET}", "not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
        ("\0", "not valid YAML"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_file_is_refused_without_quoting_it(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=told) as refused:
        load_keys(file)
    assert "SECRET" not in refused.value.message
    found = look_for_keys(file, None)
    assert (found.state, found.keys, found.fault) == ("broken", None, refused.value.message)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(MissingKeysFile, match=r"keys\.yaml"):
        load_keys(file)
    with pytest.raises(MissingKeysFile):
        load_keys(file / "below")
    file.symlink_to("nowhere")
    assert look_for_keys(file, None).state == "missing"


def test_what_cannot_be_read_is_broken_and_holds_nobody_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_file, "MAX_FILE_BYTES", 1000)
    pipe, folder, loop, latin, large = (file.with_name(name) for name in ("pipe", "folder", "loop", "latin", "large"))
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    latin.write_bytes(b"- {tenant: caf\xe9}")
    large.write_bytes(b"#" * 1001)
    told = {pipe: "no file", folder: "no file", loop: "symbolic", latin: "UTF-8", large: "too large"}
    open_files = len(os.listdir("/proc/self/fd"))
    for path, words in {**told, Path("/dev/zero"): "no file"}.items():
        found = look_for_keys(path, None)
        assert found.state == "broken"
        assert words in found.fault
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_look_knows_what_it_has_seen_by_its_content(file: Path) -> None:
    """Not by its size or times: a coarse clock gives two files the same."""
    file.write_text(f"- {{tenant: a, sha256: {A}}}")
    os.utime(file, ns=(0, 0))
    first = look_for_keys(file, None)
    assert look_for_keys(file, first) is first
    file.write_text(f"- {{tenant: b, sha256: {B}}}")
    os.utime(file, ns=(0, 0))
    second = look_for_keys(file, first)
    assert second.keys is not None
    assert [entry.tenant for entry in second.keys.entries] == ["b"]
    for text in ("- nonsense", None):
        file.unlink() if text is None else file.write_text(text)
        third = look_for_keys(file, second)
        assert third is not second
        assert look_for_keys(file, third) is third
