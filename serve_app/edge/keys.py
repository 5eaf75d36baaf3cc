"""API keys: what each may do, and the check of a key that somebody shows.

A key is 32 random bytes, so a plain SHA-256 of it cannot be turned back; nobody chooses a key of his own. Only the
hash is kept; its beginning is the key's fingerprint, by which people speak of a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.errors import ConfigurationError
from actors.request.options import MAX_TENANT_CHARACTERS
from actors.results import Priority
from actors.scheduling.config import LARGEST_WEIGHT, SMALLEST_WEIGHT

PREFIX = "exl-"
KEY_BYTES = 32
MAX_KEY_CHARACTERS = 512
FINGERPRINT_CHARACTERS = 12


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
    requests_per_minute: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    tokens_per_minute: float | None = Field(
        None, gt=0.0, allow_inf_nan=False, description="prompt and completion together"
    )

    @property
    def fingerprint(self) -> str:
        """Enough of the hash to tell the key from others; it opens nothing."""
        return self.sha256[:FINGERPRINT_CHARACTERS]

    @property
    def line(self) -> str:
        """What stands for it in the keys file."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        flow = yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
        return f"- {flow.strip()}"


class KeyRing:
    """All keys of a file. Without any, everybody is refused: that a server needs no keys is for its settings to say."""

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
        shown = bytes.fromhex(digest_of(key))
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


def digest_of(key: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_entry(key: str, tenant: str, **options: Any) -> KeyEntry:
    """The entry of a key that was just made.

    :raises ConfigurationError: an option is wrong.
    """
    try:
        return KeyEntry(tenant=tenant, sha256=digest_of(key), **options)
    except ValidationError as error:
        raise ConfigurationError(told(error)) from None


def told(error: ValidationError) -> str:
    """What is wrong and where, without the value, and without a name that could be a key: somebody may have written
    one in the wrong place."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = [f"key {part + 1}" if isinstance(part, int) else _harmless(part) for part in first["loc"]]
    return f"{'.'.join(where) or 'the file'}: {first['msg']}."


def _harmless(name: str) -> str:
    return name if re.fullmatch(r"[a-z0-9_]{1,40}", name) else "a name that is none"
