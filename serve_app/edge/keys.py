"""API keys: a file that holds their hashes, what each may do, and the check of a key that somebody shows.

A key is 32 random bytes, so a plain SHA-256 of it cannot be turned back; nobody chooses a key of his own. The file is
YAML, a list with one line per key, as `exlpool keys new` prints it:

    - {tenant: alice, sha256: 9f86d0..., weight: 2.0, requests_per_minute: 60}
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from actors.errors import ConfigurationError
from actors.request.options import MAX_TENANT_CHARACTERS
from actors.results import Priority
from actors.scheduling.config import LARGEST_WEIGHT, SMALLEST_WEIGHT

PREFIX = "exl-"
KEY_BYTES = 32
MAX_KEY_CHARACTERS = 512
MAX_FILE_BYTES = 4 * 1024 * 1024


class KeyEntry(BaseModel):
    """One key: who shows it, and what it is good for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str = Field(min_length=1, max_length=MAX_TENANT_CHARACTERS)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weight: float = Field(
        1.0,
        strict=True,
        ge=SMALLEST_WEIGHT,
        le=LARGEST_WEIGHT,
        description="share of the pool, beside other tenants that wait",
    )
    max_priority: Priority = Field(Priority.INTERACTIVE, description="the best class that it may ask for")
    requests_per_minute: float | None = Field(None, gt=0.0)
    tokens_per_minute: float | None = Field(None, gt=0.0, description="prompt and completion together")


class KeyRing:
    """All keys of a file."""

    def __init__(self, entries: Sequence[KeyEntry]) -> None:
        """:raises ConfigurationError: a key stands there twice, or a tenant has two weights."""
        self.entries = tuple(entries)
        self._digests = tuple(bytes.fromhex(entry.sha256) for entry in entries)
        if len(set(self._digests)) < len(self._digests):
            raise ConfigurationError("A key stands twice in the keys file.", param="keys_file")
        self.weights: dict[str, float] = {}
        for entry in entries:
            if self.weights.setdefault(entry.tenant, entry.weight) != entry.weight:
                raise ConfigurationError(f"The keys of tenant {entry.tenant!r} differ in `weight`.", param="keys_file")

    def find(self, key: str) -> KeyEntry | None:
        """The entry of a key. Takes equally long for every key, right or wrong."""
        if len(key) > MAX_KEY_CHARACTERS:
            return None
        shown = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found: KeyEntry | None = None
        for entry, digest in zip(self.entries, self._digests, strict=True):
            if hmac.compare_digest(digest, shown):
                found = entry
        return found

    def __repr__(self) -> str:
        """Without anything of a key."""
        return f"<KeyRing of {len(self.entries)} keys>"


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def entry_line(key: str, tenant: str, **options: Any) -> str:
    """The line for the keys file.

    :raises ConfigurationError: an option is wrong.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        entry = KeyEntry(tenant=tenant, sha256=digest, **options)
    except ValidationError as error:
        raise ConfigurationError(_told(error)) from None
    fields = entry.model_dump(mode="json", exclude_defaults=True)
    flow = yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return f"- {flow.strip()}"


def add_line(path: Path, line: str) -> None:
    """Add a line to a keys file; only its owner can read a file that is made here.

    :raises ConfigurationError: it cannot be written.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        with open(handle, "r+", encoding="utf-8") as file:
            text = file.read()
            file.write(f"{line}\n" if not text or text.endswith("\n") else f"\n{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot write the keys file {path}: {error}.", param="keys_file") from None


def load_keys(path: Path) -> KeyRing:
    """Read a keys file.

    :raises ConfigurationError: it cannot be read, or holds something else than keys.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError(f"{path} is too large for a keys file.", param="keys_file")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"Cannot read the keys file {path}: {error.strerror}.", param="keys_file") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's own message would quote the file.
        raise ConfigurationError(f"{path} is not valid YAML.", param="keys_file") from None
    try:
        entries = TypeAdapter(list[KeyEntry]).validate_python(values)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_told(error)}", param="keys_file") from None
    if not entries:
        raise ConfigurationError(f"{path} holds no key, so nobody could ask.", param="keys_file")
    return KeyRing(entries)


_PLACE = re.compile(r"^\d+$")


def _told(error: ValidationError) -> str:
    """What is wrong and where, without the value: somebody may have written a key in the wrong place."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(f"key {int(str(part)) + 1}" if _PLACE.match(str(part)) else str(part) for part in first["loc"])
    return f"{where or 'the file'}: {first['msg']}."
