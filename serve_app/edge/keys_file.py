"""The keys file: YAML, a list with one line per key, as `exlpool keys new` writes it:

    - {tenant: alice, sha256: 9f86d0..., weight: 2.0, requests_per_minute: 60}

What it says holds. A file without keys (empty, only comments, or `[]`) has revoked all of them, and so has one that was
deleted: everybody is refused then, since not to need a key is a setting of the server. Of a file that cannot be read,
or that is no such list, nobody knows what it should say: it is broken, and what was known before goes on to hold.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from actors.errors import ConfigurationError
from serve_app.edge.keys import KeyEntry, KeyRing, told

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 8
"""The parser runs out of stack on what is nested without end; a right file is two deep."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ENTRIES = TypeAdapter(list[KeyEntry])
NO_KEYS = KeyRing(())


class MissingKeysFile(ConfigurationError):
    """There is no such file."""


@dataclass(frozen=True, slots=True)
class FoundKeys:
    """What a look at a keys file found. `keys` None: it is broken, and `fault` says how."""

    state: Literal["current", "empty", "missing", "broken"]
    keys: KeyRing | None
    fault: str = ""
    content: bytes = b""
    """A hash of what was read, by which the next look sees that nothing changed."""


def load_keys(path: Path) -> KeyRing:
    """Read a keys file.

    :raises MissingKeysFile: it is not there.
    :raises ConfigurationError: it cannot be read, or holds something else than keys.
    """
    return parse_keys(read_keys(path), path)


def look_for_keys(path: Path, last: FoundKeys | None) -> FoundKeys:
    """What the file says now; `last` itself where that is what it said then. Never raises for what may be there.

    The whole file is read every time: times and sizes do not tell every change, and it is small.
    """
    try:
        content = read_keys(path)
    except MissingKeysFile as error:
        found = FoundKeys("missing", NO_KEYS, error.message)
    except ConfigurationError as error:
        found = FoundKeys("broken", None, error.message)
    else:
        digest = hashlib.sha256(content).digest()
        if last is not None and last.content == digest:
            return last
        found = _found(content, digest, path)
    unchanged = last is not None and (last.state, last.fault, last.content) == (found.state, found.fault, found.content)
    return last if last is not None and unchanged else found


def _found(content: bytes, digest: bytes, path: Path) -> FoundKeys:
    try:
        keys = parse_keys(content, path)
    except ConfigurationError as error:
        return FoundKeys("broken", None, error.message, digest)
    return FoundKeys("current" if keys.entries else "empty", keys, content=digest)


def read_keys(path: Path) -> bytes:
    """The content of a keys file. Neither a pipe nor an endless file holds anybody up.

    :raises MissingKeysFile: it is not there.
    :raises ConfigurationError: it cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ConfigurationError(f"The keys file {path} is no file.", param="keys_file")
            with open(handle, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingKeysFile(f"Cannot read the keys file {path}: {error.strerror}.", param="keys_file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"Cannot read the keys file {path}: {reason}.", param="keys_file") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path} is too large for a keys file.", param="keys_file")
    return content


def parse_keys(content: bytes, path: Path) -> KeyRing:
    """The keys that a file with this content holds; `path` is for the message.

    :raises ConfigurationError: it is no list of keys, or they contradict each other.
    """
    values = _values(content, path)
    if values is not None and not isinstance(values, list):
        raise ConfigurationError(f"{path} is not a list of keys.", param="keys_file")
    try:
        return KeyRing(_ENTRIES.validate_python(values or []))
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {told(error)}", param="keys_file") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", param="keys_file") from None


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML text, with the lines where they stand; None: it holds nothing.

    :raises yaml.YAMLError: it is not YAML, or more of it than a keys file needs.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("nested too deep, or with aliases")
    node: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    return node


def _values(content: bytes, path: Path) -> Any:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text.", param="keys_file") from None
    try:
        node = compose(text)
        for item in node.value if isinstance(node, yaml.SequenceNode) else ():
            _require_each_once(item, path)
        return None if node is None else _LOADER("").construct_document(node)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
        # PyYAML lets through what its constructors stumble over: 2001-13-01 is a ValueError, `!!bool x` a KeyError.
        # The message would quote the file.
        raise ConfigurationError(f"{path} is not valid YAML.", param="keys_file") from None


def _require_each_once(item: yaml.Node, path: Path) -> None:
    """YAML itself lets the last of two equal names win, in silence."""
    if isinstance(item, yaml.MappingNode):
        names = [name.value for name, _ in item.value if isinstance(name, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            line = item.start_mark.line + 1
            raise ConfigurationError(f"{path}: a name stands twice in the key of line {line}.", param="keys_file")
