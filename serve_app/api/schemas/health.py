"""Whether the server can do its work."""

from __future__ import annotations

from typing import Literal

from serve_app.api.schemas.common import ResponseModel
from serve_app.metrics.keys_file import KeysFileState


class Health(ResponseModel):
    status: Literal["ok", "ready"]
    models: dict[str, bool]
    """Which models can generate now."""


class Ready(Health):
    keys_file: KeysFileState
    """Whether the keys in force are those of the file. It stays ready with a broken one: every known key is served, and
    an error of somebody's pen must not take all replicas from behind their load balancer at once."""

    refused_settings: str | None = None
    """Why the last change of the settings did not come into force; absent: it did."""


class Version(ResponseModel):
    version: str
