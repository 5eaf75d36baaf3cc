"""Ray's token: where it is found, and whether the processes of a cluster show one another theirs.

A cluster asks for a token where its head was started with one, which is so wherever a token was there: a private
cluster of Ray makes one under the home directory. A process must do as its cluster does, since it is asked by others as
well: one that wants tokens hears nothing from a cluster that sends none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import _raylet

from actors.errors import ConfigurationError

MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class RayToken:
    """`source` is where it was found, as one tells a person."""

    value: str = field(repr=False)
    source: str

    @property
    def header(self) -> tuple[str, str]:
        """By which a request shows it, over HTTP and gRPC alike."""
        return "authorization", f"Bearer {self.value}"


def find_token() -> RayToken | None:
    """The token that Ray would take, from where Ray looks for it, in that order.

    :raises ConfigurationError: RAY_AUTH_TOKEN_PATH names a file without one.
    """
    if value := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return RayToken(value, "RAY_AUTH_TOKEN")
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        value = _content(Path(named))
        if not value:
            raise ConfigurationError(f"RAY_AUTH_TOKEN_PATH names {named!r}, where no token can be read.")
        return RayToken(value, named)
    try:
        path = Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # nobody knows of a home directory
        return None
    value = _content(path)
    return RayToken(value, str(path)) if value else None


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def tokens_forbidden() -> bool:
    """Whether somebody wants this process to show no token to anybody."""
    return os.environ.get(MODE, "").lower() == "disabled"


def use_tokens(wanted: bool) -> None:
    """Have Ray in this process, which is not connected, show tokens or not from now on.

    Ray reads both the mode and the token once, and would go on with those of a cluster that it was connected to before.
    """
    if wanted:
        os.environ[MODE] = "token"  # as Ray does it, for the processes that this one starts, too
    elif not tokens_forbidden():
        os.environ.pop(MODE, None)
    raylet: Any = _raylet  # no public part of Ray; without what is used of it, what Ray has read first has to do
    if hasattr(raylet, "AuthenticationTokenLoader"):
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()  # last: a thread that still runs may read it again
