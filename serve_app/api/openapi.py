"""The OpenAPI document: what the routes, which read bodies and write responses themselves, cannot tell FastAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve_app.api.schemas.errors import ErrorResponse
from serve_app.caller import OPEN_PATHS

_DESCRIPTIONS = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or one that is not known.",
    403: "The key does not allow this.",
    404: "No such model or path.",
    405: "Not with this method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not plain JSON in UTF-8.",
    429: "The queue or a limit of the key is full; Retry-After says when to come back.",
    431: "The headers are too large.",
    500: "The server failed.",
    503: "No worker can generate now.",
    504: "The request's own time limit ran out.",
}
SIMPLE_ERRORS = (400, 401, 403, 404, 405, 408, 413, 429, 431, 500, 503)
BODY_ERRORS = (*SIMPLE_ERRORS, 415)
GENERATION_ERRORS = (*BODY_ERRORS, 504)


def error_responses(statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _DESCRIPTIONS[status]} for status in sorted(statuses)}


def request_body(schema: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(schema)}}}}


def stream_response(chunk: type[BaseModel]) -> dict[str, Any]:
    """The other way in which a generation is answered with 200."""
    return {
        "description": "The answer; with `stream: true` server-sent events, each a chunk as JSON, then `[DONE]`.",
        "content": {"text/event-stream": {"itemSchema": _event(chunk)}},
    }


def _event(chunk: type[BaseModel]) -> dict[str, Any]:
    """A server-sent event. The last one is `[DONE]`, or an error in its place."""
    told = {"anyOf": [_reference(chunk), _reference(ErrorResponse)]}
    as_json = {"contentMediaType": "application/json", "contentSchema": told}
    data = {"type": "string", "anyOf": [as_json, {"const": "[DONE]"}]}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}


def describe(app: FastAPI, requests: Sequence[type[BaseModel]], chunks: Sequence[type[BaseModel]]) -> None:
    """Have `app` serve a document that holds the schemas of requests and chunks too."""

    def document() -> dict[str, Any]:
        if not app.openapi_schema:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            _drop_foreign_errors(made)
            for models, mode in ((requests, "validation"), (chunks, "serialization")):
                _, definitions = models_json_schema(
                    [(model, mode) for model in models],  # type: ignore[misc]
                    ref_template="#/components/schemas/{model}",
                )
                for name, schema in definitions["$defs"].items():
                    schemas.setdefault(name, schema)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def with_security(document: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    """The document of a server whose clients need keys, or of one whose clients do not."""
    if not keyed:
        return document
    scheme = {"type": "http", "scheme": "bearer", "description": "An API key of this server."}
    paths = {
        path: {method: {**operation, "security": []} for method, operation in operations.items()}
        if path in OPEN_PATHS
        else operations
        for path, operations in document["paths"].items()
    }
    components = {**document["components"], "securitySchemes": {"key": scheme}}
    return {**document, "paths": paths, "components": components, "security": [{"key": []}]}


def _drop_foreign_errors(document: dict[str, Any]) -> None:
    """FastAPI's own validation error, which no route here answers with."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
