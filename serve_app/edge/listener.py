"""A front's own HTTP listener: what comes here does not go through Serve's proxy, which costs more than all else.

Serve still starts, watches, updates and stops the replica that listens. All replicas of a machine share the port.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.supervisor import Supervisor
from serve_app.config import LiveSettings
from serve_app.edge.keys import KeyRing
from serve_app.edge.protocol import HeadBounds, bounded_protocol
from serve_app.edge.stack import Edge

logger = logging.getLogger("ray.serve.exlpool")

BACKLOG = 4096
KEEP_ALIVE_S = 75
LAST_WORDS_S = 2.0
"""Time that connections have to end after their requests were cut off."""


class Listener:
    """Listens while the application behind it lives: from the end of its start-up to the begin of its shutdown, when
    it takes no more connections and lets requests end first. `app` is what Serve runs, `listened` what answers here."""

    def __init__(self, app: ASGIApp, listened: Edge, *, host: str, port: int, drain_s: float) -> None:
        self._app = app
        self._listened = listened
        self._host, self.port, self._drain_s = host, port, drain_s
        self.failure: Exception | None = None
        """Why it listens no more, though nobody asked it to end: then its process is of no use."""
        self._tasks = Supervisor("listener")
        self._serving: asyncio.Task[None] | None = None
        self._protocol = bounded_protocol(HeadBounds.of(LiveSettings()))
        self._server = uvicorn.Server(
            uvicorn.Config(
                listened,
                http=self._protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(int(drain_s), 1),
            )
        )

    def configure(self, settings: LiveSettings, keys: KeyRing | None) -> None:
        """As `Edge.configure`. Connections hold to the new bounds at once."""
        self._protocol.bounds = HeadBounds.of(settings)
        self._listened.configure(settings, keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def until_shutdown() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._stop()
            return message

        async def after_startup(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._start()
            await send(message)

        await self._app(scope, until_shutdown, after_startup)

    def _start(self) -> None:
        """:raises OSError: the address cannot be listened on."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((self._host, self.port))
        self._serving = self._tasks.start("serving", self._server.serve([listening]), on_end=self._ended)
        logger.info("Listening on %s port %d", self._host, self.port)

    async def _stop(self) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=self._drain_s + LAST_WORDS_S)
        self._tasks.shut_down()

    def _ended(self, failure: BaseException | None) -> None:
        if not self._server.should_exit or failure is not None:
            logger.error("The listener on %s port %d has ended", self._host, self.port, exc_info=failure)
            self.failure = RuntimeError(f"The listener on {self._host} port {self.port} has ended: {failure!r}.")

    def __repr__(self) -> str:
        state = "failed" if self.failure is not None else "listening" if self._serving is not None else "not started"
        return f"<Listener on {self._host} port {self.port}: {state}>"
