"""The paths of the API. Thin: each route parses, calls, and returns."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.errors import NoHealthyWorker
from actors.version import package_version
from serve_app.api.chat import prepare_chat
from serve_app.api.completions import prepare_completion
from serve_app.api.openapi import (
    BODY_ERRORS,
    GENERATION_ERRORS,
    SIMPLE_ERRORS,
    error_responses,
    request_body,
    stream_response,
)
from serve_app.api.parsing import parse_body
from serve_app.api.schemas.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from serve_app.api.schemas.completions import Completion, CompletionChunk, CompletionRequest
from serve_app.api.schemas.health import Health, Ready, Version
from serve_app.api.schemas.models import ModelCard, ModelList
from serve_app.api.schemas.tokenize import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from serve_app.api.service import Service
from serve_app.api.tokenize import detokenize, tokenize
from serve_app.errors import error_response
from serve_app.metrics.keys_file import KeysFileState
from serve_app.models.served import Models, ServedModel

NOT_READY_RETRY_S = 1.0


def generation_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["generation"])

    @router.post(
        "/chat/completions",
        response_model=ChatCompletion,
        responses={200: stream_response(ChatCompletionChunk), **error_responses(GENERATION_ERRORS)},
        openapi_extra=request_body(ChatCompletionRequest),
        summary="Answer a chat",
    )
    async def create_chat_completion(request: Request) -> Response:
        return await service.generate(request, "chat", ChatCompletionRequest, prepare_chat)

    @router.post(
        "/completions",
        response_model=Completion,
        responses={200: stream_response(CompletionChunk), **error_responses(GENERATION_ERRORS)},
        openapi_extra=request_body(CompletionRequest),
        summary="Continue texts",
    )
    async def create_completion(request: Request) -> Response:
        return await service.generate(request, "completions", CompletionRequest, prepare_completion)

    return router


def model_routes(models: Models) -> APIRouter:
    router = APIRouter(tags=["models"], responses=error_responses(SIMPLE_ERRORS))

    @router.get("/models", summary="List the models")
    async def list_models() -> ModelList:
        return ModelList(data=[_card(model) for model in models])

    @router.get("/models/{name:path}", summary="Describe a model")
    async def retrieve_model(name: str) -> ModelCard:
        return _card(models.get(name))

    return router


def _card(model: ServedModel) -> ModelCard:
    return ModelCard(id=model.name, created=model.created, max_model_len=model.max_tokens)


def tokenizer_routes(models: Models) -> APIRouter:
    router = APIRouter(tags=["tokens"], responses=error_responses(BODY_ERRORS))

    @router.post("/tokenize", openapi_extra=request_body(TokenizeRequest), summary="Text or messages to token ids")
    async def tokenize_text(request: Request) -> TokenizeResponse:
        body, size = await parse_body(request, TokenizeRequest)
        return await tokenize(models, body, size)

    @router.post("/detokenize", openapi_extra=request_body(DetokenizeRequest), summary="Token ids to text")
    async def detokenize_text(request: Request) -> DetokenizeResponse:
        body, _ = await parse_body(request, DetokenizeRequest)
        return await detokenize(models, body)

    return router


def health_routes(
    models: Models, keys_file: Callable[[], KeysFileState], refused_settings: Callable[[], str | None]
) -> APIRouter:
    router = APIRouter(tags=["health"], responses=error_responses(SIMPLE_ERRORS))

    @router.get("/health", summary="Whether this process lives")
    async def health() -> Health:
        return Health(status="ok", models={model.name: model.ready for model in models})

    @router.get("/ready", response_model=Ready, summary="Whether every model can generate")
    async def ready() -> Response:
        waiting = [model.name for model in models if not model.ready]
        if waiting:
            return error_response(
                NoHealthyWorker(f"No worker can generate for {', '.join(waiting)}.", retry_after_s=NOT_READY_RETRY_S)
            )
        all_ready = {model.name: True for model in models}
        told = Ready(
            status="ready", models=all_ready, keys_file=keys_file(), refused_settings=refused_settings()
        ).model_dump(exclude_none=True)
        return JSONResponse(told)

    @router.get("/version", summary="The version of this server")
    async def version() -> Version:
        return Version(version=package_version())

    return router
