"""The OpenAI-compatible API as one FastAPI application."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from actors.errors import ExlpoolError
from actors.version import package_version
from serve_app.api.docs import docs_routes
from serve_app.api.normalizing import HeadAsGet, WithoutTrailingSlash
from serve_app.api.openapi import describe
from serve_app.api.routes import generation_routes, health_routes, model_routes, tokenizer_routes
from serve_app.api.schemas.chat import ChatCompletionChunk, ChatCompletionRequest
from serve_app.api.schemas.completions import CompletionChunk, CompletionRequest
from serve_app.api.schemas.tokenize import DetokenizeRequest, TokenizeRequest
from serve_app.api.service import Service
from serve_app.config import ApiLimits
from serve_app.errors import InternalError, MethodNotAllowed, UnknownPath, error_response
from serve_app.metrics.keys_file import KeysFileState
from serve_app.metrics.observed_request import CLIENT_GONE_STATUS
from serve_app.metrics.observer import Observer, Unobserved
from serve_app.models.served import Models

logger = logging.getLogger(__name__)

API_PREFIX = "/v1"


def create_api(
    models: Models,
    *,
    observer: Observer | None = None,
    limits: ApiLimits | None = None,
    docs: bool = True,
    keys_file: Callable[[], KeysFileState] = lambda: "none",
    refused_settings: Callable[[], str | None] = lambda: None,
) -> FastAPI:
    """An application that serves `models`. Its lifespan starts and closes them, on the event loop that runs it.

    Authentication, request ids, bounds on bodies and CORS are middleware for its owner to add; authentication leaves a
    `Caller` in `request.state.caller`. `keys_file` says what `/ready` shall tell of its file, `refused_settings` why
    the last change of the settings did not come into force.
    """

    app = FastAPI(
        title="exlpool",
        version=package_version(),
        description="An OpenAI-compatible API over pools of ExLlamaV2 workers.",
        lifespan=_lifespan_of(models),
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    service = Service(models, observer or Unobserved(), limits or ApiLimits())
    routers = (generation_routes(service), model_routes(models))
    for router in routers:
        app.include_router(router, prefix=API_PREFIX)
        app.include_router(router, include_in_schema=False)  # for clients whose base URL lacks the prefix
    app.include_router(tokenizer_routes(models))
    app.include_router(health_routes(models, keys_file, refused_settings))
    if docs:
        app.include_router(docs_routes(app))
    for kind, handler in _ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(WithoutTrailingSlash)
    app.add_middleware(HeadAsGet)
    describe(
        app,
        (ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest),
        (ChatCompletionChunk, CompletionChunk),
    )
    return app


def _lifespan_of(models: Models) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        models.start()
        try:
            yield
        finally:
            await models.close()

    return lifespan


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ExlpoolError)
    return error_response(error)


async def _refuse_path(request: Request, error: Exception) -> Response:
    """The router's own refusals."""
    assert isinstance(error, HTTPException)
    if error.status_code == MethodNotAllowed.status:
        allowed = {**(error.headers or {})}
        if allowed.get("Allow") == "GET":
            allowed["Allow"] = "GET, HEAD"
        return error_response(MethodNotAllowed(f"{request.method} is not allowed for {request.url.path}."), allowed)
    if error.status_code == UnknownPath.status:
        return error_response(UnknownPath(f"There is nothing at {request.method} {request.url.path}."))
    logger.error("The router refused a request with %s: %s", error.status_code, error.detail)
    return error_response(InternalError(str(error.detail)))


async def _forget(_: Request, __: Exception) -> Response:
    """The client went away while it sent its request: nobody reads this."""
    return Response(status_code=CLIENT_GONE_STATUS)


async def _fail(_: Request, error: Exception) -> Response:
    """Whatever nobody foresaw; the traceback goes to the log, not to the client."""
    return error_response(InternalError("The server failed on this request; its log says why."))


_ERROR_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ExlpoolError: _refuse,
    HTTPException: _refuse_path,
    ClientDisconnect: _forget,
    Exception: _fail,
}
