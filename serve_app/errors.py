"""Errors as OpenAI's clients know them: `{"error": {message, type, param, code}}`, a status, and headers that say
whether and when to try again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.responses import Response

from actors.errors import (
    ConfigurationError,
    ExlpoolError,
    InvalidRequest,
    ModelError,
    NoHealthyWorker,
    PoolClosed,
)

RETRIED_BY_CLIENTS = frozenset({408, 409, 429})
"""Statuses below 500 that stock clients try again unless told otherwise."""
MIN_RETRY_AFTER_S = 0.001
UNAVAILABLE_RETRY_S = 2.0
"""What a client is told to wait for a pool that is not there, where nobody knows how long: its owner brings it back."""
_COME_BACK = (NoHealthyWorker, PoolClosed)
_NO_RETRY = (ConfigurationError, ModelError)


class ModelNotFound(InvalidRequest):
    """No model of that name is served."""

    status = 404
    code = "model_not_found"


class UnknownPath(ExlpoolError):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(ExlpoolError):
    status = 405
    code = "method_not_allowed"


class UnsupportedBody(InvalidRequest):
    """A body that is no plain JSON in UTF-8. A browser may send other types to a server on its own machine unasked, so
    they are not taken for JSON."""

    status = 415
    code = "unsupported_media_type"


class BodyTooComplex(InvalidRequest):
    """So many values that reading them would hold up everybody else."""

    code = "request_too_complex"


class InternalError(ExlpoolError):
    """A fault of the server; the log says which."""


class PriorityNotAllowed(ExlpoolError):
    """The caller's key does not allow the class that was asked for."""

    status = 403
    code = "priority_not_allowed"


def error_type(status: int) -> str:
    """The `type` that OpenAI gives with a status."""
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def error_json(error: ExlpoolError) -> str:
    """The body of an error. Pure ASCII, since a message may quote what no encoding can carry."""
    fields = {
        "message": error.message,
        "type": error_type(error.status),
        "param": error.param,
        "code": error.code,
    }
    return json.dumps({"error": fields})


def retry_headers(error: ExlpoolError) -> dict[str, str]:
    """When to come back, where somebody knows; that it is no use, where it is none."""
    after_s = error.retry_after_s
    if after_s is None and isinstance(error, _COME_BACK):
        after_s = UNAVAILABLE_RETRY_S
    if after_s is not None:
        seconds = max(after_s, MIN_RETRY_AFTER_S)
        return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000.0))}
    retried = error.status >= 500 or error.status in RETRIED_BY_CLIENTS
    hopeless = error.status in (500, 501, 504) or isinstance(error, _NO_RETRY)
    return {"x-should-retry": "false"} if hopeless or not retried else {}


def error_response(error: ExlpoolError, headers: Mapping[str, str] | None = None) -> Response:
    """The whole answer to a request that ends with this error."""
    return Response(
        error_json(error),
        status_code=error.status,
        headers={**retry_headers(error), **(headers or {})},
        media_type="application/json",
    )
