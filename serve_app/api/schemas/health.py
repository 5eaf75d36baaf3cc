"""Whether the server can do its work."""

from __future__ import annotations

from typing import Literal

from serve_app.api.schemas.common import ResponseModel


class Health(ResponseModel):
    status: Literal["ok", "ready"]
    models: dict[str, bool]
    """Which models can generate now."""


class Version(ResponseModel):
    version: str
