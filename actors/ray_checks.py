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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from actors import ray_control
from actors.errors import ConfigurationError, first_line
from actors.ray_control import ControlService
from actors.ray_tls import FILES, speaks_tls, tls_wanted
from actors.ray_token import RayToken, find_token, tokens_forbidden

THIS_MACHINE = "auto"
ADDRESS_CURE = (
    ". Give the HOST:PORT that `ray start --head` printed, 'auto' on a machine of the cluster, or no address for a "
    "private cluster."
)
TOKEN_CURE = (
    ": put the output of `ray get-auth-token` on the cluster's head into ~/.ray/auth_token on this machine, or into "
    "RAY_AUTH_TOKEN."
)
TLS_CURE = f": set RAY_USE_TLS=1, and {FILES} to the files of a certificate that the cluster takes."
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""How long the path of a Unix socket may be."""
LONGEST_SOCKET = "ray/session_2000-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest path of a socket that Ray makes under its temporary directory."""


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


@dataclass(frozen=True)
class FoundCluster:
    """A cluster that has answered. `token` is the one that it wants; None: it asks for none."""

    address: str
    token: RayToken | None


def require_cluster(target: str) -> FoundCluster:
    """The Ray cluster that answers at an address: HOST:PORT, or "auto" for the one that runs on this machine.

    :raises ConfigurationError: saying what is there instead, or what it wants of this process.
    """
    if target.startswith("ray://"):
        raise _unreachable(target, "Ray Client is not supported, run this on a machine of the cluster instead")
    found = _running_here() if target == THIS_MACHINE else target
    host, _, port = found.rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        raise _unreachable(target, "that is not of the form HOST:PORT")
    host = host.strip("[]")
    _require_listener(target, host, int(port))
    try:
        with ControlService(found) as service:
            return FoundCluster(found, _wanted_token(target, service))
    except grpc.RpcError as error:
        raise _broken(target, error, host, int(port)) from None


def _running_here() -> str:
    """The HOST:PORT of the cluster that runs on this machine."""
    from ray._private.services import canonicalize_bootstrap_address  # no public part of Ray has it

    try:
        found = canonicalize_bootstrap_address(THIS_MACHINE)
    except (OSError, RuntimeError, ValueError):
        found = None
    if found is None:
        raise _unreachable(THIS_MACHINE, "none runs on this machine")
    return str(found)


def _require_listener(target: str, host: str, port: int) -> None:
    """Somebody listens there at all: told apart from the next check because the system says so well why not."""
    try:
        socket.create_connection((host, port), ray_control.ANSWER_TIMEOUT_S).close()
    except OverflowError:
        raise _unreachable(target, f"{port} is no port") from None
    except OSError as error:
        raise _unreachable(target, error.strerror or first_line(error)) from None


def _wanted_token(target: str, service: ControlService) -> RayToken | None:
    """The token that the cluster wants, if it wants one. It is shown to nobody who does not ask for it.

    :raises ConfigurationError: there is none here, or a wrong one, or none may be shown.
    """
    if _lets_in(service, None):
        return None
    if tokens_forbidden():
        raise _unreachable(target, "it wants a token, which this process may not show", ": unset RAY_AUTH_MODE.")
    token = find_token()
    if token is None:
        raise _unreachable(target, "it wants a token, and there is none here", TOKEN_CURE)
    if not _lets_in(service, token):
        raise _unreachable(target, f"it wants another token than that of {token.source}", TOKEN_CURE)
    return token


def _lets_in(service: ControlService, token: RayToken | None) -> bool:
    """:raises grpc.RpcError: whoever answers refuses for another reason."""
    try:
        service.require_answer(token)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return False
        raise
    return True


def _broken(target: str, error: Any, host: str, port: int) -> ConfigurationError:
    """What an error of the first call tells of whoever is at an address."""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return _unreachable(target, f"what listens there gave no answer within {ray_control.ANSWER_TIMEOUT_S:g} s")
        case grpc.StatusCode.UNAVAILABLE:
            return _misunderstood(target, host, port)
        case code:
            return _unreachable(target, f"what listens there is no Ray cluster ({code.name})")


def _misunderstood(target: str, host: str, port: int) -> ConfigurationError:
    """Somebody takes connections there, and breaks them."""
    if not speaks_tls(host, port, ray_control.ANSWER_TIMEOUT_S):
        if tls_wanted():
            return _unreachable(target, "what listens there does not speak TLS", ": unset RAY_USE_TLS.")
        return _unreachable(target, "what listens there does not speak Ray's protocol")
    if not tls_wanted():
        return _unreachable(target, "it speaks TLS, and this process does not", TLS_CURE)
    return _unreachable(target, f"it does not take this process's certificate, or its own is not for {host}", TLS_CURE)


def _unreachable(target: str, why: str, cure: str = ADDRESS_CURE) -> ConfigurationError:
    return ConfigurationError(f"Cannot connect to a Ray cluster at {target!r}: {why}{cure}", param="address")
