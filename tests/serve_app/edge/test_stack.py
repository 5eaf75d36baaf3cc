"""The edge as a whole: closed until somebody says who may come in."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve_app.config import LiveSettings
from serve_app.edge import Edge
from tests.serve_app.edge.apps import client, echo


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/v1/models", "/health", "/metrics", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_passes_an_edge_that_is_not_configured(method: str, path: str) -> None:
    edge = Edge(echo)
    async with client(edge) as http:
        answer = await http.request(method, path)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "not_configured"
        assert answer.json()["error"]["type"] == "server_error"
        assert answer.headers["retry-after"] == "1"
        edge.configure(LiveSettings(), None)
        assert (await http.request(method, path)).status_code == 200


async def test_other_ways_in_are_closed_too() -> None:
    reached: list[str] = []
    sent: list[Message] = []

    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["type"])

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> Any:
        sent.append(message)

    edge = Edge(api)
    await edge({"type": "lifespan"}, receive, send)
    await edge({"type": "websocket", "path": "/"}, receive, send)
    assert reached == ["lifespan"], "it starts before anybody may come in"
    assert [message["type"] for message in sent] == ["websocket.close"]
