"""What the edge refuses, before a request reaches the API."""

from __future__ import annotations

from actors.errors import ExlpoolError


class InvalidApiKey(ExlpoolError):
    """No key, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class RemoteWithoutKeys(ExlpoolError):
    """A server without keys answers its own machine only."""

    status = 403
    code = "remote_without_keys"


class BodyTooSlow(ExlpoolError):
    status = 408
    code = "request_timeout"


class BodyTooLarge(ExlpoolError):
    status = 413
    code = "request_too_large"


class BadContentLength(ExlpoolError):
    status = 400
    code = "invalid_request"


class InvalidHttp(ExlpoolError):
    """Not HTTP/1.1, or framed so that two readers could see different requests in it."""

    status = 400
    code = "invalid_request"


class HeadersTooLarge(ExlpoolError):
    status = 431
    code = "headers_too_large"


class RateLimited(ExlpoolError):
    """The key's own rate is used up; `retry_after_s` says when it is not."""

    status = 429
    code = "rate_limit_exceeded"


class ExceedsRate(ExlpoolError):
    """One request may use more than its key may in a whole minute, so that waiting cannot help."""

    status = 400
    code = "request_exceeds_rate"


class UnknownTransferCoding(ExlpoolError):
    """A body that comes in pieces in another way than the one that every server knows."""

    status = 501
    code = "unsupported_transfer_encoding"


class NotConfigured(ExlpoolError):
    """The edge does not know yet who may come in."""

    status = 503
    code = "not_configured"
