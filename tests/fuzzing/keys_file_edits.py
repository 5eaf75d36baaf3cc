"""What people, editors and scripts do to a keys file, each with what it means: the keys that are in force afterwards,
or that nobody can tell."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import yaml

from serve_app.edge.keys import KeyEntry, digest_of
from serve_app.edge.keys_file import MAX_FILE_BYTES

Meaning = tuple[KeyEntry, ...] | None
"""None: the file is broken."""
NOBODY: Meaning = ()
BROKEN: Meaning = None

TENANTS = ("alice", "bob", "Łukasz", "a: {b}", "123", "yes", "- x", "#", "'\"", "tab\there", "~")
RIGHTS: tuple[dict[str, object], ...] = ({}, {"max_priority": "batch"}, {"requests_per_minute": 1e16})
NO_KEYS = (b"", b"\n", b"[]", b"[ ]\n", b"# nobody\n", b"null", b"---\n", b"\xef\xbb\xbf")
NO_LIST = (
    b"{}",
    b"false",
    b"''",
    b"alice",
    b"- alice",
    b"- ",
    b"- []",
    b"- [[[[[[[[[[1]]]]]]]]]]",
    b"- {}",
    b"- {tenant: a}",
    b"- {tenant: a, sha256: 1}",
    b"- 2001-13-01",
    b"- !!bool x",
    b"- !!python/none",
    b"[]\n---\n[]",
    b"- &a {}\n- *a",
    b"\xff\xfe[\0]\0",
    b"[" * 5000,
    b"\0" * 9,
    b"- {tenant: \xe9}",
)


def some_keys(random: Random, keys: list[str]) -> tuple[KeyEntry, ...]:
    """Entries for some of these keys, which do not contradict each other."""
    weights = {tenant: random.choice((1.0, 2.0, 0.1)) for tenant in TENANTS}
    chosen = random.sample(keys, random.randint(1, len(keys)))
    return tuple(_entry(key, tenant, weights[tenant], random) for key in chosen for tenant in [random.choice(TENANTS)])


def _entry(key: str, tenant: str, weight: float, random: Random) -> KeyEntry:
    rights = random.choice(RIGHTS)
    return KeyEntry.model_validate({"tenant": tenant, "sha256": digest_of(key), "weight": weight, **rights})


def written(random: Random, entries: tuple[KeyEntry, ...]) -> bytes:
    """A file that holds these keys, in one of the many forms that YAML has for it."""
    lines = [entry.line for entry in entries]
    values = [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
    form = random.randrange(6)
    if form == 0:
        text = yaml.safe_dump(values, allow_unicode=random.random() < 0.5)
    elif form == 1:
        text = json.dumps(values, indent=random.choice((None, 2)))
    elif form == 2:
        text = "# Ours\n" + "".join(f"\n# {number}\n{line}  # - {{\n" for number, line in enumerate(lines))
    elif form == 3:
        text = "\ufeff---\r\n" + "\r\n".join(lines) + "\r\n..."
    else:
        text = "\n".join(lines) + random.choice(("", "\n"))
    return text.encode()


def edit(random: Random, path: Path, keys: list[str], now: Meaning) -> tuple[str, Meaning]:
    """Do one thing to the file. Returns its name and what the file means then."""
    name = random.choice(tuple(_EDITS))
    return name, _EDITS[name](random, path, keys, now)


def put(path: Path, content: bytes) -> None:
    """Write a file here, whatever was here."""
    clear(path)
    path.write_bytes(content)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(random: Random, path: Path, keys: list[str], _: Meaning) -> Meaning:
    entries = some_keys(random, keys)
    put(path, written(random, entries))
    return entries


def _remove_keys(random: Random, path: Path, _: list[str], now: Meaning) -> Meaning:
    """An editor that saves in place; often the last key goes."""
    left = () if not now or random.random() < 0.4 else tuple(random.sample(now, random.randint(0, len(now) - 1)))
    put(path, written(random, left))
    return left


def _replace(random: Random, path: Path, keys: list[str], _: Meaning) -> Meaning:
    entries = some_keys(random, keys)
    new = path.with_name("new")
    new.write_bytes(written(random, entries))
    if path.is_dir():
        clear(path)
    new.replace(path)
    return entries


def _empty(random: Random, path: Path, _: list[str], __: Meaning) -> Meaning:
    put(path, random.choice(NO_KEYS))
    return NOBODY


def _delete(_: Random, path: Path, __: list[str], ___: Meaning) -> Meaning:
    clear(path)
    return NOBODY


def _write_half(random: Random, path: Path, keys: list[str], _: Meaning) -> Meaning:
    """What comes before a line break is whole; there is nothing in a shorter file that says so."""
    entries = some_keys(random, keys)
    lines = [f"{entry.line}\n".encode() for entry in entries]
    cut = random.randint(0, sum(map(len, lines)))
    put(path, b"".join(lines)[:cut])
    for whole, line in enumerate(lines):
        if cut in (0, len(line) - 1):
            return entries[: whole + (cut > 0)]
        if cut < len(line):
            return BROKEN
        cut -= len(line)
    return entries


def _write_no_list(random: Random, path: Path, _: list[str], __: Meaning) -> Meaning:
    put(path, random.choice(NO_LIST))
    return BROKEN


def _contradict(random: Random, path: Path, keys: list[str], _: Meaning) -> Meaning:
    """A key twice, a name twice, or a tenant of two weights."""
    entries = some_keys(random, keys)
    first = entries[0]
    other = first.model_copy(update={"sha256": digest_of("other"), "weight": 7.0})
    wrong = random.choice((f"{first.line}", f"{other.line}", f"- {{tenant: x, tenant: x, sha256: {'0' * 64}}}"))
    put(path, "\n".join([*(entry.line for entry in entries), wrong]).encode())
    return BROKEN


def _damage(random: Random, path: Path, keys: list[str], _: Meaning) -> Meaning:
    """Bytes that are no UTF-8, or that YAML does not allow, somewhere."""
    content = written(random, some_keys(random, keys))
    place = random.randint(0, len(content))
    put(
        path, content[:place] + random.choice((b"\xff", b"\xc0\x80", b"\0", b"\x07", b"\xed\xa0\x80")) + content[place:]
    )
    return BROKEN


def _grow(_: Random, path: Path, __: list[str], ___: Meaning) -> Meaning:
    put(path, b"")
    os.truncate(path, MAX_FILE_BYTES + 1)
    return BROKEN


def _no_file(random: Random, path: Path, _: list[str], __: Meaning) -> Meaning:
    clear(path)
    make: Callable[[Path], None] = random.choice((Path.mkdir, os.mkfifo, _link_to_itself))
    make(path)
    return BROKEN


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _link(random: Random, path: Path, keys: list[str], _: Meaning) -> Meaning:
    """As Kubernetes does with secrets; sometimes to nothing."""
    clear(path)
    target = path.with_name("target")
    path.symlink_to(target.name)
    if random.random() < 0.3:
        clear(target)
        return NOBODY
    return _write(random, target, keys, NOBODY)


def _forbid(_: Random, path: Path, __: list[str], now: Meaning) -> Meaning:
    """Takes away the right to read it, which root has nevertheless."""
    if path.is_symlink() or not path.is_file():
        return now
    path.chmod(0o000)
    return now if os.access(path, os.R_OK) else BROKEN


def _keep_the_times(random: Random, path: Path, keys: list[str], now: Meaning) -> Meaning:
    """Another key of the same size, at the same time, in the same file."""
    if now is None or not path.is_file():
        return now
    before = path.stat()
    entries = some_keys(random, keys)[:1]
    content = f"{entries[0].line}\n".encode()
    padding = before.st_size - len(content)
    path.chmod(0o600)
    path.write_bytes(content + b"#" * max(padding, 0))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return entries


_EDITS: dict[str, Callable[[Random, Path, list[str], Meaning], Meaning]] = {
    "written": _write,
    "keys removed": _remove_keys,
    "replaced": _replace,
    "emptied": _empty,
    "deleted": _delete,
    "half-written": _write_half,
    "no list": _write_no_list,
    "contradictory": _contradict,
    "damaged": _damage,
    "too large": _grow,
    "no file": _no_file,
    "linked": _link,
    "forbidden": _forbid,
    "same times": _keep_the_times,
}
