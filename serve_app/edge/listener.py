"""A front's own HTTP listener: what comes here does not go through Serve's proxy, which costs more than all else.

Serve still starts, watches, updates and stops the replica that listens. All replicas of a machine share the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.supervisor import Supervisor
from serve_app.config import ListenConfig, LiveSettings
from serve_app.edge.keys import KeyRing
from serve_app.edge.protocol import HeadBounds, HttpProtocol, bounded_protocol
from serve_app.edge.stack import Edge

logger = logging.getLogger("ray.serve.exlpool")

BACKLOG = 4096
KEEP_ALIVE_S = 75
LAST_WORDS_S = 2.0
"""Time that connections have to end after their requests were cut off."""
LINGER_S = 5.0
"""A listener that ends keeps idle connections so long for one more request, whose answer says that it is the last: a
client may be sending it right now, and would see a connection that is reset."""
LEAVE_POLL_S = 0.1


class Listener:
    """Listens from `start` to the shutdown of the application behind it, when it takes no more connections, and answers
    what has come on those it has. `app` is what Serve runs, `listened` what answers here.

    Replicas on one machine listen side by side, so a client whose connection ends finds another one at once."""

    def __init__(self, app: ASGIApp, listened: Edge, *, listen: ListenConfig, drain_s: float) -> None:
        """:raises ConfigurationError: a file for TLS is missing or wrong."""
        listen.require_tls_files()
        self._app = app
        self._listened = listened
        self._host, self.port, self._drain_s = listen.host, listen.port, drain_s
        self.failure: Exception | None = None
        """Why it listens no more, though nobody asked it to end: then its process is of no use."""
        self._tasks = Supervisor("listener")
        self._serving: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
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
                ssl_certfile=listen.tls_certificate,
                ssl_keyfile=listen.tls_key,
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

        await self._app(scope, until_shutdown, send)

    async def start(self) -> None:
        """Begin to listen; returns when connections are taken.

        :raises OSError: the address cannot be listened on.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((self._host, self.port))
        self._socket = listening
        self._serving = self._tasks.start("serving", self._server.serve([listening]), on_end=self._ended)
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        logger.info("Listening on %s port %d", self._host, self.port)

    async def _stop(self) -> None:
        if self._serving is not None and not self._serving.done():
            self._protocol.leaving = True
            await self._accept_no_more()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    await self._until_quiet()
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=self._drain_s + LAST_WORDS_S)
        self._tasks.shut_down()

    async def _accept_no_more(self) -> None:
        """Take what has connected already, since the kernel resets what is still waiting, and close the socket."""
        assert self._socket is not None
        waiting = []
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                waiting.append(self._socket.accept()[0])
        for server in self._server.servers:
            server.close()
        await asyncio.gather(*(self._take(connection) for connection in waiting))
        for protocol in self._connections:
            protocol.announce_end()

    async def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        tls = self._server.config.ssl
        with contextlib.suppress(OSError):  # the client goes, or does not speak TLS
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol, connection, ssl=tls, ssl_handshake_timeout=LINGER_S if tls else None
            )

    def _make_protocol(self) -> HttpProtocol:
        return self._protocol(
            config=self._server.config,
            server_state=self._server.server_state,
            app_state=self._server.lifespan.state,
        )

    @property
    def _connections(self) -> list[HttpProtocol]:
        return [one for one in self._server.server_state.connections if isinstance(one, HttpProtocol)]

    async def _until_quiet(self) -> None:
        """Until every connection has ended, or said nothing for a while."""
        quiet_s = 0.0
        while self._connections and quiet_s < LINGER_S:
            await asyncio.sleep(LEAVE_POLL_S)
            quiet_s = quiet_s + LEAVE_POLL_S if all(one.idle for one in self._connections) else 0.0

    def _ended(self, failure: BaseException | None) -> None:
        if not self._server.should_exit or failure is not None:
            logger.error("The listener on %s port %d has ended", self._host, self.port, exc_info=failure)
            self.failure = RuntimeError(f"The listener on {self._host} port {self.port} has ended: {failure!r}.")

    def __repr__(self) -> str:
        state = "failed" if self.failure is not None else "listening" if self._serving is not None else "not started"
        return f"<Listener on {self._host} port {self.port}: {state}>"
