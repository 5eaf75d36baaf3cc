"""The page that shows the API in a browser, and the document that it reads. Whoever needs a key gives it to the page,
whose requests then carry it."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.openapi import with_security
from serve_app.caller import is_keyed

DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"


def docs_routes(app: FastAPI) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get(DOCUMENT_PATH)
    async def document(request: Request) -> Response:
        told = with_security(app.openapi(), keyed=is_keyed(request))
        prefix = _prefix(request)
        return JSONResponse({**told, "servers": [{"url": prefix}]} if prefix else told)

    @router.get(PAGE_PATH)
    async def page(request: Request) -> Response:
        return get_swagger_ui_html(openapi_url=_prefix(request) + DOCUMENT_PATH, title=app.title)

    return router


def _prefix(request: Request) -> str:
    """Under which the application is served."""
    return str(request.scope.get("root_path", "")).rstrip("/")
