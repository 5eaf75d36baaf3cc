"""The one shape of every error."""

from __future__ import annotations

from serve_app.api.schemas.common import ResponseModel


class ErrorBody(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ResponseModel):
    error: ErrorBody
