"""The one shape of every error."""

from __future__ import annotations

from serve_app.schemas.common import ResponseModel


class ErrorBody(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ResponseModel):
    error: ErrorBody
