"""Changes to a keys file: one key more, or some fewer.

What is written is first read as a server reads it. A new file takes the place of the old one whole, so nobody ever
reads half of it, and changes at the same time wait for each other. Comments stay, where each key has lines of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import yaml

from actors.errors import ConfigurationError
from serve_app.edge.keys import PREFIX, KeyEntry, KeyRing, digest_of
from serve_app.edge.keys_file import NO_KEYS, MissingKeysFile, compose, parse_keys, read_keys
from serve_app.edge.replaced_file import ReplacedFile

MIN_FINGERPRINT_CHARACTERS = 4


def add_key(path: Path, entry: KeyEntry) -> KeyEntry:
    """Add a key to the file; one that is made here can be read by its owner only. Where `entry` was made without a
    weight, it gets that of its tenant's other keys. Returns the key as it stands in the file.

    :raises ConfigurationError: the file is broken, or would be, or cannot be written. Then it is as it was.
    """
    with _changing(path) as (file, text, keys):
        weight = keys.weights.get(entry.tenant, entry.weight)
        if weight != entry.weight:
            if "weight" in entry.model_fields_set:
                raise ConfigurationError(
                    f"The keys of tenant {entry.tenant!r} in {path} have weight {weight:g}, and a tenant has one: "
                    "leave it out, or revoke those keys first.",
                    param="weight",
                )
            entry = entry.model_copy(update={"weight": weight})
        line = entry.line if not text or text.endswith("\n") else f"\n{entry.line}"
        _write(file, f"{text}{line}\n", [*keys.entries, entry])
    return entry


def revoke_keys(path: Path, choose: Callable[[KeyRing], Collection[KeyEntry]]) -> list[KeyEntry]:
    """Take those keys out of the file that `choose` finds, and return them. What it raises changes nothing.

    :raises ConfigurationError: the file is missing or broken, or cannot be written. Then it is as it was.
    """
    with _changing(path, must_exist=True) as (file, text, keys):
        chosen = {entry.sha256 for entry in choose(keys)}
        revoked = {place: entry for place, entry in enumerate(keys.entries) if entry.sha256 in chosen}
        left = [entry for place, entry in enumerate(keys.entries) if place not in revoked]
        _write(file, _without(text, revoked), left)
    return list(revoked.values())


def key_of_fingerprint(keys: KeyRing, fingerprint: str) -> KeyEntry:
    """The key that a fingerprint means: any beginning of its hash that no other key has. A whole key means itself.

    :raises ConfigurationError: none is meant, or several are.
    """
    shown = "this key" if fingerprint.startswith(PREFIX) else f"the fingerprint {fingerprint!r}"
    wanted = digest_of(fingerprint) if fingerprint.startswith(PREFIX) else fingerprint.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_FINGERPRINT_CHARACTERS},64}}", wanted):
        raise ConfigurationError(
            f"A fingerprint is at least {MIN_FINGERPRINT_CHARACTERS} of the digits 0-9 and a-f that `exlpool keys "
            "list` shows; all keys of a tenant are named with --tenant.",
            param="fingerprint",
        )
    found = [entry for entry in keys.entries if entry.sha256.startswith(wanted)]
    if not found:
        raise ConfigurationError(f"The keys file does not hold {shown}.", param="fingerprint")
    if len(found) > 1:
        several = ", ".join(f"{entry.fingerprint} of {entry.tenant!r}" for entry in found)
        raise ConfigurationError(f"Several keys have {shown}: {several}. Give more digits.", param="fingerprint")
    return found[0]


def keys_of_tenant(keys: KeyRing, tenant: str) -> list[KeyEntry]:
    """:raises ConfigurationError: the tenant has no key."""
    found = [entry for entry in keys.entries if entry.tenant == tenant]
    if not found:
        raise ConfigurationError(f"The keys file holds no key of tenant {tenant!r}.", param="tenant")
    return found


@contextlib.contextmanager
def _changing(path: Path, *, must_exist: bool = False) -> Iterator[tuple[ReplacedFile, str, KeyRing]]:
    """The file, what it holds now, and the keys of that, while nobody else changes it this way."""
    target = Path(os.path.realpath(path))  # what a link leads to is changed, and the link stays
    try:
        with ReplacedFile(target) as file:
            try:
                content = read_keys(target)
            except MissingKeysFile:
                if must_exist:
                    raise
                yield file, "", NO_KEYS
            else:
                keys = parse_keys(content, path)
                yield file, content.decode("utf-8"), keys
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"Cannot write the keys file {path}: {reason}.", param="keys_file") from None


def _write(file: ReplacedFile, text: str, entries: Sequence[KeyEntry]) -> None:
    """Write `text` if it says what it should; where the old text is of another form, its keys, each in a line."""
    if not _says(text, entries, file.path):
        text = "".join(f"{entry.line}\n" for entry in entries)
    content = (text if text.strip() else "[]\n").encode("utf-8")
    parse_keys(content, file.path)
    file.replace(content)


def _says(text: str, entries: Sequence[KeyEntry], path: Path) -> bool:
    try:
        return parse_keys(text.encode("utf-8"), path).entries == tuple(entries)
    except ConfigurationError:
        return False


def _without(text: str, places: Collection[int]) -> str:
    """The text without the lines of these keys."""
    node = compose(text)
    if not isinstance(node, yaml.SequenceNode):
        return text
    gone: set[int] = set()
    for place in places:
        item = node.value[place]
        last = item if item.flow_style else item.value[-1][1]  # what is not in brackets ends where the next begins
        gone.update(range(item.start_mark.line, last.end_mark.line + 1))
    return "".join(line for number, line in enumerate(text.splitlines(keepends=True)) if number not in gone)
