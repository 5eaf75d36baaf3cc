"""The control service of a Ray cluster, asked without Ray's own connection, which a process has only one of."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from ray.core.generated import gcs_service_pb2

from actors.ray_tls import open_channel
from actors.ray_token import RayToken

ANSWER_TIMEOUT_S = 10.0
"""Within this a cluster answers that is there at all."""
CLUSTER_ID_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""The one call of a cluster's control service that asks for nothing and that every process begins with."""
VALUE_CALL = "/ray.rpc.InternalKVGcsService/InternalKVGet"


class ControlService:
    """A connection to the control service at HOST:PORT, for the length of a `with` block. Calls raise

    :raises grpc.RpcError: it does not answer, or refuses.
    """

    def __init__(self, host_and_port: str) -> None:
        """:raises ConfigurationError: TLS is wanted, and a file for it is missing or wrong."""
        self._channel = open_channel(host_and_port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def require_answer(self, token: RayToken | None) -> None:
        """It answers at all, and to this token."""
        self._ask(CLUSTER_ID_CALL, b"", token)

    def dashboard(self, token: RayToken | None) -> str | None:
        """The HOST:PORT of the cluster's dashboard; None: it has none."""
        messages: Any = gcs_service_pb2
        wanted = messages.InternalKVGetRequest(key=b"dashboard", namespace=b"dashboard")
        answer = self._ask(VALUE_CALL, wanted.SerializeToString(), token)
        return messages.InternalKVGetReply.FromString(answer).value.decode() or None

    def _ask(self, call: str, request: bytes, token: RayToken | None) -> bytes:
        metadata = None if token is None else [token.header]
        answer: bytes = self._channel.unary_unary(call)(request, timeout=ANSWER_TIMEOUT_S, metadata=metadata)
        return answer
