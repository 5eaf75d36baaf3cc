"""What keeps this process from a Ray cluster, found before Ray is asked.

Ray itself answers some of these mistakes with a traceback from its depths, and others not for minutes: it takes
whatever listens at an address for a cluster that is just starting, and tries again. Here each is one sentence, within
seconds.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
from ray.exceptions import AuthenticationError

from actors.errors import ConfigurationError, first_line

ANSWER_TIMEOUT_S = 10.0
"""Within this a cluster answers that is there at all."""
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""How long the path of a Unix socket may be."""
LONGEST_SOCKET = "ray/session_2000-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest path of a socket that Ray makes under its temporary directory."""
CLUSTER_ID_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""The one call of a cluster's control service that asks for nothing and that every process begins with."""


def require_temp_dir() -> None:
    """A private cluster can keep its files and sockets where the environment says.

    :raises ConfigurationError: naming the variable to change.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    root = "/tmp" if variable is None else os.environ[variable]
    told = f"Ray cannot keep its files in {root!r}" + (f", which {variable} names" if variable else "")
    advice = "set RAY_TMPDIR to a short path of a directory that this user can write, such as /tmp."
    if not os.path.isabs(root):
        raise ConfigurationError(f"{told}: an absolute path is wanted; {advice}")
    socket_bytes = len(os.fsencode(os.path.join(root, LONGEST_SOCKET.format(pid=os.getpid()))))
    if socket_bytes > SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{told}: the path is {socket_bytes - SOCKET_PATH_BYTES} bytes too long for the sockets in it; {advice}"
        )
    try:
        directory = Path(root, "ray")  # as Ray does; others may share it
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigurationError(f"{told}: {error.strerror}; {advice}") from None


def require_cluster(target: str) -> None:
    """A Ray cluster answers at an address: HOST:PORT, or "auto" for the one that runs on this machine.

    :raises ConfigurationError: saying what is there instead.
    """
    if target.startswith("ray://"):
        raise _unreachable(target, "Ray Client is not supported, run this on a machine of the cluster instead")
    if target == "auto":
        found = _running_here()
    else:
        host, _, port = target.rpartition(":")
        if not host or "://" in host or not port.isdecimal():
            raise _unreachable(target, "that is not of the form HOST:PORT")
        _require_listener(target, host.strip("[]"), int(port))
        found = target
    if found is not None:
        _ask_for_cluster_id(target, found)


def _running_here() -> str | None:
    """The HOST:PORT of the cluster that runs on this machine; None where only Ray knows."""
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # no public part of Ray; without it, Ray's own words have to do
        return None
    try:
        found: str | None = canonicalize_bootstrap_address("auto")
    except (OSError, RuntimeError, ValueError):
        raise _unreachable("auto", "none runs on this machine") from None
    return found


def _require_listener(target: str, host: str, port: int) -> None:
    """Somebody listens there at all: told apart from the next check because the system says so well why not."""
    try:
        socket.create_connection((host, port), ANSWER_TIMEOUT_S).close()
    except OverflowError:
        raise _unreachable(target, f"{port} is no port") from None
    except OSError as error:
        raise _unreachable(target, error.strerror or first_line(error)) from None


def _ask_for_cluster_id(target: str, host_and_port: str) -> None:
    try:
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:  # no public part of Ray; without it, Ray's own words have to do
        return
    channel: Any = init_grpc_channel(host_and_port)  # with the token and the certificates that the environment names
    try:
        channel.unary_unary(CLUSTER_ID_CALL)(b"", timeout=ANSWER_TIMEOUT_S)
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.UNAUTHENTICATED and target == "auto" and "RAY_AUTH_MODE" not in os.environ:
            return  # Ray takes the token out of the home directory when it connects to a cluster that it has found
        raise _unreachable(target, _what_answers(code)) from None
    except AuthenticationError as error:  # a token is wanted by the environment, and not found
        raise _unreachable(target, first_line(error).rstrip(".")) from None
    finally:
        channel.close()


def _what_answers(code: Any) -> str:
    """What an error of the first call tells of whoever is at an address."""
    match code:
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return "it wants another token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"what listens there gave no answer within {ANSWER_TIMEOUT_S:g} s"
        case grpc.StatusCode.UNAVAILABLE:
            return "what listens there does not speak Ray's protocol"
        case _:
            return f"what listens there is no Ray cluster ({code.name})"


def _unreachable(target: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"Cannot connect to a Ray cluster at {target!r}: {why}. Give the HOST:PORT that `ray start --head` printed, "
        "'auto' on a machine of the cluster, or no address for a private cluster.",
        param="address",
    )
