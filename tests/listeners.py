"""Who may listen at an address instead of the one that is meant."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

HOST = "127.0.0.1"
Answer = Callable[[str, str], tuple[int, Any]]
"""From the method and the path of a request to a status and what is sent as JSON, or as it is where it is bytes."""


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections, and says nothing. The kernel takes them for it."""
    with socket.create_server((HOST, 0)) as server:
        yield int(server.getsockname()[1])


@contextlib.contextmanager
def http_server(answer: Answer) -> Iterator[int]:
    """Speaks HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = answer(self.command, self.path)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, name: str, refusal: Any, token: str | None, shown: list[str | None]) -> None:
        self._name, self._refusal, self._token, self._shown = name, refusal, token, shown

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer) if details.method == self._name else None

    def _answer(self, _: bytes, context: Any) -> bytes:
        shown = dict(context.invocation_metadata()).get("authorization")
        self._shown.append(shown)
        if self._token is not None and shown != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        if self._refusal is not None:
            context.abort(self._refusal, "no")
        return b""


@contextlib.contextmanager
def grpc_server(
    call: str,
    *,
    refusal: Any = None,
    token: str | None = None,
    shown: list[str | None] | None = None,
    credentials: Any = None,
) -> Iterator[int]:
    """Speaks gRPC and knows one call, which it answers, or refuses with a `grpc.StatusCode`, and who does not show
    `token` with another. What each call shows is added to `shown`. With `credentials` it speaks TLS."""
    calls = _Calls(call, refusal, token, [] if shown is None else shown)
    server: Any = grpc.server(ThreadPoolExecutor(1), handlers=(calls,))
    address = f"{HOST}:0"
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    server.start()
    try:
        yield int(port)
    finally:
        server.stop(None).wait(5.0)
