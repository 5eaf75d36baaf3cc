"""A real HTTP server on loopback, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import ray
import uvicorn
from starlette.types import ASGIApp

from actors.ray_session import NAMESPACE
from actors.results import Priority
from serve_app.models.served import ServedModel

START_TIMEOUT_S = 30.0


class LiveServer:
    """`with LiveServer(app) as server:` serves until the end of the block; `url` has no trailing slash."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="live-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            assert self._thread.is_alive(), "the server ended while it started"
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.01)  # a poll, bounded by the deadline above
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(START_TIMEOUT_S)
        assert not self._thread.is_alive(), "the server did not end"


def served(name: str, pool_name: str, *, default_priority: Priority = Priority.DEFAULT) -> ServedModel:
    """A running pool, to be served under a name."""
    dispatcher = ray.get_actor(pool_name, namespace=NAMESPACE)
    return ServedModel(name, dispatcher, created=1_700_000_000, default_priority=default_priority)
