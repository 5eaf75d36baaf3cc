"""Every way in which exlpool can refuse or fail, as types.

Each error carries what an HTTP front needs (`status`, `code`, `retry_after_s`) and one sentence for a person: what was
wrong and what to do about it. All of them survive pickling, so they cross processes unchanged.
"""

from __future__ import annotations

from typing import ClassVar


class ExlpoolError(Exception):
    """Base of all errors that exlpool raises on purpose.

    `status` is the HTTP status that fits, `code` a stable machine-readable name, `retry_after_s` the seconds after
    which the same request may succeed (None: a retry cannot help, or nobody knows when).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.param = param

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(ExlpoolError):
    """The request itself is wrong; `param` names the field."""

    status = 400
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and completion together fit no worker: neither its context nor its pages."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """The running engine cannot honour a parameter that was asked for; it is never dropped in silence."""

    code = "unsupported_parameter"


class Overloaded(ExlpoolError):
    """The queue is at its bound; `retry_after_s` says when to come back."""

    status = 429
    code = "server_overloaded"


class NoHealthyWorker(ExlpoolError):
    """No worker can generate right now: all are loading, restarting or gone."""

    status = 503
    code = "no_healthy_worker"


class DeadlineExceeded(ExlpoolError):
    """The request's own time limit ran out before it was finished."""

    status = 504
    code = "deadline_exceeded"


class RequestCancelled(ExlpoolError):
    """The caller, or the front that spoke for it, went away or cancelled."""

    status = 499
    code = "cancelled"


class WorkerDied(ExlpoolError):
    """Workers died while they had this request, one after the other: it is taken for the cause, and given up."""

    code = "worker_died"


class EngineFailure(ExlpoolError):
    """The engine failed while it worked on this request."""

    code = "engine_failure"


class FatalEngineError(EngineFailure):
    """The engine's process is beyond repair (a poisoned CUDA context): the worker must exit and be restarted."""

    code = "engine_fatal"


class ModelError(ExlpoolError):
    """A model directory is missing, incomplete, of an unknown kind, or does not fit where it should run."""

    code = "model_error"


class ConfigurationError(ExlpoolError):
    """A setting of the pool is wrong."""

    status = 400
    code = "configuration_error"


class PoolNotFound(ExlpoolError):
    """No pool of that name runs on this cluster."""

    status = 404
    code = "pool_not_found"


class PoolClosed(ExlpoolError):
    """The pool was closed, or went down, while a request waited for it."""

    status = 503
    code = "pool_closed"


def first_line(error: BaseException) -> str:
    """What an error says, in one line without its full stop; its type where it says nothing. Ray's own errors go on
    over a whole page."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    told = lines[-1] if "ray::" in lines[0] else lines[0]  # a traceback of another process says it at its end
    return told.strip().rstrip(".")
