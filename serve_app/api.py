"""The OpenAI-compatible API as one FastAPI application."""

from __future__ import annotations

from fastapi import FastAPI

from serve_app.limits import ApiLimits
from serve_app.models import Models
from serve_app.observer import Observer


def create_api(
    models: Models, *, observer: Observer | None = None, limits: ApiLimits | None = None, docs: bool = True
) -> FastAPI:
    """An application that serves `models`. Its lifespan starts and closes them, on the event loop that runs it.

    Authentication, request ids, bounds on bodies and CORS are middleware for its owner to add; authentication leaves a
    `Caller` in `request.state.caller`.
    """
    raise NotImplementedError
